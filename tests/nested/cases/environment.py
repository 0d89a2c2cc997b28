"""Environments in VMs, sandbox/tests/kvm_*.rs: the server's side, the jail, the monitor and the agent together."""

import functools
import json
import shutil
from pathlib import Path

from harness.case import Case
from harness.job import Job
from harness.rust import build_tests, judge_tests, names_of

PROGRAMS = "environment.json"


def build(setting):
    programs = build_tests(setting.repository, "sandbox", "kvm_*")
    (setting.programs / PROGRAMS).write_text(json.dumps(programs))


def cases(setting):
    for name, program in sorted(json.loads((setting.programs / PROGRAMS).read_text()).items()):
        prepare_it = functools.partial(prepare, program=Path(program))
        yield Case(f"environment {name}", prepare_it, functools.partial(judge_tests, names_of(program)))


def prepare(setting, tree, program):
    for directory in ("dev", "proc", "sys", "tmp"):
        (tree / directory).mkdir()
    shutil.copy(program, tree / "test")
    copy_images(setting.runtimes, tree / "runtimes")
    shutil.copytree(setting.kernel().parent, tree / "runtimes" / setting.kernel().parent.name)
    command = ["/test", "--ignored", "--test-threads=1", "--nocapture"]
    return Job(tree, command, timeout=600, environment={"WATERWHEEL_RUNTIMES": "/runtimes"})


def copy_images(runtimes, target):
    """What a VM needs of each runtime: its manifest and its disk image, and the root's name without its files."""
    for manifest in runtimes.glob("*/runtime.json"):
        root = json.loads(manifest.read_text())["root"]
        home = target / manifest.parent.name
        (home / root).mkdir(parents=True)
        shutil.copy(manifest, home)
        shutil.copy(manifest.parent / f"{root}.erofs", home)
