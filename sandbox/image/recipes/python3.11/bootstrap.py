"""Starts the unmodified runtime client with the module search path that functions know from AWS.

The function's own packages come first, then its layers, then this directory: a function that brings its own boto3 gets
its own boto3.
"""

import os
import sys

TASK_ROOT = os.environ.get("LAMBDA_TASK_ROOT", "/var/task")
SEARCH_FIRST = [
    TASK_ROOT,
    "/opt/python/lib/python%d.%d/site-packages" % sys.version_info[:2],
    "/opt/python",
]

# sys.path[0] is the directory of this file, /var/runtime.
sys.path[:0] = SEARCH_FIRST

from awslambdaric import __main__ as client  # noqa: E402 (it must see the new path)

# The client takes the handler as its last argument; a function is configured with it in _HANDLER.
client.main(["awslambdaric", os.environ["_HANDLER"]])
