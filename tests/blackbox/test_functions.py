"""The control plane through boto3: create, read, list, change and delete functions.

Texts of errors marked (REC) were recorded on AWS; every answer is checked against the service model beside.
"""

import base64
import hashlib
import re
import urllib.error
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor

import botocore.exceptions
import pytest

import model
from harness.errors import refused
from harness.functions import ECHO, ROLE, Functions, fresh_name, package, python
from harness.server import REGION

OTHER = "def lambda_handler(event, context):\n    return 'other'\n"

def sha256(code):
    return base64.b64encode(hashlib.sha256(code).digest()).decode()


# === create ===


def test_a_new_function_is_pending_and_then_active(client, functions):
    name, code = fresh_name(), python(ECHO)
    created = client.create_function(
        FunctionName=name, Role=ROLE, Runtime="python3.11", Handler="lambda_function.lambda_handler",
        Code={"ZipFile": code}, Description="says it back", Timeout=7, MemorySize=192,
        Environment={"Variables": {"GREETING": "hello"}},
    )
    arn = created["FunctionArn"]
    assert re.fullmatch(rf"arn:aws:lambda:{REGION}:\d{{12}}:function:{name}", arn)
    expected = {
        "FunctionName": name, "Runtime": "python3.11", "Role": ROLE, "Handler": "lambda_function.lambda_handler",
        "CodeSize": len(code), "CodeSha256": sha256(code), "Description": "says it back", "Timeout": 7,
        "MemorySize": 192, "Version": "$LATEST", "PackageType": "Zip", "Architectures": ["x86_64"],
        "Environment": {"Variables": {"GREETING": "hello"}}, "EphemeralStorage": {"Size": 512},
        "TracingConfig": {"Mode": "PassThrough"}, "SnapStart": {"ApplyOn": "None", "OptimizationStatus": "Off"},
        "LoggingConfig": {"LogFormat": "Text", "LogGroup": f"/aws/lambda/{name}"},
    }
    assert {key: created.get(key) for key in expected} == expected
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+0000", created["LastModified"])
    assert created["RuntimeVersionConfig"]["RuntimeVersionArn"].startswith(f"arn:aws:lambda:{REGION}::runtime:")
    # (REC) what a creation answers, before the function is ready.
    assert (created["State"], created["StateReasonCode"]) == ("Pending", "Creating")
    assert created["StateReason"] == "The function is being created."
    assert "LastUpdateStatus" not in created

    client.get_waiter("function_active_v2").wait(FunctionName=name)
    active = client.get_function_configuration(FunctionName=name)
    assert (active["State"], active["LastUpdateStatus"]) == ("Active", "Successful")
    assert "StateReason" not in active and "StateReasonCode" not in active
    assert {key: active.get(key) for key in expected} == expected
    assert active["RevisionId"] != created["RevisionId"], "(REC) becoming active is a revision of its own"
    client.get_waiter("function_active").wait(FunctionName=name)
    client.get_waiter("function_exists").wait(FunctionName=name)


def test_defaults_are_those_of_lambda(client, functions):
    # `functions.create` sets a timeout of its own; here nothing optional is set.
    name = fresh_name()
    client.create_function(
        FunctionName=name, Role=ROLE, Runtime="python3.11", Handler="a.b", Code={"ZipFile": python(ECHO)}
    )
    functions.await_active(name)
    found = client.get_function_configuration(FunctionName=name)
    assert (found["Timeout"], found["MemorySize"], found["Description"]) == (3, 128, "")
    assert "Environment" not in found, "(REC) absent where none was given"


def test_a_second_function_of_the_same_name_is_a_conflict(client, echo):
    # (REC) "Function already exist: name"
    refused(
        client, "create_function", "ResourceConflictException", 409, f"^Function already exist: {echo}$",
        FunctionName=echo, Role=ROLE, Runtime="python3.11", Handler="a.b", Code={"ZipFile": python(OTHER)},
    )


def test_of_many_creations_at_once_one_wins(server, client, functions):
    name = fresh_name()

    def create(number):
        try:
            return client.create_function(
                FunctionName=name, Role=ROLE, Runtime="python3.11", Handler="lambda_function.lambda_handler",
                Code={"ZipFile": python(f"def lambda_handler(e, c):\n    return {number}\n")},
            )["CodeSha256"]
        except client.exceptions.ResourceConflictException:
            return None

    with ThreadPoolExecutor(8) as pool:
        winners = [won for won in pool.map(create, range(8)) if won]
    assert len(winners) == 1
    functions.await_active(name)
    assert client.get_function_configuration(FunctionName=name)["CodeSha256"] == winners[0]


