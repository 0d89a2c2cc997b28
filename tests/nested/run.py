#!/usr/bin/env python3
"""Runs a command where /dev/kvm boots kernels: python3 tests/nested/run.py --tree DIR -- COMMAND [ARGUMENTS]

Directly on a machine with working VMX or SVM, else in QEMU with emulated AMD-V; --way says so otherwise. The command's
output is copied as it comes and its exit code is this program's; 124 means that it took too long, 125 that it could not
be run, both with the reason on stderr.
"""

import argparse
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import Choice, Job, NestedError, TimedOut, choose, run

TIMED_OUT, FAILED = 124, 125
WAYS = {"direct": Choice(True, "asked for"), "nested": Choice(False, "asked for")}


def main():
    # As an exception, so that nothing is left behind.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    arguments = parse(sys.argv[1:])
    choice = WAYS.get(arguments.way) or choose()
    print(f"nested: {choice}", file=sys.stderr, flush=True)
    job = Job(
        tree=arguments.tree, command=arguments.command, memory=arguments.memory, timeout=arguments.timeout,
        environment=dict(arguments.env),
    )
    try:
        return run(job, choice)
    except NestedError as error:
        print(f"nested: {error}", file=sys.stderr)
        return TIMED_OUT if isinstance(error, TimedOut) else FAILED


def parse(words):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], usage="run.py [options] -- COMMAND [ARGUMENTS]")
    parser.add_argument("--tree", type=Path, required=True, help="becomes the command's root directory; is not changed")
    parser.add_argument("--memory", type=int, default=2048, metavar="MB", help="of the virtual machine [2048]")
    parser.add_argument("--timeout", type=int, default=600, metavar="S", help="of the command, in seconds [600]")
    parser.add_argument("--env", type=variable, action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--way", choices=["auto", *WAYS], default="auto", help="[auto: direct where KVM works]")
    parser.add_argument("command", nargs="+", metavar="COMMAND")
    arguments = parser.parse_args(words)
    if not arguments.tree.is_dir():
        parser.error(f"--tree: {arguments.tree} is not a directory")
    return arguments


def variable(text):
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


if __name__ == "__main__":
    sys.exit(main())
