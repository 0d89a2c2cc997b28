"""Bad input, each with its documented error, and the echo function unharmed right after (fixture `unharmed`).

Requests come first, then functions that misbehave; signatures and packages have files of their own.
"""

import base64
import json
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import model
from harness.functions import ROLE, Functions, fresh_name, python

pytestmark = pytest.mark.usefixtures("unharmed")

FUNCTIONS = "/2015-03-31/functions"
CREATE = {"Role": ROLE, "Runtime": "python3.11", "Handler": "a.b", "Code": {"ZipFile": base64.b64encode(
    python("def b(event, context):\n    return 1\n")).decode()}}


# === requests ===


@pytest.mark.parametrize("body", [b"", b"{", b"nonsense", b"[]", b'"text"', b"\xff\xfe", b"{}" * 2, b"null"])
@pytest.mark.parametrize("method, path, operation", [
    ("POST", FUNCTIONS, "CreateFunction"), ("PUT", FUNCTIONS + "/f/code", "UpdateFunctionCode"),
])
def test_a_body_that_is_no_json_object_is_refused(wire, method, path, operation, body):
    answer = wire.call(method, path, body, {"content-type": "application/json"})
    model.verify_raw(operation, answer)
    # An empty body is an empty object to AWS; then the missing members are what is wrong, or the function is.
    expected = {(400, "SerializationException"), (400, "InvalidRequestContentException"), (400, "ValidationException")}
    if body in (b"", b"null"):
        expected |= {(404, "ResourceNotFoundException"), (400, "InvalidParameterValueException")}
    assert (answer.status, answer.error) in expected, answer.body


@pytest.mark.parametrize("member, value", [
    ("FunctionName", 7), ("Timeout", "three"), ("Timeout", 1.5), ("Code", "zip"), ("Environment", []),
    ("Environment", {"Variables": {"A": 1}}), ("Architectures", "x86_64"), ("Publish", "yes"), ("Tags", ["a"]),
])
def test_a_member_of_the_wrong_type_is_a_serialization_error(wire, member, value):
    answer = wire.call("POST", FUNCTIONS, {"FunctionName": fresh_name()} | CREATE | {member: value})
    model.verify_raw("CreateFunction", answer)
    assert (answer.status, answer.error) == (400, "SerializationException"), answer.body


@pytest.mark.parametrize("name, problem", [
    ("with space", "regular expression pattern"), ("ünicode", "regular expression pattern"),
    ("a" * 141, "length less than or equal to|regular expression"), ("a/b", "regular expression pattern"),
    ("../../etc/passwd", "regular expression pattern"), ("", "length greater than or equal to|regular expression"),
    ("a\u0000b", "regular expression pattern"),
])
def test_a_name_that_is_none_is_refused(wire, name, problem):
    answer = model.verify_raw("CreateFunction", wire.call("POST", FUNCTIONS, {"FunctionName": name} | CREATE))
    assert (answer.status, answer.error) == (400, "ValidationException"), answer.body
    assert re.match(r"\d validation errors? detected: ", answer.message) and "functionName" in answer.message
    assert re.search(problem, answer.message), answer.message


def test_a_name_of_65_characters_is_refused(wire):
    """The model's 140 are for ARNs; a plain name has 64 (developer guide)."""
    answer = model.verify_raw("CreateFunction", wire.call("POST", FUNCTIONS, {"FunctionName": "n" * 65} | CREATE))
    assert answer.status == 400 and "64" in answer.message, answer.body


def test_every_missing_member_is_named(wire):
    answer = model.verify_raw("CreateFunction", wire.call("POST", FUNCTIONS, {}))
    assert (answer.status, answer.error) == (400, "ValidationException")
    assert answer.message.startswith("3 validation errors detected: ")
    for member in ("functionName", "role", "code"):
        assert re.search(rf"Value null at '{member}' failed to satisfy constraint: Member must not be null", answer.message)


def test_a_zip_that_is_no_base64_is_refused(wire):
    answer = wire.call("POST", FUNCTIONS, {"FunctionName": fresh_name()} | CREATE | {"Code": {"ZipFile": "%%%"}})
    model.verify_raw("CreateFunction", answer)
    assert (answer.status, answer.error) == (400, "SerializationException"), answer.body


@pytest.mark.parametrize("depth", [100, 1000, 100_000])
def test_deeply_nested_json_breaks_nothing(wire, echo, depth):
    nested = b"[" * depth + b"]" * depth
    for answer in (wire.call("POST", FUNCTIONS, nested), wire.call("POST", FUNCTIONS, b'{"Code":' * depth)):
        assert answer.status == 400
    # As a payload it is good JSON; a runtime may still fail on it, which is the function's error.
    assert wire.invoke(echo, nested).status in (200, 400)


