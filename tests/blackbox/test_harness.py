"""The harness itself: a checker that lets everything through would make every other test worthless."""

import datetime
import http.server
import io
import json
import os
import subprocess
import sys
import threading
import zipfile

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

import model
from harness import leftovers, otlp, scan
from harness.functions import package
from harness.server import FileWatch
from harness.wire import Wire

REQUEST_ID = "8a1a3c9e-6f0e-4d64-9a0e-0f6c2c3b5a10"
GOOD_HEADERS = {"x-amzn-RequestId": REQUEST_ID, "Content-Type": "application/json"}

FUNCTION = {
    "FunctionName": "f", "FunctionArn": "arn:aws:lambda:us-east-1:123456789012:function:f", "Runtime": "python3.11",
    "Role": "arn:aws:iam::123456789012:role/r", "Handler": "a.b", "CodeSize": 1, "Description": "", "Timeout": 3,
    "MemorySize": 128, "LastModified": "2026-11-22T14:03:05.123+0000", "CodeSha256": "x", "Version": "$LATEST",
    "TracingConfig": {"Mode": "PassThrough"}, "RevisionId": REQUEST_ID, "State": "Active", "PackageType": "Zip",
    "Architectures": ["x86_64"], "EphemeralStorage": {"Size": 512},
}


def answer(document, operation="GetFunctionConfiguration", status=200, **headers):
    renamed = {name.replace("_", "-"): value for name, value in headers.items()}
    body = json.dumps(document).encode()
    model.verify(operation, status, {**GOOD_HEADERS, **renamed}, body)


# === the model checker ===


def test_accepts_an_answer_as_aws_gives_it():
    answer(FUNCTION)
    answer(FUNCTION, "CreateFunction", 201)
    answer(FUNCTION | {"LastUpdateStatus": "InProgress", "LastUpdateStatusReasonCode": "Creating"})
    answer({"Functions": [FUNCTION], "NextMarker": "x"}, "ListFunctions")
    model.verify("DeleteFunction", 204, {"x-amzn-RequestId": REQUEST_ID}, b"")
    model.verify("Invoke", 200, {"x-amzn-RequestId": REQUEST_ID, "X-Amz-Executed-Version": "$LATEST"}, None)


@pytest.mark.parametrize("change, named", [
    ({"Nonsense": 1}, "body.Nonsense is not in the model"),
    ({"functionName": "f"}, "body.functionName is not in the model"),
    ({"State": "Running"}, "body.State"),
    ({"LastUpdateStatusReasonCode": "Updating"}, "body.LastUpdateStatusReasonCode"),
    ({"State": "Creating"}, "body.State"),
    ({"Timeout": "3"}, "body.Timeout is str"),
    ({"Timeout": True}, "body.Timeout is bool"),
    ({"Timeout": 0}, "below the model's 1"),
    ({"MemorySize": 99999999}, "above the model's"),
    ({"FunctionArn": "f"}, "does not match"),
    ({"Version": "latest"}, "does not match"),
    ({"Architectures": "x86_64"}, "not a list"),
    ({"Architectures": ["sparc"]}, "not one of"),
    ({"EphemeralStorage": {"Megabytes": 5}}, "body.EphemeralStorage.Megabytes is not in the model"),
    ({"Environment": {"Variables": {"1bad": "x"}}}, "key of body.Environment.Variables"),
    ({"Role": 5}, "body.Role is int"),
])
def test_finds_a_value_the_model_does_not_allow(change, named):
    with pytest.raises(model.Drift, match=named.replace(".", r"\.").replace("[", r"\[")):
        answer(FUNCTION | change)


@pytest.mark.parametrize("status, headers, body, named", [
    (201, GOOD_HEADERS, b"{}", "status 201 is not in"),
    (200, {"Content-Type": "application/json"}, b"{}", "no x-amzn-RequestId"),
    (200, GOOD_HEADERS | {"x-amzn-RequestId": "seven"}, b"{}", "not a UUID"),
    (200, GOOD_HEADERS | {"Content-Type": "text/html"}, b"{}", "content type"),
    (200, GOOD_HEADERS, b"{", "not JSON"),
    (200, GOOD_HEADERS, b"[]", "not a JSON object"),
    (200, GOOD_HEADERS | {"x-amzn-ErrorType": "ServiceException"}, b"{}", "no error"),
])
def test_finds_a_wrong_envelope(status, headers, body, named):
    with pytest.raises(model.Drift, match=named):
        model.verify("GetFunctionConfiguration", status, headers, body)


def test_finds_a_body_where_the_model_has_none():
    with pytest.raises(model.Drift, match="no body"):
        model.verify("DeleteFunction", 204, GOOD_HEADERS, b'{"deleted":true}')


def test_accepts_errors_as_aws_gives_them():
    answer({"Type": "User", "Message": "Function not found: x"}, status=404, x_amzn_ErrorType="ResourceNotFoundException")
    answer({"Type": "User", "message": "bad"}, status=400, x_amzn_ErrorType="InvalidParameterValueException:http://x/")
    answer({"message": "1 validation error"}, status=400, x_amzn_ErrorType="ValidationException")
    answer({"Type": "User", "message": "Rate Exceeded.", "Reason": "ConcurrentInvocationLimitExceeded"}, "Invoke", 429,
           x_amzn_ErrorType="TooManyRequestsException", Retry_After="1")


