"""Metrics that count what happened, traces that hold together, and no customer's byte in any of them."""

import re
import secrets
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness import scan
from harness.functions import Functions, python
from harness.otlp import Receiver

SAMPLE = re.compile(r'^(\w+)(?:\{(.*)\})? (\S+)$')
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

TRACER = """
import os, time
def lambda_handler(event, context):
    if event.get('fail'): raise ValueError
    time.sleep(event.get('sleep', 0))
    return os.environ['_X_AMZN_TRACE_ID']
"""


class Metrics:
    """What /metrics says now."""

    def __init__(self, server):
        status, body = server.get("/metrics")
        assert status == 200
        self.text = body.decode()
        matches = (SAMPLE.match(line) for line in self.text.splitlines() if line and line[0] != "#")
        self.samples = [(m[1], dict(LABEL.findall(m[2] or "")), float(m[3])) for m in matches if m]

    @classmethod
    def settled(cls, server, settled, seconds=5):
        """A caller has its answer a moment before the server has counted it: waits for that, not for the right count."""
        deadline = time.monotonic() + seconds
        while not settled(metrics := cls(server)) and time.monotonic() < deadline:
            time.sleep(0.02)
        return metrics

    def sum(self, metric, function=None, **labels):
        """Over all samples of a metric that have these labels; `function` is a plain name."""
        return sum(
            value for name, have, value in self.samples
            if name == metric and labels.items() <= have.items()
            and (function is None or re.search(rf"(^|:){function}$", have.get("function", "")))
        )


@pytest.fixture(scope="module")
def receiver():
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def server(receiver, new_server):
    config = {"telemetry": {"otlp_endpoint": receiver.endpoint}, "environments": {"concurrency_limit": 4},
              "async": {"test_speed_up": 60}}
    return new_server(config=config).start()


@pytest.fixture
def tracer(functions):
    return functions.create(python(TRACER))


# === metrics ===


def test_invocations_errors_and_durations_are_counted_per_function(server, functions, tracer):
    for _ in range(3):
        functions.invoke(tracer, {"sleep": 0.1}).succeeded()
    for _ in range(2):
        functions.invoke(tracer, {"fail": True}).failed()
    metrics = Metrics.settled(server, lambda m: m.sum("waterwheel_duration_seconds_count", tracer) >= 5
                              and m.sum("waterwheel_concurrent_executions") == 0)
    assert metrics.sum("waterwheel_invocations_total", tracer) == 5
    assert metrics.sum("waterwheel_errors_total", tracer) == 2
    assert metrics.sum("waterwheel_throttles_total", tracer) == 0
    assert metrics.sum("waterwheel_duration_seconds_count", tracer) == 5
    assert 0.3 <= metrics.sum("waterwheel_duration_seconds_sum", tracer) < 5
    assert metrics.sum("waterwheel_init_duration_seconds_count", tracer) == 1
    assert 0.01 < metrics.sum("waterwheel_init_duration_seconds_sum", tracer) < 10
    assert metrics.sum("waterwheel_concurrent_executions") == 0


def test_cold_starts_are_counted_by_cause(server, functions, tracer):
    functions.invoke(tracer, {})
    first = Metrics(server)
    assert first.sum("waterwheel_cold_starts_total", tracer) == 1
    functions.invoke(tracer, {})
    assert Metrics(server).sum("waterwheel_cold_starts_total", tracer) == 1
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: functions.invoke(tracer, {"sleep": 1}), range(2)))
    causes = {labels["cause"] for name, labels, value in Metrics(server).samples
              if name == "waterwheel_cold_starts_total" and value and labels["function"].endswith(tracer)}
    assert Metrics(server).sum("waterwheel_cold_starts_total", tracer) == 2
    assert len(causes) == 2, "the first of all, and one because the other was busy"


def test_one_caller_at_a_time_needs_one_environment(server, functions):
    """A caller may have its answer, and call again, before its environment asks for the next event."""
    names = [functions.create(python("def lambda_handler(e, c):\n    if e: raise ValueError\n")) for _ in range(8)]
    for name in names:
        for n in range(10):
            functions.invoke(name, n % 2)
    metrics = Metrics(server)
    assert {name: metrics.sum("waterwheel_cold_starts_total", name) for name in names} == dict.fromkeys(names, 1)


def test_throttles_are_refused_as_on_aws_and_counted(server, functions, tracer):
    functions.invoke(tracer, {})

    def call(_):
        try:
            return functions.invoke(tracer, {"sleep": 2}).error
        except functions.client.exceptions.TooManyRequestsException as error:
            assert error.response["Reason"] == "ConcurrentInvocationLimitExceeded"
            assert error.response["Error"]["Message"] == "Rate Exceeded."
            return "throttled"

    with ThreadPoolExecutor(7) as pool:
        ended = list(pool.map(call, range(7)))
    assert (ended.count(None), ended.count("throttled")) == (4, 3), "the limit here is 4"
    metrics = Metrics.settled(server, lambda m: m.sum("waterwheel_invocations_total", tracer) >= 5)
    assert metrics.sum("waterwheel_throttles_total", tracer) == 3
    assert metrics.sum("waterwheel_invocations_total", tracer) == 5, "a throttle is no invocation"
    assert functions.invoke(tracer, {}).error is None


