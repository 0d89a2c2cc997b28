"""A server under a load of asynchronous events, on a directory of its own, and what its clients were promised.

    senders ── Invoke(Event), boto3 ──► server ──► functions ──► files, dead-letter store
       │ 202                               ▲           │ a pipe, which the server knows nothing of       │
       ▼                                   │ faults    ▼                                                 ▼
    EventPromises ◄────────────────────────┴───────────┴─────────────────────────────────────────────────┘

A function tells of itself as it begins, through a pipe in its root file system: what it said is not lost when the server is
killed, and no server can say less of it.
"""

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import botocore.exceptions

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "blackbox"))

from client import Failed  # noqa: E402
from event_promises import EventPromises, Expected  # noqa: E402
from harness import leftovers  # noqa: E402
from harness.functions import Functions, python  # noqa: E402
from harness.server import RUNTIMES, Server, ServerFailed  # noqa: E402
from promises import Broken  # noqa: E402

RUNTIME = "python3.11"
PIPE = "attempts"
SENDERS = 3
# Accepted and not ended: senders wait while there are so many.
OPEN = 300
# Nothing has happened for so many seconds: nothing more will. The longest wait between attempts is two of them (SPEED_UP).
QUIET = 10
SPEED_UP = 60
WORKED, FAILED, KEPT = "worked", "failed", "the dead-letter store"
FUNCTIONS = {"works": Expected(WORKED, 1), "fails": Expected(FAILED, 3), "is-kept": Expected(KEPT, 1)}
# Of ten events.
SHARES = ["works"] * 5 + ["fails"] * 4 + ["is-kept"]
SOURCE = f"""
import os, time
pipe = os.open("/{PIPE}", os.O_WRONLY)

def lambda_handler(event, context):
    os.write(pipe, f"{{context.function_name}} {{context.aws_request_id}} {{time.monotonic()}}\\n".encode())
    if context.function_name != "works":
        raise ValueError(event["n"])
"""
CONFIG = {
    "async": {"test_speed_up": SPEED_UP}, "destinations": {"sealed_files": False},
    # The pipe is in a root file system of this host.
    "environments": {"isolation": "process", "prepared_jails": 1, "concurrency_limit": 8},
}


class Site:
    """A server, from its first start to the judgement of all of its lives. `data`: where its data directory lies."""

    def __init__(self, work, data=None, prefix=()):
        work.mkdir(parents=True)
        self.work = work
        self.promises = EventPromises(FUNCTIONS)
        self.told = threading.Lock()
        runtimes = with_pipe(work / "runtimes")
        self.server = Server(work / "server", config=CONFIG, runtimes=runtimes, data=data, prefix=prefix)
        self.attempts = Attempts(next(runtimes.rglob(PIPE)), self)
        self.up = threading.Event()
        self.senders = []
        # Moments from which on nothing is promised, and nothing can be.
        self.cut_begins = self.cut_made = None
        self.refused, self.false = 0, None

    def __enter__(self):
        try:
            self.begin()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def begin(self):
        self.server.start()
        client = self.server.client()
        functions = Functions(client)
        for name in FUNCTIONS:
            functions.create(python(SOURCE), name=name)
        for name, end in [("works", "OnSuccess"), ("fails", "OnFailure")]:
            to = {end: {"Destination": f"arn:aws:file:::{FUNCTIONS[name].end}"}}
            client.put_function_event_invoke_config(FunctionName=name, DestinationConfig=to)
        client.put_function_event_invoke_config(FunctionName="is-kept", MaximumRetryAttempts=0)
        self.senders = [Sender(self, number) for number in range(SENDERS)]
        self.up.set()

    def __exit__(self, kind, *_):
        self.pause()
        if kind:
            self.promises.save(self.work / "promises.json")
        if self.server.running:
            self.server.kill()
        for group in self.server.cgroups():
            with contextlib.suppress(OSError):
                group.rmdir()
        self.attempts.close()

    def start(self):
        try:
            self.server.start()
        except (ServerFailed, OSError) as failed:
            raise Broken(f"the server does not start again: {failed}") from None
        self.up.set()

    def kill(self, began=None):
        """SIGKILL. `began`: since then nothing can have become durable. Returns when nobody has anything of the server's open."""
        seen = leftovers.footprint(self.server.process.pid)
        began = began or time.monotonic()
        self.up.clear()
        self.server.kill()
        left = leftovers.await_processes_gone(seen)
        self.promises.fault(began, time.monotonic())
        if left:
            raise Broken(f"processes outlive the server: {left}")

    def cut(self, make):
        """The disk is cut off."""
        with self.told:
            self.cut_begins = time.monotonic()
        make()
        with self.told:
            self.cut_made = time.monotonic()

    def powered(self):
        with self.told:
            self.cut_begins = self.cut_made = None

    def begin_start(self):
        """Starts without waiting."""
        return Starting(self.server)

    def pause(self):
        """Nothing more is sent."""
        for sender in self.senders:
            sender.stopping.set()
        self.up.set()
        for sender in self.senders:
            sender.join()

    def accepted(self, id, function, payload, asked):
        with self.told:
            if self.cut_made and asked > self.cut_made:
                self.false = id
            if not self.cut_begins:
                self.promises.answered(id, function, payload)

    def not_accepted(self, asked):
        with self.told:
            self.refused += bool(self.cut_made and asked > self.cut_made)

    def is_busy(self):
        return len(self.promises.accepted) - self.attempts.ended > OPEN

    # === the judgement ===

    def judge(self):
        """Sends nothing more, lets all come to its end, stops the server, and judges."""
        self.pause()
        if self.false:
            raise Broken(f"{self.false} was accepted, though nothing could become durable any more")
        self.until_nothing_happens()
        self.read_dead_letters()
        self.server.stop()
        return self.promises.judge()

    def until_nothing_happens(self):
        """Until all is at its end, or tried for the last time; or nothing has happened for long."""
        ends = [Records(self.server.data / "destinations" / end, end) for end in (WORKED, FAILED)]
        last, before = time.monotonic(), None
        while time.monotonic() < last + QUIET:
            for end in ends:
                end.tell(self.promises)
            missing = self.promises.missing()
            if all(self.promises.accepted[id][0] == "is-kept" and id in self.promises.attempts for id in missing):
                return
            now = (self.attempts.count, len(self.promises.ended))
            if now != before:
                last, before = time.monotonic(), now
            time.sleep(0.05)

    def read_dead_letters(self):
        """Once all that are missing are there, or nothing more will be."""
        deadline = time.monotonic() + QUIET
        while True:
            listed = self.server.command("dead-letters", "list", "--output", "json", "--function", "is-kept", "--limit", "1000000")
            if listed.returncode:
                raise Broken(f"dead letters cannot be listed: {listed.stderr}")
            letters = {letter["RequestId"]: letter["Attempts"] for letter in json.loads(listed.stdout)}
            if self.promises.missing() <= letters.keys() or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        for id, attempts in letters.items():
            self.promises.lies(id, KEPT, attempts)


