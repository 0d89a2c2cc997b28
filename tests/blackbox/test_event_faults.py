"""What becomes of asynchronous events when something beside their function fails: environments, destinations, the disk, a key.

Each fault has one end, and nobody else waits for it. Faults of the function itself are in test_events.py.
"""

import json
import secrets
import time
import uuid

import botocore.exceptions
import pytest

from harness.emulator import CREDENTIALS
from harness.errors import refused
from harness.functions import ECHO, Functions, package, python
from harness.queues import Queues
from harness.server import PATIENCE
from image import Image
from test_dead_letters import await_dead_letters, eventually, listed
from test_events import destinations, lines, send
from test_telemetry import Metrics

SECONDS = 30 * PATIENCE
FAILURES = "waterwheel_destination_delivery_failures_total"
LETTER_ERRORS = "waterwheel_dead_letter_errors_total"


@pytest.fixture(scope="module")
def queues():
    with Queues() as queues:
        yield queues


def started(new_server, queues=None, speed_up=60, data=None, **sections):
    """A server whose waits are so many times as short, with these queues for SQS."""
    config = {"async": {"test_speed_up": speed_up}, "destinations": {"sealed_files": False, "timeout": "1s"}}
    if queues:
        config["destinations"]["endpoint"] = queues.endpoint
    server = new_server(config=config | sections, data=data)
    key, secret = CREDENTIALS
    credentials = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
    server.environment = lambda own=server.environment: own() | credentials
    return server.start()


@pytest.fixture(scope="module")
def server(new_server, queues):
    return started(new_server, queues)


def told(client, queues, name, how, end="OnSuccess", **settings):
    """Gives a function a queue of its own that answers like this; returns the queue's name."""
    queue = f"q-{name}"
    queues.answer(queue, how)
    client.put_function_event_invoke_config(
        FunctionName=name, DestinationConfig={end: {"Destination": queues.arn(queue)}}, **settings)
    return queue


# === environments that cannot start ===

STARTS = {
    "its module is missing": (python(ECHO), {"Handler": "nowhere.lambda_handler"}, "Unable to import module 'nowhere'"),
    "its handler is missing": (python(ECHO), {"Handler": "lambda_function.nothing"}, "nothing"),
    "it raises in init": (python("raise Exception('no start')\n"), {}, "no start"),
    "it exits in init": (python("import sys\nsys.exit(7)\n"), {}, "exit status 7"),
    "its init takes too long": (python("import time\ntime.sleep(60)\n"), {"Timeout": 1}, "Task timed out"),
    "its program is no program": (package({"bootstrap": "nonsense"}, mode=0o755),
                                  {"Runtime": "provided.al2023", "Handler": "bootstrap"}, ""),
}


@pytest.mark.parametrize("start", STARTS)
def test_a_function_that_cannot_start_is_tried_three_times_and_told(new_server, starting, start):
    code, settings, message = STARTS[start]
    server, client = starting
    name = Functions(client).create(code, **settings)
    _, bad = destinations(client, name)
    send(client, name, {"n": 1})
    [record] = lines(server, bad, 1, seconds=2 * SECONDS)
    context = record["requestContext"]
    assert (context["condition"], context["approximateInvokeCount"]) == ("RetriesExhausted", 3)
    assert record["responseContext"]["functionError"] == "Unhandled"
    assert message in record["responsePayload"]["errorMessage"], record["responsePayload"]
    assert record["requestPayload"] == {"n": 1}


@pytest.fixture(scope="module")
def starting(new_server):
    server = started(new_server, environments={"init_timeout": f"{2 * PATIENCE}s"})
    return server, server.client()


def test_without_its_runtime_an_event_waits_for_it_and_counts_no_attempt(new_server, tmp_path):
    server = started(new_server)
    client = server.client()
    name = Functions(client).create(python(ECHO))
    good, _ = destinations(client, name)
    server.stop()
    installed, server.runtimes = server.runtimes, tmp_path
    server.start()
    request_id = send(client, name, {"n": 1})
    Metrics.settled(server, lambda metrics: metrics.sum("waterwheel_async_retries_total", name, cause="platform") >= 3,
                    SECONDS)
    assert Metrics(server).sum("waterwheel_async_retries_total", name, cause="platform") >= 3
    server.stop()
    server.runtimes = installed
    server.start()
    [record] = lines(server, good, 1)
    assert record["requestContext"]["requestId"] == request_id
    assert record["requestContext"]["approximateInvokeCount"] == 1


