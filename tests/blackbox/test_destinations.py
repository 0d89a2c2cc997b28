"""Destinations of outcomes, against servers that speak as AWS does: what arrives there is read back with boto3 and compared.

The program that delivers (connectors/examples/deliver) is told what to deliver on its standard input. Each test of a service
runs on two emulators. Files are read back with `waterwheel destinations` too, from a server that has sealed them.
"""

import json
import os
import random
import subprocess
import threading
import time
import uuid
from pathlib import Path

import pytest

from harness import scan
from harness.emulator import ACCOUNT, CREDENTIALS, Emulator
from harness.functions import ECHO, python
from harness.server import PATIENCE

REPOSITORY = Path(__file__).resolve().parents[2]
DELIVER = Path(os.environ.get("WATERWHEEL_TEST_DELIVER", REPOSITORY / "target/debug/examples/deliver"))
REGION = "us-east-1"
FUNCTION = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:orders:$LATEST"
AT = 1795406696.25  # 2026-11-23T04:04:56.25Z
REQUEST = uuid.UUID("8a1a3c9e-6f0e-4d64-9a0e-0f6c2c3b5a10")
# As the caller wrote it: no receiver may order, unescape or shorten anything.
ENVELOPE = '{"version":"1.0", "requestPayload":{"b":1.0e2,"a":"\\u20ac \u20ac \\n"},  "responsePayload":null}'
KILLS = int(os.environ.get("WATERWHEEL_TEST_DESTINATION_KILLS", 20))


class Deliver:
    """The program, with one configuration."""

    def __init__(self, directory, endpoint=None, credentials=CREDENTIALS, environment=None, timeout=20, **setting):
        assert DELIVER.exists(), f"{DELIVER} is missing: cargo build -p connectors --example deliver"
        setting |= {"directory": str(directory), "endpoint": endpoint, "region": REGION, "timeout_seconds": timeout}
        setting["credentials"] = credentials
        own = {"PATH": os.environ["PATH"], "HOME": str(directory), "AWS_EC2_METADATA_DISABLED": "true"}
        self.process = subprocess.Popen(
            [DELIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=own | (environment or {}),
        )
        self.number = 0
        self.say(setting)

    def say(self, line):
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()

    def order(self, to, body=ENVELOPE, success=False, error=None, request=REQUEST):
        self.number += 1
        form = {"error": error} if error else {"success": success}
        self.say({
            "id": self.number, "to": to, "request": list(request.bytes), "function": FUNCTION, "at_seconds": AT,
            "body": body, **form,
        })
        return self.number

    def __call__(self, to, **delivery):
        """Delivers and returns the answer."""
        number = self.order(to, **delivery)
        answer = json.loads(self.process.stdout.readline())
        assert answer.pop("id") == number
        return answer

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # What was still on its way to it.


DELIVERED = {"result": "delivered"}


@pytest.fixture(scope="module", params=Emulator.KINDS)
def emulator(request, tmp_path_factory):
    with Emulator(tmp_path_factory.mktemp(request.param), kind=request.param) as running:
        yield running


@pytest.fixture
def deliver(emulator, tmp_path):
    with Deliver(tmp_path, emulator.endpoint) as program:
        yield program


class Queue:
    """A queue to read back from; topics and buses feed into one."""

    def __init__(self, emulator, name=None, region=REGION):
        self.client = emulator.client("sqs", region)
        self.name = name or f"q-{uuid.uuid4()}"
        self.url = self.client.create_queue(QueueName=self.name)["QueueUrl"]
        self.arn = f"arn:aws:sqs:{region}:{ACCOUNT}:{self.name}"

    def receive(self):
        """The one message there is."""
        found = self.client.receive_message(
            QueueUrl=self.url, MessageAttributeNames=["All"], WaitTimeSeconds=10, MaxNumberOfMessages=10
        ).get("Messages", [])
        for message in found:
            self.client.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])
        [message] = found
        return message


@pytest.fixture
def queue(emulator):
    return Queue(emulator)


@pytest.fixture
def topic(emulator, queue):
    client = emulator.client("sns")
    arn = client.create_topic(Name=f"t-{uuid.uuid4()}")["TopicArn"]
    client.subscribe(TopicArn=arn, Protocol="sqs", Endpoint=queue.arn)
    return arn


@pytest.fixture
def bus(emulator, queue):
    client = emulator.client("events")
    name = f"b-{uuid.uuid4()}"
    arn = client.create_event_bus(Name=name)["EventBusArn"]
    client.put_rule(Name="all", EventBusName=name, EventPattern='{"source":["lambda"]}')
    client.put_targets(Rule="all", EventBusName=name, Targets=[{"Id": "queue", "Arn": queue.arn}])
    return arn


