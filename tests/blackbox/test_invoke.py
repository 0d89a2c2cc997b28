"""Invocations through boto3 and raw HTTP: what goes in, what comes out, and which environment it runs in."""

import base64
import json
import re
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor, as_completed

import pytest

import model
from harness.functions import Functions, python
from harness.server import PATIENCE

SIX_MB = 6 * 1024 * 1024
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"

# One function that tells of its environment; `id` is made once per environment.
TELLTALE = """
import json, os, sys, time, uuid
ID, CALLS = str(uuid.uuid4()), 0

def lambda_handler(event, context):
    global CALLS
    CALLS += 1
    event = event if isinstance(event, dict) else {}
    time.sleep(event.get("sleep", 0))
    for line in event.get("print", []):
        print(line)
    return {"id": ID, "calls": CALLS, "env": dict(os.environ) if event.get("env") else None, "context": {
        "function_name": context.function_name, "function_version": context.function_version,
        "invoked_function_arn": context.invoked_function_arn, "memory_limit_in_mb": context.memory_limit_in_mb,
        "aws_request_id": context.aws_request_id, "log_group_name": context.log_group_name,
        "log_stream_name": context.log_stream_name, "remaining": context.get_remaining_time_in_millis(),
        "client_context": context.client_context and context.client_context.custom,
    }}
"""


@pytest.fixture(scope="module")
def telltale(functions):
    return functions.create(python(TELLTALE))


# === payloads ===

PAYLOADS = {
    "null": None, "true": True, "number": 12.5, "negative": -7, "big number": 2**53 + 1, "string": "text",
    "empty string": "", "list": [1, [2, [3]]], "empty object": {}, "nested": {"a": {"b": {"c": [None, False]}}},
    "unicode": {"grüße": "日本語 🎉 \u0000 \u2028", "surrogate pair": "𝄞"}, "many keys": {str(n): n for n in range(2000)},
}


@pytest.mark.parametrize("kind", PAYLOADS)
def test_python_gets_and_gives_every_kind_of_json(functions, echo, kind):
    outcome = functions.invoke(echo, Payload=json.dumps(PAYLOADS[kind]))
    assert outcome.status == 200
    assert outcome.succeeded() == PAYLOADS[kind]
    assert outcome.response["ExecutedVersion"] == "$LATEST"


@pytest.mark.parametrize("kind", sorted(set(PAYLOADS) - {"big number"}))
def test_a_provided_runtime_gets_and_gives_every_kind_of_json(functions, rust, kind):
    assert functions.invoke(rust, Payload=json.dumps(PAYLOADS[kind])).succeeded() == PAYLOADS[kind]


@pytest.fixture(scope="module")
def rust(functions):
    return functions.provided()


def test_raw_utf8_arrives_as_it_was_sent(functions, echo):
    assert functions.invoke(echo, Payload='"grüße 日本語"'.encode()).succeeded() == "grüße 日本語"


@pytest.mark.parametrize("arguments", [{}, {"Payload": b""}])
def test_no_payload_is_an_empty_object(functions, echo, arguments):
    assert functions.invoke(echo, **arguments).succeeded() == {}


@pytest.mark.parametrize("payload, where", [
    (b"{", "end-of-input"), (b"hello", "Unrecognized token|hello"), (b"{'a': 1}", "Unexpected character"),
    (b'"\x87"', "UTF-8"), (b"[1,]", "Unexpected"), (b"1 2", ""), (b"\x00", ""),
])
def test_a_payload_that_is_no_json_is_refused(wire, echo, payload, where):
    answer = model.verify_raw("Invoke", wire.invoke(echo, payload))
    assert (answer.status, answer.error) == (400, "InvalidRequestContentException")
    # (REC) how it goes on names the parser's complaint; ours need not be Jackson's
    assert answer.message.startswith("Could not parse request body into json: "), answer.message
    assert answer.json()["Type"] == "User"


def text_of(size):
    """A JSON string of exactly `size` bytes."""
    return b'"' + b"x" * (size - 2) + b'"'


