"""HTTPS with a certificate of our own authority: TLS 1.2 and 1.3, nothing older, nothing plain."""

import http.client
import socket
import ssl

import pytest

from harness.aws_cli import AwsCli
from harness.functions import Functions


@pytest.fixture(scope="module")
def server(new_server, authority):
    ca, certificate, key = authority
    config = {"server": {"tls_cert": str(certificate), "tls_key": str(key)}}
    return new_server(config=config, ca_file=ca).start()


def test_boto3_and_the_aws_cli_speak_https(server, functions, authority):
    assert server.endpoint.startswith("https://")
    name = functions.create()
    assert functions.invoke(name, {"over": "TLS"}).succeeded() == {"over": "TLS"}
    cli = AwsCli(server)
    cli.variables["AWS_CA_BUNDLE"] = str(authority[0])
    assert [f["FunctionName"] for f in cli.run("lambda", "list-functions")["Functions"]] == [name]


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_tls_1_2_and_1_3_are_spoken(server, authority, version):
    context = ssl.create_default_context(cafile=str(authority[0]))
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    with connect(server) as plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as secure:
        assert secure.version() == version.replace("_", ".")
        assert "AES" in secure.cipher()[0] or "CHACHA20" in secure.cipher()[0]


def connect(server):
    host, port = server.listen.split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def hello(version):
    """A ClientHello that offers this version and none newer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("version, answered", [
    (ssl.TLSVersion.TLSv1, b"\x15"), (ssl.TLSVersion.TLSv1_1, b"\x15"), (ssl.TLSVersion.TLSv1_2, b"\x16"),
], ids=["1.0", "1.1", "1.2"])
def test_tls_1_1_and_older_get_an_alert(server, version, answered):
    """Record type 21 is an alert, 22 a handshake: 1.2 gets its ServerHello, which shows that the hello is good."""
    with connect(server) as plain:
        plain.sendall(hello(version))
        record = plain.recv(7)
    assert record[:1] == answered, record
    if answered == b"\x15":
        assert record[5:7] in (b"\x02\x28", b"\x02\x46"), "fatal: handshake_failure or protocol_version (RFC 5246, 7.2)"


def test_plain_http_is_not_answered_on_the_tls_port(server):
    connection = http.client.HTTPConnection(*server.listen.split(":"), timeout=10)
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
        assert status == 400
        raise http.client.HTTPException("a plain 400 is as good")
    connection.close()


def test_a_silent_connection_holds_nobody_up(server, functions):
    silent = [connect(server) for _ in range(30)]
    assert functions.client.list_functions()["ResponseMetadata"]["HTTPStatusCode"] == 200
    for connection in silent:
        connection.close()


def test_a_client_that_does_not_know_the_authority_stays_away(server):
    context = ssl.create_default_context()
    with connect(server) as plain, pytest.raises(ssl.SSLCertVerificationError):
        context.wrap_socket(plain, server_hostname="127.0.0.1")


@pytest.mark.parametrize("config, named", [
    (lambda ca, cert, key: {"tls_cert": "/nowhere/cert.pem", "tls_key": str(key)}, "/nowhere/cert.pem"),
    (lambda ca, cert, key: {"tls_cert": str(cert), "tls_key": str(cert)}, "key"),
    (lambda ca, cert, key: {"tls_cert": str(cert)}, "tls_key"),
    (lambda ca, cert, key: {"tls_cert": str(ca), "tls_key": str(key)}, "match|key"),
], ids=["no file", "no key in it", "half", "another's key"])
def test_a_certificate_that_cannot_serve_stops_the_start_with_the_reason(new_server, authority, config, named):
    import re

    server = new_server(config={"server": config(*authority)})
    with pytest.raises(AssertionError, match="exited with [1-9]"):
        server.start()
    assert re.search(named, server.stderr())


def test_the_functions_package_is_downloaded_over_https(server, functions, authority):
    import urllib.request

    name = functions.create()
    location = functions.client.get_function(FunctionName=name)["Code"]["Location"]
    assert location.startswith("https://")
    context = ssl.create_default_context(cafile=str(authority[0]))
    with urllib.request.urlopen(location, context=context) as response:
        assert response.read(2) == b"PK"


def test_functions_run_the_same_over_tls(functions: Functions):
    name = functions.create()
    big = {"x": "y" * 1_000_000}
    assert functions.invoke(name, big).succeeded() == big
