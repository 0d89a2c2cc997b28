"""One process of the client (queue/examples/storm), whose lines are judged as they come."""

import contextlib
import ctypes
import os
import platform
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from promises import Broken, Promises

REPOSITORY = Path(__file__).resolve().parents[2]
CLIENT = REPOSITORY / "target/debug/examples/storm"
# The first answer: from then on there is something to lose.
FIRST = re.compile(rb"^end \d+ ok", re.MULTILINE)
PATIENCE = 30
# Of a client that waits for room, seconds.
STUCK = 8
# Faults within which a broken promise must be found.
PROOF = 40


class Failed(Exception):
    """The client, or what it needs, did not do what it should: nothing is proved."""


class Site:
    """A directory of a queue, and what was promised of it."""

    def __init__(self, directory, work, client):
        self.directory, self.work, self.client = directory, work, client
        self.promises = Promises()
        self.transcript = open(work / "transcript", "w", encoding="utf-8")
        self.errors = work / "errors"
        self.keyring = work / "keyring"
        self.keyring.write_bytes(os.urandom(32))

    def close(self):
        self.transcript.close()


class Client:
    """The client at work, from its start to its end."""

    def __init__(self, site, mode, lying_disk=False, **options):
        self.site, self.raw, self.ended = site, b"", False
        site.promises.start()
        site.transcript.write("process\n")
        words = [str(site.client), mode, str(site.directory), str(site.keyring)]
        words += [f"{name}={value}" for name, value in options.items()]
        with open(site.errors, "ab") as errors:
            self.process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
                preexec_fn=forget_syncs if lying_disk else None)
        os.set_blocking(self.process.stdout.fileno(), False)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def read(self, seconds):
        """Takes what is said within so many seconds, or until the process ends."""
        deadline = time.monotonic() + seconds
        while not self.ended:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self.process.stdout], [], [], max(left, 0))
            if not ready:
                return
            data = os.read(self.process.stdout.fileno(), 1 << 16)
            self.ended = not data
            self.raw += data
            if left <= 0:
                return

    def take_what_is_there(self):
        """All that was said until now and is not judged yet, to be judged later. Lines come whole."""
        while not self.ended and select.select([self.process.stdout], [], [], 0)[0]:
            self.read(0)
        taken, self.raw = self.raw, b""
        return taken

    def judge(self, taken=b""):
        """Judges what was read."""
        whole, end, self.raw = (taken + self.raw).rpartition(b"\n")
        text = (whole + end).decode()
        self.site.transcript.write(text)
        for line in text.splitlines():
            self.site.promises.tell(line)

    def until(self, what, reached):
        """Goes on until the promises are so, at most as long as patience lasts."""
        deadline = time.monotonic() + PATIENCE
        while not reached():
            if self.ended or time.monotonic() > deadline:
                raise Failed(f"{what}: not within {PATIENCE} s{self.last_words()}")
            self.read(0.01)
            self.judge()

    def until_first_answer(self):
        deadline = time.monotonic() + PATIENCE
        while not FIRST.search(self.raw):
            if self.ended or time.monotonic() > deadline:
                self.judge()
                raise Failed(f"nothing was answered within {PATIENCE} s{self.last_words()}")
            self.read(0.002)

    def kill(self, may_fail=False):
        """The process is no more. What it said before counts. `may_fail`: it may have given up before."""
        self.process.send_signal(signal.SIGKILL)
        self.read_to_the_end()
        if self.process.returncode not in (0, -signal.SIGKILL) and not may_fail:
            raise Failed(f"the client ended by itself{self.last_words()}")

    def wait(self):
        """Lets it come to its end."""
        self.read_to_the_end()
        if self.process.returncode != 0:
            raise Broken(f"what is there cannot be had{self.last_words()}")

    def read_to_the_end(self):
        self.read(PATIENCE)
        if not self.ended:
            raise Failed(f"the client still runs after {PATIENCE} s")
        self.process.wait()
        self.judge()
        if self.raw:
            raise Failed(f"the client ended in the middle of a line: {self.raw!r}")
        self.site.promises.over()

    def last_words(self):
        return f" ({self.process.poll()}): {self.site.errors.read_text(errors='replace')[-1000:].strip()}"


def drain(site, random, if_stuck=None, **options):
    """Opens the directory and looks at all that is there. Some of it is finished, the rest is carried over."""
    finish, seed = random.choice([0, 30, 100]), random.getrandbits(32)
    with Client(site, "drain", finish=finish, seed=seed, **options) as client:
        if if_stuck:
            client.read(STUCK)
            if not client.ended:
                if_stuck()
        client.wait()


@contextlib.contextmanager
def workplace(name, seed, arguments):
    """A directory to work in, kept if a promise is broken; those of runs that were killed go."""
    target = REPOSITORY / "target" / name
    target.mkdir(parents=True, exist_ok=True)
    for left in target.glob("run-*-*"):
        if not Path("/proc", left.name.split("-")[1]).exists():
            shutil.rmtree(left, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f"run-{os.getpid()}-", dir=target))
    try:
        yield work
    except Exception:
        kept = target / f"kept-{seed}"
        shutil.rmtree(kept, ignore_errors=True)
        work.rename(kept)
        transcripts = sorted(kept.rglob("transcript"), key=lambda path: path.stat().st_mtime)
        print(f"seed {seed}; kept: {kept}", flush=True)
        print(f"again: make {name} {arguments} SEED={seed} (the moments differ)", flush=True)
        if transcripts:
            print(f"judged again: {Path(__file__).parent / 'promises.py'} {transcripts[-1]}", flush=True)
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def must_be_found(name, attempt):
    """Shows that the judge sees a promise that is broken on purpose."""
    try:
        for _ in range(PROOF):
            attempt()
    except Broken as broken:
        print(f"  {name}: found ({broken})", flush=True)
        return
    raise Failed(f"{name}: not found in {PROOF} faults, so that the judge proves nothing")


def exit_on_terminate():
    """As an exception, so that nothing is left behind."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def forget_syncs():
    """From here on the process's fsync and fdatasync do nothing and return success: a disk that lies."""
    sync, data_sync = {"x86_64": (74, 75), "aarch64": (82, 83)}[platform.machine()]
    load, jump_if_equal, give_back = 0x20, 0x15, 0x06
    nothing, allow = 0x00050000, 0x7FFF0000  # SECCOMP_RET_ERRNO with no error, SECCOMP_RET_ALLOW
    program = [(load, 0, 0, 0), (jump_if_equal, 1, 0, sync), (jump_if_equal, 0, 1, data_sync),
               (give_back, 0, 0, nothing), (give_back, 0, 0, allow)]
    filters = b"".join(code.to_bytes(2, "little") + bytes([yes, no]) + value.to_bytes(4, "little")
                       for code, yes, no, value in program)
    buffer = ctypes.create_string_buffer(filters, len(filters))

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filters", ctypes.c_void_p)]

    given = Program(len(program), ctypes.cast(buffer, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, seccomp, by_filter = 38, 22, 2
    if libc.prctl(no_new_privileges, 1, 0, 0, 0) or libc.prctl(seccomp, by_filter, ctypes.byref(given), 0, 0):
        raise OSError(ctypes.get_errno(), "no filter of system calls")