@pytest.mark.parametrize("missing", ["Runtime", "Handler"])
def test_a_zip_function_needs_runtime_and_handler(client, missing):
    arguments = {"Runtime": "python3.11", "Handler": "a.b"}
    del arguments[missing]
    refused(
        client, "create_function", "InvalidParameterValueException", 400,
        "Runtime and Handler are mandatory parameters for functions created with deployment packages",
        FunctionName=fresh_name(), Role=ROLE, Code={"ZipFile": python(ECHO)}, **arguments,
    )


def test_a_runtime_that_is_not_installed_is_refused_with_those_that_are(client):
    error = refused(
        client, "create_function", "InvalidParameterValueException", 400, r"nodejs22\.x",
        FunctionName=fresh_name(), Role=ROLE, Runtime="nodejs22.x", Handler="a.b", Code={"ZipFile": python(ECHO)},
    )
    message = error["Error"]["Message"]
    assert "python3.11" in message and "provided.al2023" in message, "lists what is installed"
    assert "waterwheel runtimes" in message, "says how to add one"


def test_a_runtime_nobody_knows_is_refused(client):
    # (REC) Value cobol85 at 'runtime' failed to satisfy constraint: Member must satisfy enum value set: […]
    refused(
        client, "create_function", "InvalidParameterValueException", 400, "cobol85.*runtime",
        FunctionName=fresh_name(), Role=ROLE, Runtime="cobol85", Handler="a.b", Code={"ZipFile": python(ECHO)},
    )


@pytest.mark.parametrize("setting, value", [
    ("Code", {"ImageUri": "123456789012.dkr.ecr.us-east-1.amazonaws.com/app:1"}),
    ("Code", {"S3Bucket": "bucket", "S3Key": "key"}),
    ("Layers", ["arn:aws:lambda:us-east-1:123456789012:layer:mine:1"]),
    ("Publish", True),
])
def test_what_is_not_built_yet_is_refused_by_its_name(client, setting, value):
    arguments = {"Code": {"ZipFile": python(ECHO)}, "Runtime": "python3.11", "Handler": "a.b", setting: value}
    if "ImageUri" in str(value):
        arguments = {"Code": value, "PackageType": "Image"}
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        client.create_function(FunctionName=fresh_name(), Role=ROLE, **arguments)
    named = next(iter(value)) if isinstance(value, dict) else setting
    message = caught.value.response["Error"]["Message"]
    assert named in message or "PackageType" in message, message


def test_values_equal_to_the_default_are_accepted(client, functions):
    """Terraform and SAM send them."""
    functions.create(
        Publish=False, Layers=[], PackageType="Zip", Architectures=["x86_64"], SnapStart={"ApplyOn": "None"},
        VpcConfig={"SubnetIds": [], "SecurityGroupIds": []}, TracingConfig={"Mode": "PassThrough"},
        EphemeralStorage={"Size": 512}, Environment={"Variables": {}},
    )


@pytest.mark.parametrize("settings, message", [
    ({"Timeout": 901}, "timeout.*less than or equal to 900"),
    ({"MemorySize": 127}, "memorySize.*greater than or equal to 128"),
    ({"Handler": "with space"}, "handler.*regular expression pattern"),
    ({"Role": "nobody"}, "role.*regular expression pattern"),
    ({"EphemeralStorage": {"Size": 511}}, r"ephemeralStorage\.size.*greater than or equal to 512"),
    ({"Timeout": 0, "MemorySize": 1}, "^2 validation errors detected: "),
])
def test_constraints_of_the_model_are_checked_in_its_own_words(wire, settings, message):
    # Raw: botocore checks some of these itself and would never send them.
    body = {"FunctionName": fresh_name(), "Role": ROLE, "Runtime": "python3.11", "Handler": "a.b",
            "Code": {"ZipFile": base64.b64encode(python(ECHO)).decode()}} | settings
    answer = model.verify_raw("CreateFunction", wire.call("POST", "/2015-03-31/functions", body))
    assert (answer.status, answer.error) == (400, "ValidationException"), answer.body
    assert re.search(message, answer.message), answer.message