@pytest.mark.parametrize("document, status, name, named", [
    ({"message": "x"}, 404, "ResourceNotFoundException", "must have a text in `Message`|message is not in the model"),
    ({"Message": "x"}, 400, "ResourceNotFoundException", "has status 404"),
    ({"Message": "x", "Type": "Service"}, 404, "ResourceNotFoundException", "Type of ResourceNotFoundException is User"),
    ({"Message": "x"}, 404, "NoSuchFunction", "has no error NoSuchFunction"),
    ({"Type": "User", "message": "x"}, 412, "PreconditionFailedException", "has no error PreconditionFailed"),
    ({"Type": "User", "message": "x"}, 400, "ValidationException", "has no Type"),
    ({"message": ""}, 403, "AccessDeniedException", "must have a message"),
    ({"message": "x", "trace": "y"}, 403, "AccessDeniedException", "unknown members"),
    ({"Type": "User", "message": "x"}, 429, "TooManyRequestsException", "must carry Retry-After"),
    ({"message": "x"}, 503, "ServiceUnavailableException", "must carry Retry-After"),
    ({"message": "x"}, 500, "", "without x-amzn-ErrorType"),
])
def test_finds_a_wrong_error(document, status, name, named):
    headers = {"x_amzn_ErrorType": name} if name else {}
    with pytest.raises(model.Drift, match=named):
        answer(document, status=status, **headers)


def test_a_throttle_reason_must_be_one_the_model_knows():
    with pytest.raises(model.Drift, match="Reason"):
        answer({"message": "x", "Reason": "Busy"}, "Invoke", 429, x_amzn_ErrorType="TooManyRequestsException",
               Retry_After="1")


def test_python_can_read_nearly_every_pattern_of_the_model():
    shapes = map(model.service_model().shape_for, model.service_model().shape_names)
    patterns = {shape.name: shape.metadata["pattern"] for shape in shapes if "pattern" in shape.metadata}
    unread = {name for name, text in patterns.items() if model.pattern(text) is None}
    assert unread == {"TagKey", "TagValue"}, r"these use \p{L}, which Python's re does not have"
    assert len(patterns) > 50


# === a stand-in server, for what needs an answer ===


