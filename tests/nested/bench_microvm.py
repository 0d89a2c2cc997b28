#!/usr/bin/env python3
"""Runs the inside half of `make bench NAME=microvm` where /dev/kvm boots kernels, and copies what it prints:
bench_microvm.py build, then, as root where it runs directly, bench_microvm.py run.

    tree:  /bench-microvm   sandbox/benches/microvm, static          /runtimes   disk images and the guest kernel, as the
           /functions/*.squashfs   the echo functions                            server has them
           QEMU, the libraries and the firmware that it needs, in their usual places

The other half, loadtest/src/bin/bench-microvm, starts this and makes the report of it.
"""

import argparse
import re
import shutil
import signal
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from cases.environment import copy_images
from harness import Job, NestedError, choose, run
from harness.case import Setting
from harness.guest import tool
from harness.rust import build_bench
from harness.scratch import scratch

REPOSITORY = HERE.parents[1]
PROGRAM = "bench-microvm"
QEMU = Path("/usr/bin/qemu-system-x86_64")
# What boots a kernel by PVH on the microvm machine; nothing else of QEMU's firmware is looked at.
FIRMWARE = ("qboot.rom", "bios-microvm.bin")
FUNCTIONS = ("echo-python", "echo-rust")
# Of the machine: two VMs are never alive at once.
MEMORY = 2048
TIMEOUT = 1500
# A boot takes some twenty times as long as on hardware, and so many times more of the host's timer ticks would fall into it. A core on
# which one thread runs has none.
KERNEL_OPTIONS = ("nohz_full=1", "rcu_nocbs=1", "irqaffinity=0")


def main():
    # As an exception, so that nothing is left behind.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    arguments = parse(sys.argv[1:])
    setting = Setting(REPOSITORY, arguments.binary, arguments.runtimes_dir)
    try:
        if arguments.action == "build":
            shutil.copy(build_bench(setting.repository, "sandbox", "microvm"), setting.programs / PROGRAM)
            return 0
        choice = choose()
        print(f"bench: {choice}", flush=True)
        with scratch() as directory:
            tree = directory / "tree"
            fill(tree, setting, arguments.functions, directory)
            command = [f"/{PROGRAM}", *(["--direct"] if choice.direct else [])]
            job = Job(tree, command, memory=MEMORY, timeout=TIMEOUT, kernel_options=KERNEL_OPTIONS)
            return run(job, choice)
    except NestedError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1


def fill(tree, setting, functions, directory):
    for name in ("dev", "proc", "sys", "tmp", "run", "functions"):
        (tree / name).mkdir(parents=True)
    shutil.copy(setting.programs / PROGRAM, tree)
    copy_images(setting.runtimes, tree / "runtimes")
    kernel = setting.kernel().parent
    shutil.copytree(kernel, tree / "runtimes" / kernel.name)
    for name in FUNCTIONS:
        unpacked = directory / name
        shutil.unpack_archive(functions / f"{name}.zip", unpacked)
        # shutil leaves modes out.
        for file in unpacked.iterdir():
            file.chmod(0o755)
        image = tree / "functions" / f"{name}.squashfs"
        # Stored, as the server keeps code.
        tool(["mksquashfs", unpacked, image, "-comp", "gzip", "-noI", "-noD", "-noF", "-all-root", "-no-xattrs", "-quiet"])
    copy_qemu(tree)


def copy_qemu(tree):
    """QEMU as it is installed, with the libraries that the dynamic linker would find."""
    libraries = re.findall(r"(/\S+) \(0x", tool(["ldd", QEMU]))
    firmware = [Path("/usr/share/qemu") / name for name in FIRMWARE]
    for path in [QEMU, *map(Path, libraries), *firmware]:
        target = tree / path.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def parse(words):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["build", "run"])
    parser.add_argument("--binary", type=Path, default=REPOSITORY / "target/release/waterwheel", metavar="FILE")
    parser.add_argument("--runtimes-dir", type=Path, default=REPOSITORY / "target/runtimes", metavar="DIR")
    parser.add_argument("--functions", type=Path, default=REPOSITORY / "target/functions", metavar="DIR")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
