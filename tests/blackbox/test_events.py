"""Asynchronous invocation, end to end: what was answered 202 ends in its function, in a destination or in the dead-letter store.

Waits between attempts are sixty times as short as on AWS (`test_speed_up`): one second, then two.
"""

import json
import subprocess
import time

import botocore.exceptions
import pytest

from harness.emulator import CREDENTIALS, Emulator
from harness.functions import ECHO, Functions, fresh_name, python
from harness.server import BINARY, PATIENCE, REGION
from test_telemetry import Metrics

ACCOUNT = "000000000000"
CONFIG = {"async": {"test_speed_up": 60}, "destinations": {"sealed_files": False}}
SECONDS = 30 * PATIENCE


@pytest.fixture(scope="module")
def server(new_server):
    return new_server(config=CONFIG).start()


def send(client, name, event, **arguments):
    """The request id of an event that was accepted."""
    answer = client.invoke(FunctionName=name, InvocationType="Event", Payload=json.dumps(event), **arguments)
    assert answer["StatusCode"] == 202 and answer["Payload"].read() == b""
    assert "ExecutedVersion" not in answer
    return answer["ResponseMetadata"]["RequestId"]


def arn(name):
    return f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}"


def lines(server, destination, count, seconds=SECONDS):
    """Records of a file destination, once there are so many."""
    path = server.data / "destinations" / destination
    deadline = time.monotonic() + seconds
    while True:
        text = path.read_text() if path.exists() else ""
        if text.count("\n") >= count or time.monotonic() > deadline:
            records = [json.loads(line) for line in text.splitlines()]
            assert len(records) == count, records
            return records
        time.sleep(0.02)


def destinations(client, name, **settings):
    """Gives a function destinations of its own: files called `good-NAME` and `bad-NAME`."""
    client.put_function_event_invoke_config(
        FunctionName=name,
        DestinationConfig={
            "OnSuccess": {"Destination": f"arn:aws:file:::good-{name}"},
            "OnFailure": {"Destination": f"arn:aws:file:::bad-{name}"},
        },
        **settings,
    )
    return f"good-{name}", f"bad-{name}"


def partitions(server):
    """Events by partition, as `waterwheel queue stat` counts them beside the running server."""
    command = [BINARY, "queue", "stat", "--data-dir", server.data, "--json"]
    report = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=30).stdout)
    return {partition["name"]: partition["events"] for partition in report["partitions"]}


def all_done(server, seconds=SECONDS):
    """Waits until no event waits to be run, runs, or is on its way to a destination."""
    deadline = time.monotonic() + seconds
    while left := {name: n for name, n in partitions(server).items() if n and not name.startswith("dead-letters/")}:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def dead_letters(server, name, count, seconds=SECONDS):
    """Waits until the store holds so many events of a function."""
    deadline = time.monotonic() + seconds
    while (found := partitions(server).get(f"dead-letters/{arn(name)}", 0)) != count:
        assert time.monotonic() < deadline, f"{found} of {count} dead letters: {partitions(server)}"
        time.sleep(0.05)


def test_an_event_is_run_and_its_record_is_awss(server, client, functions):
    name = functions.create(python(ECHO))
    good, _ = destinations(client, name)
    request_id = send(client, name, {"n": 1})
    [record] = lines(server, good, 1)
    assert set(record) == {
        "version", "timestamp", "requestContext", "requestPayload", "responseContext", "responsePayload",
    }
    assert record["requestContext"] == {
        "requestId": request_id, "functionArn": f"{arn(name)}:$LATEST", "condition": "Success",
        "approximateInvokeCount": 1,
    }
    assert record["responseContext"] == {"statusCode": 200, "executedVersion": "$LATEST"}
    assert record["requestPayload"] == record["responsePayload"] == {"n": 1}


