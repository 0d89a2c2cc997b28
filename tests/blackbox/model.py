"""Checks every answer against the service model of botocore 1.44.5, so that drift is a failing test.

    boto3 client ── before-parse event ──┐
                                         ├──► Checker.problems(operation, status, headers, body) ──► Drift
    raw answer of harness.wire ──────────┘

A good answer has the status of the model, `x-amzn-RequestId`, and a body whose every member exists in the output
shape with the right type, in the enumeration, pattern and range the model gives. An error names one of the
operation's error shapes (or an error every AWS API has) in `x-amzn-ErrorType`, has that shape's status and members.

What is stricter or looser than the model is written down in the tables below, each line with its source.
"""

import functools
import json
import re
import uuid
import warnings

import botocore
import botocore.loaders
from botocore.model import ServiceModel

assert botocore.__version__ == "1.44.5", f"the model is that of botocore 1.44.5, not {botocore.__version__}"

# Statuses AWS answers beside the one in the model: Invoke of type Event and DryRun (model, StatusCode's text);
# DeleteFunction (recorded on AWS; the model's 200 stands for the smallest of the range its output member reports).
STATUSES = {"Invoke": {200, 202, 204}, "DeleteFunction": {204}}

# Errors no operation lists because every operation has them: name → status. The first group is in the developer
# guide's common errors or seen in front of every service; the last two are Waterwheel's own.
COMMON_ERRORS = {
    "AccessDeniedException": 403,
    "ExpiredTokenException": 403,
    "IncompleteSignatureException": 403,
    "InvalidSignatureException": 403,
    "MissingAuthenticationTokenException": 403,
    "RequestEntityTooLargeException": 413,
    "SerializationException": 400,
    "ServiceUnavailableException": 503,
    "UnknownOperationException": 404,
    "UnrecognizedClientException": 403,
    "ValidationException": 400,
    "NotImplementedException": 501,
}

# Errors of the model that operations answer without listing them: they come before an operation is known to be meant.
UNLISTED_ERRORS = {
    "InvalidRequestContentException", "RequestTooLargeException", "ServiceException", "TooManyRequestsException",
}

# Values AWS answers although the model does not list them: member → values. (Recorded on AWS: every update in progress.)
VALUES = {"LastUpdateStatusReasonCode": {"Creating"}}

# Answers to these must say when to ask again.
RETRY_AFTER = {"TooManyRequestsException", "ServiceUnavailableException"}


class Drift(AssertionError):
    """An answer that the service model does not allow."""


@functools.cache
def service_model():
    raw = botocore.loaders.create_loader().load_service_model("lambda", "service-2")
    return ServiceModel(raw, "lambda")


def watch(client):
    """Checks every answer this client gets from now on."""

    def check(operation_model, response_dict, **_):
        body = response_dict["body"]
        # A streamed payload belongs to the caller and has no shape of its own.
        body = body if isinstance(body, bytes) else None
        verify(operation_model.name, response_dict["status_code"], response_dict["headers"], body)

    client.meta.events.register("before-parse.lambda", check)
    return client


def verify_raw(operation, answer):
    """The same for an answer of `harness.wire`; returns it."""
    verify(operation, answer.status, answer.headers, answer.body)
    return answer


def verify(operation, status, headers, body):
    """Raises `Drift` naming everything that is wrong. `body` is `None` where it is still a stream."""
    problems = Checker(operation).problems(status, {k.lower(): v for k, v in headers.items()}, body)
    if problems:
        shown = "" if body is None else f"\n  body: {body[:600]!r}"
        raise Drift(f"{operation} answered {status}:" + "".join(f"\n  - {p}" for p in problems) + shown)