# A runtime that takes a while between its answer and its next question.
TARDY = """
import time
from awslambdaric.lambda_runtime_client import LambdaRuntimeClient
ask = LambdaRuntimeClient.wait_next_invocation
def ask_late(self):
    time.sleep(0.01)
    return ask(self)
LambdaRuntimeClient.wait_next_invocation = ask_late
def lambda_handler(event, context):
    return event
"""


def test_a_caller_with_its_answer_is_not_throttled_for_the_call_before(new_server):
    server = new_server(config={"environments": {"concurrency_limit": 1}}).start()
    functions = Functions(server.client())
    name = functions.create(python(TARDY))
    assert [functions.invoke(name, n).succeeded() for n in range(20)] == list(range(20))
    assert Metrics(server).sum("waterwheel_throttles_total") == 0


def test_requests_are_counted_by_operation_and_status(server, client, wire):
    def counted(**labels):
        return Metrics(server).sum("waterwheel_api_requests_total", **labels)

    before = counted(operation="ListFunctions", status="200"), counted(operation="GetFunction", status="404")
    client.list_functions()
    wire.call("GET", "/2015-03-31/functions/nobody")
    Metrics.settled(server, lambda _: counted(operation="GetFunction", status="404") > before[1])
    assert counted(operation="ListFunctions", status="200") == before[0] + 1
    assert counted(operation="GetFunction", status="404") == before[1] + 1


def test_every_metric_says_what_it_is(server, functions, tracer):
    functions.invoke(tracer, {})
    metrics = Metrics(server)
    ours = {re.sub(r"_(bucket|sum|count)$", "", name) for name, _, _ in metrics.samples if name.startswith("waterwheel_")}
    assert len(ours) >= 8
    assert {name for name in ours if not re.search(rf"^# HELP {name} \S", metrics.text, re.MULTILINE)} == set()
    assert {name for name in ours if not re.search(rf"^# TYPE {name} ", metrics.text, re.MULTILINE)} == set()


def test_metrics_can_have_a_listener_of_their_own(new_server):
    server = new_server(config={"server": {"metrics_listen": "127.0.0.1:0"}}).start()
    assert server.get("/metrics")[0] in (403, 404), "then the API's listener does not serve them"


# === trace ids ===


def root_of(trace_id):
    """The X-Ray root of a W3C trace id."""
    return f"1-{trace_id[:8]}-{trace_id[8:]}"


def test_an_xray_header_reaches_the_function_and_comes_back(wire, tracer):
    root = root_of(f"{int(time.time()):08x}{secrets.token_hex(12)}")
    header = f"Root={root};Parent={secrets.token_hex(8)};Sampled=1"
    answer = wire.invoke(tracer, headers={"X-Amzn-Trace-Id": header})
    assert f"Root={root}" in answer.json() and "Sampled=1" in answer.json()
    assert f"root={root}".lower() in answer.headers["X-Amzn-Trace-Id"].lower()


def test_a_w3c_header_reaches_the_function_as_the_same_trace(wire, tracer):
    trace = secrets.token_hex(16)
    answer = wire.invoke(tracer, headers={"traceparent": f"00-{trace}-{secrets.token_hex(8)}-01"})
    assert f"Root={root_of(trace)}" in answer.json()


@pytest.mark.parametrize("header", [
    {"traceparent": "nonsense"}, {"traceparent": f"00-{'0' * 32}-{'0' * 16}-01"}, {"X-Amzn-Trace-Id": "Root=what;;;="},
    {"X-Amzn-Trace-Id": "x" * 4000},
])
def test_a_trace_header_that_cannot_be_read_is_replaced(wire, tracer, header):
    answer = wire.invoke(tracer, headers=header)
    assert answer.status == 200
    assert re.match(r"Root=1-[0-9a-f]{8}-[0-9a-f]{24}(;|$)", answer.json()), answer.json()


def test_every_invocation_without_a_header_is_a_trace_of_its_own(functions, tracer):
    roots = {functions.invoke(tracer, {}).succeeded().split(";")[0] for _ in range(4)}
    assert len(roots) == 4


# === exported traces ===


def test_one_trace_holds_edge_invoker_and_environment_together(wire, tracer, receiver):
    trace, parent = secrets.token_hex(16), secrets.token_hex(8)
    assert wire.invoke(tracer, headers={"traceparent": f"00-{trace}-{parent}-01"}).status == 200

    def mine(spans):
        return [span for span in spans if span.trace_id == trace]

    def names(spans):
        return {span.name for span in mine(spans)}

    spans = mine(receiver.await_spans(lambda spans: {"invoke", "environment"} <= {n.lower() for n in names(spans)}
                                      and len(mine(spans)) >= 3))
    assert len(spans) >= 3, f"edge, invoker and environment; came: {names(spans)}"
    known = {span.span_id for span in spans}
    roots = [span for span in spans if span.parent_id not in known]
    assert [span.parent_id for span in roots] == [parent], "one span is the caller's child, all others hang below it"
    environment = next(span for span in spans if span.name.lower() == "environment")
    depth, at = 0, environment
    by_id = {span.span_id: span for span in spans}
    while at.parent_id in by_id:
        at, depth = by_id[at.parent_id], depth + 1
    assert at == roots[0] and depth >= 2, "environment below invoker below edge"