def test_six_megabytes_fit_both_ways(functions, client):
    # Echoing needs several copies of the payload in Python.
    name = functions.create(MemorySize=512)
    outcome = functions.invoke(name, Payload=text_of(SIX_MB))
    assert outcome.error is None and outcome.payload == text_of(SIX_MB)


@pytest.mark.parametrize("excess", [1, 1000, SIX_MB])
def test_six_megabytes_and_a_byte_are_refused(wire, echo, unharmed, excess):
    answer = model.verify_raw("Invoke", wire.invoke(echo, text_of(SIX_MB + excess)))
    # The wire name on AWS is RequestEntityTooLargeException, the model's RequestTooLargeException; SDKs know the latter.
    assert answer.status == 413 and answer.error in ("RequestTooLargeException", "RequestEntityTooLargeException")
    assert answer.message.startswith("Request must be smaller than 6291456 bytes for the InvokeFunction operation")


def test_a_response_over_the_limit_is_an_error_of_the_function(functions):
    name = functions.create(
        python("def lambda_handler(event, context):\n    return 'x' * (event - 2)\n"), MemorySize=512)
    assert len(functions.invoke(name, 6_291_556).payload) == 6_291_556
    outcome = functions.invoke(name, 6_291_557)
    assert outcome.failed() == {
        "errorType": "Function.ResponseSizeTooLarge",
        "errorMessage": "Response payload size exceeded maximum allowed payload size (6291556 bytes).",
    }
    assert functions.invoke(name, 10).succeeded() == "x" * 8


# === headers and options ===


def test_the_answer_carries_lambdas_headers(wire, telltale):
    answer = model.verify_raw("Invoke", wire.invoke(telltale))
    assert answer.headers["X-Amz-Executed-Version"] == "$LATEST"
    assert answer.headers["Content-Type"] == "application/json"
    assert re.match(r"[Rr]oot=1-[0-9a-f]{8}-[0-9a-f]{24}", answer.headers["X-Amzn-Trace-Id"])
    assert answer.headers["X-Amz-Function-Error"] is None and answer.headers["X-Amz-Log-Result"] is None
    assert answer.headers["x-amzn-RequestId"] == answer.json()["context"]["aws_request_id"]
    assert int(answer.headers["Content-Length"]) == len(answer.body)


def test_request_ids_differ(functions, echo):
    ids = {functions.invoke(echo, n).request_id for n in range(5)}
    assert len(ids) == 5 and all(re.fullmatch(UUID, i) for i in ids)


def test_the_log_tail_has_what_was_printed_between_start_and_report(functions, telltale):
    outcome = functions.invoke(telltale, {"print": ["first", "zweite Zeile ü"]}, LogType="Tail")
    lines = base64.b64decode(outcome.log).decode().splitlines()
    request = outcome.request_id
    assert lines[0] == f"START RequestId: {request} Version: $LATEST" or "INIT_START" in lines[0]
    start = lines.index(f"START RequestId: {request} Version: $LATEST")
    assert lines[start + 1:start + 4] == ["first", "zweite Zeile ü", f"END RequestId: {request}"]
    report = lines[start + 4]
    assert re.fullmatch(
        rf"REPORT RequestId: {request}\tDuration: \d+\.\d\d ms\tBilled Duration: \d+ ms\tMemory Size: 128 MB"
        r"\tMax Memory Used: \d+ MB(\tInit Duration: \d+\.\d\d ms)?\t?(\s*XRAY TraceId: .*)?", report), report


def test_the_report_of_a_cold_start_alone_names_its_init_duration(functions):
    name = functions.create(python(TELLTALE))
    reports = []
    for _ in range(2):
        log = base64.b64decode(functions.invoke(name, {}, LogType="Tail").log).decode()
        reports.append(next(line for line in log.splitlines() if line.startswith("REPORT")))
    assert "Init Duration: " in reports[0] and "Init Duration" not in reports[1]
    used = int(re.search(r"Max Memory Used: (\d+) MB", reports[1])[1])
    assert 5 <= used <= 128, "a Python process with its runtime"


