"""Directories that a run needs only while it lasts."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

TARGET = Path(__file__).resolve().parents[3] / "target/nested"


@contextlib.contextmanager
def scratch():
    """An empty directory, gone afterwards; those of runs that were killed go too."""
    TARGET.mkdir(parents=True, exist_ok=True)
    for left in TARGET.glob("run-*-*"):
        if not Path("/proc", left.name.split("-")[1]).exists():
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"run-{os.getpid()}-", dir=TARGET) as directory:
        yield Path(directory)