def test_environment_variables_over_4_kb_are_refused_without_repeating_them(client):
    secret = "s3cret" * 700
    error = refused(
        client, "create_function", "InvalidParameterValueException", 400, "exceeded the 4KB limit",
        FunctionName=fresh_name(), Role=ROLE, Runtime="python3.11", Handler="a.b",
        Code={"ZipFile": python(ECHO)}, Environment={"Variables": {"BIG": secret}},
    )
    assert "s3cret" not in str(error)


@pytest.mark.parametrize("name", ["AWS_REGION", "AWS_SESSION_TOKEN", "AWS_LAMBDA_FUNCTION_NAME", "LAMBDA_TASK_ROOT"])
def test_reserved_variables_are_refused_by_name(wire, name):
    body = {"FunctionName": fresh_name(), "Role": ROLE, "Runtime": "python3.11", "Handler": "a.b",
            "Code": {"ZipFile": base64.b64encode(python(ECHO)).decode()}, "Environment": {"Variables": {name: "x"}}}
    answer = model.verify_raw("CreateFunction", wire.call("POST", "/2015-03-31/functions", body))
    assert (answer.status, answer.error) == (400, "InvalidParameterValueException")
    assert name in answer.message and "reserved keys" in answer.message


# === read ===


def test_get_function_gives_the_package_back(client, functions):
    code = package({"lambda_function.py": ECHO, "data/blob": bytes(range(256))})
    name = functions.create(code, Tags={"team": "water", "env": "prüf"})
    found = client.get_function(FunctionName=name)
    assert found["Tags"] == {"team": "water", "env": "prüf"}
    assert found["Code"]["RepositoryType"] == "S3"
    location = found["Code"]["Location"]
    with urllib.request.urlopen(location) as response:  # presigned: needs no credentials
        assert response.read() == code
    for broken in (re.sub(r"(Signature=\w{10})\w", r"\1_", location), location.split("?")[0]):
        assert broken != location
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(broken)
        assert caught.value.code == 403


def test_a_function_without_tags_answers_without_tags(client, echo):
    assert "Tags" not in client.get_function(FunctionName=echo)


@pytest.mark.parametrize("spelling", [
    "{name}", "{name}:$LATEST", "{account}:function:{name}", "{account}:{name}", "function:{name}",
    "arn:aws:lambda:{region}:{account}:function:{name}", "arn:aws:lambda:{region}:{account}:function:{name}:$LATEST",
])
def test_every_spelling_names_the_same_function(client, functions, echo, spelling):
    arn = client.get_function_configuration(FunctionName=echo)["FunctionArn"]
    spelled = spelling.format(name=echo, account=arn.split(":")[4], region=REGION)
    found = client.get_function_configuration(FunctionName=spelled)
    # (REC) the qualifier one asked with comes back in the ARN
    assert found["FunctionArn"] == (f"{arn}:$LATEST" if spelled.endswith(":$LATEST") else arn)
    assert functions.invoke(spelled, [1]).succeeded() == [1]


@pytest.mark.parametrize("operation", [
    "get_function", "get_function_configuration", "delete_function", "update_function_configuration",
])
def test_an_unknown_function_is_not_found(client, operation):
    name = fresh_name("nobody")
    # (REC) the ARN without a qualifier
    error = refused(client, operation, "ResourceNotFoundException", 404,
                    rf"^Function not found: arn:aws:lambda:{REGION}:\d{{12}}:function:{name}$", FunctionName=name)
    assert error["Type"] == "User"


def test_an_unknown_function_cannot_get_new_code(client):
    refused(client, "update_function_code", "ResourceNotFoundException", 404, "^Function not found: arn:",
            FunctionName=fresh_name("nobody"), ZipFile=python(ECHO))


@pytest.mark.parametrize("operation", ["get_function", "get_function_configuration"])
def test_an_unknown_qualifier_is_not_found(client, echo, operation):
    refused(client, operation, "ResourceNotFoundException", 404, rf"^Function not found: arn:.*:{echo}:7$",
            FunctionName=echo, Qualifier="7")


def test_a_function_of_another_region_is_out_of_reach(client, echo):
    arn = client.get_function_configuration(FunctionName=echo)["FunctionArn"].replace(REGION, "eu-west-1")
    # (REC)
    refused(client, "get_function", "ResourceNotFoundException", 404,
            rf"^Functions from 'eu-west-1' are not reachable in this region \('{REGION}'\)$", FunctionName=arn)