def test_the_log_tail_is_the_last_4_kb(functions, telltale):
    outcome = functions.invoke(telltale, {"print": [f"line {n} " + "x" * 90 for n in range(300)]}, LogType="Tail")
    log = base64.b64decode(outcome.log)
    assert 3500 < len(log) <= 4096
    assert b"line 299 " in log and b"line 0 " not in log and b"REPORT RequestId" in log


def test_no_log_comes_unasked(functions, telltale):
    assert functions.invoke(telltale, {}).log is None
    assert functions.invoke(telltale, {}, LogType="None").log is None


def test_the_client_context_reaches_the_function(functions, telltale, wire):
    context = base64.b64encode(json.dumps({"custom": {"foo": "bär"}, "client": {}, "env": {}}).encode()).decode()
    outcome = functions.invoke(telltale, {}, ClientContext=context)
    assert outcome.succeeded()["context"]["client_context"] == {"foo": "bär"}
    assert functions.invoke(telltale, {}).succeeded()["context"]["client_context"] is None


@pytest.mark.parametrize("context", ["not base64!", base64.b64encode(b"{").decode(), "A" * 3584])
def test_a_bad_client_context_is_refused(wire, telltale, context):
    answer = model.verify_raw("Invoke", wire.invoke(telltale, headers={"X-Amz-Client-Context": context}))
    assert answer.status == 400, answer.body
    assert answer.error in ("InvalidRequestContentException", "ValidationException", "InvalidParameterValueException")
    assert re.search("client ?context", answer.message, re.IGNORECASE)


def test_a_dry_run_validates_and_runs_nothing(functions, client, wire):
    name = functions.create(python(TELLTALE))
    for _ in range(3):
        dry = client.invoke(FunctionName=name, InvocationType="DryRun", Payload=b"{}")
        assert dry["StatusCode"] == 204 and dry["Payload"].read() == b""
    assert functions.invoke(name, {}).succeeded()["calls"] == 1
    answer = wire.invoke("nobody", headers={"X-Amz-Invocation-Type": "DryRun"})
    assert answer.error == "ResourceNotFoundException"


def test_an_unknown_invocation_type_is_refused(wire, echo):
    answer = model.verify_raw("Invoke", wire.invoke(echo, headers={"X-Amz-Invocation-Type": "Sometime"}))
    assert (answer.status, answer.error) == (400, "ValidationException")
    assert "enum value set" in answer.message and "invocationType" in answer.message


def test_an_unknown_function_or_qualifier_is_not_found(wire, echo):
    for target, query, named in (("nobody", "", r"function:nobody:\$LATEST$"), (echo, "?Qualifier=9", rf"{echo}:9$"),
                                 (echo, "?Qualifier=live", rf"{echo}:live$")):
        answer = model.verify_raw("Invoke", wire.invoke(target, query=query))
        # (REC) Invoke names the qualifier it looked for, $LATEST included
        assert answer.status == 404 and re.search(named, answer.message), answer.message
        assert answer.message.startswith("Function not found: arn:aws:lambda:")


def test_a_qualifier_is_seen_by_the_function_as_it_was_given(functions, telltale):
    arn = functions.invoke(telltale, {}).succeeded()["context"]["invoked_function_arn"]
    assert arn.endswith(f":function:{telltale}")
    for spelled, qualifier in ((telltale, {"Qualifier": "$LATEST"}), (f"{arn}:$LATEST", {})):
        context = functions.invoke(spelled, {}, **qualifier).succeeded()["context"]
        assert context["invoked_function_arn"] == f"{arn}:$LATEST"
    with pytest.raises(functions.client.exceptions.InvalidParameterValueException, match="derived qualifier"):
        functions.invoke(f"{telltale}:1", {}, Qualifier="$LATEST")


# === what the function sees ===


def test_the_context_object_is_complete(functions, telltale):
    outcome = functions.invoke(telltale, {})
    context = outcome.succeeded()["context"]
    assert context["function_name"] == telltale and context["function_version"] == "$LATEST"
    assert context["memory_limit_in_mb"] == "128" and context["aws_request_id"] == outcome.request_id
    assert context["log_group_name"] == f"/aws/lambda/{telltale}"
    assert re.fullmatch(r"\d{4}/\d\d/\d\d/\[\$LATEST\][0-9a-f]{32}", context["log_stream_name"])
    assert 15_000 < context["remaining"] <= 20_000