@pytest.fixture
def stand_in():
    """Answers what the test puts into `.answer` and keeps what it was sent."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self):
            length = int(self.headers.get("Content-Length", 0))
            self.server.seen.append((self.command, self.path, dict(self.headers), self.rfile.read(length)))
            status, headers, body = self.server.answer
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = answer

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.seen = []
    server.answer = (200, GOOD_HEADERS, json.dumps(FUNCTION).encode())
    server.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def boto(endpoint):
    import boto3
    from botocore.config import Config

    session = boto3.session.Session("AKIAIOSFODNN7EXAMPLE", "secret", region_name="us-east-1")
    return model.watch(session.client("lambda", endpoint_url=endpoint, config=Config(retries={"total_max_attempts": 1})))


def test_a_drifting_answer_fails_the_boto3_call_that_got_it(stand_in):
    client = boto(stand_in.endpoint)
    assert client.get_function_configuration(FunctionName="f")["FunctionName"] == "f"
    stand_in.answer = (200, GOOD_HEADERS, json.dumps(FUNCTION | {"Stata": "x"}).encode())
    with pytest.raises(model.Drift, match="Stata"):
        client.get_function_configuration(FunctionName="f")
    stand_in.answer = (404, GOOD_HEADERS | {"x-amzn-ErrorType": "Gone"}, b'{"Message":"x"}')
    with pytest.raises(model.Drift, match="Gone"):
        client.get_function_configuration(FunctionName="f")


def test_a_streamed_payload_reaches_the_caller_unread(stand_in):
    stand_in.answer = (200, GOOD_HEADERS | {"X-Amz-Executed-Version": "$LATEST"}, b"[1, 2]")
    assert boto(stand_in.endpoint).invoke(FunctionName="f")["Payload"].read() == b"[1, 2]"
    stand_in.answer = (200, GOOD_HEADERS | {"X-Amz-Executed-Version": "latest"}, b"[1, 2]")
    with pytest.raises(model.Drift, match="X-Amz-Executed-Version"):
        boto(stand_in.endpoint).invoke(FunctionName="f")


# === wire ===


def test_wire_sends_what_botocore_would_sign(stand_in):
    wire = Wire(stand_in.endpoint, "AKIAIOSFODNN7EXAMPLE", "secret", "us-east-1")
    moment = datetime.datetime(2026, 11, 22, 14, 0, tzinfo=datetime.timezone.utc)
    request = wire.sign("POST", "/2015-03-31/functions/f%3A1/invocations?Qualifier=1", b'{"a":1}', at=moment)
    wire.send(request)
    method, path, headers, body = stand_in.seen[-1]
    assert (method, path, body) == ("POST", "/2015-03-31/functions/f%3A1/invocations?Qualifier=1", b'{"a":1}')
    assert headers["X-Amz-Date"] == "20261122T140000Z"

    again = AWSRequest("POST", f"{stand_in.endpoint}{path}", {"X-Amz-Date": headers["X-Amz-Date"]}, body)
    again.context["timestamp"] = headers["X-Amz-Date"]
    signer = botocore.auth.SigV4Auth(Credentials("AKIAIOSFODNN7EXAMPLE", "secret"), "lambda", "us-east-1")
    canonical = signer.canonical_request(again)
    signature = signer.signature(signer.string_to_sign(again, canonical), again)
    assert headers["Authorization"].endswith(f"Signature={signature}")


def test_wire_can_change_a_request_after_signing_and_presign_one(stand_in):
    wire = Wire(stand_in.endpoint, "AKIAIOSFODNN7EXAMPLE", "secret", "us-east-1")
    wire.send(wire.sign("POST", "/x", b"one").with_body(b"two!").with_headers(x_amz_date=None, extra="1"))
    _, _, headers, body = stand_in.seen[-1]
    assert body == b"two!" and "X-Amz-Date" not in headers and headers["extra"] == "1"
    wire.send(wire.presign("GET", "/y?a=b", expires=7))
    _, path, headers, _ = stand_in.seen[-1]
    assert path.startswith("/y?a=b&") and "X-Amz-Expires=7" in path and "X-Amz-Signature=" in path
    assert "Authorization" not in headers


# === the rest ===


def test_packages_are_deterministic_and_keep_modes():
    one = package({"a": "x", "b/c": b"y"}, mode=0o755)
    assert one == package({"a": "x", "b/c": b"y"}, mode=0o755)
    with zipfile.ZipFile(io.BytesIO(one)) as archive:
        assert archive.read("b/c") == b"y"
        assert archive.getinfo("a").external_attr >> 16 == 0o100755


@pytest.mark.parametrize("disguise", [
    lambda text: text.encode(),
    lambda text: b"x" * (scan.CHUNK - 7) + text.encode(),
    lambda text: text.encode("utf-16-le"),
    lambda text: text.encode().hex().encode(),
    lambda text: __import__("base64").b64encode(b"some" + text.encode() + b"more"),
    lambda text: package({"f.py": f"# {text}\n" * 50}),
], ids=["plain", "across chunks", "utf-16", "hex", "base64", "zip"])
def test_scan_finds_a_canary(tmp_path, disguise):
    text = scan.canary()
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/file").write_bytes(disguise(text))
    assert scan.find(tmp_path, [text, scan.canary()]) == [(tmp_path / "deep/file", text)]


def test_scan_finds_nothing_where_nothing_is(tmp_path):
    (tmp_path / "file").write_bytes(os.urandom(1 << 16))
    assert scan.find(tmp_path, [scan.canary()]) == []


def test_leftovers_sees_processes_come_and_go():
    code = "import subprocess,sys; subprocess.Popen(['sleep','60']); print('up', flush=True); sys.stdin.read()"
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    parent.stdout.readline()
    seen = leftovers.footprint(parent.pid)
    assert len(seen.processes) == 2 and parent.pid in seen.processes
    (child,) = set(seen.processes) - {parent.pid}
    parent.kill()
    parent.wait()
    assert leftovers.await_processes_gone(seen, seconds=0.2) == [child]
    os.kill(child, 9)
    assert leftovers.await_processes_gone(seen) == []


def test_leftovers_sees_a_mount_of_another_name_space():
    code = "mount -t tmpfs none /mnt && echo up && read _"
    holder = subprocess.Popen(["unshare", "-m", "sh", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    holder.stdout.readline()
    seen = leftovers.footprint(holder.pid)
    assert [point for _, point in seen.mounts] == ["/mnt"]
    assert leftovers.mounts_left(seen) == seen.mounts
    holder.communicate(b"\n")
    assert leftovers.mounts_left(seen) == set()


def test_file_watch_wakes_for_a_file_moved_in(tmp_path):
    import select

    with FileWatch(tmp_path) as watch:
        assert select.select([watch.descriptor], [], [], 0)[0] == []
        (tmp_path / "new").write_text("x")
        assert select.select([watch.descriptor], [], [], 5)[0]


def test_otlp_reads_the_spans_of_a_trace():
    import http.client

    def part(number, content):
        return bytes([number << 3 | 2, len(content)]) + content

    span = part(1, b"\1" * 16) + part(2, b"\2" * 8) + part(4, b"\3" * 8) + part(5, b"invoke") + bytes([6 << 3, 1])
    with otlp.Receiver() as receiver:
        port = receiver.server.server_port
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("POST", "/v1/traces", part(1, part(1, b"") + part(2, part(2, span))))
        assert connection.getresponse().status == 200
        connection.close()
        spans = receiver.await_spans(bool)
    assert spans == [otlp.Span("01" * 16, "02" * 8, "03" * 8, "invoke")]