def test_two_qualifiers_must_agree(client, echo):
    # (REC)
    refused(client, "get_function", "InvalidParameterValueException", 400,
            "^The derived qualifier from the function name does not match the specified qualifier",
            FunctionName=f"{echo}:1", Qualifier="$LATEST")


# === list ===


def test_a_list_comes_in_pages_that_miss_and_repeat_nothing(new_server):
    client = new_server().start().client()
    functions = Functions(client)
    assert client.list_functions()["Functions"] == []
    names = sorted(functions.create(wait=False) for _ in range(7))
    for page_size in (1, 3, 7, 50):
        pages = client.get_paginator("list_functions").paginate(PaginationConfig={"PageSize": page_size})
        listed = [[function["FunctionName"] for function in page["Functions"]] for page in pages]
        assert sorted(sum(listed, [])) == names
        assert all(len(page) <= page_size for page in listed)
    entry = client.list_functions(MaxItems=1)["Functions"][0]
    # (REC) a list says nothing of states
    assert not {"State", "LastUpdateStatus", "RuntimeVersionConfig", "StateReason"} & set(entry)
    assert {"FunctionArn", "CodeSha256", "RevisionId", "Version"} <= set(entry)

    usage = client.get_account_settings()
    assert usage["AccountUsage"]["FunctionCount"] == 7
    assert usage["AccountUsage"]["TotalCodeSize"] == 7 * len(python(ECHO))
    assert usage["AccountLimit"]["CodeSizeZipped"] == 52_428_800
    assert usage["AccountLimit"]["CodeSizeUnzipped"] == 262_144_000
    assert usage["AccountLimit"]["ConcurrentExecutions"] > 0


def test_deleting_between_two_pages_loses_nobody_else(functions, client):
    names = sorted(functions.create(wait=False) for _ in range(4))
    first = client.list_functions(MaxItems=2)
    for function in first["Functions"]:
        if function["FunctionName"] in names:
            client.delete_function(FunctionName=function["FunctionName"])
            names.remove(function["FunctionName"])
    rest, marker = [], first.get("NextMarker")
    while marker:
        page = client.list_functions(MaxItems=2, Marker=marker)
        rest += [function["FunctionName"] for function in page["Functions"]]
        marker = page.get("NextMarker")
    seen = {function["FunctionName"] for function in first["Functions"]} | set(rest)
    assert set(names) <= seen


@pytest.mark.parametrize("query, message", [
    ("MaxItems=0", "maxItems.*greater than or equal to 1"),
    ("MaxItems=10001", "maxItems.*less than or equal to 10000"),
    ("MaxItems=many", "many|[mM]axItems|Integer"),
    ("FunctionVersion=SOME", "functionVersion.*enum value set"),
])
def test_a_list_with_bad_parameters_is_refused(wire, query, message):
    answer = model.verify_raw("ListFunctions", wire.call("GET", f"/2015-03-31/functions?{query}"))
    assert answer.status == 400 and re.search(message, answer.message), answer.body


# === update ===


def test_new_code_takes_over_and_is_waited_for(client, functions):
    name = functions.create()
    before = client.get_function_configuration(FunctionName=name)
    updated = client.update_function_code(FunctionName=name, ZipFile=python(OTHER))
    assert updated["CodeSha256"] == sha256(python(OTHER)) != before["CodeSha256"]
    assert (updated["State"], updated["LastUpdateStatus"]) == ("Active", "InProgress")
    # (REC) the words are those of a creation
    assert updated["LastUpdateStatusReason"] == "The function is being created."
    assert updated["LastUpdateStatusReasonCode"] == "Creating"
    client.get_waiter("function_updated_v2").wait(FunctionName=name)
    client.get_waiter("function_updated").wait(FunctionName=name)
    after = client.get_function_configuration(FunctionName=name)
    assert after["LastUpdateStatus"] == "Successful" and "LastUpdateStatusReason" not in after
    assert len({before["RevisionId"], updated["RevisionId"], after["RevisionId"]}) == 3
    assert functions.invoke(name, {}).succeeded() == "other"


def test_a_dry_run_of_new_code_changes_nothing(client, functions):
    name = functions.create()
    dry = client.update_function_code(FunctionName=name, ZipFile=python(OTHER), DryRun=True)
    assert dry["CodeSha256"] == sha256(python(OTHER)), "answers what it would be"
    assert client.get_function_configuration(FunctionName=name)["CodeSha256"] == sha256(python(ECHO))
    assert functions.invoke(name, {"a": 1}).succeeded() == {"a": 1}


