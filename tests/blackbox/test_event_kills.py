"""The whole server killed under load, again and again: every event that was answered 202 ends where it should.

What was promised is held here, by the client that got the 202s; the server is asked for nothing but the records it delivered.
`WATERWHEEL_TEST_EVENT_KILLS` says how many kills.
"""

import json
import os
import random
import threading
import time

import botocore.exceptions
import pytest

from harness.functions import ECHO, python
from harness.server import PATIENCE
from test_events import CONFIG

KILLS = int(os.environ.get("WATERWHEEL_TEST_EVENT_KILLS", 10))
SENDERS = 4
SECONDS = 60 * PATIENCE
FAILING = "def lambda_handler(event, context):\n    raise ValueError(event['n'])\n"


@pytest.fixture(scope="module")
def server(new_server):
    return new_server(config=CONFIG).start()


class Sender(threading.Thread):
    """Sends until it is stopped, whatever becomes of the server, and remembers what was accepted."""

    def __init__(self, client, names, first):
        super().__init__()
        self.client, self.names, self.numbers = client, names, first
        self.accepted = {}
        self.stopping = threading.Event()
        self.answered = threading.Event()
        self.start()

    def run(self):
        while not self.stopping.is_set():
            name = self.names[self.numbers % len(self.names)]
            self.numbers += SENDERS
            event = {"n": self.numbers}
            try:
                answer = self.client.invoke(FunctionName=name, InvocationType="Event", Payload=json.dumps(event))
            except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
                # Nothing was promised. A server that is down refuses at once: let it come up.
                self.stopping.wait(0.02)
                continue
            self.accepted[answer["ResponseMetadata"]["RequestId"]] = (name, event)
            self.answered.set()

    def stop(self):
        self.stopping.set()
        self.join()


def records(server, destination):
    """Of a file that a kill may have cut: a line that is no JSON was acknowledged to nobody."""
    path = server.data / "destinations" / destination
    found = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def test_every_accepted_event_ends_once_or_more_and_never_nowhere(server, client, functions):
    names = {functions.create(python(ECHO)): "worked", functions.create(python(FAILING)): "failed"}
    for name in names:
        client.put_function_event_invoke_config(FunctionName=name, DestinationConfig={
            "OnSuccess": {"Destination": "arn:aws:file:::worked"}, "OnFailure": {"Destination": "arn:aws:file:::failed"},
        })
    chance = random.Random(20261123)
    senders = [Sender(server.client(), list(names), first) for first in range(SENDERS)]
    try:
        for _ in range(KILLS):
            for sender in senders:
                sender.answered.clear()
            for sender in senders:
                assert sender.answered.wait(SECONDS), "nothing is accepted"
            time.sleep(chance.uniform(0.05, 0.8))  # Any moment is as good as another.
            server.kill()
            server.start()
    finally:
        for sender in senders:
            sender.stop()
    accepted = {request_id: sent for sender in senders for request_id, sent in sender.accepted.items()}
    deadline = time.monotonic() + SECONDS
    while True:
        ended = {destination: records(server, destination) for destination in ("worked", "failed")}
        ids = {record["requestContext"]["requestId"] for found in ended.values() for record in found}
        if accepted.keys() <= ids:
            break
        assert time.monotonic() < deadline, f"{len(accepted.keys() - ids)} of {len(accepted)} were lost"
        time.sleep(0.1)
    again = 0
    for destination, found in ended.items():
        for record in found:
            context = record["requestContext"]
            name, event = accepted.get(context["requestId"], (None, None))
            # What a kill kept from being answered may have been accepted all the same.
            if name:
                assert (names[name], event) == (destination, record["requestPayload"])
            assert context["approximateInvokeCount"] == (1 if destination == "worked" else 3)
        again += len(found) - len({record["requestContext"]["requestId"] for record in found})
    print(f"events: {len(accepted)} accepted, {KILLS} kills, 0 lost, {again} records came again")