@pytest.fixture
def bucket(emulator):
    name = f"bucket-{uuid.uuid4()}"
    emulator.client("s3").create_bucket(Bucket=name)
    return name


# === what arrives ===


def attributes(message_attributes, kind="DataType", value="StringValue"):
    return {name: (given[kind], given[value]) for name, given in message_attributes.items()}


LONG_ERROR = "\u20ac" * 1000
DEAD_LETTER_ATTRIBUTES = {
    "RequestID": ("String", str(REQUEST)), "ErrorCode": ("Number", "200"), "ErrorMessage": ("String", "\u20ac" * 341),
}


def test_a_queue_gets_the_envelope_and_nothing_else(deliver, queue):
    assert deliver(queue.arn) == DELIVERED
    message = queue.receive()
    assert message["Body"] == ENVELOPE
    assert "MessageAttributes" not in message


def test_a_dead_letter_queue_gets_the_payload_with_its_three_attributes(deliver, queue):
    assert deliver(queue.arn, body='{"k": 1 }', error=(200, LONG_ERROR)) == DELIVERED
    message = queue.receive()
    assert message["Body"] == '{"k": 1 }'
    assert attributes(message["MessageAttributes"]) == DEAD_LETTER_ATTRIBUTES


def test_a_dead_letter_arrives_whatever_its_error_says(deliver, queue):
    for said, expected in [("", None), ("\x1b[31mred\x00", "?[31mred?")]:
        assert deliver(queue.arn, body="1", error=(200, said)) == DELIVERED
        found = attributes(queue.receive()["MessageAttributes"])
        assert found.get("ErrorMessage") == (expected and ("String", expected))


def test_a_topics_subscribers_get_the_envelope(deliver, topic, queue):
    assert deliver(topic) == DELIVERED
    notification = json.loads(queue.receive()["Body"])
    assert (notification["TopicArn"], notification["Message"]) == (topic, ENVELOPE)


def test_a_dead_letter_topic_passes_payload_and_attributes_on(deliver, topic, queue):
    assert deliver(topic, body='{"k": 1 }', error=(200, LONG_ERROR)) == DELIVERED
    notification = json.loads(queue.receive()["Body"])
    assert notification["Message"] == '{"k": 1 }'
    assert attributes(notification["MessageAttributes"], "Type", "Value") == DEAD_LETTER_ATTRIBUTES


@pytest.mark.parametrize("success", [True, False])
def test_a_bus_gets_an_event_as_lambda_sends_it(deliver, emulator, bus, queue, success):
    assert deliver(bus, success=success) == DELIVERED
    event = json.loads(queue.receive()["Body"])
    assert event["source"] == "lambda"
    assert event["detail-type"] == f"Lambda Function Invocation Result - {'Success' if success else 'Failure'}"
    assert event["resources"] == [FUNCTION, bus]
    assert event["detail"] == json.loads(ENVELOPE)
    if emulator.kind == "moto":  # ministack puts the moment of arrival there.
        assert event["time"] == "2026-11-23T04:04:56Z"


def test_a_bucket_gets_an_object_under_the_documented_key(deliver, emulator, bucket):
    # A repetition, after a timeout for one, replaces what it repeats.
    for _ in range(2):
        assert deliver(f"arn:aws:s3:::{bucket}") == DELIVERED
    client = emulator.client("s3")
    [found] = client.list_objects_v2(Bucket=bucket)["Contents"]
    assert found["Key"] == f"aws/lambda/async/orders/2026/11/23/2026-11-23T04.04.56-{REQUEST}"
    answer = client.get_object(Bucket=bucket, Key=found["Key"])
    assert answer["Body"].read().decode() == ENVELOPE
    assert answer["ContentType"] == "application/json"


def test_a_destination_is_in_the_region_of_its_arn(deliver, emulator):
    queue = Queue(emulator, region="eu-west-1")
    assert deliver(queue.arn) == DELIVERED
    assert queue.receive()["Body"] == ENVELOPE


# === what does not ===


def test_what_does_not_exist_refuses(deliver, emulator):
    missing = [f"arn:aws:sqs:{REGION}:{ACCOUNT}:no", f"arn:aws:sns:{REGION}:{ACCOUNT}:no", "arn:aws:s3:::no-such-bucket"]
    if emulator.kind == "moto":  # ministack takes events for a bus that it has not.
        missing.append(f"arn:aws:events:{REGION}:{ACCOUNT}:event-bus/no")
    for arn in missing:
        answer = deliver(arn)
        assert answer["result"] == "refused", (arn, answer)
        assert any(word in answer["reason"] for word in ("NonExistent", "NotExist", "NotFound", "NoSuchBucket")), answer


