"""The configuration of asynchronous invocations through boto3 and the AWS CLI: put, update, get, delete, list.

Texts marked (REC) were recorded on AWS. Of a text that is ours the tests ask what it must name.
"""

import datetime
import re

import pytest

import model
from harness.aws_cli import AwsCli, AwsFailed
from harness.errors import refused
from harness.functions import ECHO, Functions, fresh_name, python
from harness.server import REGION

QUEUE = f"arn:aws:sqs:{REGION}:123456789012:failed"
TOPIC = f"arn:aws:sns:{REGION}:123456789012:done"
BUS = f"arn:aws:events:{REGION}:123456789012:event-bus/default"
BUCKET = "arn:aws:s3:::failed-events"
FILE = "arn:aws:file:::failed"


def on(success=None, failure=None):
    """A DestinationConfig."""
    given = {"OnSuccess": success, "OnFailure": failure}
    return {outcome: {"Destination": arn} for outcome, arn in given.items() if arn is not None}


def settings(answer):
    """What an answer says, without when and to whom."""
    return {key: answer[key] for key in answer if key not in ("ResponseMetadata", "LastModified", "FunctionArn")}


def arn_of(client, name):
    return client.get_function_configuration(FunctionName=name)["FunctionArn"]


@pytest.fixture
def name(functions):
    return functions.create(wait=False)


@pytest.fixture(scope="module")
def other(functions):
    """A function that can be a destination."""
    return functions.create(wait=False)


# === what is set is shown ===


def test_what_is_put_is_what_is_got(client, name):
    before = datetime.datetime.now(datetime.timezone.utc)
    put = client.put_function_event_invoke_config(
        FunctionName=name, MaximumRetryAttempts=0, MaximumEventAgeInSeconds=60, DestinationConfig=on(TOPIC, QUEUE))
    # (REC) the function's ARN has a qualifier although nobody gave one
    assert put["FunctionArn"] == f"{arn_of(client, name)}:$LATEST"
    assert settings(put) == {"MaximumRetryAttempts": 0, "MaximumEventAgeInSeconds": 60,
                             "DestinationConfig": on(TOPIC, QUEUE)}
    assert abs(put["LastModified"] - before) < datetime.timedelta(seconds=30)
    got = client.get_function_event_invoke_config(FunctionName=name)
    del put["ResponseMetadata"], got["ResponseMetadata"]
    assert got == put


def test_the_moment_of_a_change_is_a_number_of_seconds(wire, name):
    target = f"/2019-09-25/functions/{name}/event-invoke-config"
    answer = wire.call("PUT", target, {"MaximumRetryAttempts": 1})
    model.verify_raw("PutFunctionEventInvokeConfig", answer)
    # As in the developer guide's examples: 1573687896.493
    assert re.search(rb'"LastModified":\d{10}\.\d{1,3}[,}]', answer.body), answer.body


def test_what_was_not_set_is_not_shown(client, name):
    # (REC) neither a default nor a null; both outcomes are there, and empty
    empty = {"OnSuccess": {}, "OnFailure": {}}
    put = client.put_function_event_invoke_config(FunctionName=name, MaximumRetryAttempts=1)
    assert settings(put) == {"MaximumRetryAttempts": 1, "DestinationConfig": empty}
    for nothing in ({"OnSuccess": {}}, {"OnFailure": {}}, {}, on(success=""), on(failure="")):
        put = client.put_function_event_invoke_config(FunctionName=name, DestinationConfig=nothing)
        assert settings(put) == {"DestinationConfig": empty}, nothing


@pytest.mark.parametrize("success, failure", [
    (QUEUE, QUEUE), (TOPIC, TOPIC), (BUS, BUS), (FILE, FILE), (None, BUCKET), ("function", "function:$LATEST"),
])
def test_each_kind_of_destination_can_be_set(client, name, other, success, failure):
    arn = arn_of(client, other)
    given = [text and text.replace("function", arn) if text in ("function", "function:$LATEST") else text
             for text in (success, failure)]
    put = client.put_function_event_invoke_config(FunctionName=name, DestinationConfig=on(*given))
    assert put["DestinationConfig"] == {"OnSuccess": {}, "OnFailure": {}} | on(*given)


