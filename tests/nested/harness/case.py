"""One thing to be shown where KVM works: how it is prepared, run and judged."""

import io
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from harness.direct import run_directly
from harness.errors import MachineLost, NestedError
from harness.machine import run_nested
from harness.scratch import TARGET, scratch


@dataclass
class Setting:
    repository: Path
    # The waterwheel program, and the directory of runtimes and guest kernels.
    binary: Path
    runtimes: Path

    @property
    def programs(self):
        """Where `build` leaves what it makes."""
        directory = TARGET / "programs"
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def kernel(self):
        """The guest kernel that the server would boot."""
        command = [self.binary, "kernel", "list", "--runtimes-dir", self.runtimes]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        found = re.search(r"^([0-9a-f]{16}) .* in use ", done.stdout, re.MULTILINE)
        if not found:
            raise NestedError(f"there is no current guest kernel; {self.binary} kernel build\n{done.stdout}{done.stderr}")
        return self.runtimes / f"kernel-{found[1]}/vmlinux"


@dataclass
class Case:
    name: str
    # Fills the empty directory it is given and returns the Job to run in it.
    prepare: Callable
    # Takes all that was printed; returns what it proves, as sentences, or raises NestedError.
    judge: Callable


def attempt(case, setting, choice):
    """Runs the case and returns what it proved."""
    try:
        return attempt_once(case, setting, choice)
    except MachineLost as error:
        # It happens rarely, whatever runs inside: what hangs, or loses a register that no guest can reach, is the emulation. A command that
        # hangs is ended by the machine's own clock, and fails.
        print(f"nested: {case.name}: {error}\nnested: {case.name}: once more", flush=True)
        return attempt_once(case, setting, choice)


def attempt_once(case, setting, choice):
    seen = Tee(sys.stdout.buffer)
    with scratch() as directory:
        job = case.prepare(setting, directory)
        code = (run_directly if choice.direct else run_nested)(job, seen)
    if code:
        raise NestedError(f"the command ended with {code}")
    proved = case.judge(seen.text())
    if not proved:
        raise NestedError("the command ended well but showed nothing")
    return proved


class Tee:
    """Copies to a stream and keeps."""

    def __init__(self, stream):
        self.stream = stream
        self.kept = io.BytesIO()

    def write(self, content):
        self.kept.write(content)
        self.stream.write(content)

    def flush(self):
        self.stream.flush()

    def text(self):
        return self.kept.getvalue().decode(errors="replace")
