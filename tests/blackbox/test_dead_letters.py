"""`waterwheel dead-letters` and the operations behind it: events that failed for good are kept, shown, redriven and purged."""

import datetime
import functools
import json
import signal
import subprocess
import threading
import time

import pytest

from harness.functions import Functions, python
from harness.server import BINARY, PATIENCE

PREFIX = "/waterwheel/2026-11-23"
CANARY = "canary-of-a-dead-letter"
FAILS = "def lambda_handler(event, context):\n    raise ValueError('no \\x1b[2Jgood')\n"
WORKS = "def lambda_handler(event, context):\n    print('ran', context.aws_request_id)\n"
# The waits are a thousandth of what they are on AWS, so that giving up takes no minutes.
CONFIG = {"async": {"test_speed_up": 1000}}


@pytest.fixture(scope="module")
def server(new_server):
    return new_server(config=CONFIG).start()


@pytest.fixture
def failing(server, client, functions):
    """A function whose events become dead letters at once."""
    name = functions.create(python(FAILS))
    client.put_function_event_invoke_config(FunctionName=name, MaximumRetryAttempts=0)
    yield name
    server.command("dead-letters", "purge", "--function", name, "--yes")


def send(client, name, count=1):
    """Sends events; returns their request ids in order."""
    ids = []
    for number in range(count):
        payload = json.dumps({"n": number, "secret": CANARY}).encode()
        answer = client.invoke(FunctionName=name, InvocationType="Event", Payload=payload)
        assert answer["StatusCode"] == 202
        ids.append(answer["ResponseMetadata"]["RequestId"])
    return ids


def said(server, *arguments, timeout=60):
    done = server.command("dead-letters", *arguments, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return done.stdout


def listed(server, *arguments):
    return json.loads(said(server, "list", "--output", "json", *arguments))


def eventually(what, seconds=30 * PATIENCE):
    deadline = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)
    return answer


def await_dead_letters(server, name, count):
    def all_there():
        letters = listed(server, "--function", name)
        return letters if len(letters) == count else None

    return eventually(all_there)


def await_runs(server, name, ids):
    """Until each of these ids was printed by the function."""
    def ran():
        lines = server.command("logs", name).stdout
        return all(f"ran {id}" in lines for id in ids)

    eventually(ran)


def repair(client, functions, name):
    client.update_function_code(FunctionName=name, ZipFile=python(WORKS))
    functions.await_updated(name)


# === looking ===


def test_failed_events_are_listed_and_shown(server, client, failing):
    ids = send(client, failing, 3)
    letters = await_dead_letters(server, failing, 3)
    assert {letter["RequestId"] for letter in letters} == set(ids)
    times = [letter["GivenUpAt"] for letter in letters]
    assert times == sorted(times)
    for letter in letters:
        assert letter["Reason"] == "RetriesExhausted" and letter["Attempts"] == 1
        assert "good" in letter["Error"] and letter["PayloadSize"] > len(CANARY)
    table = said(server, "list", "--function", failing)
    assert all(id in table for id in ids)
    assert "\x1b" not in table and CANARY not in table
    assert len(listed(server, "--function", failing, "--limit", "2")) == 2
    assert listed(server, "--function", failing, "--reason", "EventAgeExceeded") == []
    assert listed(server, "--function", failing, "--before", "1h") == []
    assert len(listed(server, "--function", failing, "--after", "1h")) == 3


def test_a_payload_is_shown_only_when_asked_for(server, client, failing):
    [id] = send(client, failing)
    await_dead_letters(server, failing, 1)
    shown = said(server, "show", failing, id)
    assert id in shown and CANARY not in shown
    assert said(server, "show", failing, id, "--payload") == json.dumps({"n": 0, "secret": CANARY})
    unknown = server.command("dead-letters", "show", failing, "00000000-0000-0000-0000-000000000000")
    assert unknown.returncode == 1 and "has no dead letter" in unknown.stderr


# === redriving ===


