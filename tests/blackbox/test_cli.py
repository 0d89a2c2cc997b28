"""The real AWS CLI, and the commands of `waterwheel` beside `serve`."""

import base64
import itertools
import json
import os
import re
import subprocess
import tomllib

import pytest

from harness.aws_cli import AwsCli, AwsFailed
from harness.following import Following
from harness.functions import ECHO, ROLE, Functions, fresh_name, python
from harness.server import BINARY, RUNTIMES


@pytest.fixture(scope="module")
def exports(server):
    """The variables that `eval "$(waterwheel env)"` leaves in a shell."""
    script = f'eval "$({BINARY} env --data-dir {server.data})" && env -0'
    done = subprocess.run(["sh", "-ec", script], capture_output=True, env=server.environment(), timeout=30)
    assert done.returncode == 0, done.stderr
    pairs = (entry.split("=", 1) for entry in done.stdout.decode().split("\0") if "=" in entry)
    return {name: value for name, value in pairs if name.startswith("AWS_")}


@pytest.fixture(scope="module")
def aws(server, exports):
    return AwsCli(server, exports)


# === the AWS CLI ===


def test_a_function_lives_its_life_with_the_aws_cli(aws, tmp_path):
    name = fresh_name("cli")
    zip_file = tmp_path / "code.zip"
    zip_file.write_bytes(python("def lambda_handler(e, c):\n    print('seen', e)\n    return {'got': e}\n"))
    created = aws.run("lambda", "create-function", "--function-name", name, "--runtime", "python3.11", "--role", ROLE,
                      "--handler", "lambda_function.lambda_handler", "--zip-file", f"fileb://{zip_file}",
                      "--environment", "Variables={ONE=1,TWO=two}", "--tags", "k=v")
    assert created["State"] == "Pending" and created["Environment"]["Variables"] == {"ONE": "1", "TWO": "two"}
    aws.run("lambda", "wait", "function-active-v2", "--function-name", name)

    answer = tmp_path / "answer.json"
    told = aws.run("lambda", "invoke", "--function-name", name, "--payload", '{"n": 5}', "--log-type", "Tail", answer)
    assert told["StatusCode"] == 200 and json.loads(answer.read_text()) == {"got": {"n": 5}}
    assert "seen {'n': 5}" in base64.b64decode(told["LogResult"]).decode()

    assert name in [function["FunctionName"] for function in aws.run("lambda", "list-functions")["Functions"]]
    assert aws.run("lambda", "get-function", "--function-name", name)["Tags"] == {"k": "v"}

    zip_file.write_bytes(python(ECHO))
    aws.run("lambda", "update-function-code", "--function-name", name, "--zip-file", f"fileb://{zip_file}")
    aws.run("lambda", "wait", "function-updated-v2", "--function-name", name)
    aws.run("lambda", "invoke", "--function-name", name, "--payload", '"new"', answer)
    assert json.loads(answer.read_text()) == "new"

    aws.run("lambda", "delete-function", "--function-name", name)
    with pytest.raises(AwsFailed, match="ResourceNotFoundException.*Function not found: arn:aws:lambda"):
        aws.run("lambda", "get-function", "--function-name", name)


def test_errors_read_well_in_the_aws_cli(aws, tmp_path):
    with pytest.raises(AwsFailed, match=r"\(ResourceNotFoundException\) when calling the Invoke operation: Function not"):
        aws.run("lambda", "invoke", "--function-name", "nobody", tmp_path / "x")
    with pytest.raises(AwsFailed, match="PublishVersion"):
        aws.run("lambda", "publish-version", "--function-name", "nobody")


# === env ===


def test_env_points_lambda_and_only_lambda_here(server, exports):
    key, secret = server.credentials()
    assert exports["AWS_ENDPOINT_URL_LAMBDA"] == server.endpoint
    assert (exports["AWS_ACCESS_KEY_ID"], exports["AWS_SECRET_ACCESS_KEY"]) == (key, secret)
    assert exports.get("AWS_DEFAULT_REGION", exports.get("AWS_REGION")) == "us-east-1"
    assert "AWS_ENDPOINT_URL" not in exports


def test_env_before_the_first_start_says_what_to_do(built, tmp_path):
    done = subprocess.run([BINARY, "env", "--data-dir", tmp_path / "never"], capture_output=True, text=True, timeout=30)
    assert done.returncode != 0 and done.stdout == ""
    assert "serve" in done.stderr, done.stderr


# === logs ===


@pytest.fixture(scope="module")
def noisy(functions):
    return functions.create(python("def lambda_handler(e, c):\n    print('line', e, flush=True)\n    return e\n"))


def test_logs_follow_and_end_cleanly(server, functions, noisy):
    functions.invoke(noisy, "before")
    with Following(server, noisy) as following:
        following.until("line before")
        request = functions.invoke(noisy, "after").request_id
        text = "".join(following.until(f"REPORT RequestId: {request}"))
        assert "line after" in text and f"START RequestId: {request}" in text and f"END RequestId: {request}" in text
        assert re.search(r"\[\$LATEST\][0-9a-f]{32}", text), "each line names its stream"
        code, said = following.interrupt()
        assert code in (0, 130) and "panic" not in said


