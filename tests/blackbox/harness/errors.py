"""Calls that must be refused."""

import re

import botocore.exceptions
import pytest


def refused(client, operation, code, status, message=None, **arguments):
    """Calls and returns the error, which must be this one."""
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        getattr(client, operation)(**arguments)
    response = caught.value.response
    assert (response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]) == (code, status), response
    if message is not None:
        assert re.search(message, response["Error"]["Message"]), response["Error"]["Message"]
    return response
