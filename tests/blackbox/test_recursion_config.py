"""What happens to a function's loops, as it is configured: PutFunctionRecursionConfig and GetFunctionRecursionConfig."""

import pytest

import model
from harness.aws_cli import AwsCli
from harness.errors import refused
from harness.functions import Functions, fresh_name, python
from harness.server import REGION


def loops(client, name):
    return client.get_function_recursion_config(FunctionName=name)["RecursiveLoop"]


def test_a_loop_is_terminated_unless_it_is_allowed(client, functions):
    name = functions.create(wait=False)
    arn = client.get_function_configuration(FunctionName=name)["FunctionArn"]
    assert loops(client, name) == "Terminate"
    for spelling, choice in ((name, "Allow"), (arn, "Terminate"), (f"{arn.split(':')[4]}:function:{name}", "Allow")):
        put = client.put_function_recursion_config(FunctionName=spelling, RecursiveLoop=choice)
        assert put["RecursiveLoop"] == choice
        assert loops(client, name) == loops(client, spelling) == choice


@pytest.mark.parametrize("body, error, message", [
    ({"RecursiveLoop": "Stop"}, "ValidationException",
     "1 validation error detected: Value 'Stop' at 'recursiveLoop' failed to satisfy constraint: "
     "Member must satisfy enum value set: [Allow, Terminate]"),
    ({"RecursiveLoop": "allow"}, "ValidationException", None),
    ({"RecursiveLoop": ""}, "ValidationException", None),
    ({}, "ValidationException", "1 validation error detected: Value null at 'recursiveLoop' failed to satisfy "
                                "constraint: Member must not be null"),
    ({"RecursiveLoop": True}, "SerializationException", None),
])
def test_what_is_neither_is_refused(wire, client, echo, body, error, message):
    answer = wire.call("PUT", f"/2024-08-31/functions/{echo}/recursion-config", body)
    model.verify_raw("PutFunctionRecursionConfig", answer)
    assert (answer.status, answer.error) == (400, error)
    assert message is None or answer.message == message
    assert loops(client, echo) == "Terminate"


def test_a_qualified_function_is_refused_by_the_model(wire, echo):
    for method, operation in (("PUT", "PutFunctionRecursionConfig"), ("GET", "GetFunctionRecursionConfig")):
        body = {"RecursiveLoop": "Allow"} if method == "PUT" else b""
        answer = wire.call(method, f"/2024-08-31/functions/{echo}%3A%24LATEST/recursion-config", body)
        model.verify_raw(operation, answer)
        assert (answer.status, answer.error) == (400, "ValidationException")
        assert f"Value '{echo}:$LATEST' at 'functionName' failed to satisfy constraint" in answer.message


def test_an_unknown_function_is_not_found(client):
    name = fresh_name("nobody")
    not_found = rf"^Function not found: arn:aws:lambda:{REGION}:\d{{12}}:function:{name}$"
    refused(client, "get_function_recursion_config", "ResourceNotFoundException", 404, not_found, FunctionName=name)
    refused(client, "put_function_recursion_config", "ResourceNotFoundException", 404, not_found, FunctionName=name,
            RecursiveLoop="Allow")


def test_the_aws_cli_reads_and_writes_it(server, functions):
    aws, name = AwsCli(server), functions.create(wait=False)
    aws.run("lambda", "put-function-recursion-config", "--function-name", name, "--recursive-loop", "Allow")
    found = aws.run("lambda", "get-function-recursion-config", "--function-name", name)
    assert found == {"RecursiveLoop": "Allow"}


def test_it_outlives_updates_and_sigkill_and_not_its_function(new_server):
    server = new_server().start()
    client = server.client()
    functions = Functions(client)
    name = functions.create()
    before = client.get_function_configuration(FunctionName=name)
    client.put_function_recursion_config(FunctionName=name, RecursiveLoop="Allow")
    after = client.get_function_configuration(FunctionName=name)
    del before["ResponseMetadata"], after["ResponseMetadata"]
    assert after == before, "it is no revision of the function"
    server.kill()
    server.start()
    client = server.client()
    client.update_function_code(FunctionName=name, ZipFile=python("def lambda_handler(e, c):\n    return 'new'\n"))
    Functions(client).await_updated(name)
    assert loops(client, name) == "Allow"
    client.delete_function(FunctionName=name)
    Functions(client).create(name=name, wait=False)
    assert loops(client, name) == "Terminate"
