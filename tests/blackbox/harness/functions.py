"""Packages, and functions that are ready to be invoked."""

import functools
import io
import json
import subprocess
import uuid
import zipfile

from harness.server import PATIENCE, REPOSITORY

ROLE = "arn:aws:iam::123456789012:role/lambda-role"
BUILT = REPOSITORY / "target/functions"

ECHO = "def lambda_handler(event, context):\n    return event\n"


def package(files, mode=0o644):
    """A ZIP of `{name: text or bytes}`; the same files always give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0))
            entry.external_attr = (0o100000 | mode) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return buffer.getvalue()


def python(source):
    """A package whose handler is `lambda_function.lambda_handler`."""
    return package({"lambda_function.py": source})


@functools.cache
def built(name):
    """A package that tests/functions/build.sh makes."""
    file = BUILT / f"{name}.zip"
    if not file.exists():
        script = REPOSITORY / "tests/functions/build.sh"
        subprocess.run([str(script)], check=True, cwd=REPOSITORY, timeout=600)
    return file.read_bytes()


def fresh_name(prefix="fn"):
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


class Outcome:
    """What an invocation came to."""

    def __init__(self, response):
        self.response = response
        self.status = response["StatusCode"]
        self.error = response.get("FunctionError")
        self.log = response.get("LogResult")
        self.payload = response["Payload"].read()

    def json(self):
        return json.loads(self.payload)

    @property
    def request_id(self):
        return self.response["ResponseMetadata"]["RequestId"]

    def succeeded(self):
        assert self.error is None, f"the function failed: {self.payload[:2000]!r}"
        return self.json()

    def failed(self):
        assert self.error == "Unhandled", f"FunctionError is {self.error!r}: {self.payload[:500]!r}"
        return self.json()


class Functions:
    """Creates functions through one client."""

    def __init__(self, client):
        self.client = client

    def create(self, zip_bytes=None, name=None, wait=True, **settings):
        """Creates a Python function (unless `settings` say otherwise), waits until it is Active; returns its name."""
        name = name or fresh_name()
        arguments = {
            "FunctionName": name, "Role": ROLE, "Runtime": "python3.11",
            "Handler": "lambda_function.lambda_handler", "Timeout": 20 * PATIENCE,
            "Code": {"ZipFile": zip_bytes if zip_bytes is not None else python(ECHO)},
        } | settings
        self.client.create_function(**arguments)
        if wait:
            self.await_active(name)
        return name

    def provided(self, name="echo-rust", **settings):
        return self.create(built(name), Runtime="provided.al2023", Handler="bootstrap", **settings)

    def misbehaving(self, **settings):
        return self.create(built("misbehave-python"), **settings)

    def await_active(self, name):
        self._wait("function_active_v2", name)

    def await_updated(self, name):
        self._wait("function_updated_v2", name)

    def _wait(self, state, name):
        waiter = self.client.get_waiter(state)
        waiter.config.delay, waiter.config.max_attempts = 0.05, 400  # test_functions.py uses the SDK's own pace
        waiter.wait(FunctionName=name)

    def invoke(self, name, event=None, **arguments):
        if event is not None:
            arguments["Payload"] = json.dumps(event).encode()
        return Outcome(self.client.invoke(FunctionName=name, **arguments))
