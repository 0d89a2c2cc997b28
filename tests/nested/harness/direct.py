"""The same command on this machine, where KVM works: in a mount namespace of its own, with the tree as its root."""

import os
import shlex
import signal
import subprocess
import sys

from harness.errors import NestedError, TimedOut
from harness.machine import die_with_parent

# An overlay keeps the tree as it is. /sys and /dev are the machine's.
ENTER = """set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o lowerdir="$TREE",upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root
mkdir -p /mnt/root/proc /mnt/root/sys /mnt/root/dev /mnt/root/run /mnt/root/tmp /mnt/root/root
mount -t proc proc /mnt/root/proc
mount --rbind /sys /mnt/root/sys
mount --rbind /dev /mnt/root/dev
mount -t tmpfs tmpfs /mnt/root/run
"""


def run_directly(job, output=None):
    """Runs `job` on this machine, copies what it prints to `output` as it comes, and returns its exit code."""
    if os.geteuid() != 0:
        raise NestedError("running directly needs root, for mounts of its own")
    output = output or sys.stdout.buffer
    script = ENTER.replace('"$TREE"', shlex.quote(str(job.tree.resolve())))
    script += job.script("/mnt/root", env="env", chroot="chroot")
    # A process namespace ends with its first process: nothing the command starts outlives it.
    process = subprocess.Popen(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True, preexec_fn=die_with_parent,
    )
    signal.signal(signal.SIGALRM, lambda *_: process.kill())
    signal.alarm(job.timeout)
    try:
        while content := process.stdout.read1(1 << 16):
            output.write(content)
            output.flush()
        code = process.wait()
    finally:
        left = signal.alarm(0)
        process.kill()
        process.wait()
    if left == 0:
        raise TimedOut(f"the command took more than {job.timeout} s")
    # As a shell says it, and as the virtual machine does.
    return code if code >= 0 else 128 - code
