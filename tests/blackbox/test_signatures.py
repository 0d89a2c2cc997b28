"""Who may call: SigV4 as headers and as a presigned URL, and everything that is not quite it."""

import datetime
import http.client
import re
import stat

import botocore.exceptions
import pytest

import model

LIST = "/2015-03-31/functions"
NO_MATCH = ("The request signature we calculated does not match the signature you provided. Check your AWS Secret Access "
            "Key and signing method. Consult the service documentation for details.")


def now(**shift):
    return datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(**shift)


def refused(answer, error, message=None, operation="ListFunctions"):
    model.verify_raw(operation, answer)
    assert (answer.status, answer.error) == (403, error), (answer.status, answer.error, answer.body)
    if message:
        assert re.search(message, answer.message), answer.message


def mismatch(answer, operation="ListFunctions"):
    refused(answer, "InvalidSignatureException", operation=operation)
    assert answer.message.startswith(NO_MATCH), answer.message


def test_a_signed_request_is_let_in(wire):
    answer = model.verify_raw("ListFunctions", wire.call("GET", LIST))
    assert answer.status == 200 and "Functions" in answer.json()


def test_an_unsigned_request_is_refused(wire):
    refused(wire.send_plain("GET", LIST), "MissingAuthenticationTokenException", "Missing Authentication Token")


@pytest.mark.parametrize("header", [
    "AWS4-HMAC-SHA256", "AWS4-HMAC-SHA256 Credential=x", "AWS4-HMAC-SHA256 Credential=a/b/c, SignedHeaders=, Signature=",
    "Basic dXNlcjpwYXNz", "Bearer abc", "AWS AKIA:sig", "AWS4-HMAC-SHA256 Credential=,Credential=,SignedHeaders=host",
    "AWS4-HMAC-SHA256 " + "x" * 5000,
])
def test_an_authorization_that_cannot_be_read_is_refused(wire, header):
    answer = wire.send(wire.sign("GET", LIST).with_headers(authorization=header))
    model.verify_raw("ListFunctions", answer)
    assert answer.status == 403, answer.body
    assert answer.error in ("IncompleteSignatureException", "MissingAuthenticationTokenException"), answer.error


def test_an_unknown_key_is_refused(server):
    answer = server.wire(key="AKIAIOSFODNN7EXAMPLE").call("GET", LIST)
    refused(answer, "UnrecognizedClientException", "^The security token included in the request is invalid")


def test_a_wrong_secret_is_refused_by_boto3_and_raw(server):
    mismatch(server.wire(secret="x" * 40).call("GET", LIST))
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        server.client(secret="x" * 40).list_functions()
    assert caught.value.response["Error"]["Code"] == "InvalidSignatureException"


@pytest.mark.parametrize("change", [
    lambda request: request.with_target(LIST + "?MaxItems=1"),
    lambda request: request.with_target("/2016-08-19/account-settings"),
    lambda request: request.with_headers(host="example.test"),
    lambda request: request.with_headers(x_amz_date=now(seconds=1).strftime("%Y%m%dT%H%M%SZ")),
    lambda request: request.with_headers(
        authorization=re.sub(r"Signature=(\w)", lambda m: f"Signature={'0' if m[1] != '0' else '1'}",
                             request.headers["Authorization"])),
    lambda request: request.with_headers(authorization=request.headers["Authorization"][:-1]),
    lambda request: request.with_headers(authorization=request.headers["Authorization"].upper()),
], ids=["query", "path", "host", "date", "signature", "short signature", "upper case"])
def test_a_request_changed_after_signing_is_refused(wire, change):
    answer = wire.send(change(wire.sign("GET", LIST)))
    assert answer.status == 403, answer.body
    assert answer.error in ("InvalidSignatureException", "IncompleteSignatureException")


def test_a_changed_method_is_refused(wire, echo):
    signed = wire.sign("GET", f"{LIST}/{echo}")
    answer = wire.send(type(signed)("DELETE", signed.target, signed.headers))
    mismatch(answer, "DeleteFunction")


@pytest.mark.parametrize("declared", [False, True])
def test_a_changed_body_is_refused_and_nothing_runs(wire, functions, declared):
    from harness.functions import python

    name = functions.create(python("N = []\ndef lambda_handler(e, c):\n    N.append(e)\n    return N\n"))
    path, headers = f"{LIST}/{name}/invocations", {}
    if declared:
        import hashlib

        headers["X-Amz-Content-SHA256"] = hashlib.sha256(b'{"a":1}').hexdigest()
    signed = wire.sign("POST", path, b'{"a":1}', headers)
    mismatch(wire.send(signed.with_body(b'{"a":2}')), "Invoke")
    mismatch(wire.send(signed.with_body(b"")), "Invoke")
    assert wire.send(signed).json() == [{"a": 1}], "the request itself is good, and is the first that ran"