def test_redriven_events_run_with_their_own_ids(server, client, functions, failing):
    ids = send(client, failing, 5)
    await_dead_letters(server, failing, 5)
    repair(client, functions, failing)
    # Given twice, it is one.
    assert said(server, "redrive", "--function", failing, "--id", ids[2], "--id", ids[2].upper()) == "redriven 1\n"
    await_runs(server, failing, [ids[2]])
    done = server.command("dead-letters", "redrive", "--function", failing, "--limit", "3")
    assert done.stdout == "redriven 3\n" and "limit" in done.stderr
    assert said(server, "redrive", "--function", failing) == "redriven 1\n"
    await_runs(server, failing, ids)
    assert listed(server, "--function", failing) == []
    assert said(server, "redrive", "--function", failing) == "redriven 0\n"
    missing = server.command("dead-letters", "redrive", "--function", failing, "--id", ids[2])
    assert missing.returncode == 1 and "1 of the ids" in missing.stderr


def test_a_redrive_keeps_its_rate(server, client, functions, failing):
    send(client, failing, 21)
    await_dead_letters(server, failing, 21)
    began = time.monotonic()
    assert said(server, "redrive", "--function", failing, "--per-second", "10") == "redriven 21\n"
    assert time.monotonic() - began >= 2


def test_events_of_a_deleted_function_come_back_as_such(server, client, functions):
    name = functions.create(python(FAILS))
    client.put_function_event_invoke_config(FunctionName=name, MaximumRetryAttempts=0)
    [id] = send(client, name)
    await_dead_letters(server, name, 1)
    client.delete_function(FunctionName=name)
    assert said(server, "redrive", "--function", name) == "redriven 1\n"

    def came_back():
        return [letter for letter in listed(server, "--function", name) if letter["Reason"] == "FunctionDeleted"]

    [letter] = eventually(came_back)
    assert letter["RequestId"] == id
    assert said(server, "purge", "--function", name, "--yes") == "purged 1\n"


def test_a_redrive_that_is_killed_loses_nothing(new_server):
    # A function's last lines die with the server; what a destination accepted does not.
    server = new_server(config=CONFIG | {"destinations": {"sealed_files": False}}).start()
    client = server.client()
    functions = Functions(client)
    name = functions.create(python(FAILS))
    on_success = {"OnSuccess": {"Destination": "arn:aws:file:::succeeded"}}
    client.put_function_event_invoke_config(FunctionName=name, MaximumRetryAttempts=0, DestinationConfig=on_success)
    succeeded = server.data / "destinations/succeeded"

    def have_succeeded(ids):
        lines = succeeded.read_text().splitlines() if succeeded.exists() else []
        return set(ids) <= {json.loads(line)["requestContext"]["requestId"] for line in lines}

    ids = send(client, name, 60)
    await_dead_letters(server, name, 60)
    repair(client, functions, name)
    command = [BINARY, "dead-letters", "redrive", "--function", name, "--per-second", "30", "--data-dir", server.data]
    redriving = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    eventually(lambda: len(listed(server, "--function", name)) <= 40)
    server.kill()
    _, error = redriving.communicate(timeout=30)
    assert redriving.returncode == 1 and error
    server.start()
    left = {letter["RequestId"] for letter in listed(server, "--function", name)}
    assert 0 < len(left) < 60
    eventually(lambda: have_succeeded(set(ids) - left))
    assert said(server, "redrive", "--function", name) == f"redriven {len(left)}\n"
    eventually(lambda: have_succeeded(ids))
    assert listed(server, "--function", name) == []


# === purging ===


def test_a_purge_wants_to_be_meant(server, client, failing):
    ids = send(client, failing, 3)
    await_dead_letters(server, failing, 3)
    refused = server.command("dead-letters", "purge", "--function", failing)
    assert refused.returncode == 1 and "--yes" in refused.stderr
    assert len(listed(server, "--function", failing)) == 3
    assert said(server, "purge", "--function", failing, "--id", ids[0], "--yes") == "purged 1\n"
    assert {letter["RequestId"] for letter in listed(server, "--function", failing)} == set(ids[1:])
    assert said(server, "purge", "--function", failing, "--yes") == "purged 2\n"
    assert listed(server, "--function", failing) == []


# === asking for it wrongly ===


