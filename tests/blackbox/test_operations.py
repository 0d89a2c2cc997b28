"""Every operation of the model is known: what is not built says so by its name, in the API's own shape."""

import botocore.exceptions
import pytest

import model
from harness.server import REGION

# What this server has built; every other operation of the model must say that it has not.
BUILT = {
    "CreateFunction", "GetFunction", "GetFunctionConfiguration", "ListFunctions", "UpdateFunctionCode",
    "UpdateFunctionConfiguration", "DeleteFunction", "Invoke", "InvokeAsync", "GetAccountSettings", "PutFunctionEventInvokeConfig",
    "UpdateFunctionEventInvokeConfig", "GetFunctionEventInvokeConfig", "DeleteFunctionEventInvokeConfig",
    "ListFunctionEventInvokeConfigs", "PutFunctionRecursionConfig", "GetFunctionRecursionConfig",
}


def minimal(shape, name="x"):
    """The smallest value the model allows."""
    if shape.type_name == "structure":
        return {n: minimal(shape.members[n], n) for n in shape.required_members}
    if shape.type_name == "list":
        return [minimal(shape.member)] * shape.metadata.get("min", 0)
    if shape.type_name == "map":
        return {}
    if shape.type_name in ("integer", "long", "double", "float"):
        return max(1, shape.metadata.get("min", 1))
    if shape.type_name == "timestamp":
        return 1_700_000_000
    if shape.type_name == "boolean":
        return False
    if shape.type_name == "blob":
        return b"x"
    if shape.enum:
        return shape.enum[0]
    return {"FunctionName": "f", "Resource": f"arn:aws:lambda:{REGION}:123456789012:function:f"}.get(
        name, "x" * max(1, shape.metadata.get("min", 1)))


@pytest.fixture(scope="module")
def unchecking_client(server):
    """Sends what it is given; the server has to check it."""
    return server.client(parameter_validation=False)


@pytest.mark.parametrize("operation", sorted(set(model.service_model().operation_names) - BUILT))
def test_an_operation_that_is_not_built_says_so_by_name(unchecking_client, operation):
    shape = model.service_model().operation_model(operation).input_shape
    client = unchecking_client
    arguments = minimal(shape) if shape else {}
    method = next(m for m, o in client.meta.method_to_api_mapping.items() if o == operation)
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        getattr(client, method)(**arguments)
    response = caught.value.response
    # Whatever else may be wrong with the request: never a 404 for the path, never a hang.
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 501, response
    assert response["Error"]["Code"] == "NotImplementedException"
    assert operation in response["Error"]["Message"]


@pytest.mark.parametrize("method, path", [
    ("GET", "/"), ("GET", "/2015-03-31/nonsense"), ("PATCH", "/2015-03-31/functions"), ("POST", "/2015-03-31/functions/f"),
])
def test_a_path_the_api_does_not_have_is_said_to_be_unknown(wire, method, path):
    answer = wire.call(method, path)
    assert (answer.status, answer.error) == (404, "UnknownOperationException"), (answer.status, answer.body)


def test_built_names_only_operations_of_the_model():
    assert BUILT <= set(model.service_model().operation_names)