def test_the_environment_variables_are_lambdas_and_the_functions_own(functions):
    name = functions.create(
        python(TELLTALE), MemorySize=192, Environment={"Variables": {"OWN": "väl\nue", "EMPTY": ""}})
    env = functions.invoke(name, {"env": True}).succeeded()["env"]
    expected = {
        "OWN": "väl\nue", "EMPTY": "", "AWS_LAMBDA_FUNCTION_NAME": name, "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "192", "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{name}",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand", "AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9001",
        "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1", "AWS_EXECUTION_ENV": "AWS_Lambda_python3.11",
        "_HANDLER": "lambda_function.lambda_handler", "LAMBDA_TASK_ROOT": "/var/task",
        "LAMBDA_RUNTIME_DIR": "/var/runtime", "TZ": ":UTC",
    }
    assert {key: env.get(key) for key in expected} == expected
    assert re.fullmatch(r"\d{4}/\d\d/\d\d/\[\$LATEST\][0-9a-f]{32}", env["AWS_LAMBDA_LOG_STREAM_NAME"])
    assert env["_X_AMZN_TRACE_ID"].startswith("Root=1-")
    strangers = {key for key in env if "WATERWHEEL" in key or key in ("RUST_LOG", "CARGO_HOME", "VIRTUAL_ENV")}
    assert not strangers, "nothing of the server's own environment"


def test_changed_variables_are_seen_by_the_next_invocation(functions, client):
    name = functions.create(python(TELLTALE), Environment={"Variables": {"WHICH": "1"}})
    first = functions.invoke(name, {"env": True}).succeeded()
    client.update_function_configuration(FunctionName=name, Environment={"Variables": {"WHICH": "2"}})
    functions.await_updated(name)
    second = functions.invoke(name, {"env": True}).succeeded()
    assert (first["env"]["WHICH"], second["env"]["WHICH"]) == ("1", "2")
    assert first["id"] != second["id"], "never reused across versions of the configuration"


# === errors of functions, word for word as on AWS (REC) ===


def test_an_exception_is_described_as_on_aws(functions):
    name = functions.create(python("def lambda_handler(event, context):\n    raise ValueError('no: ü')\n"))
    outcome = functions.invoke(name, {})
    assert outcome.status == 200
    assert outcome.failed() == {
        "errorMessage": "no: ü", "errorType": "ValueError", "requestId": outcome.request_id,
        "stackTrace": [
            '  File "/var/task/lambda_function.py", line 2, in lambda_handler\n    raise ValueError(\'no: ü\')\n'
        ],
    }


def test_an_error_has_the_same_headers_raw(functions, wire):
    name = functions.create(python("def lambda_handler(event, context):\n    raise ValueError\n"))
    answer = model.verify_raw("Invoke", wire.invoke(name))
    assert (answer.status, answer.headers["X-Amz-Function-Error"]) == (200, "Unhandled")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Amz-Executed-Version"] == "$LATEST"


def test_a_handler_that_is_not_there_is_described(functions):
    name = functions.create(Handler="lambda_function.nobody")
    error = functions.invoke(name, {}).failed()
    assert error["errorType"] == "Runtime.HandlerNotFound"
    assert "Handler 'nobody' missing on module 'lambda_function'" in error["errorMessage"]


def test_a_module_that_is_not_there_is_described(functions):
    error = functions.invoke(functions.create(Handler="nowhere.handler"), {}).failed()
    assert error["errorType"] == "Runtime.ImportModuleError"
    assert "Unable to import module 'nowhere': No module named 'nowhere'" in error["errorMessage"]