def test_put_replaces_everything(client, name):
    client.put_function_event_invoke_config(
        FunctionName=name, MaximumRetryAttempts=2, MaximumEventAgeInSeconds=21600, DestinationConfig=on(TOPIC, QUEUE))
    put = client.put_function_event_invoke_config(FunctionName=name, MaximumRetryAttempts=0)
    assert settings(put) == {"MaximumRetryAttempts": 0, "DestinationConfig": {"OnSuccess": {}, "OnFailure": {}}}
    assert settings(client.get_function_event_invoke_config(FunctionName=name)) == settings(put)


def test_update_changes_what_is_given_and_nothing_else(client, name):
    put = client.put_function_event_invoke_config(
        FunctionName=name, MaximumRetryAttempts=2, MaximumEventAgeInSeconds=60, DestinationConfig=on(TOPIC, QUEUE))
    expected = settings(put)
    for change in (
        {"MaximumRetryAttempts": 0},
        {"MaximumEventAgeInSeconds": 120},
        {"DestinationConfig": on(failure=BUCKET)},
        {"DestinationConfig": on(success=BUS)},
    ):
        updated = client.update_function_event_invoke_config(FunctionName=name, **change)
        merged = expected["DestinationConfig"] | change.get("DestinationConfig", {})
        expected = expected | change | {"DestinationConfig": merged}
        assert settings(updated) == expected
    assert updated["LastModified"] >= put["LastModified"]
    updated = client.update_function_event_invoke_config(FunctionName=name, DestinationConfig=on(success=""))
    assert updated["DestinationConfig"] == {"OnSuccess": {}, "OnFailure": {"Destination": BUCKET}}
    assert settings(client.get_function_event_invoke_config(FunctionName=name)) == settings(updated)


@pytest.mark.parametrize("spelling, qualifier", [
    ("{name}", "$LATEST"), ("{name}:$LATEST", None), ("{name}:$LATEST", "$LATEST"), ("{arn}", None),
    ("{arn}:$LATEST", None), ("{account}:function:{name}", "$LATEST"),
])
def test_every_spelling_of_latest_names_the_same_configuration(client, name, spelling, qualifier):
    arn = arn_of(client, name)
    asked = {"FunctionName": spelling.format(name=name, arn=arn, account=arn.split(":")[4])}
    asked |= {"Qualifier": qualifier} if qualifier else {}
    put = client.put_function_event_invoke_config(MaximumRetryAttempts=1, **asked)
    assert put["FunctionArn"] == f"{arn}:$LATEST"
    assert client.get_function_event_invoke_config(FunctionName=name)["MaximumRetryAttempts"] == 1
    client.delete_function_event_invoke_config(**asked)
    refused(client, "get_function_event_invoke_config", "ResourceNotFoundException", 404, FunctionName=name)


def test_a_list_has_what_is_configured(client, name):
    # (REC) an empty list, no error
    assert client.list_function_event_invoke_configs(FunctionName=name)["FunctionEventInvokeConfigs"] == []
    put = client.put_function_event_invoke_config(FunctionName=name, MaximumEventAgeInSeconds=60)
    del put["ResponseMetadata"]
    for size in (1, 50):
        pages = client.get_paginator("list_function_event_invoke_configs").paginate(
            FunctionName=name, PaginationConfig={"PageSize": size})
        assert [config for page in pages for config in page["FunctionEventInvokeConfigs"]] == [put]


def test_a_deleted_configuration_is_gone(client, name):
    client.put_function_event_invoke_config(FunctionName=name, MaximumRetryAttempts=1)
    deleted = client.delete_function_event_invoke_config(FunctionName=name)
    assert deleted["ResponseMetadata"]["HTTPStatusCode"] == 204
    # (REC)
    none = rf"^The function {re.escape(arn_of(client, name))}:\$LATEST doesn't have an EventInvokeConfig$"
    for operation in ("get_function_event_invoke_config", "delete_function_event_invoke_config"):
        refused(client, operation, "ResourceNotFoundException", 404, none, FunctionName=name)
    refused(client, "update_function_event_invoke_config", "ResourceNotFoundException", 404, none,
            FunctionName=name, MaximumRetryAttempts=1)