@pytest.mark.parametrize("raw", [
    b"GARBAGE\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/9.9\r\n\r\n",
    b"POST /2015-03-31/functions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /2015-03-31/functions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    b"POST /2015-03-31/functions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /2015-03-31/functions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-Long: " + b"x" * 200_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(5000)) + b"\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
], ids=["garbage", "tls", "version", "negative length", "two lengths", "length and chunked", "bad chunk", "long header",
        "many headers", "long target"])
def test_bytes_that_are_no_http_request_get_a_client_error_or_a_close(wire, raw):
    with socket.create_connection((wire.parts.hostname, wire.parts.port), timeout=10) as connection:
        try:
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(65536)
        except OSError:  # closed before it had read all of it
            return
    assert answer == b"" or re.match(rb"HTTP/1\.[01] (4\d\d|505) ", answer), answer[:200]


def test_a_body_larger_than_declared_or_never_sent_holds_nobody_up(wire, functions, echo):
    signed = wire.sign("POST", f"{FUNCTIONS}/{echo}/invocations", b"{}")
    head = f"POST {signed.target} HTTP/1.1\r\nHost: {wire.parts.netloc}\r\nContent-Length: 1000000\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in signed.headers.items())
    stalled = []
    for _ in range(50):
        connection = socket.create_connection((wire.parts.hostname, wire.parts.port), timeout=10)
        connection.sendall(head.encode() + b"\r\n{")
        stalled.append(connection)
    started = time.monotonic()
    for n in range(20):
        assert functions.invoke(echo, n).succeeded() == n
    assert time.monotonic() - started < 5
    for connection in stalled:
        connection.close()


def test_a_huge_declared_body_is_refused_before_it_is_sent(wire):
    request = wire.sign("POST", FUNCTIONS + "/f/invocations", b"{}").with_headers(content_length=str(1 << 40))
    answer = wire.send(request)
    assert answer.status == 413, (answer.status, answer.body)


@pytest.mark.parametrize("path", [
    "/2015-03-31/functions/%2e%2e%2f%2e%2e/invocations", "/2015-03-31/functions/f%00/invocations",
    "/2015-03-31/functions/" + "f" * 3000 + "/invocations", "/2015-03-31/functions/%ff%fe/invocations",
])
def test_a_strange_path_is_refused(wire, path):
    answer = wire.call("POST", path, b"{}")
    assert answer.status in (400, 403, 404), (answer.status, answer.body)
    assert answer.error, "in the API's own shape"


# === functions that misbehave ===

HANDLER = "def lambda_handler(event, context):\n"


def misbehaving(functions, body, top="", **settings):
    """A function whose handler does `body` if its event is true, and answers 'alive' if not."""
    lines = "".join(f"        {line}\n" for line in body.strip().splitlines())
    return functions.create(python(f"{top}\n{HANDLER}    if event:\n{lines}    return 'alive'\n"), **settings)


def test_exit_in_init_is_told_each_time(functions):
    name = functions.create(python("import sys\nsys.exit(7)\n"))
    for _ in range(2):
        outcome = functions.invoke(name, {})
        assert outcome.failed() == {
            "errorType": "Runtime.ExitError",
            "errorMessage": f"RequestId: {outcome.request_id} Error: Runtime exited with error: exit status 7",
        }


def test_an_exception_in_init_is_told_with_its_trace(functions):
    error = functions.invoke(functions.create(python("raise Exception('Runtime startup fails')\n")), {}).failed()
    # (REC): the runtime has no request yet, so the id is empty
    assert (error["errorMessage"], error["errorType"], error["requestId"]) == ("Runtime startup fails", "Exception", "")
    assert error["stackTrace"][-1].startswith('  File "/var/task/lambda_function.py", line 1, in <module>')


def test_a_syntax_error_is_told(functions):
    error = functions.invoke(functions.create(python("def lambda_handler(:\n")), {}).failed()
    assert error["errorType"] == "Runtime.UserCodeSyntaxError" and "lambda_function" in error["errorMessage"]


def test_an_init_that_takes_too_long_is_a_timeout(new_server):
    server = new_server(config={"environments": {"init_timeout": "2s"}}).start()
    functions = Functions(server.client())
    name = functions.misbehaving(Timeout=1, Environment={"Variables": {"INIT": "sleep", "INIT_SECONDS": "60"}})
    started = time.monotonic()
    outcome = functions.invoke(name, {"do": "count"})
    assert time.monotonic() - started < 8
    error = outcome.failed()
    assert error["errorType"] == "Sandbox.Timedout"
    assert re.fullmatch(rf"RequestId: {outcome.request_id} Error: Task timed out after \d+\.\d\d seconds",
                        error["errorMessage"])