def test_a_queue_that_was_made_again_gets_messages_again(deliver, emulator, queue):
    assert deliver(queue.arn) == DELIVERED
    queue.client.delete_queue(QueueUrl=queue.url)
    assert deliver(queue.arn)["result"] == "refused"
    again = Queue(emulator, queue.name)
    assert deliver(again.arn) == DELIVERED
    assert again.receive()["Body"] == ENVELOPE


def test_one_byte_too_many_for_a_queue_is_refused_with_both_sizes(deliver, queue):
    body = json.dumps("x" * (1024 * 1024 - 2))
    assert deliver(queue.arn, body=body + " ") == {"result": "refused", "reason": "1048577 bytes are more than 1048576"}
    assert deliver(queue.arn, body=body) == DELIVERED
    assert queue.receive()["Body"] == body


def test_a_server_that_went_away_is_unavailable_until_it_is_back(tmp_path):
    with Emulator(tmp_path / "emulator") as emulator, Deliver(tmp_path, emulator.endpoint, timeout=5) as deliver:
        queue = Queue(emulator)
        assert deliver(queue.arn) == DELIVERED
        emulator.kill()
        began = time.monotonic()
        assert deliver(queue.arn)["result"] == "unavailable"
        assert time.monotonic() - began < 6
        emulator.start()
        # Its state is gone with it. The queue, once it is there, is found again.
        again = Queue(emulator, queue.name)
        assert deliver(again.arn) == DELIVERED
        assert again.receive()["Body"] == ENVELOPE


def test_credentials_come_from_the_environment_or_a_profile_and_without_any_nothing_is_sent(emulator, queue, tmp_path):
    key, secret = CREDENTIALS
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/credentials").write_text(f"[own]\naws_access_key_id={key}\naws_secret_access_key={secret}\n")
    for environment in [{"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}, {"AWS_PROFILE": "own"}]:
        with Deliver(tmp_path, emulator.endpoint, credentials=None, environment=environment) as deliver:
            assert deliver(queue.arn) == DELIVERED
        assert queue.receive()["Body"] == ENVELOPE
    with Deliver(tmp_path, emulator.endpoint, credentials=None) as deliver:
        answer = deliver(queue.arn)
    assert answer["result"] == "unavailable" and "credentials" in answer["reason"], answer


def test_a_service_can_have_an_endpoint_of_its_own(emulator, queue, topic, bus, bucket, tmp_path):
    key, secret = CREDENTIALS
    # A name: no bucket can be a host below it, as there can below AWS's own.
    own = emulator.endpoint.replace("127.0.0.1", "localhost")
    for service, arn in (("SQS", queue.arn), ("SNS", topic), ("EVENTBRIDGE", bus), ("S3", f"arn:aws:s3:::{bucket}")):
        environment = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret, f"AWS_ENDPOINT_URL_{service}": own}
        if service != "S3":
            environment["AWS_ENDPOINT_URL"] = "http://127.0.0.1:9"
        with Deliver(tmp_path, credentials=None, environment=environment) as deliver:
            assert deliver(arn) == DELIVERED, service


# === files ===


@pytest.mark.parametrize("plain", [False, True])
def test_what_a_file_acknowledged_is_in_it_after_kill_9(tmp_path, plain):
    """Killed at random while many deliver, again and again into the same file."""
    choose, acknowledged, sent = random.Random(), set(), 0
    for _ in range(KILLS):
        with Deliver(tmp_path, plain=plain) as deliver:
            def flood(program=deliver, first=sent):
                try:
                    for number in range(first, first + 5000):
                        program.order("arn:aws:file:::records", body=json.dumps({"n": number}))
                except (BrokenPipeError, ValueError):
                    pass

            writer = threading.Thread(target=flood)
            writer.start()
            first = sent
            for _ in range(choose.randrange(1, 2000)):
                answer = json.loads(deliver.process.stdout.readline())
                assert answer["result"] == "delivered", answer
                acknowledged.add(first + answer["id"] - 1)
            deliver.process.kill()
            # What it had said before it died counts as well.
            for line in deliver.process.stdout:
                if line.endswith("\n"):
                    acknowledged.add(first + json.loads(line)["id"] - 1)
            writer.join()
            sent += deliver.number
    kept = {json.loads(line)["n"] for line in read(tmp_path, "records") if line.startswith("{")}
    assert len(acknowledged) > KILLS
    assert acknowledged <= kept, f"lost: {sorted(acknowledged - kept)[:10]} of {len(acknowledged)}"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts file systems")
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("plain", [False, True])
def test_a_full_disk_is_unavailable_until_there_is_room_and_costs_nothing(small_disk, plain):
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(128 * 1024))
    acknowledged = []
    with Deliver(small_disk, plain=plain) as deliver:

        def until_full():
            while True:
                body = json.dumps({"n": len(acknowledged), "filling": "x" * 10_000})
                answer = deliver("arn:aws:file:::records", body=body)
                if answer != DELIVERED:
                    return answer
                acknowledged.append(body)

        answer = until_full()
        assert answer["result"] == "unavailable" and "No space left" in answer["reason"], answer
        before, size = len(acknowledged), (small_disk / "records").stat().st_size
        assert "No space left" in until_full()["reason"]
        assert (small_disk / "records").stat().st_size == size, "an attempt that fails takes no room"
        assert len(acknowledged) == before
        ballast.unlink()
        assert "No space left" in until_full()["reason"]
    assert 5 < before < len(acknowledged)
    kept = read(small_disk, "records")
    assert [line for line in kept if line.startswith("{")] == acknowledged


