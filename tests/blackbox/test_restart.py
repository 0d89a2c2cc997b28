"""What a stop, a crash and a restart do to callers and to functions, and what they leave on the host: nothing."""

import base64
import hashlib
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import botocore.exceptions
import pytest

from harness import leftovers
from harness.following import Following
from harness.functions import ROLE, Functions, fresh_name, python
from harness.server import await_connection_refused

KILLS = int(os.environ.get("WATERWHEEL_TEST_KILLS", "100"))

SLEEPER = """
import time
def lambda_handler(event, context):
    if event:
        print(event['mark'], flush=True)
        time.sleep(event['seconds'])
    return 'finished'
"""


@contextmanager
def running(server, name, seconds):
    """An invocation that is known to be in its handler; gives its future."""
    mark = f"running-{fresh_name()}"
    functions = Functions(server.client())
    functions.invoke(name, 0)  # so that there is a log to follow
    with ThreadPoolExecutor(1) as pool:
        with Following(server, name) as following:
            future = pool.submit(functions.invoke, name, {"mark": mark, "seconds": seconds})
            following.until(mark)
        yield future


# === callers ===


def test_boto3s_own_retries_carry_a_call_across_a_restart(new_server):
    server = new_server().start()
    name = Functions(server.client()).create(python("def lambda_handler(e, c):\n    return e\n"))
    patient = Functions(server.client(attempts=12))
    patient.invoke(name, 0)
    server.stop()
    await_connection_refused(server.endpoint)
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(patient.invoke, name, n) for n in range(4)]
        server.start()
        outcomes = [call.result() for call in calls]
    assert [outcome.succeeded() for outcome in outcomes] == [0, 1, 2, 3]
    tried_again = [outcome.response["ResponseMetadata"]["RetryAttempts"] for outcome in outcomes]
    assert any(tried_again), "at least one call met the closed door"


def test_a_stream_of_calls_survives_restarts_without_one_error(new_server):
    server = new_server().start()
    functions = Functions(server.client(attempts=12))
    name = functions.create(python("def lambda_handler(e, c):\n    return e\n"))
    ended, answered, failures = threading.Event(), [], []

    def call(start):
        n = start
        while not ended.is_set():
            try:
                assert functions.invoke(name, n).succeeded() == n
                answered.append(n)
            except BaseException as error:  # whatever it is, the test must hear of it
                failures.append(error)
                return
            n += 4

    callers = [threading.Thread(target=call, args=(n,)) for n in range(4)]
    for caller in callers:
        caller.start()
    counts = []
    for _ in range(3):
        server.stop()
        server.start()
        counts.append(len(answered))
        while len(answered) < counts[-1] + 8 and not failures:
            ended.wait(0.01)
    ended.set()
    for caller in callers:
        caller.join()
    assert failures == []
    assert len(answered) >= counts[-1] + 8 > 8


def test_sigterm_lets_finish_what_runs_and_takes_nothing_new(new_server):
    server = new_server().start()
    name = Functions(server.client()).create(python(SLEEPER))
    kept = server.wire().connect()
    kept.connect()
    with running(server, name, 3) as call:
        stopping = threading.Thread(target=server.stop)
        started = time.monotonic()
        stopping.start()
        await_connection_refused(server.endpoint)
        assert not call.done()
        refused_while_stopping(server, kept, name)
        assert call.result().succeeded() == "finished"
        stopping.join()
        assert time.monotonic() - started < 8
    assert not (server.data / "endpoint").exists(), "an endpoint that nobody answers is taken away"


def refused_while_stopping(server, connection, name):
    """On a connection that was open before: 503 with Retry-After, or closed; both are retried by SDKs."""
    wire = server.wire()
    try:
        answer = wire.send(wire.sign("POST", f"/2015-03-31/functions/{name}/invocations", b"0"), connection)
    except (ConnectionError, OSError):
        return
    assert (answer.status, answer.error) == (503, "ServiceUnavailableException"), (answer.status, answer.body)
    assert answer.headers["Retry-After"].isdigit() and answer.headers["Connection"].lower() == "close"