def test_the_aws_cli_reads_and_writes_it(server, functions, name):
    aws = AwsCli(server)
    put = aws.run("lambda", "put-function-event-invoke-config", "--function-name", name, "--maximum-retry-attempts", 1,
                  "--destination-config", f"OnFailure={{Destination={QUEUE}}}")
    assert put["DestinationConfig"] == {"OnSuccess": {}, "OnFailure": {"Destination": QUEUE}}
    updated = aws.run("lambda", "update-function-event-invoke-config", "--function-name", name,
                      "--maximum-event-age-in-seconds", 60)
    assert (updated["MaximumRetryAttempts"], updated["MaximumEventAgeInSeconds"]) == (1, 60)
    listed = aws.run("lambda", "list-function-event-invoke-configs", "--function-name", name)
    assert listed["FunctionEventInvokeConfigs"] == [updated]
    aws.run("lambda", "delete-function-event-invoke-config", "--function-name", name)
    with pytest.raises(AwsFailed, match="ResourceNotFoundException.*doesn't have an EventInvokeConfig"):
        aws.run("lambda", "get-function-event-invoke-config", "--function-name", name)


# === what is refused ===


@pytest.mark.parametrize("operation", ["put_function_event_invoke_config", "update_function_event_invoke_config"])
def test_a_request_that_sets_nothing_is_refused(client, name, operation):
    # (REC)
    refused(client, operation, "InvalidParameterValueException", 400,
            "^You must specify at least one of error handling or destination setting.$", FunctionName=name)


@pytest.mark.parametrize("member, value, bound", [
    ("MaximumRetryAttempts", 3, "less than or equal to 2"),
    ("MaximumRetryAttempts", -1, "greater than or equal to 0"),
    ("MaximumEventAgeInSeconds", 59, "greater than or equal to 60"),
    ("MaximumEventAgeInSeconds", 21601, "less than or equal to 21600"),
])
@pytest.mark.parametrize("method, operation", [
    ("PUT", "PutFunctionEventInvokeConfig"), ("POST", "UpdateFunctionEventInvokeConfig"),
])
def test_numbers_out_of_range_are_refused(wire, name, method, operation, member, value, bound):
    answer = wire.call(method, f"/2019-09-25/functions/{name}/event-invoke-config", {member: value})
    model.verify_raw(operation, answer)
    assert (answer.status, answer.error) == (400, "ValidationException")
    path = member[0].lower() + member[1:]
    assert answer.message == (f"1 validation error detected: Value '{value}' at '{path}' failed to satisfy constraint: "
                              f"Member must have value {bound}")


@pytest.mark.parametrize("value", ['"1"', "true", "1.5", "[]", "{}"])
def test_a_number_of_another_type_is_refused(wire, name, value):
    body = f'{{"MaximumRetryAttempts": {value}}}'.encode()
    answer = wire.call("PUT", f"/2019-09-25/functions/{name}/event-invoke-config", body,
                       {"content-type": "application/json"})
    model.verify_raw("PutFunctionEventInvokeConfig", answer)
    assert (answer.status, answer.error) == (400, "SerializationException")


@pytest.mark.parametrize("bad", [
    "queue", "arn", "arn:aws:sqs", f"arn:aws:_-/!lambda:{REGION}:123456789012:function:f", "arn:aws:sqs:here:1:q",
])
def test_what_is_no_arn_is_refused_by_the_model(wire, name, bad):
    answer = wire.call("PUT", f"/2019-09-25/functions/{name}/event-invoke-config",
                       {"DestinationConfig": {"OnFailure": {"Destination": bad}}})
    model.verify_raw("PutFunctionEventInvokeConfig", answer)
    assert (answer.status, answer.error) == (400, "ValidationException")
    # (REC) but for the pattern, which has grown since
    assert answer.message.startswith(
        f"1 validation error detected: Value '{bad}' at 'destinationConfig.onFailure.destination' failed to satisfy "
        "constraint: Member must satisfy regular expression pattern: ")


