"""The real AWS CLI, unmodified, with nothing in its environment but what `waterwheel env` would set."""

import json
import os
import subprocess
import sys
from pathlib import Path

from harness.server import REGION

AWS = Path(sys.executable).parent / "aws"


class AwsFailed(Exception):
    def __init__(self, code, stderr):
        super().__init__(f"aws exited with {code}: {stderr}")
        self.code, self.stderr = code, stderr


class AwsCli:
    def __init__(self, server, exports=None):
        key, secret = server.credentials()
        self.variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(server.directory),
            "AWS_CONFIG_FILE": str(server.directory / "no-config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(server.directory / "no-credentials"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_PAGER": "",
        } | (exports or {
            "AWS_ENDPOINT_URL_LAMBDA": server.endpoint, "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret, "AWS_DEFAULT_REGION": REGION,
        })

    def run(self, *arguments, timeout=90):
        """`aws ARGUMENTS`; the parsed JSON it prints, or `None`."""
        done = subprocess.run(
            [str(AWS), *map(str, arguments), "--output", "json"],
            capture_output=True, text=True, env=self.variables, timeout=timeout,
        )
        if done.returncode != 0:
            raise AwsFailed(done.returncode, done.stderr.strip())
        return json.loads(done.stdout) if done.stdout.strip() else None
