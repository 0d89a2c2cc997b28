#!/usr/bin/env python3
"""Makes lambda-2015-03-31.json: the Lambda service model of botocore, without its prose.

    extract.py            fetch the wheel with pip and write the file
    extract.py --check    fetch it and fail when the file here differs
    … --wheel PATH        use a wheel that is already on this machine

What remains are facts of the API: operations, shapes, patterns, limits. See NOTICE beside this file.
"""

import argparse
import gzip
import json
import pathlib
import subprocess
import sys
import tempfile
import zipfile

VERSION = "1.44.5"
MEMBER = "botocore/data/lambda/2015-03-31/service-2.json.gz"
OUTPUT = pathlib.Path(__file__).with_name("lambda-2015-03-31.json")


def fetch(folder):
    """Downloads the wheel into `folder` and returns its path."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*command, "--dest", folder, f"botocore=={VERSION}"], check=True)
    (wheel,) = pathlib.Path(folder).glob("botocore-*.whl")
    return wheel


def without_prose(node):
    """Drops documentation strings; a member that happens to be *called* documentation is no string and stays."""
    if isinstance(node, dict):
        kept = ((k, v) for k, v in node.items() if not (k == "documentation" and isinstance(v, str)))
        return {k: without_prose(v) for k, v in kept}
    if isinstance(node, list):
        return [without_prose(item) for item in node]
    return node


def extract(wheel):
    with zipfile.ZipFile(wheel) as archive:
        model = json.loads(gzip.decompress(archive.read(MEMBER)))
    return json.dumps(without_prose(model), indent=1, ensure_ascii=False) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("--wheel", type=pathlib.Path, help=f"a botocore {VERSION} wheel")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wheel = arguments.wheel or fetch(folder)
        if f"botocore-{VERSION}-" not in wheel.name:
            parser.error(f"{wheel.name} is not botocore {VERSION}")
        text = extract(wheel)
    if not arguments.check:
        OUTPUT.write_text(text, encoding="utf-8")
    elif OUTPUT.read_text(encoding="utf-8") != text:
        sys.exit(f"{OUTPUT.name} is not what botocore {VERSION} says: run {pathlib.Path(__file__).name}")


if __name__ == "__main__":
    main()