def test_a_timeout_is_told_in_seconds_and_the_environment_replaced(functions):
    limit = min(PATIENCE, 10)
    name = functions.create(python(TELLTALE), Timeout=limit)
    before = functions.invoke(name, {}).succeeded()["id"]
    started = time.monotonic()
    outcome = functions.invoke(name, {"sleep": 60}, LogType="Tail")
    assert 0.9 * limit <= time.monotonic() - started < 4 * limit
    assert outcome.failed() == {
        "errorType": "Sandbox.Timedout",
        "errorMessage": f"RequestId: {outcome.request_id} Error: Task timed out after {limit}.00 seconds",
    }
    assert re.search(rf"{outcome.request_id} Task timed out after {limit}\.00 seconds|Status: timeout",
                     base64.b64decode(outcome.log).decode())
    assert functions.invoke(name, {}).succeeded()["id"] != before


def exit_error(outcome, reason):
    assert outcome.failed() == {
        "errorType": "Runtime.ExitError", "errorMessage": f"RequestId: {outcome.request_id} Error: {reason}",
    }


@pytest.mark.parametrize("statement, reason", [
    ("sys.exit(0)", "Runtime exited without providing a reason"),
    ("os._exit(0)", "Runtime exited without providing a reason"),
    ("os._exit(3)", "Runtime exited with error: exit status 3"),
    ("os.kill(os.getpid(), 9)", "Runtime exited with error: signal: killed"),
    ("os.kill(os.getpid(), 15)", "Runtime exited with error: signal: terminated"),
])
def test_an_exit_is_told_with_its_status_and_the_environment_replaced(functions, statement, reason):
    source = f"import os, sys\ndef lambda_handler(event, context):\n    if event:\n        {statement}\n    return 'alive'\n"
    name = functions.create(python(source))
    assert functions.invoke(name, {}).succeeded() == "alive"
    exit_error(functions.invoke(name, {"die": 1}), reason)
    assert functions.invoke(name, {}).succeeded() == "alive"


def test_running_out_of_memory_ends_the_environment_alone(functions, echo, unharmed):
    source = "def lambda_handler(event, context):\n    return len(b'x' * (event * 2**20)) if event else 'alive'\n"
    name = functions.create(python(source), MemorySize=128)
    assert functions.invoke(name, 0).succeeded() == "alive"
    outcome = functions.invoke(name, 512)
    error = outcome.failed()
    assert error["errorType"] in ("Runtime.OutOfMemory", "Runtime.ExitError")
    assert error["errorMessage"] == f"RequestId: {outcome.request_id} Error: Runtime exited with error: signal: killed"
    assert functions.invoke(name, 0).succeeded() == "alive"


# === environments ===


def test_an_environment_is_reused_and_keeps_its_state(functions):
    name = functions.create(python(TELLTALE))
    told = [functions.invoke(name, {}).succeeded() for _ in range(5)]
    assert [t["calls"] for t in told] == [1, 2, 3, 4, 5]
    assert len({t["id"] for t in told}) == 1


def test_tmp_is_kept_between_invocations_and_private_to_the_environment(functions):
    source = ("import os\ndef lambda_handler(event, context):\n    if event: open('/tmp/kept', 'w').write(event)\n"
              "    return open('/tmp/kept').read() if os.path.exists('/tmp/kept') else None\n")
    one, two = functions.create(python(source)), functions.create(python(source))
    assert functions.invoke(one, "mine").succeeded() == "mine"
    assert functions.invoke(one, "").succeeded() == "mine"
    assert functions.invoke(two, "").succeeded() is None


def test_new_code_never_runs_in_an_old_environment(functions, client):
    name = functions.create(python("X = []\ndef lambda_handler(e, c):\n    X.append(1); return ['old', len(X)]\n"))
    assert functions.invoke(name, {}).succeeded() == ["old", 1]
    client.update_function_code(
        FunctionName=name, ZipFile=python("X = []\ndef lambda_handler(e, c):\n    X.append(1); return ['new', len(X)]\n"))
    functions.await_updated(name)
    assert functions.invoke(name, {}).succeeded() == ["new", 1]


def test_functions_of_the_same_code_share_no_environment(functions):
    names = [functions.create(python(TELLTALE)) for _ in range(3)]
    assert len({functions.invoke(name, {}).succeeded()["id"] for name in names}) == 3