def test_a_changed_signed_header_is_refused_and_an_unsigned_amz_header_too(wire, echo):
    path = f"{LIST}/{echo}/invocations"
    signed = wire.sign("POST", path, b"1", {"X-Amz-Log-Type": "None"})
    mismatch(wire.send(signed.with_headers(x_amz_log_type="Tail")), "Invoke")
    answer = wire.send(wire.sign("POST", path, b"1").with_headers(x_amz_log_type="Tail"))
    assert answer.status == 403, "every x-amz header must be signed"


def test_unsigned_payload_is_refused_in_the_header_form(wire, echo):
    signed = wire.sign("POST", f"{LIST}/{echo}/invocations", b"1", {"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"})
    assert wire.send(signed).status == 403


@pytest.mark.parametrize("change", [
    {"service": "s3"}, {"region": "eu-west-1"},
])
def test_a_scope_of_another_service_or_region_is_refused(wire, change):
    other = wire.__class__(f"http://{wire.parts.netloc}", wire.credentials.access_key, wire.credentials.secret_key,
                           change.get("region", wire.region), service=change.get("service", wire.service))
    refused(other.call("GET", LIST), "InvalidSignatureException", "Credential should be scoped|scope")


# === time ===


@pytest.mark.parametrize("minutes", [-4.8, -1, 1, 4.8])
def test_a_clock_off_by_less_than_five_minutes_is_let_in(wire, minutes):
    assert wire.send(wire.sign("GET", LIST, at=now(minutes=minutes))).status == 200


@pytest.mark.parametrize("shift, message", [
    ({"minutes": -5.2}, "Signature expired"), ({"days": -1}, "Signature expired"), ({"days": -4000}, "Signature expired"),
    ({"minutes": 5.2}, "Signature not yet current"), ({"days": 400}, "Signature not yet current"),
])
def test_a_clock_off_by_more_is_refused_with_the_reason(wire, shift, message):
    refused(wire.send(wire.sign("GET", LIST, at=now(**shift))), "InvalidSignatureException", message)


# === presigned ===


def test_a_presigned_url_is_let_in_until_it_expires(wire):
    assert wire.send(wire.presign("GET", LIST)).status == 200
    assert wire.send(wire.presign("GET", LIST, expires=3600, at=now(minutes=-30))).status == 200
    answer = wire.send(wire.presign("GET", LIST, expires=60, at=now(seconds=-61)))
    refused(answer, "InvalidSignatureException", "[Ss]ignature expired")


@pytest.mark.parametrize("change", [
    lambda target: target.replace("X-Amz-Expires=60", "X-Amz-Expires=61"),
    lambda target: re.sub(r"X-Amz-Signature=\w{4}", "X-Amz-Signature=0000", target),
    lambda target: target + "&MaxItems=1",
    lambda target: target.replace(LIST, LIST + "/x"),
], ids=["expiry", "signature", "query", "path"])
def test_a_presigned_url_that_was_changed_is_refused(wire, change):
    signed = wire.presign("GET", LIST)
    changed = change(signed.target)
    assert changed != signed.target
    answer = wire.send(signed.with_target(changed))
    assert (answer.status, answer.error) == (403, "InvalidSignatureException"), answer.body


@pytest.mark.parametrize("expires", [604_801, 0, -5])
def test_a_presigned_url_may_live_a_week_at_most(wire, expires):
    answer = wire.send(wire.presign("GET", LIST, expires=expires))
    assert answer.status in (400, 403), answer.body


def test_a_presigned_url_for_another_method_is_refused(wire, echo):
    signed = wire.presign("GET", f"{LIST}/{echo}")
    answer = wire.send(type(signed)("DELETE", signed.target, signed.headers))
    assert answer.status == 403
    assert wire.call("GET", f"{LIST}/{echo}").status == 200


# === credentials ===


def test_the_credentials_are_made_once_and_are_nobody_elses_to_read(server):
    file = server.data / "credentials"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(server.data.stat().st_mode) == 0o700
    key, secret = server.credentials()
    assert re.fullmatch(r"[A-Z0-9]{20}", key) and len(secret) == 40


def test_neither_secret_nor_signature_is_logged(server, wire):
    signed = wire.sign("GET", LIST)
    wire.send(signed)
    wire.send(signed.with_headers(host="example.test"))
    logged = server.logged()
    assert server.credentials()[1].encode() not in logged
    assert signed.headers["Authorization"].split("Signature=")[1].encode() not in logged


def test_health_needs_no_signature_and_tells_nothing(server):
    for path in ("/healthz", "/readyz"):
        status, body = server.get(path)
        assert status == 200 and len(body) < 200


def test_authentication_can_only_be_turned_off_on_loopback(new_server):
    open_to_all = new_server(config={"server": {"auth": "disabled"}}, listen="0.0.0.0:0")
    with pytest.raises(AssertionError, match="exited with [1-9]"):
        open_to_all.start()
    assert "loopback" in open_to_all.stderr()


def test_without_authentication_on_loopback_anyone_is_let_in(new_server):
    server = new_server(config={"server": {"auth": "disabled"}}).start()
    connection = http.client.HTTPConnection(*server.listen.split(":"))
    connection.request("GET", LIST)
    assert connection.getresponse().status == 200
    connection.close()
