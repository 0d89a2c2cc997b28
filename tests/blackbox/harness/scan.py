"""Looking for canaries: strings that must not be readable in any byte below a directory."""

import base64
import os
import secrets
import zlib
from pathlib import Path

CHUNK = 1 << 20


def canary():
    """32 random characters no file has by chance."""
    return f"CANARY{secrets.token_hex(13)}"


def spellings(text):
    """The text as programs may write it down: plain, UTF-16, hex and base64 at every alignment."""
    raw = text.encode()
    found = {raw, text.encode("utf-16-le"), raw.hex().encode(), raw.hex().upper().encode()}
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + raw)
        # The outer groups depend on the neighbours; what lies between does not.
        found.add(encoded[4:-4])
    return found


def files_below(directory):
    for parent, _, names in os.walk(directory):
        for name in names:
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink():
                yield path


def find(directory, canaries):
    """[(file, canary)] for every canary readable below `directory`, in a deflate stream at a file's start included."""
    needles = {spelling: text for text in canaries for spelling in spellings(text)}
    longest = max(map(len, needles))
    hits = []
    for path in files_below(directory):
        try:
            hits += [(path, text) for text in _search(path, needles, longest)]
        except FileNotFoundError:
            continue  # Gone while we looked: what it held moved elsewhere or was deleted.
    return hits


def _search(path, needles, longest):
    found = set()
    with open(path, "rb") as file:
        tail = b""
        while chunk := file.read(CHUNK):
            window = tail + chunk
            found |= {text for needle, text in needles.items() if needle in window}
            tail = window[-longest:]
    found |= {text for needle, text in needles.items() if needle in os.fsencode(path)}
    return found | _search_deflated(path, needles)


def _search_deflated(path, needles):
    """A ZIP or gzip kept as it came hides its text from a plain search."""
    with open(path, "rb") as file:
        content = file.read(64 * CHUNK)
    found, start = set(), 0
    while (start := content.find(b"PK\x03\x04", start)) >= 0:
        skip = 30 + int.from_bytes(content[start + 26:start + 28], "little")
        skip += int.from_bytes(content[start + 28:start + 30], "little")
        try:
            opened = zlib.decompressobj(-15).decompress(content[start + skip:], CHUNK)
        except zlib.error:
            opened = b""
        found |= {text for needle, text in needles.items() if needle in opened}
        start += 4
    return found
