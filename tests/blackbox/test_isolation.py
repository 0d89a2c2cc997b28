"""What separates functions from this machine: chosen by trying, said loudly, and never weaker than asked for."""

import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from harness.server import BINARY, RUNTIMES

# Where the processor virtualises, a kernel boots, and tests/nested shows what a server with microVMs does.
FLAGS = re.search(r"^flags\s*:.*\b(vmx|svm)\b", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
HARDWARE = FLAGS is not None and os.access("/dev/kvm", os.R_OK | os.W_OK)
NO_KERNEL = "no guest kernel is installed in .*: run waterwheel kernel build"
NO_BOOT = "/dev/kvm exists, but a kernel did not reach its init|/dev/kvm cannot be opened"


NO_IMAGE = "runtime python3.11 has no disk image: install erofs-utils and run waterwheel runtimes build"


def reason_here():
    """Why microVMs do not run on this machine, with the runtimes and kernels that the tests have."""
    return NO_BOOT if list(RUNTIMES.glob("kernel-*/vmlinux")) else NO_KERNEL


def refused(server, tmp_path, *options, variables=()):
    """Starts a server that must not start, and returns what it says."""
    command = [BINARY, "serve", "--data-dir", tmp_path / "data", "--listen", "127.0.0.1:0", *options]
    environment = server.environment() | dict(variables)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode not in (0, -9), done.stderr
    return done.stderr


def shared_kernel_warning(server):
    """The one line that says that functions share a kernel, and why."""
    warned = [line for line in server.stderr().splitlines() if "share this machine's kernel" in line]
    assert len(warned) == 1 and "WARN" in warned[0], server.stderr()
    return warned[0]


@pytest.fixture
def without_kernel(tmp_path):
    empty = tmp_path / "runtimes"
    empty.mkdir()
    return "--runtimes-dir", str(empty)


def test_microvm_without_a_guest_kernel_refuses_at_once_and_says_what_to_do(server, tmp_path, without_kernel):
    begun = time.monotonic()
    said = refused(server, tmp_path, *without_kernel, "--isolation", "microvm")
    assert time.monotonic() - begun < 10, "nothing was booted"
    assert re.search(f'isolation = "microvm".*{NO_KERNEL}', said, re.DOTALL), said


def test_microvm_can_be_asked_for_by_a_variable(server, tmp_path, without_kernel):
    variables = {"WATERWHEEL_ENVIRONMENTS__ISOLATION": "microvm"}
    said = refused(server, tmp_path, *without_kernel, variables=variables)
    assert re.search(NO_KERNEL, said), said


@pytest.fixture
def without_images(tmp_path):
    """A runtime as `runtimes build` leaves it where it finds nothing to make disk images with."""
    manifest = (RUNTIMES / "python3.11/runtime.json").read_text()
    runtime = tmp_path / "without-images/python3.11"
    (runtime / json.loads(manifest)["root"]).mkdir(parents=True)
    (runtime / "runtime.json").write_text(manifest)
    return "--runtimes-dir", str(runtime.parent)


def test_microvm_refuses_a_runtime_without_a_disk_image_and_says_what_to_do(server, tmp_path, without_images):
    begun = time.monotonic()
    said = refused(server, tmp_path, *without_images, "--isolation", "microvm")
    assert time.monotonic() - begun < 10, "nothing was booted"
    assert re.search(f'isolation = "microvm".*{NO_IMAGE}', said, re.DOTALL), said


@pytest.mark.parametrize("place, reason", [("without_kernel", NO_KERNEL), ("without_images", NO_IMAGE)])
def test_auto_says_what_microvms_lack_and_goes_on(new_server, request, place, reason):
    _, runtimes = request.getfixturevalue(place)
    server = new_server(config={"environments": {"isolation": "auto"}}, runtimes=runtimes).start()
    assert re.search(reason, shared_kernel_warning(server)), server.stderr()


@pytest.mark.skipif(HARDWARE, reason="a kernel boots here")
def test_auto_says_loudly_that_functions_share_this_machines_kernel_and_why(new_server):
    server = new_server(config={"environments": {"isolation": "auto"}}).start()
    assert re.search(reason_here(), shared_kernel_warning(server)), server.stderr()


@pytest.mark.skipif(HARDWARE, reason="a kernel boots here")
def test_microvm_does_not_fall_back_where_no_kernel_boots_and_leaves_nothing(server, tmp_path):
    cgroup = f"waterwheel-refused-{tmp_path.name}"
    variables = {"WATERWHEEL_ENVIRONMENTS__CGROUP": cgroup, "WATERWHEEL_ENVIRONMENTS__UID_BASE": "900000"}
    said = refused(server, tmp_path, "--runtimes-dir", RUNTIMES, "--isolation", "microvm", variables=variables)
    assert re.search(f'isolation = "microvm".*({reason_here()})', said, re.DOTALL), said
    left = [path for path in Path("/sys/fs/cgroup").glob(f"**/{cgroup}*") if path.is_dir()]
    assert not left


@pytest.mark.skipif(HARDWARE, reason="a kernel boots here")
def test_doctor_says_why_microvms_do_not_run_here_and_which_way_their_tests_go(server):
    done = server.command("doctor", "--json", "--runtimes-dir", str(RUNTIMES))
    findings = {finding["topic"]: finding for finding in json.loads(done.stdout)}
    boot, tests = findings["microvm"], findings["test-microvm"]
    assert boot["mark"] == "warn" and re.search(reason_here(), boot["fact"]), boot
    assert 'isolation = "microvm" refuses to start' in boot["meaning"]
    assert "nested" in tests["fact"] and "neither vmx nor svm" in tests["fact"], tests


def doctors_groups():
    return [path for path in Path("/sys/fs/cgroup").glob("**/waterwheel-doctor*") if path.is_dir()]


def test_a_doctor_that_is_killed_leaves_nothing_that_the_next_does_not_remove(server):
    command = [BINARY, "doctor", "--data-dir", str(server.data), "--runtimes-dir", str(RUNTIMES)]
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": server.environment()}
    with subprocess.Popen(command, **options) as doctor:
        while not doctors_groups():
            assert doctor.poll() is None, "the doctor tried nothing in a cgroup"
        doctor.kill()
    done = server.command("doctor", "--runtimes-dir", str(RUNTIMES))
    assert done.returncode == 0, done.stdout + done.stderr
    assert not doctors_groups()
