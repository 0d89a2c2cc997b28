"""HTTP requests as bytes on a connection, signed by botocore's own signer.

Signing and sending are two steps, so that a test can change a request after it was signed.
"""

import datetime
import http.client
import json
import ssl
from dataclasses import dataclass, field, replace
from unittest import mock
from urllib.parse import urlsplit

import botocore.auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials


@dataclass(frozen=True)
class Request:
    """`target` is path and query as they go into the request line."""

    method: str
    target: str
    headers: dict
    body: bytes = b""

    def with_headers(self, **changes):
        """Underscores stand for hyphens; `None` removes a header."""
        renamed = {name.replace("_", "-").lower(): value for name, value in changes.items()}
        headers = {name: value for name, value in self.headers.items() if name.lower() not in renamed}
        headers |= {name: value for name, value in renamed.items() if value is not None}
        return replace(self, headers=headers)

    def with_body(self, body):
        return replace(self, body=body)

    def with_target(self, target):
        return replace(self, target=target)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes
    request: Request = field(repr=False)

    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        """The error's name without what AWS puts behind a colon."""
        return (self.headers.get("x-amzn-ErrorType") or "").split(":")[0]

    @property
    def message(self):
        body = self.json()
        return body.get("message", body.get("Message"))


class Wire:
    def __init__(self, endpoint, key, secret, region, ca_file=None, timeout=60, service="lambda"):
        self.parts = urlsplit(endpoint)
        self.credentials = Credentials(key, secret)
        self.region = region
        self.service = service
        self.timeout = timeout
        self.context = ssl.create_default_context(cafile=str(ca_file)) if ca_file else None

    # === signing ===

    def sign(self, method, target, body=b"", headers=None, at=None):
        """Header form of SigV4; `at` is the moment the signer believes it is."""
        return self._signed(botocore.auth.SigV4Auth, {}, method, target, body, headers, at)

    def presign(self, method, target, headers=None, expires=60, at=None):
        """Query form of SigV4."""
        return self._signed(botocore.auth.SigV4QueryAuth, {"expires": expires}, method, target, b"", headers, at)

    def _signed(self, signer, options, method, target, body, headers, at):
        url = f"{self.parts.scheme}://{self.parts.netloc}{target}"
        request = AWSRequest(method=method, url=url, data=body, headers=headers or {})
        moment = at or datetime.datetime.now(datetime.timezone.utc)
        with mock.patch.object(botocore.auth, "get_current_datetime", lambda *_, **__: moment):
            signer(self.credentials, self.service, self.region, **options).add_auth(request)
        url = urlsplit(request.url)
        target = url.path + (f"?{url.query}" if url.query else "")
        return Request(method, target, dict(request.headers.items()), body)

    # === sending ===

    def connect(self):
        if self.parts.scheme == "https":
            return http.client.HTTPSConnection(
                self.parts.hostname, self.parts.port, timeout=self.timeout, context=self.context
            )
        return http.client.HTTPConnection(self.parts.hostname, self.parts.port, timeout=self.timeout)

    def send(self, request, connection=None):
        """Sends exactly these headers and this body, plus Host and Content-Length where the test gave none."""
        own = connection is None
        connection = connection or self.connect()
        names = {name.lower() for name in request.headers}
        try:
            connection.putrequest(request.method, request.target, skip_host=True, skip_accept_encoding=True)
            if "host" not in names:
                connection.putheader("Host", self.parts.netloc)
            for name, value in request.headers.items():
                connection.putheader(name, value)
            if "content-length" not in names and "transfer-encoding" not in names:
                if request.body or request.method in ("POST", "PUT"):
                    connection.putheader("Content-Length", str(len(request.body)))
            connection.endheaders()
            try:
                connection.send(request.body)
            except (BrokenPipeError, ConnectionResetError):
                pass  # The server may refuse a body before it has read it; its answer is what counts.
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read(), request)
        finally:
            if own:
                connection.close()

    def call(self, method, target, body=b"", headers=None):
        """Signs and sends. A `dict` body goes as JSON."""
        if isinstance(body, dict):
            body = json.dumps(body).encode()
            headers = {"content-type": "application/json", **(headers or {})}
        return self.send(self.sign(method, target, body, headers))

    def invoke(self, function, payload=b"{}", headers=None, query=""):
        return self.call("POST", f"/2015-03-31/functions/{function}/invocations{query}", payload, headers)

    def send_plain(self, method, target, body=b"", headers=None):
        """Unsigned."""
        return self.send(Request(method, target, headers or {}, body))