@pytest.mark.parametrize("arn, why", [
    (f"arn:aws:iam:{REGION}:123456789012:function:f", "a destination is of sqs, sns, events, s3, lambda or file"),
    ("kafka://topic", "is not an ARN"),
    (f"arn:aws:sqs:{REGION}:123456789012:", "is not the ARN of an SQS queue"),
    (f"{QUEUE}.fifo", "a FIFO queue or topic cannot be a destination"),
    (f"{TOPIC}.fifo", "a FIFO queue or topic cannot be a destination"),
    (f"arn:aws:events:{REGION}:123456789012:rule/r", "is not the ARN of an event bus"),
    (f"arn:aws:lambda:{REGION}:123456789012:layer:l:1", "is not the ARN of a function"),
    ("arn:aws:file:::../keyring", "is not the ARN of a file"),
    (BUCKET, "OnFailure only"),
])
def test_a_destination_of_no_possible_kind_is_refused_with_what_is_possible(client, name, arn, why):
    # (REC) the first sentence
    error = refused(
        client, "put_function_event_invoke_config", "InvalidParameterValueException", 400,
        r"^The provided destination config DestinationConfig\(onSuccess=OnSuccess\(destination="
        rf"{re.escape(arn)}\), onFailure=null\) is invalid\. ",
        FunctionName=name, DestinationConfig=on(success=arn))
    assert why in error["Error"]["Message"] and arn in error["Error"]["Message"].split(" is invalid. ")[1]


def test_a_function_is_no_destination_of_itself(client, name):
    arn = arn_of(client, name)
    for own in (arn, f"{arn}:$LATEST"):
        # (REC)
        refused(client, "put_function_event_invoke_config", "InvalidParameterValueException", 400,
                "^You can't specify the function as a destination for itself.$",
                FunctionName=name, DestinationConfig=on(failure=own))


def test_a_function_that_is_not_there_is_no_destination(client, name, other):
    arn = arn_of(client, other)
    for absent in (arn.replace(other, fresh_name("nobody")), f"{arn}:7", f"{arn}:live"):
        # (REC)
        refused(client, "put_function_event_invoke_config", "InvalidParameterValueException", 400,
                f"^The destination ARN {re.escape(absent)} is invalid.$",
                FunctionName=name, DestinationConfig=on(success=absent))
    account = arn.split(":")[4]
    for elsewhere in (arn.replace(REGION, "eu-west-1"), arn.replace(account, "999999999999")):
        refused(client, "put_function_event_invoke_config", "InvalidParameterValueException", 400,
                f"^The destination ARN {re.escape(elsewhere)} is invalid. It is of another account or region.$",
                FunctionName=name, DestinationConfig=on(success=elsewhere))


@pytest.mark.parametrize("asked", [{"FunctionName": "nobody"}, {"Qualifier": "7"}, {"Qualifier": "live"}])
def test_what_is_not_there_is_not_found_in_awss_words(client, name, asked):
    asked = {"FunctionName": name} | asked
    whose = arn_of(client, name).replace(name, asked["FunctionName"]) + ":" + asked.get("Qualifier", "$LATEST")
    for operation in ("put_function_event_invoke_config", "update_function_event_invoke_config"):
        # (REC)
        refused(client, operation, "ResourceNotFoundException", 404, "^The function doesn't exist.$",
                MaximumRetryAttempts=1, **asked)
    for operation in ("get_function_event_invoke_config", "delete_function_event_invoke_config"):
        # (REC)
        refused(client, operation, "ResourceNotFoundException", 404,
                f"^The function {re.escape(whose)} doesn't have an EventInvokeConfig$", **asked)


def test_a_list_of_a_function_that_is_not_there_is_not_found(client):
    # (REC)
    refused(client, "list_function_event_invoke_configs", "ResourceNotFoundException", 404,
            "^The function doesn't exist.$", FunctionName=fresh_name("nobody"))


def test_two_qualifiers_must_agree(client, name):
    # (REC)
    refused(client, "put_function_event_invoke_config", "InvalidParameterValueException", 400,
            "^The derived qualifier from the function name does not match the specified qualifier.$",
            FunctionName=f"{name}:7", Qualifier="$LATEST", MaximumRetryAttempts=1)


