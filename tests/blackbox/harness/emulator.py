"""A server that speaks as AWS does (SQS, SNS, EventBridge, S3), as a child of the tests, on the loopback only.

    with Emulator(directory) as emulator:             # or Emulator(directory, kind="moto")
        queues = emulator.client("sqs")               # boto3
        ... "AWS_ENDPOINT_URL": emulator.endpoint ...

Neither kind looks at signatures: any secret will do, so they test no signing. What one accepts against the documentation,
the other mostly does not; where it matters, a test runs on both. State lives in memory and ends with the process.
"""

import os
import socket
import subprocess
import threading
from pathlib import Path

import boto3
from botocore.config import Config

REPOSITORY = Path(__file__).resolve().parents[3]
PROGRAMS = Path(os.environ.get("WATERWHEEL_TEST_EMULATORS", REPOSITORY / "target/emulators")) / "bin"
START_SECONDS = 60
STOP_SECONDS = 20
# ministack takes an access key of twelve digits for the account; moto knows this one account.
ACCOUNT = "123456789012"
CREDENTIALS = (ACCOUNT, "any-secret")
# Both print it, in their own words, once they accept connections.
READY = "Running on http://127.0.0.1:"


class EmulatorFailed(AssertionError):
    """It did not start; carries what it said."""


class Emulator:
    KINDS = ("ministack", "moto")

    def __init__(self, directory, kind="ministack", port=None):
        """`directory` is its home: it writes nowhere else. Started again, it has the same port."""
        self.directory = Path(directory)
        self.kind = kind
        self.port = port or free_port()
        self.process = None
        self.lines = []

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        program = PROGRAMS / {"ministack": "ministack", "moto": "moto_server"}[self.kind]
        if not program.exists():
            raise EmulatorFailed(f"{program} is missing: scripts/setup emulators installs it")
        arguments = {"ministack": [], "moto": ["-H", "127.0.0.1", "-p", str(self.port)]}[self.kind]
        self.directory.mkdir(parents=True, exist_ok=True)
        ready = threading.Event()
        self.process = subprocess.Popen(
            [str(program), *arguments], env=self._environment(), cwd=self.directory, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )
        self.reader = threading.Thread(target=self._read, args=(self.process.stdout, ready), daemon=True)
        self.reader.start()
        if not ready.wait(START_SECONDS) or self.process.poll() is not None:
            self.stop()
            raise EmulatorFailed(f"{self.kind} is not ready\n" + "\n".join(self.lines[-40:]))
        return self

    def stop(self):
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        self.reader.join()
        self.process = None

    def kill(self):
        """Its connections break off at once."""
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def client(self, service, region="us-east-1"):
        key, secret = CREDENTIALS
        return boto3.client(
            service, endpoint_url=self.endpoint, region_name=region, aws_access_key_id=key, aws_secret_access_key=secret,
            config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
        )

    def _environment(self):
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TZ") if name in os.environ}
        home = str(self.directory)
        return {
            **kept, "HOME": home, "TMPDIR": home, "PYTHONUNBUFFERED": "1",
            # ministack: without these it listens on all addresses, for MQTT as well.
            "GATEWAY_PORT": str(self.port), "BIND_HOST": "127.0.0.1", "IOT_MTLS_ENABLED": "0",
            "MINISTACK_HOST": "127.0.0.1", "S3_DATA_DIR": f"{home}/s3",
        }

    def _read(self, output, ready):
        for line in output:
            self.lines.append(line.rstrip())
            if READY in line:
                ready.set()
        # At the end of its output nobody need wait any longer.
        ready.set()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