def test_a_second_sigterm_ends_at_once(new_server):
    server = new_server().start()
    name = Functions(server.client()).create(python(SLEEPER), Timeout=60)
    with running(server, name, 50) as call:
        seen = leftovers.footprint(server.process.pid)
        server.process.terminate()
        await_connection_refused(server.endpoint)
        started = time.monotonic()
        server.process.terminate()
        server.process.wait(5)
        assert time.monotonic() - started < 5
        assert isinstance(call.exception(), (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError))
    assert leftovers.await_processes_gone(seen) == []


# === what is left ===


def busy_server(new_server):
    """A server with one busy and several idle environments: (server, its footprint, name)."""
    server = new_server().start()
    functions = Functions(server.client())
    names = [functions.create(python(SLEEPER), Timeout=60) for _ in range(3)]
    for name in names:
        assert functions.invoke(name, 0).succeeded() == "finished"
    return server, names


def test_a_clean_stop_leaves_no_process_mount_or_cgroup(new_server):
    server, _ = busy_server(new_server)
    seen = leftovers.footprint(server.process.pid)
    assert len(seen.processes) > 6 and seen.cgroups, f"three environments cannot be only {seen}"
    server.stop()
    assert leftovers.await_processes_gone(seen, seconds=2) == []
    assert leftovers.cgroups_left(seen) == set()
    assert server.cgroups() == [], "nor the one that held them"
    assert leftovers.mounts_left(seen) == set()


def test_a_stop_in_the_middle_of_the_start_leaves_no_cgroup(new_server):
    server = new_server()
    for _ in range(5):
        # Jails are being prepared for functions to come.
        server.start()
        server.stop()
        assert server.cgroups() == []


def test_sigkill_leaves_no_process_or_mount_and_the_next_start_no_cgroup(new_server):
    server, names = busy_server(new_server)
    with running(server, names[0], 50) as call:
        seen = leftovers.footprint(server.process.pid)
        server.kill()
        assert isinstance(call.exception(), botocore.exceptions.BotoCoreError)
    assert leftovers.await_processes_gone(seen) == [], "environments die with their server"
    assert leftovers.mounts_left(seen) == set()
    server.start()
    assert leftovers.cgroups_left(seen) == set()
    functions = Functions(server.client())
    for name in names:
        assert functions.invoke(name, 0).succeeded() == "finished"


def test_a_killed_environment_is_replaced_and_leaves_nothing(new_server):
    server = new_server().start()
    functions = Functions(server.client())
    name = functions.create(python(SLEEPER))
    functions.invoke(name, 0)
    seen = leftovers.footprint(server.process.pid)
    del seen.processes[server.process.pid]
    # Only what was seen: the server goes on preparing jails, and those made from here on are to live.
    for pid in seen.processes:
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            pass  # went with one killed before
    assert leftovers.await_processes_gone(seen) == []
    assert functions.invoke(name, 0).succeeded() == "finished"
    deadline = time.monotonic() + 5
    while left := leftovers.cgroups_left(seen):
        assert time.monotonic() < deadline, left
        functions.invoke(name, 0)


# === kill -9 at any moment of create and update ===


def versioned(number):
    return python(f"def lambda_handler(e, c):\n    return {number}\n")


def sha256(code):
    return base64.b64encode(hashlib.sha256(code).digest()).decode()


