"""The monitor's own tests with a real KVM, sandbox/vmm/tests/kvm_*.rs: each program in a machine of its own."""

import functools
import json
import os
import shutil

from harness.case import Case
from harness.job import Job
from harness.rust import build_program, build_tests, judge_tests, names_of

BUILT = "monitor.json"


def build(setting):
    built = {
        "tests": build_tests(setting.repository, "vmm", "kvm_*"),
        "vmm": build_program(setting.repository, "vmm", "vmm"),
    }
    (setting.programs / BUILT).write_text(json.dumps(built))


def cases(setting):
    built = json.loads((setting.programs / BUILT).read_text())
    for name, program in sorted(built["tests"].items()):
        fill = functools.partial(prepare, test=program, vmm=built["vmm"])
        yield Case(f"monitor {name}", fill, functools.partial(judge_tests, names_of(program)))


def prepare(setting, tree, test, vmm):
    shutil.copy(test, tree / "test")
    shutil.copy(vmm, tree / "vmm")
    shutil.copy(setting.kernel(), tree / "vmlinux")
    # One after the other: a hostile guest must not take a neighbour's time.
    command = ["/test", "--ignored", "--test-threads=1", "--show-output"]
    environment = {"WATERWHEEL_GUEST_KERNEL": "/vmlinux", "WATERWHEEL_VMM": "/vmm"}
    if "HOSTILE_SECONDS" in os.environ:
        environment["HOSTILE_SECONDS"] = os.environ["HOSTILE_SECONDS"]
    return Job(tree, command, environment=environment)