@pytest.mark.parametrize("query, message", [
    ("MaxItems=0", "maxItems.*greater than or equal to 1"), ("MaxItems=51", "maxItems.*less than or equal to 50"),
    ("MaxItems=all", "Integer"), ("Marker=madeup", "Marker"),
])
def test_a_list_with_bad_parameters_is_refused(wire, name, query, message):
    answer = wire.call("GET", f"/2019-09-25/functions/{name}/event-invoke-config/list?{query}")
    model.verify_raw("ListFunctionEventInvokeConfigs", answer)
    assert answer.status == 400 and re.search(message, answer.message), answer.body


def test_a_refused_change_changes_nothing(client, name):
    client.put_function_event_invoke_config(FunctionName=name, MaximumRetryAttempts=1, DestinationConfig=on(TOPIC, QUEUE))
    before = client.get_function_event_invoke_config(FunctionName=name)
    for change in ({"DestinationConfig": on(BUCKET, BUS)}, {"DestinationConfig": on("", arn_of(client, name))}):
        for operation in ("put_function_event_invoke_config", "update_function_event_invoke_config"):
            refused(client, operation, "InvalidParameterValueException", 400, FunctionName=name,
                    MaximumRetryAttempts=0, **change)
    after = client.get_function_event_invoke_config(FunctionName=name)
    del before["ResponseMetadata"], after["ResponseMetadata"]
    assert after == before


# === how long it lasts ===


def test_it_outlives_updates_and_sigkill_and_not_its_function(new_server):
    server = new_server().start()
    client = server.client()
    functions = Functions(client)
    name = functions.create()
    put = client.put_function_event_invoke_config(
        FunctionName=name, MaximumRetryAttempts=0, MaximumEventAgeInSeconds=60, DestinationConfig=on(FILE, BUCKET))
    # Acknowledged is kept, at once.
    server.kill()
    server.start()
    client = server.client()
    functions = Functions(client)
    client.update_function_code(FunctionName=name, ZipFile=python("def lambda_handler(e, c):\n    return 'new'\n"))
    functions.await_updated(name)
    client.update_function_configuration(FunctionName=name, Timeout=5)
    functions.await_updated(name)
    server.stop()
    server.start()
    client = server.client()
    got = client.get_function_event_invoke_config(FunctionName=name)
    del put["ResponseMetadata"], got["ResponseMetadata"]
    assert got == put
    client.delete_function_event_invoke_config(FunctionName=name)
    server.kill()
    server.start()
    client = server.client()
    refused(client, "get_function_event_invoke_config", "ResourceNotFoundException", 404, FunctionName=name)

    client.put_function_event_invoke_config(FunctionName=name, MaximumRetryAttempts=0)
    client.delete_function(FunctionName=name)
    Functions(client).create(python(ECHO), name=name)
    refused(client, "get_function_event_invoke_config", "ResourceNotFoundException", 404,
            "doesn't have an EventInvokeConfig$", FunctionName=name)
    assert client.list_function_event_invoke_configs(FunctionName=name)["FunctionEventInvokeConfigs"] == []


def test_no_environment_takes_notice(client, functions):
    name = functions.create(python("COUNT = []\ndef lambda_handler(e, c):\n    COUNT.append(e)\n    return len(COUNT)\n"))
    before = client.get_function_configuration(FunctionName=name)
    assert functions.invoke(name, {}).succeeded() == 1
    client.put_function_event_invoke_config(FunctionName=name, MaximumRetryAttempts=0)
    client.update_function_event_invoke_config(FunctionName=name, DestinationConfig=on(failure=QUEUE))
    assert functions.invoke(name, {}).succeeded() == 2, "the same environment"
    client.delete_function_event_invoke_config(FunctionName=name)
    assert functions.invoke(name, {}).succeeded() == 3
    after = client.get_function_configuration(FunctionName=name)
    del before["ResponseMetadata"], after["ResponseMetadata"]
    assert after == before, "it is no revision of the function"
