"""Which way it goes, and why."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Choice:
    direct: bool
    reason: str

    def __str__(self):
        way = "directly on this machine" if self.direct else "nested, in QEMU with emulated AMD-V"
        return f"{way}: {self.reason}"


def choose(cpuinfo=Path("/proc/cpuinfo"), device=Path("/dev/kvm")):
    """Direct needs hardware virtualisation: a software KVM has the device too, but boots no kernel."""
    flag = hardware_flag(cpuinfo.read_text())
    if flag is None:
        return Choice(False, "the processor shows neither vmx nor svm")
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return Choice(False, f"the processor has {flag}, but {device} does not open: {error.strerror}")
    return Choice(True, f"the processor has {flag} and {device} opens")


def hardware_flag(cpuinfo):
    for line in cpuinfo.splitlines():
        if line.startswith("flags"):
            return next((flag for flag in line.split() if flag in ("vmx", "svm")), None)
    return None