FAULTS = {
    "raises": ({"do": "raise_", "message": "no"}, "no"),
    "exits": ({"do": "exit_", "hard": True}, "exited"),
    "times out": ({"do": "sleep", "seconds": 60}, "Task timed out after 1.00 seconds"),
    "uses all its memory": ({"do": "eat_memory", "mb": 500}, "signal: killed"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_tried_three_times_and_told(server, client, functions, fault):
    event, message = FAULTS[fault]
    event = event | {"do": event["do"].rstrip("_")}
    # What is to use up its memory must have the time for it.
    name = functions.misbehaving(Timeout=1 if fault == "times out" else 20)
    _, bad = destinations(client, name)
    began = time.monotonic()
    send(client, name, event)
    [record] = lines(server, bad, 1, seconds=2 * SECONDS)
    assert time.monotonic() - began > 3, "one second and two between the attempts"
    assert record["requestContext"]["condition"] == "RetriesExhausted"
    assert record["requestContext"]["approximateInvokeCount"] == 3
    assert record["responseContext"]["functionError"] == "Unhandled"
    assert message in record["responsePayload"]["errorMessage"]
    assert record["requestPayload"] == event


def test_attempts_and_age_are_configured(server, client, functions):
    name = functions.misbehaving()
    _, bad = destinations(client, name, MaximumRetryAttempts=0)
    send(client, name, {"do": "raise"})
    [record] = lines(server, bad, 1)
    assert record["requestContext"]["approximateInvokeCount"] == 1
    # A second, after which it is too old; the second attempt would come after as long.
    client.put_function_event_invoke_config(FunctionName=name, MaximumEventAgeInSeconds=60, DestinationConfig={
        "OnFailure": {"Destination": f"arn:aws:file:::old-{name}"}})
    send(client, name, {"do": "raise"})
    [record] = lines(server, f"old-{name}", 1)
    assert record["requestContext"]["condition"] == "EventAgeExceeded"
    assert record["requestContext"]["approximateInvokeCount"] == 1


def test_without_a_destination_it_is_kept(server, client, functions):
    name = functions.misbehaving()
    client.put_function_event_invoke_config(FunctionName=name, MaximumRetryAttempts=0)
    for _ in range(3):
        send(client, name, {"do": "raise"})
    dead_letters(server, name, 3)


def test_a_dead_letter_queue_gets_the_event_itself(server, client, functions):
    name = functions.misbehaving(DeadLetterConfig={"TargetArn": f"arn:aws:file:::letters-{fresh_name()}"})
    letters = client.get_function_configuration(FunctionName=name)["DeadLetterConfig"]["TargetArn"]
    client.put_function_event_invoke_config(FunctionName=name, MaximumRetryAttempts=0)
    request_id = send(client, name, {"do": "raise", "message": "why not"})
    [letter] = lines(server, letters.rsplit(":", 1)[1], 1)
    assert letter["payload"] == {"do": "raise", "message": "why not"}
    assert (letter["requestId"], letter["errorCode"], letter["errorMessage"]) == (request_id, 200, "why not")


def test_a_deleted_functions_events_are_kept(server, client, functions):
    name = functions.misbehaving()
    send(client, name, {"do": "raise"})
    Metrics.settled(server, lambda metrics: metrics.sum("waterwheel_async_retries_total", name) == 1, SECONDS)
    client.delete_function(FunctionName=name)
    dead_letters(server, name, 1)


def test_invoke_async_is_accepted_too(server, client, functions):
    name = functions.create(python(ECHO))
    good, _ = destinations(client, name)
    assert client.invoke_async(FunctionName=name, InvokeArgs=b'{"old": true}')["Status"] == 202
    [record] = lines(server, good, 1)
    assert record["requestPayload"] == {"old": True}


def test_what_a_function_gets_is_what_a_caller_would_give_it(server, client, functions):
    name = functions.misbehaving()
    good, _ = destinations(client, name)
    context = "eyJjdXN0b20iOiB7ImsiOiAidiJ9fQ=="
    request_id = send(client, f"{arn(name)}:$LATEST", {"do": "context"}, ClientContext=context)
    [record] = lines(server, good, 1)
    seen = record["responsePayload"]
    assert seen["aws_request_id"] == request_id
    assert seen["invoked_function_arn"] == f"{arn(name)}:$LATEST"
    assert seen["client_context"]["custom"] == {"k": "v"}


def test_an_event_outlives_kill_9(server, client, functions):
    name = functions.create(python(ECHO))
    good, _ = destinations(client, name)
    sent = {send(client, name, {"n": n}) for n in range(20)}
    server.kill()
    server.start()
    deadline = time.monotonic() + SECONDS
    while True:
        path = server.data / "destinations" / good
        text = path.read_text() if path.exists() else ""
        done = {json.loads(line)["requestContext"]["requestId"] for line in text.splitlines()}
        if done == sent:
            break
        assert time.monotonic() < deadline, f"{len(sent - done)} of {len(sent)} are missing"
        time.sleep(0.05)


def test_a_stop_finishes_what_runs_and_keeps_the_rest(server, client, functions):
    name = functions.misbehaving(Timeout=20)
    good, _ = destinations(client, name)
    for n in range(40):
        send(client, name, {"do": "sleep", "seconds": 0.5})
    server.stop()
    before = len((server.data / "destinations" / good).read_text().splitlines()) \
        if (server.data / "destinations" / good).exists() else 0
    server.start()
    lines(server, good, 40)
    all_done(server)
    records = lines(server, good, 40)
    assert len({record["requestContext"]["requestId"] for record in records}) == 40, "none was run twice"
    assert before < 40


def test_events_are_counted(server, client, functions):
    name = functions.misbehaving()
    _, bad = destinations(client, name, MaximumRetryAttempts=1)
    send(client, name, {"do": "raise"})
    lines(server, bad, 1)
    metrics = Metrics(server)
    assert metrics.sum("waterwheel_async_events_received_total", name) == 1
    assert metrics.sum("waterwheel_async_retries_total", name, cause="function_error") == 2
    assert metrics.sum("waterwheel_async_events_ended_total", name, how="RetriesExhausted") == 1
    assert metrics.sum("waterwheel_async_event_age_seconds_count", name) == 2
    assert metrics.sum("waterwheel_async_events_dropped_total") == 0
    assert metrics.sum("waterwheel_pollers") >= 9
    assert "waterwheel_async_held_events" in metrics.text


def test_the_documented_receivers_get_records(new_server, tmp_path):
    with Emulator(tmp_path) as emulator:
        sqs = emulator.client("sqs")
        queues = {name: sqs.create_queue(QueueName=name)["QueueUrl"] for name in ("good", "bad", "letters")}

        def queue_arn(queue):
            asked = sqs.get_queue_attributes(QueueUrl=queues[queue], AttributeNames=["QueueArn"])
            return asked["Attributes"]["QueueArn"]

        server = new_server(config={
            "async": {"test_speed_up": 60},
            "destinations": {"endpoint": emulator.endpoint},
        })
        key, secret = CREDENTIALS
        server_environment = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
        server.environment = lambda own=server.environment: own() | server_environment
        server.start()
        client = server.client()
        name = Functions(client).misbehaving(
            DeadLetterConfig={"TargetArn": queue_arn("letters")})
        client.put_function_event_invoke_config(
            FunctionName=name, MaximumRetryAttempts=0,
            DestinationConfig={
                "OnSuccess": {"Destination": queue_arn("good")},
                "OnFailure": {"Destination": queue_arn("bad")},
            },
        )
        worked, failed = send(client, name, {"do": "echo", "n": 1}), send(client, name, {"do": "raise"})

        def receive(queue):
            answer = sqs.receive_message(QueueUrl=queues[queue], WaitTimeSeconds=20, MessageAttributeNames=["All"])
            [message] = answer["Messages"]
            return message

        assert json.loads(receive("good")["Body"])["requestContext"]["requestId"] == worked
        assert json.loads(receive("bad")["Body"])["requestContext"]["requestId"] == failed
        letter = receive("letters")
        assert json.loads(letter["Body"]) == {"do": "raise"}
        attributes = {name: value["StringValue"] for name, value in letter["MessageAttributes"].items()}
        assert attributes == {"RequestID": failed, "ErrorCode": "200", "ErrorMessage": "on purpose"}


@pytest.mark.parametrize(("payload", "status", "exception"), [
    (b'{"a":', 400, "InvalidRequestContentException"),
    (b'"' + b"x" * (1024 * 1024 - 1) + b'"', 413, "RequestEntityTooLargeException"),
])
def test_a_bad_event_is_refused_and_not_queued(client, functions, echo, payload, status, exception):
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        client.invoke(FunctionName=echo, InvocationType="Event", Payload=payload)
    answer = caught.value.response
    assert (answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]) == (status, exception)


def test_an_event_for_nobody_is_refused(client):
    with pytest.raises(client.exceptions.ResourceNotFoundException, match="Function not found"):
        client.invoke(FunctionName="nobody", InvocationType="Event", Payload=b"{}")
