#!/usr/bin/env python3
"""Everything that needs a KVM that boots kernels: suite.py build, then, as root, suite.py run [NAME…]

A file in cases/ is a group of cases: `build(setting)` makes its programs and needs no root, `cases(setting)` yields what is
run, a Case each. All are run even if one fails. A case passes if its command ends with 0 and `judge` is content with what
it printed; what it then says was proved is listed at the end, where silence means failure: nothing is skipped.
"""

import argparse
import importlib
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from harness import NestedError, choose
from harness.case import Setting, attempt

REPOSITORY = HERE.parents[1]
AT_ONCE = 2
PROVED = "nested: proved"


def main():
    # As an exception, so that nothing is left behind.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    arguments = parse(sys.argv[1:])
    setting = Setting(REPOSITORY, arguments.binary, arguments.runtimes_dir)
    groups = {path.stem: importlib.import_module(f"cases.{path.stem}") for path in sorted(HERE.glob("cases/*.py"))}
    unknown = set(arguments.names) - set(groups)
    if unknown or not groups:
        print(f"nested: no cases are called {', '.join(sorted(unknown))}; there are: {', '.join(groups)}", file=sys.stderr)
        return 2
    names = arguments.names or list(groups)
    try:
        if arguments.action == "build":
            for name in names:
                groups[name].build(setting)
            return 0
        if len(names) > 1:
            return run_side_by_side(arguments, names)
        return run(setting, [groups[names[0]]])
    except NestedError as error:
        print(f"nested: {error}", file=sys.stderr)
        return 1


def run_side_by_side(arguments, names):
    """Runs each group as this program alone would; a line of its output begins with its name."""
    options = ["--binary", arguments.binary, "--runtimes-dir", arguments.runtimes_dir]
    running = []

    def run_group(name):
        command = [sys.executable, __file__, "run", name, *map(str, options)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace") as process:
            running.append(process)
            lines = []
            for line in process.stdout:
                print(f"[{name}] {line}", end="", flush=True)
                lines.append(line)
            # What was proved stands at the end.
            start = max((at for at, line in enumerate(lines) if line.startswith(PROVED)), default=len(lines))
            return process.wait(), lines[start + 1:]

    with ThreadPoolExecutor(AT_ONCE) as executor:
        try:
            results = list(executor.map(run_group, names))
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            for process in running:
                process.terminate()
            raise
    print(f"{PROVED} {choose()}")
    for name, (code, proved) in zip(names, results):
        print("".join(proved) if proved else f"  {name}: FAILED with {code} before anything was proved\n", end="")
    return 0 if all(code == 0 for code, _ in results) else 1


def run(setting, groups):
    choice = choose()
    print(f"nested: {choice}", flush=True)
    proved, failed = [], []
    for group in groups:
        for case in cases_of(group, setting):
            print(f"nested: {case.name}", flush=True)
            try:
                proved += [(case.name, what) for what in attempt(case, setting, choice)]
            except NestedError as error:
                failed.append(case.name)
                print(f"nested: {case.name} FAILED: {error}", flush=True)
    print(f"{PROVED} {choice}")
    for name, what in proved:
        print(f"  {name}: {what}")
    for name in failed:
        print(f"  {name}: FAILED")
    return 1 if failed or not proved else 0


def cases_of(group, setting):
    try:
        return list(group.cases(setting))
    except FileNotFoundError as error:
        raise NestedError(f"{error.filename} is not there: suite.py build makes it") from None


def parse(words):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["build", "run"])
    parser.add_argument("names", nargs="*", metavar="NAME", help="files in cases/ [all]")
    parser.add_argument("--binary", type=Path, default=REPOSITORY / "target/debug/waterwheel", metavar="FILE")
    parser.add_argument("--runtimes-dir", type=Path, default=REPOSITORY / "target/runtimes", metavar="DIR")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
