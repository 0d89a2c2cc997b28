"""`DeadLetterConfig` through boto3 and the AWS CLI: a part of a function's configuration.

Texts marked (REC) were seen on AWS.
"""

import pytest

import model
from harness.aws_cli import AwsCli
from harness.errors import refused
from harness.functions import ECHO, ROLE, Functions, fresh_name, python
from harness.server import REGION

QUEUE = f"arn:aws:sqs:{REGION}:123456789012:failed"
TOPIC = f"arn:aws:sns:{REGION}:123456789012:failed"
FILE = "arn:aws:file:::failed"

COUNTING = "COUNT = []\ndef lambda_handler(e, c):\n    COUNT.append(e)\n    return len(COUNT)\n"


def shown(client, name):
    """What every answer that has a configuration says."""
    listed = [function for page in client.get_paginator("list_functions").paginate() for function in page["Functions"]]
    configurations = [
        client.get_function_configuration(FunctionName=name),
        client.get_function(FunctionName=name)["Configuration"],
        next(function for function in listed if function["FunctionName"] == name),
    ]
    said = {configuration.get("DeadLetterConfig", {}).get("TargetArn") for configuration in configurations}
    assert len(said) == 1, said
    return said.pop()


@pytest.mark.parametrize("target", [QUEUE, TOPIC, FILE])
def test_a_function_is_created_with_a_dead_letter_queue(client, functions, target):
    name = fresh_name()
    created = client.create_function(
        FunctionName=name, Role=ROLE, Runtime="python3.11", Handler="lambda_function.lambda_handler",
        Code={"ZipFile": python(ECHO)}, DeadLetterConfig={"TargetArn": target})
    assert created["DeadLetterConfig"] == {"TargetArn": target}
    functions.await_active(name)
    assert shown(client, name) == target
    updated = client.update_function_code(FunctionName=name, ZipFile=python(COUNTING))
    assert updated["DeadLetterConfig"] == {"TargetArn": target}


@pytest.mark.parametrize("nothing", [{}, {"TargetArn": ""}])
def test_nothing_is_no_dead_letter_queue(client, functions, nothing):
    name = functions.create(wait=False, DeadLetterConfig=nothing)
    assert "DeadLetterConfig" not in client.get_function_configuration(FunctionName=name)
    assert shown(client, name) is None


def test_it_is_set_changed_kept_and_removed(client, functions):
    name = functions.create()
    for given, expected in (
        ({"DeadLetterConfig": {"TargetArn": QUEUE}}, QUEUE),
        ({"DeadLetterConfig": {"TargetArn": TOPIC}}, TOPIC),
        ({"Timeout": 9}, TOPIC),
        ({"DeadLetterConfig": {}}, TOPIC),
        ({"DeadLetterConfig": {"TargetArn": ""}}, None),
        ({"Timeout": 8}, None),
    ):
        updated = client.update_function_configuration(FunctionName=name, **given)
        assert updated.get("DeadLetterConfig", {}).get("TargetArn") == expected, given
        assert updated["LastUpdateStatus"] == "InProgress"
        functions.await_updated(name)
        assert shown(client, name) == expected, given


@pytest.mark.parametrize("target", [
    "arn:aws:s3:::bucket",
    f"arn:aws:events:{REGION}:123456789012:event-bus/default",
    f"arn:aws:lambda:{REGION}:123456789012:function:next",
    f"arn:aws:kinesis:{REGION}:123456789012:stream/s",
    f"arn:aws:sqs:{REGION}:12:queue",
    f"{QUEUE}.fifo",
    f"{TOPIC}.fifo",
    "arn:aws:file:::../keyring",
])
def test_what_can_be_none_is_refused_with_what_can(client, functions, echo, target):
    # (REC) the beginning
    said = r"^Invalid dead letter queue ARN: .*an SQS queue, an SNS topic or a file \(arn:aws:file:::NAME\)"
    name = fresh_name()
    for operation, arguments in (
        ("create_function", {"FunctionName": name, "Role": ROLE, "Runtime": "python3.11", "Handler": "a.b",
                             "Code": {"ZipFile": python(ECHO)}}),
        ("update_function_configuration", {"FunctionName": echo}),
    ):
        error = refused(client, operation, "InvalidParameterValueException", 400, said,
                        DeadLetterConfig={"TargetArn": target}, **arguments)
        assert target in error["Error"]["Message"]
    refused(client, "get_function", "ResourceNotFoundException", 404, FunctionName=name)
    assert shown(client, echo) is None


@pytest.mark.parametrize("body, error", [
    ({"DeadLetterConfig": {"TargetArn": "queue"}}, "ValidationException"),
    ({"DeadLetterConfig": {"TargetArn": 1}}, "SerializationException"),
    ({"DeadLetterConfig": "queue"}, "SerializationException"),
])
def test_what_is_no_arn_is_refused_by_the_model(wire, echo, body, error):
    answer = wire.call("PUT", f"/2015-03-31/functions/{echo}/configuration", body)
    model.verify_raw("UpdateFunctionConfiguration", answer)
    assert (answer.status, answer.error) == (400, error)
    if error == "ValidationException":
        assert "Value 'queue' at 'deadLetterConfig.targetArn' failed to satisfy constraint" in answer.message


def test_a_change_of_it_alone_leaves_the_environments_running(client, functions):
    name = functions.create(python(COUNTING))
    assert functions.invoke(name, {}).succeeded() == 1
    for count, target in enumerate((QUEUE, FILE, ""), start=2):
        client.update_function_configuration(FunctionName=name, DeadLetterConfig={"TargetArn": target})
        functions.await_updated(name)
        assert functions.invoke(name, {}).succeeded() == count, "the same environment"
    client.update_function_configuration(FunctionName=name, DeadLetterConfig={"TargetArn": QUEUE}, MemorySize=192)
    functions.await_updated(name)
    assert functions.invoke(name, {}).succeeded() == 1, "an environment that has the new memory"


def test_the_aws_cli_sets_and_removes_it(server, functions):
    aws, name = AwsCli(server), functions.create()
    for target in (QUEUE, ""):
        aws.run("lambda", "update-function-configuration", "--function-name", name, "--dead-letter-config",
                f"TargetArn={target}")
        aws.run("lambda", "wait", "function-updated-v2", "--function-name", name)
        found = aws.run("lambda", "get-function-configuration", "--function-name", name)
        assert found.get("DeadLetterConfig") == ({"TargetArn": target} if target else None)


def test_it_outlives_new_code_and_sigkill_and_not_its_function(new_server):
    server = new_server().start()
    name = Functions(server.client()).create(DeadLetterConfig={"TargetArn": FILE})
    server.kill()
    server.start()
    client = server.client()
    functions = Functions(client)
    functions.await_active(name)
    client.update_function_code(FunctionName=name, ZipFile=python(COUNTING))
    functions.await_updated(name)
    server.kill()
    server.start()
    client = server.client()
    assert shown(client, name) == FILE
    assert Functions(client).invoke(name, {}).succeeded() == 1
    client.delete_function(FunctionName=name)
    Functions(client).create(name=name)
    assert shown(client, name) is None