def test_a_sealed_file_is_read_with_its_key_only(tmp_path):
    canary = scan.canary()
    with Deliver(tmp_path) as deliver:
        assert deliver("arn:aws:file:::records", body=json.dumps(canary), error=(200, canary)) == DELIVERED
    assert scan.find(tmp_path, [canary]) == []
    [line] = read(tmp_path, "records")
    assert json.loads(line) == {
        "requestId": str(REQUEST), "errorCode": 200, "errorMessage": canary, "payload": canary,
    }


# === waterwheel destinations ===


def printed(server, name, *arguments):
    """The records that the command prints, and whether it found all in order."""
    done = server.command("destinations", "read", name, *arguments)
    return [json.loads(line)["requestPayload"] for line in done.stdout.splitlines()], done.returncode == 0, done.stderr


@pytest.fixture
def sealed(server, client, functions):
    """A destination, and what sends an event whose record ends there and awaits it."""
    name = functions.create(python(ECHO))
    destination = f"done-{name}"
    client.put_function_event_invoke_config(
        FunctionName=name, DestinationConfig={"OnSuccess": {"Destination": f"arn:aws:file:::{destination}"}})

    def send(*events):
        for event in events:
            client.invoke(FunctionName=name, InvocationType="Event", Payload=json.dumps(event))
            deadline = time.monotonic() + 30 * PATIENCE
            while event not in (found := printed(server, destination))[0]:
                assert time.monotonic() < deadline, found
                time.sleep(0.05)

    return destination, send


def test_the_command_prints_sealed_records_beside_a_server_and_without_one(server, sealed):
    name, send = sealed
    events = [{"n": n, "canary": scan.canary()} for n in range(3)]
    send(*events)
    assert scan.find(server.data / "destinations", [event["canary"] for event in events]) == []
    assert printed(server, name) == (events, True, "")
    assert printed(server, f"arn:aws:file:::{name}") == (events, True, "")
    assert f"{name}  sealed  " in server.command("destinations", "list").stdout
    server.stop()
    assert printed(server, name) == (events, True, "")
    server.start()


def test_a_file_that_was_moved_is_read_where_it_is(server, sealed, tmp_path):
    name, send = sealed
    send({"n": 1})
    old = tmp_path / "old"
    (server.data / "destinations" / name).rename(old)
    assert printed(server, name)[1] is False
    send({"n": 2})
    assert printed(server, name) == ([{"n": 2}], True, "")
    assert printed(server, name, "--file", old) == ([{"n": 1}], True, "")
    # Under another name it does not open.
    assert printed(server, "another", "--file", old)[:2] == ([], False)


def test_a_damaged_record_is_named_and_the_others_are_printed(server, sealed):
    name, send = sealed
    path = server.data / "destinations" / name
    send({"n": 1})
    first = path.stat().st_size
    send({"n": 2}, {"n": 3})
    sound = path.read_bytes()
    path.write_bytes(sound[:first + 20] + bytes([sound[first + 20] ^ 1]) + sound[first + 21:])
    records, whole, said = printed(server, name)
    assert (records, whole) == ([{"n": 1}, {"n": 3}], False)
    assert f"what begins at byte {first} is not a record" in said


def test_a_destination_that_is_not_there_is_told_apart_from_those_that_are(server, sealed):
    name, send = sealed
    send({})
    done = server.command("destinations", "read", "nobody")
    assert done.returncode == 1 and "there is no file nobody in" in done.stderr and name in done.stderr
    for path in ("../keyring", "/etc/passwd", "arn:aws:sqs:us-east-1:123456789012:q"):
        done = server.command("destinations", "read", path)
        assert done.returncode == 2 and "expected the name of a file destination" in done.stderr


def read(directory, name):
    with Deliver(directory, read=name) as program:
        return program.process.stdout.read().splitlines()
