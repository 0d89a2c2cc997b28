"""Nothing a customer gave or a function printed can be read in any byte below the data directory.

Canaries go into code, variables, payloads, answers and printed lines; then every byte is searched, in every spelling
`harness.scan` knows, while environments run, after kill -9, and after a restart. Names, descriptions and tags are not
secrets and are left out.
"""

import json
import os
import resource
import signal
import subprocess

import pytest

from harness import leftovers, scan
from harness.functions import Functions, package
from test_telemetry import Metrics

SOURCE = """
# {comment}
import sys
SECRET = '{constant}'
def lambda_handler(event, context):
    import os
    print('printed', event['print'])
    print('to stderr', event['print'], file=sys.stderr)
    with open('/tmp/kept', 'w') as file:
        file.write(event['keep'])
    if event.get('fail'):
        raise ValueError(event['fail'])
    return {{'answer': event['answer'], 'variable': os.environ['VARIABLE'], 'constant': SECRET}}
"""


class Planted:
    """Canaries by where they were put."""

    def __init__(self, functions):
        self.canaries = {place: scan.canary() for place in (
            "comment", "constant", "data", "variable", "updated variable", "print", "keep", "answer", "fail", "new code",
            "queued", "queued failure")}
        self.functions = functions
        self.name = functions.create(
            self.code("comment"), Environment={"Variables": {"VARIABLE": self.canaries["variable"]}})

    def code(self, comment):
        source = SOURCE.format(comment=self.canaries[comment] * 40, constant=self.canaries["constant"])
        return package({"lambda_function.py": source, "data.txt": self.canaries["data"] * 1000})

    def use(self):
        event = {key: self.canaries[key] for key in ("print", "keep", "answer")}
        told = self.functions.invoke(self.name, event, LogType="Tail").succeeded()
        assert told["answer"] == self.canaries["answer"] and told["constant"] == self.canaries["constant"]
        failed = self.functions.invoke(self.name, event | {"fail": self.canaries["fail"]}).failed()
        assert failed["errorType"] == "ValueError"

    def queue(self, server):
        """One event whose record goes to a file destination, and one that ends in the dead-letter store."""
        ended = Metrics(server).sum("waterwheel_async_events_ended_total", self.name)
        client = self.functions.client
        client.put_function_event_invoke_config(
            FunctionName=self.name, MaximumRetryAttempts=0,
            DestinationConfig={"OnSuccess": {"Destination": "arn:aws:file:::sealed"}})
        event = {key: self.canaries[key] for key in ("print", "keep")}
        for more in ({"answer": self.canaries["queued"]}, {"fail": self.canaries["queued failure"]}):
            client.invoke(FunctionName=self.name, InvocationType="Event", Payload=json.dumps(event | more))
        settled = Metrics.settled(server, lambda metrics: (
            metrics.sum("waterwheel_async_events_ended_total", self.name) == ended + 2
            and (server.data / "destinations" / "sealed").exists()))
        assert settled.sum("waterwheel_async_events_ended_total", self.name) == ended + 2

    def change(self):
        client = self.functions.client
        client.update_function_configuration(
            FunctionName=self.name, Environment={"Variables": {"VARIABLE": self.canaries["updated variable"]}})
        self.functions.await_updated(self.name)
        client.update_function_code(FunctionName=self.name, ZipFile=self.code("new code"))
        self.functions.await_updated(self.name)

    def readable_in(self, directory):
        places = {text: place for place, text in self.canaries.items()}
        return {(str(path), places[text]) for path, text in scan.find(directory, places)}


@pytest.fixture(scope="module")
def busy(new_server):
    server = new_server().start()
    planted = Planted(Functions(server.client()))
    planted.use()
    planted.change()
    planted.use()
    planted.queue(server)
    return server, planted


def test_nothing_is_readable_while_environments_run(busy):
    server, planted = busy
    assert len(leftovers.descendants(server.process.pid)) > 0, "an environment is running"
    assert planted.readable_in(server.directory) == set()


def test_nothing_is_readable_after_a_crash_or_a_restart(busy):
    server, planted = busy
    server.kill()
    assert planted.readable_in(server.directory) == set()
    server.start()
    planted.functions = Functions(server.client())
    planted.use()
    planted.queue(server)
    assert planted.readable_in(server.directory) == set()
    server.stop()
    assert planted.readable_in(server.directory) == set()
    logs = server.command("logs", planted.name)
    assert planted.canaries["print"] in logs.stdout, "the lines are there for who has the key"
    assert planted.canaries["fail"] in logs.stdout
    server.start()


def aborted(process):
    """Ends it as a crash would; how the kernel says that it ended."""
    process.send_signal(signal.SIGABRT)
    ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    process.wait()
    return ended.si_code


def test_a_server_that_crashes_with_events_in_memory_leaves_no_core(new_server, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    try:
        if aborted(subprocess.Popen(["sleep", "60"], cwd=tmp_path)) != os.CLD_DUMPED:
            pytest.skip("no process leaves a core on this machine")
        server = new_server().start()
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)
    functions = Functions(server.client())
    name = functions.create(package({"lambda_function.py": "import time\ndef lambda_handler(e, c): time.sleep(60)\n"}),
                            Timeout=90)
    functions.client.invoke(FunctionName=name, InvocationType="Event", Payload=json.dumps(scan.canary()))
    held = Metrics.settled(server, lambda metrics: metrics.sum("waterwheel_async_held_events", kind="invocations") == 1)
    assert held.sum("waterwheel_async_held_events", kind="invocations") == 1
    assert aborted(server.process) == os.CLD_KILLED


def test_without_the_keyring_nothing_opens(busy):
    server, planted = busy
    server.stop()
    keyring = [path for path in server.data.rglob("*") if "keyring" in path.name and path.is_file()]
    assert keyring, "the wrapping keys are in a file of their own"
    assert all(path.stat().st_mode & 0o077 == 0 for path in keyring)
    kept = [(path, path.read_bytes()) for path in keyring]
    for path in keyring:
        path.unlink()
    done = server.command("logs", planted.name)
    assert planted.canaries["print"] not in done.stdout
    for path in server.data.rglob("*keyring*"):
        path.unlink()
    for path, content in kept:
        path.write_bytes(content)
        path.chmod(0o600)
    server.start()
    planted.functions = Functions(server.client())
    planted.use()


def test_refused_requests_are_not_written_down_either(busy):
    server, planted = busy
    text = scan.canary()
    wire = server.wire()
    assert wire.invoke(planted.name, f'{{"broken": "{text}"'.encode()).status == 400
    assert wire.invoke(f"nobody-{planted.name}", f'"{text}"'.encode()).status == 404
    assert wire.call("POST", "/2015-03-31/functions", {"FunctionName": "x y", "Environment": {"Variables": {"CANARY": text}}}
                     ).status == 400
    assert scan.find(server.directory, [text]) == []