@pytest.mark.parametrize("body, named", [
    ({}, "AllFunctions"),
    ({"FunctionName": "f", "Resaon": "x"}, "Resaon"),
    ({"AllFunctions": True, "Reason": "Tired"}, "Tired"),
    ({"AllFunctions": True, "Before": "yesterday"}, "yesterday"),
    ({"AllFunctions": True, "RequestIds": ["x"]}, "x"),
    ({"AllFunctions": True, "MaxItems": 0}, "MaxItems"),
])
def test_a_bad_order_is_refused_by_name(wire, body, named):
    for verb in ("redrive", "purge"):
        answer = wire.call("POST", f"{PREFIX}/dead-letters/{verb}", body)
        assert (answer.status, answer.error) == (400, "InvalidParameterValueException")
        assert named in answer.message


def test_only_a_signer_may(server):
    for caller in (server.wire(secret="wrong"), None):
        for method, path in [("GET", "dead-letters"), ("POST", "dead-letters/purge")]:
            target = f"{PREFIX}/{path}"
            answer = caller.call(method, target) if caller else server.wire().send_plain(method, target)
            assert answer.status == 403


def test_two_redrives_of_a_function_at_once_are_one_too_many(server, client, failing):
    send(client, failing, 8)
    await_dead_letters(server, failing, 8)
    before = time.time()
    slow = threading.Thread(target=lambda: said(server, "redrive", "--function", failing, "--per-second", "2"))
    slow.start()
    try:
        # What fails again is a new dead letter.
        eventually(lambda: given_up_before(server, failing, before) < 8)
        second = server.command("dead-letters", "redrive", "--function", failing)
        assert second.returncode == 1 and "already" in second.stderr
    finally:
        slow.join()


def test_an_interrupted_redrive_stops_where_it_is(server, client, failing):
    send(client, failing, 30)
    await_dead_letters(server, failing, 30)
    command = [BINARY, "dead-letters", "redrive", "--function", failing, "--per-second", "5", "--data-dir", server.data]
    # A shell has what it starts in the background ignore the signal, and so does all that is started from there.
    heeding = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    redriving = subprocess.Popen(command, preexec_fn=heeding, **pipes)
    before = time.time()
    eventually(lambda: given_up_before(server, failing, before) < 28)
    redriving.send_signal(signal.SIGINT)
    redriving.communicate(timeout=30)
    # The server notices that nobody waits for its answer, and the next may.
    purge = ("dead-letters", "purge", "--function", failing, "--limit", "1", "--yes")
    eventually(lambda: server.command(*purge).returncode == 0, seconds=5)
    left = given_up_before(server, failing, before)
    assert left > 15, "it went on without its caller"
    time.sleep(1)
    assert given_up_before(server, failing, before) == left


def given_up_before(server, name, unix):
    moment = datetime.datetime.fromtimestamp(unix, datetime.timezone.utc).isoformat()
    return len(listed(server, "--function", name, "--before", moment))


def test_a_function_that_never_was_is_an_error(server):
    done = server.command("dead-letters", "list", "--function", "nobody-of-that-name")
    assert done.returncode == 1 and "nobody-of-that-name" in done.stderr


def test_without_a_server_it_says_what_to_do(new_server):
    server = new_server()
    done = server.command("dead-letters", "list")
    assert done.returncode == 1 and "no server runs on" in done.stderr and "serve" in done.stderr
    server.start()
    server.kill()
    done = server.command("dead-letters", "list")
    assert done.returncode == 1 and "no server runs on" in done.stderr


def test_a_server_behind_tls_is_known_by_its_certificate(new_server, authority, tmp_path):
    ca, certificate, key = authority
    config = {"server": {"tls_cert": str(certificate), "tls_key": str(key)}}
    server = new_server(config=config, ca_file=ca).start()
    done = server.command("dead-letters", "list", "--output", "json", "--config", str(server.config))
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    other = tmp_path / "other.toml"
    other.write_text(f'[server]\ntls_cert = "{ca}"\ntls_key = "{key}"\n')
    done = server.command("dead-letters", "list", "--config", str(other))
    assert done.returncode == 1 and "does not prove" in done.stderr
