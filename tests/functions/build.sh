#!/usr/bin/env bash
# Builds the functions under test into target/functions/NAME.zip. Does nothing for a zip that is newer than its sources.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
target="$(cd "$here/../.." && pwd)/target/functions"
mkdir -p "$target"

# up_to_date ZIP FILE...
up_to_date() {
    local zip=$1 file
    shift
    [ -f "$zip" ] || return 1
    for file in "$@"; do
        [ "$file" -nt "$zip" ] && return 1
    done
    return 0
}

# pack ZIP FILE: the file alone, at the root of the archive, executable if it is; the same bytes for the same file.
pack() {
    python3 - "$1" "$2" <<'PYTHON'
import os
import sys
import zipfile

archive, source = sys.argv[1:]
partial = archive + ".partial"
entry = zipfile.ZipInfo(os.path.basename(source), date_time=(2026, 1, 1, 0, 0, 0))
entry.compress_type = zipfile.ZIP_DEFLATED
entry.create_system = 3  # Unix: the upper half of external_attr is the mode
entry.external_attr = (0o100755 if os.access(source, os.X_OK) else 0o100644) << 16
with open(source, "rb") as file, zipfile.ZipFile(partial, "w") as out:
    out.writestr(entry, file.read())
os.replace(partial, archive)
PYTHON
    echo "$1"
}

for name in echo-python misbehave-python; do
    source="$here/$name/lambda_function.py"
    up_to_date "$target/$name.zip" "$source" || pack "$target/$name.zip" "$source"
done

for name in echo-rust stamp-rust; do
    rust="$here/$name"
    if ! up_to_date "$target/$name.zip" "$rust/src/main.rs" "$rust/Cargo.toml" "$rust/Cargo.lock"; then
        CARGO_TARGET_DIR="$target" cargo build --quiet --release --locked --manifest-path "$rust/Cargo.toml"
        pack "$target/$name.zip" "$target/release/bootstrap"
    fi
done