def test_without_its_runtime_for_ever_an_event_ends_with_its_age(new_server, tmp_path):
    server = started(new_server)
    client = server.client()
    name = Functions(client).create(python(ECHO))
    _, bad = destinations(client, name, MaximumEventAgeInSeconds=60)
    server.stop()
    server.runtimes = tmp_path
    server.start()
    send(client, name, {"n": 1})
    [record] = lines(server, bad, 1)
    assert record["requestContext"]["condition"] == "EventAgeExceeded"
    assert record["requestContext"]["approximateInvokeCount"] == 0
    assert "responsePayload" not in record


# === destinations that do not accept ===


@pytest.mark.parametrize("end", ["OnSuccess", "OnFailure"])
def test_what_a_destination_refuses_is_kept_and_counted(server, client, functions, queues, end):
    name = functions.misbehaving()
    queue = told(client, queues, name, queues.REFUSE, end, MaximumRetryAttempts=0)
    request_id = send(client, name, {"do": "raise" if end == "OnFailure" else "echo", "n": 1})
    [letter] = await_dead_letters(server, name, 1)
    assert letter["Reason"] == "DestinationRefused"
    assert "403 AccessDenied" in letter["Error"] and queues.messages(queue) == []
    assert letter["InvocationRequestId"] == request_id
    metrics = Metrics(server)
    assert metrics.sum(FAILURES, name) == 1
    assert metrics.sum("waterwheel_async_events_dropped_total") == 0


def test_what_a_dead_letter_queue_refuses_is_kept_and_counted(server, client, functions, queues):
    name = functions.misbehaving(DeadLetterConfig={"TargetArn": queues.arn("letters")})
    queues.answer("letters", queues.REFUSE)
    client.put_function_event_invoke_config(FunctionName=name, MaximumRetryAttempts=0)
    send(client, name, {"do": "raise"})
    [letter] = await_dead_letters(server, name, 1)
    assert letter["Reason"] == "DestinationRefused"
    assert (Metrics(server).sum(LETTER_ERRORS, name), Metrics(server).sum(FAILURES, name)) == (1, 0)


@pytest.mark.parametrize("how", [Queues.FAIL, Queues.HANG])
def test_a_destination_that_does_not_accept_is_tried_again_and_holds_up_nobody(server, client, functions, queues, how):
    name, other = functions.misbehaving(), functions.create(python(ECHO))
    queue, others = told(client, queues, name, how), told(client, queues, other, queues.ACCEPT)
    # More than are delivered at once for one function.
    sent = {send(client, name, {"do": "echo", "n": n}) for n in range(40)}
    queues.await_asked(queue, 33, SECONDS)
    for n in range(5):
        began = time.monotonic()
        send(client, other, {"n": n})
        queues.await_messages(others, n + 1, SECONDS)
        assert time.monotonic() - began < 3 * PATIENCE
    eventually(lambda: Metrics(server).sum(FAILURES, name) >= 40)
    assert queues.messages(queue) == [] and Metrics(server).sum(FAILURES, other) == 0
    queues.answer(queue, queues.ACCEPT)
    records = queues.await_messages(queue, 40, 2 * SECONDS)
    assert {record["requestContext"]["requestId"] for record in records} == sent
    # The function ran once for each: no destination makes it run again.
    assert Metrics(server).sum("waterwheel_async_event_age_seconds_count", name) == 40
    assert listed(server, "--function", name) == []


@pytest.mark.parametrize("how", [Queues.FAIL, Queues.HANG])
def test_a_destination_that_never_accepts_is_given_up_after_six_hours(new_server, queues, how):
    server = started(new_server, queues, speed_up=5000)  # A bit more than four seconds.
    client = server.client()
    name = Functions(client).create(python(ECHO))
    queue = told(client, queues, name, how)
    began = time.monotonic()
    request_id = send(client, name, {"n": 1})
    [letter] = await_dead_letters(server, name, 1)
    assert 4 < time.monotonic() - began < 12 * PATIENCE
    assert (letter["InvocationRequestId"], letter["Reason"]) == (request_id, "DestinationRefused")
    assert letter["Attempts"] >= 3 and queues.messages(queue) == []
    assert Metrics(server).sum(FAILURES, name) >= 3


# === a function that is no more ===


def test_a_function_that_is_deleted_leaves_its_events_in_the_dead_letter_store(server, client, functions):
    name = functions.misbehaving()
    sent = {send(client, name, {"do": "raise", "n": n}) for n in range(3)}
    eventually(lambda: Metrics(server).sum("waterwheel_async_retries_total", name) >= 3)
    client.delete_function(FunctionName=name)

    def all_there():
        # Until there is one, nothing has this name any more.
        done = server.command("dead-letters", "list", "--output", "json", "--function", name)
        letters = json.loads(done.stdout) if done.returncode == 0 else []
        return letters if len(letters) == 3 else None

    letters = eventually(all_there)
    assert {letter["RequestId"] for letter in letters} == sent
    assert {letter["Reason"] for letter in letters} == {"FunctionDeleted"}