class Ledger:
    """What the caller was promised: for each function what it surely is, and what it may be."""

    def __init__(self):
        self.sure = {}  # name → version that was acknowledged last; absent: creation not acknowledged
        self.maybe = {}  # name → version that was asked for last

    def change(self, functions):
        """Creates or updates functions until the server goes away."""
        number = 0
        while True:
            for name in [*self.sure, fresh_name("kill")]:
                number += 1
                version = random.randrange(10**9)
                self.maybe[name] = version
                try:
                    if number % 4 == 0 and name in self.sure:
                        functions.await_updated(name)
                    if name in self.sure:
                        functions.client.update_function_code(FunctionName=name, ZipFile=versioned(version))
                    else:
                        functions.client.create_function(
                            FunctionName=name, Role=ROLE, Runtime="python3.11", Code={"ZipFile": versioned(version)},
                            Handler="lambda_function.lambda_handler")
                except functions.client.exceptions.ResourceConflictException:
                    self.maybe.pop(name)  # still in progress: refused, so nothing changed
                    continue
                except botocore.exceptions.BotoCoreError:  # the connection broke
                    return
                self.sure[name] = version
                self.maybe.pop(name)

    def settle(self, functions):
        """After a restart every function is old or new, whole."""
        for name in {*self.sure, *self.maybe}:
            allowed = {v for v in (self.sure.get(name), self.maybe.get(name)) if v is not None}
            try:
                functions.await_active(name)
                functions.await_updated(name)
                found = functions.client.get_function(FunctionName=name)
            except (botocore.exceptions.WaiterError, functions.client.exceptions.ResourceNotFoundException) as error:
                assert name not in self.sure, f"{name} was acknowledged and is gone: {error}"
                continue
            now = [v for v in allowed if sha256(versioned(v)) == found["Configuration"]["CodeSha256"]]
            assert now, f"{name} is neither old nor new"
            assert found["Configuration"]["CodeSize"] == len(versioned(now[0]))
            self.sure[name] = now[0]
        self.maybe.clear()

    def trim(self, functions, keep):
        """Deletes all but `keep`, so that a run does not grow without bound."""
        for name in list(self.sure)[:-keep or None]:
            functions.client.delete_function(FunctionName=name)
            del self.sure[name]


def stored_files(server):
    """Relative paths below the data directory but for logs, which outlive their functions, the queue's own files, and SQLite's
    journals."""
    found = set()
    for path in server.data.rglob("*"):
        relative = path.relative_to(server.data)
        if path.is_file() and relative.parts[0] not in ("logs", "queue") and not path.name.endswith(("-wal", "-shm", "-journal")):
            found.add(str(relative))
    return found


@pytest.mark.timeout(300)
def test_sigkill_during_create_and_update_leaves_each_function_old_or_new_and_nothing_else(new_server):
    seed = random.SystemRandom().randrange(10**9)
    random.seed(seed)
    print(f"seed {seed}")  # shown when the test fails
    server = new_server().start()
    empty = stored_files(server)
    ledger, seen, interrupted = Ledger(), [], 0
    for _ in range(KILLS):
        functions = Functions(server.client())
        with ThreadPoolExecutor(1) as pool:
            change = pool.submit(ledger.change, functions)
            time.sleep(random.uniform(0.0, 0.08))  # the fault is meant to come at any moment
            seen.append(leftovers.footprint(server.process.pid))
            server.kill()
            change.result()
        interrupted += bool(ledger.maybe)
        server.start()
        functions = Functions(server.client())
        ledger.settle(functions)
        if ledger.sure:
            name = random.choice(list(ledger.sure))
            assert functions.invoke(name, {}).succeeded() == ledger.sure[name], "runs what it says it is"
        ledger.trim(functions, keep=3)

    assert interrupted > KILLS // 10, f"only {interrupted} of {KILLS} kills met a change under way"
    for footprint in seen:
        assert leftovers.await_processes_gone(footprint) == []
        assert leftovers.cgroups_left(footprint) == set()
    ledger.trim(Functions(server.client()), keep=0)
    assert Functions(server.client()).client.list_functions()["Functions"] == []
    server.stop()
    assert stored_files(server) - empty <= {"endpoint"}, "files of functions that are gone"
    # Only now: the server that ran until here mounts the same things at the same places as those before it.
    assert set().union(*map(leftovers.mounts_left, seen)) == set()


def test_what_was_acknowledged_is_there_after_sigkill_at_once(new_server):
    server = new_server().start()
    for number in range(5):
        functions = Functions(server.client())
        name = functions.create(versioned(number), wait=False)
        server.kill()
        server.start()
        functions = Functions(server.client())
        functions.await_active(name)
        assert functions.invoke(name, {}).succeeded() == number
        functions.client.delete_function(FunctionName=name)
        server.kill()
        server.start()
        with pytest.raises(botocore.exceptions.ClientError, match="Function not found"):
            server.client().get_function(FunctionName=name)


def test_the_same_credentials_and_endpoint_come_back(new_server):
    server = new_server().start()
    before = server.credentials(), server.endpoint
    server.kill()
    server.start()
    assert (server.credentials(), server.endpoint) == before
    server.client().list_functions()