def test_an_answer_that_is_no_json_is_a_marshal_error(functions):
    name = functions.misbehaving()
    error = functions.invoke(name, {"do": "return_unserialisable"}).failed()
    assert error["errorType"] == "Runtime.MarshalError"
    assert "Unable to marshal response" in error["errorMessage"]
    assert functions.invoke(name, {"do": "count"}).succeeded()["count"] == 1


def test_printing_100_mb_is_bounded_in_the_log_and_harms_nobody(functions, echo):
    name = misbehaving(functions, "for n in range(100):\n    print('x' * (2**20 - 1))\nprint('the end')",
                       Timeout=60, MemorySize=512)
    with ThreadPoolExecutor(1) as pool:
        noisy = pool.submit(functions.invoke, name, True, LogType="Tail")
        while not noisy.done():
            assert functions.invoke(echo, 1).succeeded() == 1
    outcome = noisy.result()
    assert outcome.succeeded() == "alive"
    log = base64.b64decode(outcome.log)
    assert len(log) <= 4096 and b"the end" in log and b"REPORT RequestId" in log


def test_a_line_without_end_is_bounded(functions):
    name = misbehaving(functions, "import sys\nsys.stdout.write('y' * 30_000_000)\nsys.stdout.flush()",
                       Timeout=60, MemorySize=512)
    assert functions.invoke(name, True).succeeded() == "alive"


def test_a_fork_bomb_runs_into_its_own_wall(functions):
    name = misbehaving(functions, """
import os, time
children = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(300)
            os._exit(0)
        children += 1
except OSError as error:
    return [children, error.errno]
""", Timeout=30, MemorySize=3008)
    children, errno = functions.invoke(name, True).succeeded()
    assert 1 <= children <= 1024 and errno == 11, "Lambda allows 1,024 processes and threads (EAGAIN after)"
    # Its children hold every process slot; that is its own trouble and ends with the environment.
    functions.invoke(name, False)


def test_a_fork_bomb_that_never_stops_is_cut_off(functions):
    name = misbehaving(functions, """
import os
while True:
    try: os.fork()
    except OSError: pass
""", Timeout=2)
    cut_off = functions.invoke(name, True).failed()["errorType"]
    assert cut_off in ("Sandbox.Timedout", "Runtime.ExitError", "Runtime.OutOfMemory")
    assert functions.invoke(name, False).succeeded() == "alive"


def test_a_full_tmp_is_enospc_at_its_size(functions):
    name = misbehaving(functions, """
written = 0
try:
    with open('/tmp/fill', 'wb', buffering=0) as file:
        while True:
            written += file.write(bytes(2**20))
except OSError as error:
    return [written, error.errno]
""", Timeout=60, MemorySize=1024)
    written, errno = functions.invoke(name, True).succeeded()
    assert errno == 28 and 500 * 2**20 <= written <= 512 * 2**20, written


def test_what_is_not_tmp_cannot_be_written(functions):
    name = misbehaving(functions, """
import os
wrote = []
for place in ('/', '/var/task', '/var/runtime', '/opt', '/etc', '/usr/lib', '/proc/sys/kernel', '/dev', '/root'):
    try:
        with open(os.path.join(place, 'mine'), 'w'): wrote.append(place)
    except OSError: pass
return wrote
""")
    assert functions.invoke(name, True).succeeded() == []


def test_ignoring_sigterm_delays_no_stop(new_server):
    server = new_server().start()
    functions = Functions(server.client())
    top = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)"
    name = misbehaving(functions, "pass", top=top)
    assert functions.invoke(name, False).succeeded() == "alive"
    started = time.monotonic()
    server.stop()
    assert time.monotonic() - started < 8, "two seconds are an environment's to shut down"


# === functions that turn against the Runtime API and the platform ===

API = """
import http.client, json, os
def post(path, body=b'"stolen"', headers={}):
    connection = http.client.HTTPConnection(os.environ['AWS_LAMBDA_RUNTIME_API'], timeout=5)
    connection.request('POST', '/2018-06-01/runtime/' + path, body, headers)
    response = connection.getresponse()
    return [response.status, response.read().decode()]
"""


def test_answering_with_another_id_is_refused(functions):
    other = "8a1a3c9e-6f0e-4d64-9a0e-0f6c2c3b5a10"
    name = misbehaving(functions, f"return post('invocation/{other}/response')", top=API)
    status, body = functions.invoke(name, True).succeeded()
    assert status == 400 and json.loads(body)["errorType"] == "InvalidRequestID"