# === a key that is destroyed ===


def test_events_whose_key_is_destroyed_are_given_up_aloud_and_others_go_on(new_server):
    server = started(new_server, speed_up=20)  # Three seconds to the second attempt.
    functions = Functions(server.client())
    lost = functions.misbehaving()
    for n in range(3):
        send(functions.client, lost, {"do": "raise", "n": n})
    Metrics.settled(server, lambda metrics: metrics.sum("waterwheel_async_retries_total", lost) == 3, SECONDS)
    server.stop()
    destroyed = rotate(server.data / "keyring")
    server.start()
    other = functions.create(python(ECHO))
    good, _ = destinations(server.client(), other)
    send(functions.client, other, {"n": 1})
    lines(server, good, 1)
    server.stop()
    forget(server.data / "keyring", destroyed)
    server.start()
    client = server.client()
    send(client, other, {"n": 2})
    lines(server, good, 2)
    unreadable = "waterwheel_queue_unreadable_events_total"
    eventually(lambda: Metrics(server).sum(unreadable, reason="key_destroyed") == 3)
    assert "queued events that nobody can read were given up" in server.stderr()
    refused(client, "invoke", "ServiceException", 500, "could not be queued",
            FunctionName=lost, InvocationType="Event", Payload=b"{}")
    refused(client, "invoke", "InvalidZipFileException", 502, "cannot be opened", FunctionName=lost, Payload=b"{}")


def rotate(keyring):
    """Another wrapping key from now on; returns the id of the one before."""
    first, current, *keys = keyring.read_text().splitlines()
    id = str(uuid.uuid4())
    keyring.write_text("\n".join([first, f"current {id}", *sorted([*keys, f"key {id} {secrets.token_hex(32)}"])]) + "\n")
    return current.removeprefix("current ")


def forget(keyring, id):
    lines = keyring.read_text().splitlines()
    keyring.write_text("".join(f"{line}\n" for line in lines if not line.startswith(f"key {id} ")))


# === a full disk ===

MEBIBYTES = 160
SLOW = "import time\ndef lambda_handler(event, context):\n    time.sleep(event['seconds'])\n"
LARGE = {"seconds": 0.2, "filling": "x" * 250_000}
SMALL = {"seconds": 0}


@pytest.fixture
def small_disk(tmp_path):
    with Image(tmp_path, MEBIBYTES) as image:
        yield image


def test_a_full_disk_refuses_events_and_loses_none_that_it_accepted(new_server, small_disk):
    server = started(new_server, data=small_disk.root / "data")
    client = server.client()
    functions = Functions(client)
    name = functions.create(python(SLOW))
    good, _ = destinations(client, name)
    functions.invoke(name, SMALL)
    accepted = {send(client, name, SMALL)}
    small_disk.fill()
    refusal = fill_up(client, name, accepted)
    metadata = refusal["ResponseMetadata"]
    assert (metadata["HTTPStatusCode"], refusal["Error"]["Code"]) == (503, "ServiceUnavailableException")
    assert "disk is full" in refusal["Error"]["Message"] and int(metadata["HTTPHeaders"]["retry-after"]) > 0
    # Whoever waits for an answer gets one.
    functions.invoke(name, SMALL).succeeded()
    small_disk.ballast.unlink()
    eventually(lambda: accepts(client, name, accepted))
    records = lines_at_least(server, good, accepted, 2 * SECONDS)
    assert {record["requestContext"]["condition"] for record in records} == {"Success"}
    server.stop()  # Before its disk goes.


def fill_up(client, name, accepted):
    """Sends until an event is refused; returns the refusal."""
    for _ in range(1000):
        try:
            accepted.add(send(client, name, LARGE))
        except botocore.exceptions.ClientError as error:
            return error.response
    raise AssertionError("the disk never was full")


def accepts(client, name, accepted):
    """Whether an event is accepted; if not, for want of room."""
    try:
        accepted.add(send(client, name, SMALL))
    except botocore.exceptions.ClientError as error:
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 503, error
        return False
    return True


def lines_at_least(server, destination, ids, seconds):
    """Records of a file destination, once each of these events has one."""
    path = server.data / "destinations" / destination
    deadline = time.monotonic() + seconds
    while True:
        text = path.read_text() if path.exists() else ""
        records = [json.loads(line) for line in text.split("\n")[:-1]]
        missing = ids - {record["requestContext"]["requestId"] for record in records}
        if not missing:
            return records
        assert time.monotonic() < deadline, f"{len(missing)} of {len(ids)} are missing"
        time.sleep(0.1)