def test_one_trace_leads_from_the_call_through_the_queue_to_every_attempt(functions, wire, receiver):
    name = functions.create(python("def lambda_handler(e, c): raise ValueError\n"))
    functions.client.put_function_event_invoke_config(FunctionName=name, MaximumRetryAttempts=1)
    trace, parent = secrets.token_hex(16), secrets.token_hex(8)
    headers = {"traceparent": f"00-{trace}-{parent}-01", "x-amz-invocation-type": "Event"}
    assert wire.invoke(name, headers=headers).status == 202

    def named(spans, wanted):
        return [span for span in spans if span.trace_id == trace and span.name == wanted]

    spans = receiver.await_spans(lambda spans: len(named(spans, "attempt")) == 2 and len(named(spans, "environment")) == 2)
    [request] = named(spans, "request")
    assert request.parent_id == parent
    attempts = {span.span_id for span in named(spans, "attempt")}
    assert len(attempts) == 2 and {span.parent_id for span in named(spans, "attempt")} == {request.span_id}
    invokes = {span.span_id for span in named(spans, "invoke")}
    assert {span.parent_id for span in named(spans, "invoke")} == attempts
    assert {span.parent_id for span in named(spans, "environment")} == invokes


def test_depth_and_age_of_what_is_queued_are_told_per_function(server, functions):
    name = functions.create(python("def lambda_handler(e, c): raise ValueError\n"))
    functions.client.put_function_event_invoke_config(FunctionName=name, MaximumRetryAttempts=0)
    functions.client.invoke(FunctionName=name, InvocationType="Event", Payload=b"{}")
    labels = {"function": name, "kind": "dead_letters"}
    settled = Metrics.settled(server, lambda metrics: (
        metrics.sum("waterwheel_async_function_depth", **labels) == 1
        and metrics.sum("waterwheel_async_function_oldest_age_seconds", **labels) >= 5), seconds=30)
    assert settled.sum("waterwheel_async_function_depth", **labels) == 1
    assert settled.sum("waterwheel_async_function_oldest_age_seconds", **labels) >= 5
    purged = server.command("dead-letters", "purge", "--function", name, "--yes")
    assert purged.returncode == 0, purged.stderr
    settled = Metrics.settled(server, lambda metrics: metrics.sum("waterwheel_async_function_depth", **labels) == 0, seconds=30)
    assert settled.sum("waterwheel_async_function_oldest_age_seconds", **labels) == 0


def test_no_canary_is_in_metrics_traces_or_the_servers_own_log(server, functions, receiver, wire):
    places = ("payload", "print", "variable", "code", "answer", "error", "context", "broken")
    canaries = {place: scan.canary() for place in places}
    source = f"# {canaries['code']}\ndef lambda_handler(event, context):\n    print(event['print'])\n" \
             "    if 'error' in event: raise ValueError(event['error'])\n    return event['answer']\n"
    name = functions.create(python(source), Environment={"Variables": {"CANARY": canaries["variable"]}})
    event = {key: canaries[key] for key in ("payload", "print", "answer")}
    functions.invoke(name, event, LogType="Tail").succeeded()
    functions.invoke(name, event | {"error": canaries["error"]}).failed()
    wire.invoke(name, f'{{"{canaries["broken"]}'.encode())
    wire.invoke(name, headers={"X-Amz-Client-Context": canaries["context"]})

    trace = secrets.token_hex(16)  # once this one has arrived, so have those before it
    functions_trace = {"traceparent": f"00-{trace}-{secrets.token_hex(8)}-01"}
    wire.invoke(name, b'{"print": "", "answer": 1}', headers=functions_trace)
    assert any(span.trace_id == trace for span in receiver.await_spans(
        lambda spans: any(span.trace_id == trace and span.name.lower() == "environment" for span in spans)))

    haystacks = {"metrics": Metrics(server).text.encode(), "traces": b"".join(body for _, body in receiver.bodies),
                 "log": server.logged()}
    found = {(where, place) for where, hay in haystacks.items() for place, text in canaries.items()
             for spelling in scan.spellings(text) if spelling in hay}
    assert found == set()
    assert name.encode() in haystacks["metrics"], "we looked at the right metrics"


def test_an_exporter_that_cannot_be_reached_holds_nobody_up(new_server):
    server = new_server(config={"telemetry": {"otlp_endpoint": "http://127.0.0.1:9"}}).start()
    functions = Functions(server.client())
    name = functions.create()
    started = time.monotonic()
    for n in range(30):
        assert functions.invoke(name, n).succeeded() == n
    assert time.monotonic() - started < 10
    started = time.monotonic()
    server.stop()
    assert time.monotonic() - started < 15