class Checker:
    def __init__(self, operation):
        self.operation = service_model().operation_model(operation)

    def problems(self, status, headers, body):
        found = list(self._request_id(headers))
        found += self._success(status, headers, body) if status < 300 else self._error(status, headers, body)
        return found

    def _request_id(self, headers):
        value = headers.get("x-amzn-requestid")
        if value is None:
            yield "no x-amzn-RequestId"
            return
        try:
            uuid.UUID(value)
        except ValueError:
            yield f"x-amzn-RequestId {value!r} is not a UUID"

    # === answers that went well ===

    def _success(self, status, headers, body):
        allowed = STATUSES.get(self.operation.name, {self.operation.http.get("responseCode", 200)})
        if status not in allowed:
            yield f"status {status} is not in {sorted(allowed)}"
        if "x-amzn-errortype" in headers:
            yield "x-amzn-ErrorType on an answer that is no error"
        shape = self.operation.output_shape
        if shape is None:
            yield from self._empty(body)
            return
        yield from self._headers(shape, headers)
        if "payload" in shape.serialization:
            return
        members = {name: m for name, m in shape.members.items() if "location" not in m.serialization}
        if not members:
            yield from self._empty(body)
            return
        document, problem = parse_object(headers, body)
        if problem:
            yield problem
            return
        yield from structure(members, document, "body")
        yield from (f"body.{name} is required" for name in shape.required_members if name not in document)

    @staticmethod
    def _empty(body):
        if body not in (b"", None, b"{}"):
            yield f"the model has no body here, but {len(body)} bytes came"

    @staticmethod
    def _headers(shape, headers):
        for member in shape.members.values():
            if member.serialization.get("location") != "header":
                continue
            text = headers.get(member.serialization["name"].lower())
            if text is not None and member.type_name == "string":
                yield from string(member, text, f"header {member.serialization['name']}")

    # === errors ===

    def _error(self, status, headers, body):
        name = headers.get("x-amzn-errortype", "").split(":")[0]
        if not name:
            yield "an error without x-amzn-ErrorType"
            return
        shapes = {shape.name: shape for shape in service_model().error_shapes}
        listed = {shape.name for shape in self.operation.error_shapes} | UNLISTED_ERRORS
        document, problem = parse_object(headers, body)
        if problem:
            yield problem
            return
        if name in listed and name in shapes:
            yield from self._modelled(shapes[name], status, headers, document)
        elif name in COMMON_ERRORS:
            yield from self._common(name, status, document)
        else:
            yield f"{self.operation.name} has no error {name}"
        if name in RETRY_AFTER and not headers.get("retry-after", "").isdigit():
            yield f"{name} must carry Retry-After in whole seconds, not {headers.get('retry-after')!r}"

    @staticmethod
    def _modelled(shape, status, headers, document):
        expected = shape.metadata["error"]["httpStatusCode"]
        if status != expected:
            yield f"{shape.name} has status {expected}, not {status}"
        members = {name: m for name, m in shape.members.items() if "location" not in m.serialization}
        yield from structure(members, document, shape.name)
        message = "Message" if "Message" in members else "message"
        if not isinstance(document.get(message), str) or not document[message]:
            yield f"{shape.name} must have a text in `{message}`"
        side = "User" if expected < 500 else "Service"
        if document.get("Type", side) not in (side, None):
            yield f"Type of {shape.name} is {side}, not {document['Type']!r}"

    @staticmethod
    def _common(name, status, document):
        if status != COMMON_ERRORS[name]:
            yield f"{name} has status {COMMON_ERRORS[name]}, not {status}"
        text = document.get("message", document.get("Message"))
        if not isinstance(text, str) or not text:
            yield f"{name} must have a message"
        if name == "ValidationException" and "Type" in document:
            yield "a ValidationException has no Type (recorded on AWS)"
        unknown = set(document) - {"message", "Message", "Type"}
        if unknown:
            yield f"{name} has unknown members {sorted(unknown)}"


# === values ===


def parse_object(headers, body):
    """(the JSON object, None) or (None, what is wrong)."""
    content_type = headers.get("content-type", "")
    if content_type.split(";")[0] != "application/json":
        return None, f"content type is {content_type!r}, not application/json"
    try:
        document = json.loads(body)
    except ValueError as error:
        return None, f"body is not JSON: {error}"
    return (document, None) if isinstance(document, dict) else (None, "body is not a JSON object")


def value(shape, found, path):
    """Yields what is wrong with one value."""
    checks = {
        "structure": lambda: structure(shape.members, found, path),
        "list": lambda: listing(shape, found, path),
        "map": lambda: mapping(shape, found, path),
        "string": lambda: string(shape, found, path),
        "blob": lambda: string(shape, found, path),
        "boolean": lambda: plain(bool, found, path),
        "integer": lambda: number(shape, int, found, path),
        "long": lambda: number(shape, int, found, path),
        "double": lambda: number(shape, (int, float), found, path),
        "float": lambda: number(shape, (int, float), found, path),
        "timestamp": lambda: plain((int, float, str), found, path),
    }
    yield from checks[shape.type_name]()


def structure(members, found, path):
    if not isinstance(found, dict):
        yield f"{path} is {type(found).__name__}, not an object"
        return
    wire = {member.serialization.get("name", name): member for name, member in members.items()}
    for name, item in found.items():
        if name not in wire:
            yield f"{path}.{name} is not in the model"
        elif item is not None:  # AWS writes null for what is unset
            yield from value(wire[name], item, f"{path}.{name}")


def listing(shape, found, path):
    if not isinstance(found, list):
        yield f"{path} is {type(found).__name__}, not a list"
        return
    yield from limits(shape, len(found), path, "items")
    for index, item in enumerate(found):
        yield from value(shape.member, item, f"{path}[{index}]")


def mapping(shape, found, path):
    if not isinstance(found, dict):
        yield f"{path} is {type(found).__name__}, not a map"
        return
    for key, item in found.items():
        yield from string(shape.key, key, f"key of {path}")
        yield from value(shape.value, item, f"{path}.{key}")


def string(shape, found, path):
    if not isinstance(found, str):
        yield f"{path} is {type(found).__name__}, not a string"
        return
    yield from limits(shape, len(found), path, "characters")
    enum = getattr(shape, "enum", [])
    if enum and found not in enum and found not in VALUES.get(shape.name, ()):
        yield f"{path} is {found!r}, not one of {enum}"
    expression = pattern(shape.metadata.get("pattern"))
    if expression and not expression.fullmatch(found):
        yield f"{path} is {found!r}, which does not match {expression.pattern}"


def number(shape, kind, found, path):
    if isinstance(found, bool) or not isinstance(found, kind):
        yield f"{path} is {type(found).__name__}, not a number"
        return
    yield from limits(shape, found, path, "")


def plain(kind, found, path):
    if not isinstance(found, kind):
        yield f"{path} is {type(found).__name__}"


def limits(shape, measured, path, unit):
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if low is not None and measured < low:
        yield f"{path} has {measured} {unit}, below the model's {low}"
    if high is not None and measured > high:
        yield f"{path} has {measured} {unit}, above the model's {high}"


@functools.cache
def pattern(text):
    """Compiled, or `None` where Python cannot read the model's (Java) expression."""
    if text is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # `[` inside a class is literal in both
        try:
            return re.compile(text)
        except re.error:
            return None