def test_new_configuration_changes_what_it_names_and_nothing_else(client, functions):
    name = functions.create(Description="old", MemorySize=256, Environment={"Variables": {"OLD": "1"}})
    before = client.get_function_configuration(FunctionName=name)
    client.update_function_configuration(FunctionName=name, Timeout=11, Description="new")
    functions.await_updated(name)
    after = client.get_function_configuration(FunctionName=name)
    changed = {key for key in after if after[key] != before.get(key)} - {"ResponseMetadata"}
    assert changed == {"Timeout", "Description", "LastModified", "RevisionId"}
    client.update_function_configuration(FunctionName=name, Environment={"Variables": {"NEW": "2"}})
    functions.await_updated(name)
    assert client.get_function_configuration(FunctionName=name)["Environment"] == {"Variables": {"NEW": "2"}}


def test_a_stale_revision_changes_nothing(client, functions):
    name = functions.create(Description="first")
    stale = client.get_function_configuration(FunctionName=name)["RevisionId"]
    current = client.update_function_configuration(FunctionName=name, Description="second", RevisionId=stale)
    functions.await_updated(name)
    for operation, change in (("update_function_configuration", {"Description": "third"}),
                              ("update_function_code", {"ZipFile": python(OTHER)})):
        for wrong in (stale, str(uuid.uuid4())):
            # (REC)
            refused(client, operation, "PreconditionFailedException", 412,
                    "^The Revision Id provided does not match the latest Revision Id", FunctionName=name,
                    RevisionId=wrong, **change)
    found = client.get_function_configuration(FunctionName=name)
    assert (found["Description"], found["CodeSha256"]) == ("second", sha256(python(ECHO)))
    assert found["RevisionId"] not in (stale, current["RevisionId"]), "the end of the update is a revision too"
    client.update_function_code(FunctionName=name, ZipFile=python(OTHER), RevisionId=found["RevisionId"])


def test_of_many_updates_from_one_revision_one_wins(client, functions):
    name = functions.create()
    revision = client.get_function_configuration(FunctionName=name)["RevisionId"]

    def update(text):
        try:
            client.update_function_configuration(FunctionName=name, Description=text, RevisionId=revision)
            return text
        except (client.exceptions.PreconditionFailedException, client.exceptions.ResourceConflictException):
            return None

    with ThreadPoolExecutor(8) as pool:
        winners = [won for won in pool.map(update, "abcdefgh") if won]
    functions.await_updated(name)
    assert [client.get_function_configuration(FunctionName=name)["Description"]] == winners


def test_an_update_to_what_is_not_there_leaves_the_function_as_it_was(client, functions):
    name = functions.create()
    before = client.get_function_configuration(FunctionName=name)
    refused(client, "update_function_configuration", "InvalidParameterValueException", 400, "nodejs22",
            FunctionName=name, Runtime="nodejs22.x")
    refused(client, "update_function_code", "InvalidParameterValueException", 400, "[Uu]nzip",
            FunctionName=name, ZipFile=b"this is not a zip")
    after = client.get_function_configuration(FunctionName=name)
    del before["ResponseMetadata"], after["ResponseMetadata"]
    assert after == before


# === delete ===


def test_a_deleted_function_is_gone_and_its_name_is_free(client, functions):
    name = functions.create()
    assert functions.invoke(name, 1).succeeded() == 1
    location = client.get_function(FunctionName=name)["Code"]["Location"]
    assert client.delete_function(FunctionName=name)["ResponseMetadata"]["HTTPStatusCode"] == 204
    for operation in ("get_function", "get_function_configuration", "invoke", "delete_function"):
        refused(client, operation, "ResourceNotFoundException", 404, FunctionName=name)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(location)
    assert caught.value.code in (403, 404)
    again = functions.create(python(OTHER), name=name)
    assert functions.invoke(again, 1).succeeded() == "other"


def test_latest_cannot_be_deleted_alone(client, functions):
    name = functions.create(wait=False)
    # (REC)
    refused(client, "delete_function", "InvalidParameterValueException", 400,
            r"\$LATEST version cannot be deleted without deleting the function",
            FunctionName=name, Qualifier="$LATEST")