def test_parallel_invocations_run_in_as_many_environments_at_once(functions):
    name, width = functions.create(python(TELLTALE)), 8
    with ThreadPoolExecutor(width) as pool:
        list(pool.map(lambda _: functions.invoke(name, {"sleep": 3}).succeeded(), range(width)))  # warms them
        started = time.monotonic()
        told = list(pool.map(lambda _: functions.invoke(name, {"sleep": 2}).succeeded(), range(width)))
        took = time.monotonic() - started
    assert len({t["id"] for t in told}) == width, "one invocation at a time per environment"
    assert took < 2 * 2, f"{width} sleeps of 2 s took {took:.1f} s"


def test_a_request_that_waits_for_a_cold_start_holds_up_no_warm_one(functions):
    name = functions.create(python("import time\ntime.sleep(5)\n" + TELLTALE))
    warm = functions.invoke(name, {}).succeeded()["id"]
    with ThreadPoolExecutor(2) as pool:
        # One of the two gets the warm environment, the other has to wait: for a start of 5 s, or for the first.
        both = [pool.submit(functions.invoke, name, {"sleep": 1}) for _ in range(2)]
        first = next(as_completed(both)).result().succeeded()
        assert first["id"] == warm
        started = time.monotonic()
        assert functions.invoke(name, {}).succeeded()["id"] == warm
        assert time.monotonic() - started < 2.5, "at most behind the other sleep of 1 s, never behind the start"


def test_invocations_of_other_functions_go_on_while_one_starts(functions, echo):
    name = functions.create(python("import time\ntime.sleep(3)\n" + TELLTALE))
    with ThreadPoolExecutor(1) as pool:
        cold = pool.submit(functions.invoke, name, {})
        for n in range(10):
            assert functions.invoke(echo, n).succeeded() == n
        assert not cold.done(), "ten warm invocations take less than a start of 3 s"
        cold.result().succeeded()


def test_invoking_while_pending_either_waits_or_says_so(functions, client):
    """(REC) AWS refuses with 409 while Pending; a server that is quicker than its caller may have become Active."""
    name = functions.create(wait=False)
    try:
        assert functions.invoke(name, 1).succeeded() == 1
    except client.exceptions.ResourceConflictException as error:
        assert re.search("function is currently in the following state: Pending", str(error))


def test_idle_environments_make_room_for_functions_that_are_called(new_server):
    functions = Functions(new_server(config={"environments": {"max_memory_mb": 384}}).start().client())
    names = [functions.create(python(TELLTALE)) for _ in range(5)]  # 128 MB each: three fit
    for _ in range(2):
        for name in names:
            functions.invoke(name, {}).succeeded()


def test_a_newcomer_gets_memory_from_a_function_whose_environments_are_never_idle(new_server):
    functions = Functions(new_server(config={"environments": {"max_memory_mb": 384}}).start().client())
    crowded, newcomer = (functions.create(python(TELLTALE)) for _ in range(2))
    done = threading.Event()

    def call():
        while not done.is_set():
            functions.invoke(crowded, {"sleep": 0.3}).succeeded()
            ran.release()

    ran = threading.Semaphore(0)
    with ThreadPoolExecutor(12) as pool:
        callers = [pool.submit(call) for _ in range(12)]
        try:
            for _ in range(24):
                assert ran.acquire(timeout=PATIENCE * 10)
            assert functions.invoke(newcomer, {}).succeeded()["calls"] == 1
        finally:
            done.set()
    for caller in callers:
        caller.result()


def test_a_connection_is_kept_and_serves_many_invocations(wire, echo):
    connection = wire.connect()
    for n in range(20):
        payload = json.dumps(n).encode()
        answer = wire.send(wire.sign("POST", f"/2015-03-31/functions/{echo}/invocations", payload), connection)
        assert (answer.status, answer.json()) == (200, n)
    connection.close()


def test_a_caller_that_goes_away_costs_nobody_else_anything(wire, functions, unharmed):
    name = functions.create(python(TELLTALE))
    path, payload = f"/2015-03-31/functions/{name}/invocations", b'{"sleep": 1}'
    signed = wire.sign("POST", path, payload)
    connection = wire.connect()
    connection.request("POST", path, payload, {**signed.headers})
    connection.close()
    assert uuid.UUID(functions.invoke(name, {}).succeeded()["id"])