def test_logs_can_be_read_while_the_server_is_down(new_server):
    server = new_server().start()
    functions = Functions(server.client())
    name = functions.create(python("def lambda_handler(e, c):\n    print('kept', e)\n"))
    functions.invoke(name, 42)
    server.stop()
    done = server.command("logs", name)
    assert done.returncode == 0 and "kept 42" in done.stdout, done.stderr
    assert "kept 42" in server.command("logs", "--since", "10m", name).stdout


def test_logs_of_nobody_name_those_there_are(server, functions, noisy):
    functions.invoke(noisy, "x")
    done = server.command("logs", "nobody")
    assert done.returncode != 0 and "nobody" in done.stderr and noisy in done.stderr, done.stderr


# === doctor, config, runtimes ===


def test_doctor_speaks_to_people_and_to_programs(server):
    people, programs = server.command("doctor"), server.command("doctor", "--json")
    assert people.returncode == programs.returncode == 0, people.stdout + people.stderr
    for topic in ("kvm", "microvm", "cgroup", "namespace", "seccomp", "disk", "runtime"):
        assert re.search(topic, people.stdout, re.IGNORECASE), topic
        assert re.search(topic, programs.stdout, re.IGNORECASE), topic
    assert json.loads(programs.stdout)


def test_config_print_is_a_configuration_file(server, tmp_path, new_server):
    printed = server.command("config", "print")
    assert printed.returncode == 0
    for key in ("listen", "auth", "idle_timeout", "concurrency_limit", "otlp_endpoint"):
        assert re.search(rf"^{key} = ", printed.stdout, re.MULTILINE), key
    # Every key is explained: the line before the first key of each run of keys is a comment.
    lines = printed.stdout.splitlines()
    for before, line in itertools.pairwise(lines):
        assert not (re.match(r"\w+ = ", line) and before.startswith("[")), f"{line} is not explained"
    file = tmp_path / "printed.toml"
    file.write_text(printed.stdout)
    again = server.command("config", "print", "--config", str(file))
    # It says where each value is from now; the values are the same.
    assert again.returncode == 0 and tomllib.loads(again.stdout) == tomllib.loads(printed.stdout)


@pytest.mark.parametrize("text, named", [
    ("[server]\nmax_connections = 'few'\n", "max_connections.*few"),
    ("[server]\nlissen = 'x'\n", "lissen"), ("[servre]\n", "servre"),
    ("[environments]\nidle_timeout = 'soon'\n", "idle_timeout.*soon"), ("not toml", "line 1|TOML"),
    ("[account]\nid = '12'\n", "id.*12"), ("[environments]\nisolation = 'vm'\n", "isolation.*vm"),
])
def test_a_wrong_configuration_names_file_key_and_value(server, tmp_path, text, named):
    file = tmp_path / "wrong.toml"
    file.write_text(text)
    done = subprocess.run([BINARY, "serve", "--data-dir", tmp_path / "data", "--listen", "127.0.0.1:0", "--config", file],
                          capture_output=True, text=True, env=server.environment(), timeout=30)
    assert done.returncode not in (0, -9)
    assert str(file) in done.stderr and re.search(named, done.stderr, re.DOTALL), done.stderr


def test_runtimes_list_names_what_is_built(server):
    done = server.command("runtimes", "--runtimes-dir", str(RUNTIMES), "list")
    assert done.returncode == 0 and "python3.11" in done.stdout and "provided.al2023" in done.stdout, done


def test_kernel_list_without_a_kernel_says_how_to_build_one(server, tmp_path):
    done = server.command("kernel", "list", "--runtimes-dir", str(tmp_path))
    assert done.returncode == 0 and "waterwheel kernel build" in done.stdout, done


def test_help_and_completions_are_there(server):
    helped = subprocess.run([BINARY, "--help"], capture_output=True, text=True, timeout=30)
    for command in ("serve", "doctor", "env", "runtimes", "kernel", "logs", "demo", "config"):
        assert command in helped.stdout
    for shell in ("bash", "zsh", "fish"):
        done = subprocess.run([BINARY, "completions", shell], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0 and "waterwheel" in done.stdout


def test_a_second_server_on_the_same_data_is_refused(server):
    done = subprocess.run([BINARY, "serve", "--data-dir", server.data, "--listen", "127.0.0.1:0"], capture_output=True,
                          text=True, env=server.environment(), timeout=30)
    assert done.returncode not in (0, -9)
    assert str(server.process.pid) in done.stderr or "another" in done.stderr or "in use" in done.stderr, done.stderr
    assert server.get("/healthz")[0] == 200 and os.path.exists(server.data / "endpoint")


def test_a_port_in_use_is_said_plainly(server, tmp_path):
    done = subprocess.run([BINARY, "serve", "--data-dir", tmp_path / "other", "--listen", server.listen],
                          capture_output=True, text=True, env=server.environment(), timeout=30)
    assert done.returncode not in (0, -9) and server.listen in done.stderr, done.stderr
