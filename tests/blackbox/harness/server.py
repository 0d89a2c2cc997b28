"""One `waterwheel serve` process, from the outside.

    new ── start() ──► running ── stop() ──► stopped ── start() ──► running …
                          └────── kill() ──────┘
"""

import configparser
import ctypes
import http.client
import itertools
import json
import os
import re
import select
import signal
import subprocess
import time
from pathlib import Path
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

import model
from harness.wire import Wire

REPOSITORY = Path(__file__).resolve().parents[3]
BINARY = Path(os.environ.get("WATERWHEEL_BINARY", REPOSITORY / "target/debug/waterwheel"))
RUNTIMES = Path(os.environ.get("WATERWHEEL_TEST_RUNTIMES", REPOSITORY / "target/runtimes"))
# Where KVM boots kernels, the same tests run with "microvm" (tests/nested/cases/api.py), and there on an emulated processor:
# what has a limit of its own gets that many times as long.
ISOLATION = os.environ.get("WATERWHEEL_TEST_ISOLATION", "process")
PATIENCE = int(os.environ.get("WATERWHEEL_TEST_PATIENCE", 1))
REGION = "us-east-1"
START_SECONDS = 20 * PATIENCE
STOP_SECONDS = 30 * PATIENCE
# Servers of one test run live side by side: each has cgroups and user ids of its own.
NUMBERS = itertools.count()
FIRST_UID, UIDS_EACH = 800_000, 1000

# linux/inotify.h
IN_CLOSE_WRITE, IN_MOVED_TO = 0x8, 0x80


class ServerFailed(AssertionError):
    """The server did not do what every test relies on; carries the end of its stderr."""


