"""Runs a command where /dev/kvm boots kernels: on this machine, or in a virtual one that emulates AMD-V.

    command, tree ──► choose() ──┬─ direct ──► a private root over the tree, on this machine
                                 │
                                 └─ nested ──► QEMU (TCG, emulated AMD-V) ─ boots ─► Debian's cloud kernel, "L1"
                                                 disk image of the tree                 └─ /init: kvm-amd, chroot, command
                                                 ◄── output, exit code (virtio-serial) ──┘

Either way the command sees the tree as its root, with /proc, /sys, /dev, loopback and a cgroup hierarchy, runs as root,
has `WATERWHEEL_NESTED=1` in its environment, and leaves the tree as it was. Only the standard library is used.
"""

from harness.choice import Choice, choose
from harness.direct import run_directly
from harness.errors import NestedError, TimedOut
from harness.job import Job
from harness.machine import run_nested

__all__ = ["Choice", "Job", "NestedError", "TimedOut", "choose", "run", "run_directly", "run_nested"]


def run(job, choice=None, output=None):
    """Runs `job` the way `choice` says (by default: the way this machine allows) and returns its exit code."""
    choice = choice or choose()
    return (run_directly if choice.direct else run_nested)(job, output)
