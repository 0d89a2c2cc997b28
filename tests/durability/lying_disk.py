#!/usr/bin/env python3
"""Runs a command for which the disk lies: its fsync and fdatasync do nothing and return success."""

import os
import sys

from client import forget_syncs

if __name__ == "__main__":
    forget_syncs()
    os.execv(sys.argv[1], sys.argv[1:])