class Starting(threading.Thread):
    """A start that may be cut short."""

    def __init__(self, server):
        super().__init__()
        self.server, self.before = server, server.process
        self.start()

    def run(self):
        with contextlib.suppress(ServerFailed, OSError):  # Meant to fail; it may come up all the same.
            self.server.start()

    def until_there(self):
        """The process is there, if nothing more."""
        while self.server.process is self.before and self.is_alive():
            time.sleep(0.001)


class Sender(threading.Thread):
    """Sends until it is stopped, whatever becomes of the server."""

    def __init__(self, site, first):
        super().__init__(daemon=True)
        self.site, self.number = site, first
        self.client = site.server.client(checked=False)
        self.stopping = threading.Event()
        self.start()

    def run(self):
        while not self.stopping.is_set():
            self.site.up.wait()
            if self.site.is_busy():
                self.stopping.wait(0.01)
            else:
                self.send()

    def send(self):
        self.number += SENDERS
        function, payload = SHARES[self.number % len(SHARES)], {"n": self.number}
        asked = time.monotonic()
        try:
            answer = self.client.invoke(FunctionName=function, InvocationType="Event", Payload=json.dumps(payload))
        except botocore.exceptions.ClientError:
            self.site.not_accepted(asked)
            return
        except botocore.exceptions.BotoCoreError:
            # Nothing was promised. The fault may be a moment before `up` is cleared.
            self.stopping.wait(0.005)
            return
        self.site.accepted(answer["ResponseMetadata"]["RequestId"], function, payload, asked)


class Attempts:
    """What functions say of themselves as they begin."""

    def __init__(self, pipe, site):
        self.site, self.count, self.ended = site, 0, 0
        # For writing too: so it has a reader and a writer for as long as we live.
        self.pipe = os.open(pipe, os.O_RDWR)
        fcntl.fcntl(self.pipe, fcntl.F_SETPIPE_SZ, 1 << 20)
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        left, tried = b"", {}
        while True:
            *lines, left = (left + os.read(self.pipe, 1 << 16)).split(b"\n")
            for line in lines:
                if line == b"close":
                    return
                function, id, at = line.decode().split()
                with self.site.told:
                    self.site.promises.attempt(id, function, float(at))
                self.count += 1
                tried[id] = tried.get(id, 0) + 1
                self.ended += tried[id] == FUNCTIONS[function].attempts

    def close(self):
        os.write(self.pipe, b"close\n")
        self.thread.join()
        os.close(self.pipe)


class Records:
    """A file that is a destination, read as it grows."""

    def __init__(self, path, end):
        self.path, self.end, self.read = path, end, 0

    def tell(self, promises):
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
            file.seek(self.read)
            whole, newline, _ = file.read().rpartition(b"\n")
        self.read += len(whole + newline)
        for line in whole.splitlines():
            with contextlib.suppress(ValueError):  # A line that a fault cut off was acknowledged to nobody.
                record = json.loads(line)
                context = record["requestContext"]
                promises.lies(context["requestId"], self.end, context["approximateInvokeCount"], record["requestPayload"])


def with_pipe(directory):
    """Runtimes as they are installed, with a pipe in the root file system. Returns where they are."""
    installed = RUNTIMES / RUNTIME
    root = json.loads((installed / "runtime.json").read_text())["root"]
    copy = directory / RUNTIME
    copy.mkdir(parents=True)
    for name in (root, "runtime.json"):
        done = subprocess.run(["cp", "-al", installed / name, copy / name], capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failed(f"the runtime cannot be linked: {done.stderr}")
    os.mkfifo(copy / root / PIPE)
    os.chmod(copy / root / PIPE, 0o622)
    return directory
