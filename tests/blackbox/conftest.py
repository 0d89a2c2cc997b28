"""Servers, clients and functions that the black-box tests share.

One server per module unless a test needs its own: starting one is cheap, but what a module does stays in that module.
"""

import subprocess

import pytest

from harness.functions import Functions
from harness.server import BINARY, RUNTIMES, Server

RUNNING = []


def pytest_collection_modifyitems(items):
    """The harness is tested first: if it is wrong, nothing after it means anything."""
    items.sort(key=lambda item: item.path.name != "test_harness.py")


def pytest_sessionstart(session):
    """A missing build is one clear line, not a hundred errors."""
    session.config.stash[MISSING] = [str(path) for path in (BINARY, RUNTIMES) if not path.exists()]


MISSING = pytest.StashKey()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """A failure shows what the servers that were running had to say."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for server in RUNNING:
            report.sections.append((f"stderr of the server in {server.directory}", server.stderr()))


@pytest.fixture(scope="session")
def built(pytestconfig):
    missing = pytestconfig.stash[MISSING]
    if missing:
        pytest.exit(f"not built: {', '.join(missing)} (make test builds them)", returncode=1)


@pytest.fixture(scope="module")
def new_server(built, tmp_path_factory):
    """Makes servers that are stopped when the module is done."""
    made = []

    def make(**options):
        server = Server(tmp_path_factory.mktemp("server"), **options)
        made.append(server)
        RUNNING.append(server)
        return server

    yield make
    for server in made:
        RUNNING.remove(server)
        server.close()


@pytest.fixture(scope="module")
def server(new_server):
    return new_server().start()


@pytest.fixture(scope="module")
def client(server):
    return server.client()


@pytest.fixture(scope="module")
def functions(client):
    return Functions(client)


@pytest.fixture(scope="module")
def wire(server):
    return server.wire()


@pytest.fixture(scope="module")
def echo(functions):
    """A function nobody harms: it must work right after anything another function or caller has done."""
    name = functions.create()
    functions.invoke(name, {})
    return name


@pytest.fixture
def unharmed(functions, echo):
    """After the test, the echo function still answers."""
    yield
    assert functions.invoke(echo, {"still": "here"}).succeeded() == {"still": "here"}


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    """A certificate authority of our own and a certificate for 127.0.0.1: (CA file, certificate, key)."""
    home = tmp_path_factory.mktemp("tls")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=home, check=True, capture_output=True)

    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test authority",
            "-keyout", "ca.key", "-out", "ca.pem")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=waterwheel", "-keyout", "key.pem", "-out", "csr.pem")
    (home / "san").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    openssl("x509", "-req", "-in", "csr.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", "san", "-out", "cert.pem")
    (home / "key.pem").chmod(0o600)
    return home / "ca.pem", home / "cert.pem", home / "key.pem"
