"""A receiver for traces over OTLP/HTTP with protobuf bodies, as far as the tests read them.

    ExportTraceServiceRequest.resource_spans(1) → ResourceSpans.scope_spans(2) → ScopeSpans.spans(2)
    Span: trace_id(1) span_id(2) parent_span_id(4) name(5)      (opentelemetry/proto/trace/v1/trace.proto)
"""

import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Span:
    trace_id: str
    span_id: str
    parent_id: str
    name: str


class Receiver:
    """Listens on a free port of the loopback until the `with` block ends."""

    def __enter__(self):
        self.bodies = []
        self.arrived = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                length = int(self.headers["Content-Length"])
                receiver._take(self.path, self.rfile.read(length))
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def _take(self, path, body):
        with self.arrived:
            self.bodies.append((path, body))
            self.arrived.notify_all()

    def spans(self):
        return [span for path, body in self.bodies if path == "/v1/traces" for span in parse(body)]

    def await_spans(self, enough, seconds=20):
        """Waits until `enough(spans)`; returns what there is then, or at the end of the wait."""
        with self.arrived:
            self.arrived.wait_for(lambda: enough(self.spans()), timeout=seconds)
            return self.spans()


def parse(body):
    for _, resource in fields(body, 1):
        for _, scope in fields(resource, 2):
            for _, span in fields(scope, 2):
                parts = dict(fields(span))
                yield Span(
                    parts.get(1, b"").hex(), parts.get(2, b"").hex(), parts.get(4, b"").hex(),
                    parts.get(5, b"").decode(),
                )


def fields(message, wanted=None):
    """(number, bytes) of the length-delimited fields of a protobuf message; other kinds are skipped."""
    at = 0
    while at < len(message):
        key, at = varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == 2:
            length, at = varint(message, at)
            if wanted in (None, number):
                yield number, message[at:at + length]
            at += length
        elif kind == 0:
            _, at = varint(message, at)
        else:
            at += {1: 8, 5: 4}[kind]


def varint(message, at):
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