def test_the_second_of_two_answers_is_refused_and_not_taken_for_the_next(functions):
    name = misbehaving(functions, "return post(f'invocation/{context.aws_request_id}/response')[0]", top=API)
    assert functions.invoke(name, True).payload == b'"stolen"', "the first answer is the answer"
    for _ in range(3):
        assert functions.invoke(name, False).succeeded() == "alive"


def test_a_late_answer_to_an_old_event_is_refused(functions):
    top = API + "\nOLD = []\n"
    name = misbehaving(functions, """
OLD.append(context.aws_request_id)
return post(f'invocation/{OLD[0]}/response') if len(OLD) > 1 else 'first'
""", top=top)
    assert functions.invoke(name, True).succeeded() == "first"
    status, body = functions.invoke(name, True).succeeded()
    assert status == 400 and json.loads(body)["errorType"] == "InvalidRequestID"


def test_garbage_on_the_runtime_api_is_survived(functions):
    name = misbehaving(functions, r"""
import socket
host, port = os.environ['AWS_LAMBDA_RUNTIME_API'].split(':')
answers = []
for raw in (b'\x00' * 100, b'GET', b'GET / HTTP/1.1\r\n\r\n', b'POST /2018-06-01/runtime/invocation/x/response HTTP/1.1\r\n'
            b'Content-Length: 99999999999999999999\r\n\r\n', b'A' * 1_000_000, b'GET /2018-06-01/runtime/invocation/next'):
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        try:
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            answers.append(connection.recv(100).decode('latin-1').split('\r\n')[0])
        except OSError:
            answers.append('closed')
return answers
""", top=API)
    answers = functions.invoke(name, True).succeeded()
    assert len(answers) == 6 and not any(" 200 " in answer or " 202 " in answer for answer in answers), answers
    assert functions.invoke(name, False).succeeded() == "alive"


def test_hundreds_of_open_connections_to_the_runtime_api_are_survived(functions):
    name = misbehaving(functions, """
import socket
host, port = os.environ['AWS_LAMBDA_RUNTIME_API'].split(':')
global KEPT
KEPT = []
try:
    for _ in range(900):
        KEPT.append(socket.create_connection((host, int(port)), timeout=0.2))
except OSError:
    pass
for connection in KEPT:
    connection.close()
return 'alive'
""", top=API)
    assert functions.invoke(name, True).succeeded() == "alive"
    assert functions.invoke(name, False).succeeded() == "alive"


def test_the_agent_is_out_of_the_functions_reach(functions):
    name = misbehaving(functions, """
import os, signal
got = []
for path in ('/proc/1/environ', '/proc/1/mem', '/proc/1/maps', '/proc/1/fd', '/proc/1/root', '/proc/1/cwd'):
    try:
        os.listdir(path) if path.endswith(('fd', 'root', 'cwd')) else open(path, 'rb').read(1)
        got.append(path)
    except OSError: pass
for victim in (1, -1):
    try:
        os.kill(victim, signal.SIGKILL if victim == 1 else 0)
        if victim == 1: got.append('kill 1')
    except OSError: pass
return [got, os.getuid(), [int(p) for p in os.listdir('/proc') if p.isdigit() and int(p) != os.getpid()]]
""")
    got, uid, others = functions.invoke(name, True).succeeded()
    assert got == [] and uid != 0
    assert others == [], "sees no process but its own"
    assert functions.invoke(name, False).succeeded() == "alive"


def test_the_invoker_and_the_host_are_out_of_the_functions_reach(functions, server):
    port = server.endpoint.rsplit(":", 1)[1]
    name = misbehaving(functions, f"""
import os, socket, stat, struct
reached = []
for address in (('127.0.0.1', {port}), ('localhost', {port}), ('169.254.169.254', 80), ('192.0.2.1', 80)):
    try:
        socket.create_connection(address, timeout=0.5).close()
        reached.append(str(address))
    except OSError: pass
for line in open('/proc/net/unix').read().splitlines()[1:]:
    path = line.split()[-1]
    if path[0] in '@/':
        target = '\\0' + path[1:] if path[0] == '@' else path
        try:
            socket.socket(socket.AF_UNIX).connect(target)
            reached.append(path)
        except OSError: pass
for descriptor in range(3, 1024):
    try:
        if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            one = socket.socket(fileno=os.dup(descriptor))
            if one.family == socket.AF_UNIX:
                # The HTTP library of the runtime client keeps a pair to wake itself; its peer is this process.
                peer = struct.unpack('3i', one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
                if peer != os.getpid(): reached.append(f'descriptor {{descriptor}}')
    except OSError: pass
return [reached, sorted(name for _, name in socket.if_nameindex())]
""")
    reached, interfaces = functions.invoke(name, True).succeeded()
    assert reached == []
    assert interfaces == ["lo"]
