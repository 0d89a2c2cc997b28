"""Rust's programs and tests, built to run in a tree that holds nothing else; tests are counted."""

import json
import os
import platform
import re
import subprocess

from harness.errors import NestedError
from harness.scratch import TARGET

TRIPLE = f"{platform.machine()}-unknown-linux-gnu"
# As sandbox/build.rs has it. Naming the target keeps the flags away from build scripts and procedural macros.
FLAGS = {
    f"CARGO_TARGET_{TRIPLE.upper().replace('-', '_')}_RUSTFLAGS": "-C target-feature=+crt-static -C relocation-model=static",
}


def build_tests(repository, package, pattern):
    """Builds the integration tests of `package` whose names match `pattern`; returns {name: static program}."""
    arguments = ["test", "--no-run", "--package", package, "--test", pattern, "--target-dir", TARGET / "cargo"]
    return cargo(repository, arguments, "test")


def build_program(repository, package, name):
    """Builds the program as the server embeds it, where sandbox/build.rs has built it already; returns its path."""
    arguments = ["build", "--profile", "guest", "--package", package, "--bin", name]
    return cargo(repository, [*arguments, "--target-dir", repository / "target/guest"], "bin")[name]


def build_bench(repository, package, name):
    """Builds the benchmark; returns its static program. What it measures is other programs, built as the server's are."""
    arguments = ["build", "--package", package, "--bench", name, "--target-dir", TARGET / "cargo"]
    return cargo(repository, arguments, "bench")[name]


def cargo(repository, arguments, kind):
    """Runs cargo; returns the programs of this kind as {name: path}."""
    common = ["--quiet", "--locked", "--message-format=json-render-diagnostics", "--target", TRIPLE]
    done = subprocess.run(
        ["cargo", *map(str, arguments), *common],
        cwd=repository, env=os.environ | FLAGS, stdout=subprocess.PIPE, text=True,
    )
    if done.returncode:
        raise NestedError(f"cargo {' '.join(map(str, arguments))} failed")
    built = {}
    for message in map(json.loads, done.stdout.splitlines()):
        if message.get("executable") and kind in message["target"]["kind"]:
            built[message["target"]["name"]] = message["executable"]
    return built


def names_of(program):
    """The tests of `program` that only run where they are asked for."""
    done = subprocess.run([str(program), "--list", "--ignored", "--format=terse"], capture_output=True, text=True)
    names = re.findall(r"^(\S+): test$", done.stdout, re.MULTILINE)
    if not names:
        raise NestedError(f"{program} holds no test that is run here")
    return names


def judge_tests(names, output):
    """What is proved if every one of `names` ran and passed: their names, which are sentences.

    It goes by the count at the end: what a test prints can come between its name and its `ok`.
    """
    results = re.findall(r"^test result: (\w+)\. (\d+) passed; (\d+) failed; (\d+) ignored;", output, re.MULTILINE)
    if results != [("ok", str(len(names)), "0", "0")]:
        raise NestedError(f"{len(names)} tests were to pass, this came out: {results or 'nothing'}")
    return [name.split("::")[-1].replace("_", " ") for name in names]
