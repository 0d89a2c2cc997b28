"""The virtual machine: QEMU's software processor with AMD-V, seen from the host.

    starting ── "init: running the command" ──► running ── status line ──► ended
        └─── QEMU ends, or too long ───► NestedError with the last console lines

Two socket pairs become virtio-serial ports: one carries the command's output, the other one line of status. The kernel's
own messages go to a file, which is looked at only when something went wrong.
"""

import ctypes
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time

from harness.errors import MachineLost, NestedError, TimedOut
from harness.guest import Guest, tool
from harness.scratch import scratch

QEMU = "qemu-system-x86_64"
# Booting takes 7 s on an idle machine; this is for one that compiles at the same time.
BOOT_SECONDS = 120
# Between the command's end by its own timeout and the status line.
GRACE_SECONDS = 30
CONSOLE_LINES = 50
# Free space on the disk beyond what the tree takes, sparse.
SPARE_BYTES = 2 << 30
PANIC = "Kernel panic"
PR_SET_PDEATHSIG = 1


def run_nested(job, output=None, guest=None):
    """Runs `job` in a virtual machine, copies what it prints to `output` as it comes, and returns its exit code."""
    output = output or sys.stdout.buffer
    guest = guest or Guest.find_or_fetch()
    with scratch() as directory:
        return Machine(job, guest, directory).run(output)


class Machine:
    def __init__(self, job, guest, directory):
        self.job = job
        self.guest = guest
        self.disk = directory / "disk.img"
        self.initramfs = directory / "initramfs"
        self.console = directory / "console"

    def run(self, output):
        make_disk(self.job.tree, self.disk)
        self.initramfs.write_bytes(self.guest.initramfs(self.job.script("."), self.job.timeout))
        self.console.touch()
        ours_output, theirs_output = socket.socketpair()
        ours_status, theirs_status = socket.socketpair()
        with ours_output, ours_status:
            with theirs_output, theirs_status:
                process = self._start(theirs_output.fileno(), theirs_status.fileno())
            try:
                status = self._follow(process, ours_output, ours_status, output)
            finally:
                process.kill()
                process.wait()
            # What QEMU has passed on is still in the socket.
            copy_rest(ours_output, output)
        return self._judge(status)

    def _start(self, output, status):
        command = [
            QEMU, "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max,+svm,+npt,-la57",
            "-m", str(self.job.memory), "-smp", "2", "-no-reboot", "-nodefaults", "-display", "none",
            "-kernel", self.guest.kernel, "-initrd", self.initramfs,
            "-append", " ".join(["console=ttyS0 quiet panic=-1 mitigations=off", *self.job.kernel_options]),
            "-serial", f"file:{self.console}",
            "-drive", f"if=none,id=disk,format=raw,cache=unsafe,file={self.disk}",
            "-device", "virtio-blk-pci,drive=disk", "-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
            "-chardev", f"socket,id=output,fd={output}", "-device", "virtserialport,chardev=output,name=output",
            "-chardev", f"socket,id=status,fd={status}", "-device", "virtserialport,chardev=status,name=status",
        ]
        if shutil.which(QEMU) is None:
            raise NestedError(f"{QEMU} is not installed; scripts/setup microvm installs what is missing")
        with self.console.open("ab") as errors:
            return subprocess.Popen(
                [str(word) for word in command], pass_fds=(output, status), stdin=subprocess.DEVNULL,
                stdout=errors, stderr=errors, preexec_fn=die_with_parent,
            )

    def _follow(self, process, ours_output, ours_status, output):
        """Copies output until the status line is whole, the machine ends, or time is up; returns the line."""
        deadline = time.monotonic() + BOOT_SECONDS + self.job.timeout + GRACE_SECONDS
        status = b""
        with selectors.DefaultSelector() as selector:
            selector.register(ours_output, selectors.EVENT_READ)
            selector.register(ours_status, selectors.EVENT_READ)
            while not status.endswith(b"\n"):
                ready = selector.select(max(0, deadline - time.monotonic()))
                if not ready:
                    raise MachineLost(f"the machine does not answer any more{self._last_words()}")
                for key, _ in ready:
                    content = key.fileobj.recv(1 << 16)
                    if key.fileobj is ours_status:
                        status += content
                    if key.fileobj is ours_output:
                        output.write(content)
                        output.flush()
                    if not content:
                        process.wait()
                        raise self._ended(process.returncode)
        return status.decode().strip()

    def _ended(self, code):
        """What a machine that told nothing has ended of."""
        kind = MachineLost if PANIC in self.console.read_text(errors="replace") else NestedError
        return kind(f"the machine ended (QEMU: {code}){self._last_words()}")

    def _judge(self, status):
        word, _, rest = status.partition(" ")
        if word == "exit":
            return int(rest)
        if word == "timeout":
            raise TimedOut(f"the command took more than {self.job.timeout} s")
        raise NestedError(f"{rest}{self._last_words()}")

    def _last_words(self):
        lines = self.console.read_text(errors="replace").splitlines()[-CONSOLE_LINES:]
        return "; its console ended with:\n" + "\n".join(f"  {line}" for line in lines)


def make_disk(tree, disk):
    """An ext4 image that holds `tree`, with room to write."""
    used = int(tool(["du", "--summarize", "--block-size=1", tree]).split()[0])
    with disk.open("wb") as file:
        # Metadata takes its share.
        file.truncate(used + used // 8 + SPARE_BYTES)
    tool([
        "mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0",
        "-E", "root_owner=0:0,lazy_itable_init=1,nodiscard", "-d", tree, disk,
    ])


def copy_rest(stream, output):
    while content := stream.recv(1 << 16):
        output.write(content)
    output.flush()


def die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