class Server:
    """A server on a directory of its own: `directory/data` is its data directory."""

    def __init__(self, directory, config=None, arguments=(), listen="127.0.0.1:0", ca_file=None, runtimes=RUNTIMES,
                 data=None, prefix=()):
        """`config` is sections of keys, as in the configuration file. `data` is where its data directory lies, if not here;
        `prefix` are the words of a command that runs it."""
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.data = data or self.directory / "data"
        self.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        number = next(NUMBERS)
        self.cgroup = f"waterwheel-test-{os.getpid()}-{number}"
        environments = {"cgroup": self.cgroup, "uid_base": FIRST_UID + number * UIDS_EACH, "isolation": ISOLATION}
        if PATIENCE > 1:
            environments |= {"init_timeout": f"{10 * PATIENCE}s", "setup_timeout": f"{10 * PATIENCE}s"}
        sections = dict(config or {})
        sections["environments"] = environments | sections.get("environments", {})
        # Three of them are written ahead; many servers come and go in a test run.
        sections.setdefault("queue", {"segment_size": "16MiB"})
        self.config = self.directory / "waterwheel.toml"
        self.config.write_text(to_toml(sections))
        self.arguments = list(arguments)
        self.prefix = list(prefix)
        self.listen = listen
        self.runtimes = runtimes
        self.ca_file = ca_file
        self.process = None
        self.starts = 0

    # === life ===

    def start(self):
        """Starts the process and returns once it says where it listens and answers its health check."""
        endpoint = self.data / "endpoint"
        endpoint.unlink(missing_ok=True)
        command = [*self.prefix, str(BINARY), "serve", "--data-dir", str(self.data), "--listen", self.listen]
        command += ["--runtimes-dir", str(self.runtimes), "--config", str(self.config), *self.arguments]
        self.starts += 1
        with FileWatch(self.data) as watch, open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment(),
                start_new_session=True,
            )
            self._await_endpoint(watch, endpoint)
        self.endpoint = endpoint.read_text().strip()
        # Started again, it is found where it was: that is what lets a client's retries carry over.
        self.listen = f"127.0.0.1:{urlsplit(self.endpoint).port}"
        status, _ = self.get("/healthz")
        if status != 200:
            raise ServerFailed(f"/healthz answered {status} though the server says it is ready\n{self.stderr()}")
        return self

    def _await_endpoint(self, watch, endpoint):
        exited = os.pidfd_open(self.process.pid)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not endpoint.exists():
                left = deadline - time.monotonic()
                if left <= 0:
                    self.kill()
                    raise ServerFailed(f"no endpoint file within {START_SECONDS} s\n{self.stderr()}")
                ready, _, _ = select.select([watch.descriptor, exited], [], [], left)
                if exited in ready:
                    raise ServerFailed(f"the server exited with {self.process.wait()} at start\n{self.stderr()}")
                watch.drain()
        finally:
            os.close(exited)

    def stop(self, seconds=STOP_SECONDS):
        """SIGTERM, and the clean exit it must lead to."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerFailed(f"still running {seconds} s after SIGTERM\n{self.stderr()}") from None
        if code != 0:
            raise ServerFailed(f"exit code {code} after SIGTERM\n{self.stderr()}")

    def kill(self):
        """SIGKILL to the server alone: what becomes of its environments is the server's business."""
        self.process.kill()
        self.process.wait()

    def close(self):
        """For fixtures: ends it if it still runs, and takes away the cgroup that held its environments' own."""
        try:
            if self.running:
                self.stop()
        finally:
            for group in self.cgroups():
                group.rmdir()

    @property
    def running(self):
        return self.process is not None and self.process.poll() is None

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, *_):
        if self.running:
            # A failing test must not be hidden behind a failing stop.
            self.stop() if kind is None else self.kill()

    def cgroups(self):
        """Directories of this server's cgroup, in every hierarchy, innermost first.

        The server may add to the configured name, to tell data directories apart.
        """
        found = [Path(parent, name) for parent, names, _ in os.walk("/sys/fs/cgroup") for name in names]
        own = re.compile(rf"{self.cgroup}(-.*)?")
        return [path for path in sorted(found, reverse=True) if any(map(own.fullmatch, path.parts))]

    # === what it writes ===

    @property
    def log(self):
        return self.directory / f"stderr-{self.starts}.log"

    def stderr(self, lines=60):
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def logged(self):
        """Everything this server has printed in all of its lives."""
        return b"".join(file.read_bytes() for file in sorted(self.directory.glob("stderr-*.log")))

    def credentials(self):
        """(access key id, secret) as the server wrote them down."""
        file = configparser.ConfigParser()
        file.read(self.data / "credentials")
        return file["default"]["aws_access_key_id"], file["default"]["aws_secret_access_key"]

    def environment(self):
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TZ", "RUST_BACKTRACE") if name in os.environ}
        return {**kept, "HOME": str(self.directory)}

    # === speaking to it ===

    def client(self, attempts=1, checked=True, secret=None, key=None, **config):
        """A boto3 client whose every answer is checked against the service model."""
        own_key, own_secret = self.credentials()
        session = boto3.session.Session(
            aws_access_key_id=key or own_key, aws_secret_access_key=secret or own_secret, region_name=REGION
        )
        options = {"read_timeout": 60 * PATIENCE, "connect_timeout": 5 * PATIENCE, "max_pool_connections": 64, **config}
        client = session.client(
            "lambda", endpoint_url=self.endpoint, verify=str(self.ca_file) if self.ca_file else None,
            config=Config(retries={"total_max_attempts": attempts, "mode": "standard"}, **options),
        )
        if checked:
            model.watch(client)
        return client

    def wire(self, key=None, secret=None):
        own_key, own_secret = self.credentials()
        return Wire(self.endpoint, key or own_key, secret or own_secret, REGION, ca_file=self.ca_file)

    def get(self, path):
        """An unsigned GET: (status, body)."""
        answer = self.wire().send_plain("GET", path)
        return answer.status, answer.body

    def command(self, *arguments, timeout=30):
        """Another command of the same binary on the same data directory."""
        return subprocess.run(
            [str(BINARY), *arguments, "--data-dir", str(self.data)],
            capture_output=True, text=True, env=self.environment(), timeout=timeout,
        )


def to_toml(sections):
    lines = []
    for section, keys in sections.items():
        lines.append(f"[{section}]")
        # JSON writes text, numbers and truth values as TOML does.
        lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    return "\n".join(lines) + "\n"


class FileWatch:
    """Wakes when a file in a directory is written or moved in (inotify)."""

    def __init__(self, directory):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.directory = os.fsencode(directory)

    def __enter__(self):
        self.descriptor = self.libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        watch = self.libc.inotify_add_watch(self.descriptor, self.directory, IN_CLOSE_WRITE | IN_MOVED_TO)
        if self.descriptor < 0 or watch < 0:
            raise OSError(ctypes.get_errno(), "inotify")
        return self

    def __exit__(self, *_):
        os.close(self.descriptor)

    def drain(self):
        try:
            os.read(self.descriptor, 65536)
        except BlockingIOError:
            pass


def await_connection_refused(endpoint, seconds=5):
    """Returns once nobody accepts at `endpoint` any more."""
    parts = urlsplit(endpoint)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=1)
        try:
            connection.connect()
        except OSError:
            return
        finally:
            connection.close()
        time.sleep(0.01)
    raise ServerFailed(f"{endpoint} still accepts connections after {seconds} s")
