"""`waterwheel logs -f`, read line by line: how a test learns that a function has come to a certain point."""

import signal
import subprocess
import time

from harness.server import BINARY

FIRST_LINE_SECONDS = 5


class Following:
    """Follows the log of one function until the `with` block ends."""

    def __init__(self, server, function):
        self.command = [str(BINARY), "logs", "-f", function, "--data-dir", str(server.data)]
        self.variables = server.environment()
        self.seen = []

    def __enter__(self):
        self._start()
        return self

    def _start(self):
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.variables
        )

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def until(self, text):
        """Waits for a line with this text (the test's own timeout bounds it); returns all lines so far."""
        deadline = time.monotonic() + FIRST_LINE_SECONDS
        while True:
            for line in self.process.stdout:
                self.seen.append(line)
                if text in line:
                    return self.seen
            _, said = self.process.communicate()
            # Nothing to follow yet: what a function prints is written a moment later.
            if self.seen or "logs" not in said or time.monotonic() > deadline:
                raise AssertionError(f"{text!r} never came: {self.seen[-20:]}, {said}")
            self._start()

    def interrupt(self):
        """Ctrl-C; returns (exit code, what it said on stderr)."""
        self.process.send_signal(signal.SIGINT)
        _, said = self.process.communicate(timeout=10)
        return self.process.returncode, said
