"""The product, whole: the black-box tests of invoking again, with `isolation = "microvm"`, against a real server beside a
real KVM. The tree is the root file system of the Python runtime, which brings Python and boto3, and the tests in it."""

import json
import re
import shutil
from pathlib import Path

from harness.case import Case
from harness.errors import NestedError
from harness.job import Job

# What of the tests' own packages the tree needs: the AWS CLI and what it brings are not run here.
UNUSED = ("awscli*", "docutils*", "pip*", "setuptools*", "__pycache__")
# Each shows something that depends on what isolates an environment. A cold start takes many seconds on an emulated
# processor, so the rest is left to the process isolation, whose invoker, agent and images are the same.
TESTS = {
    "test_invoke.py": [
        "test_python_gets_and_gives_every_kind_of_json",
        "test_a_provided_runtime_gets_and_gives_every_kind_of_json",
        "test_six_megabytes_fit_both_ways",
        "test_the_log_tail_has_what_was_printed_between_start_and_report",
        "test_the_environment_variables_are_lambdas_and_the_functions_own",
        "test_an_exception_is_described_as_on_aws",
        "test_a_timeout_is_told_in_seconds_and_the_environment_replaced",
        "test_an_exit_is_told_with_its_status_and_the_environment_replaced",
        "test_running_out_of_memory_ends_the_environment_alone",
        "test_an_environment_is_reused_and_keeps_its_state",
        "test_tmp_is_kept_between_invocations_and_private_to_the_environment",
    ],
    "test_bad_input.py": [
        "test_exit_in_init_is_told_each_time",
        "test_what_is_not_tmp_cannot_be_written",
        "test_the_agent_is_out_of_the_functions_reach",
    ],
}
# Emulation is slow, and says nothing about how fast anything is.
PATIENT = {"WATERWHEEL_TEST_ISOLATION": "microvm", "WATERWHEEL_TEST_PATIENCE": "30"}
RUNTIMES = ("python3.11", "provided.al2023")


def build(setting):
    """Nothing: the server, runtimes, guest kernel and functions are there already."""


def cases(setting):
    yield Case("api", prepare, judge)


def prepare(setting, tree):
    shutil.copytree(python_root(setting), tree, symlinks=True, dirs_exist_ok=True)
    place = tree / "waterwheel"
    for part in ("tests/blackbox", "ingest/model"):
        shutil.copytree(setting.repository / part, place / part, ignore=shutil.ignore_patterns("__pycache__"))
    packages = next((setting.repository / "target/venv/lib").glob("python3.*/site-packages"))
    shutil.copytree(packages, place / "packages", symlinks=True, ignore=shutil.ignore_patterns(*UNUSED))
    (place / "target/debug").mkdir(parents=True)
    shutil.copy(setting.binary, place / "target/debug")
    (place / "target/functions").mkdir()
    for package in (setting.repository / "target/functions").glob("*.zip"):
        shutil.copy(package, place / "target/functions")
    copy_runtimes(setting, place / "target/runtimes")
    (tree / "tmp").mkdir(exist_ok=True)
    names = [f"tests/blackbox/{file}::{name}" for file, names in TESTS.items() for name in names]
    options = ["-p", "no:cacheprovider", "-v", "--tb=short", "--color=no", "--timeout=600", "--durations=12"]
    script = f"cd /waterwheel && exec /usr/bin/python3.11 -m pytest {' '.join(options + names)}"
    variables = {"PYTHONPATH": "/waterwheel/packages", "PYTHONDONTWRITEBYTECODE": "1"} | PATIENT
    return Job(tree, ["/bin/sh", "-c", script], memory=4096, timeout=1500, environment=variables)


def runtime(setting, name):
    return json.loads((setting.runtimes / name / "runtime.json").read_text())


def python_root(setting):
    return setting.runtimes / "python3.11" / runtime(setting, "python3.11")["root"]


def copy_runtimes(setting, to):
    """Descriptions and disk images: the directories beside them are for process isolation."""
    for name in RUNTIMES:
        root = runtime(setting, name)["root"]
        (to / name / root).mkdir(parents=True)
        for file in (setting.runtimes / name).iterdir():
            if file.is_file():
                shutil.copy(file, to / name)
        for image in (setting.runtimes / name).glob("**/*.erofs"):
            target = to / name / image.relative_to(setting.runtimes / name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, target)
    kernel = setting.kernel()
    shutil.copytree(kernel.parent, to / kernel.parent.name)


def judge(output):
    passed = re.findall(r"^tests/blackbox/\S+::(\S+?)(?:\[.*\])? PASSED", output, re.MULTILINE)
    missing = {name for names in TESTS.values() for name in names} - set(passed)
    if missing:
        raise NestedError(f"did not run or did not pass: {', '.join(sorted(missing))}")
    count = len(passed)
    return [f"{count} black-box tests of invoking pass with every function in a microVM of its own"]
