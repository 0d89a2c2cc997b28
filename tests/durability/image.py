"""A small ext4 file system on a loop device, whose power can be cut."""

import ctypes
import fcntl
import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

from client import Failed

EXT4_IOC_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32)
# What becomes of the journal: written out with all data; written out; lost with all that waits in it.
DEFAULT, LOG_FLUSH, NO_LOG_FLUSH = 0, 1, 2
# Seconds until a loop device is let go, once nobody has anything of it.
LET_GO = 10
# Where mkfs lies, a user's path may not lead.
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def own_mounts():
    """From here on mounts are this process's and its children's alone, and go with the last of them."""
    new_namespace = 0x00020000
    if ctypes.CDLL(None, use_errno=True).unshare(new_namespace):
        sys.exit(f"queue cuts: mounts need root: {os.strerror(ctypes.get_errno())}")
    run("mount", "--make-rprivate", "/")


def run(*words):
    done = subprocess.run(
        list(map(str, words)), env=os.environ | {"PATH": PATH}, stdin=subprocess.DEVNULL, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise Failed(f"{' '.join(map(str, words))}: {done.stdout.strip()}")


class Image:
    """The file system. The loop device is let go when it is unmounted."""

    def __init__(self, work, mebibytes):
        self.file, self.root, self.bytes = work / "image", work / "mounted", mebibytes << 20
        self.root.mkdir()
        self.mounted = False

    def __enter__(self):
        self.make()
        self.mount()
        return self

    def __exit__(self, kind, *_):
        if self.mounted:
            self.unmount()

    def make(self):
        """Empties it. No block is kept for root, whom a full disk must stop too."""
        with open(self.file, "wb") as file:
            file.truncate(self.bytes)
        run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,nodiscard", self.file)

    def mount(self):
        run("mount", "-o", "loop", self.file, self.root)
        self.mounted = True

    def unmount(self):
        """Returns when the file system is nobody's any more: mounted too early, it would be the one that was cut off."""
        run("umount", self.root)
        self.mounted = False
        deadline = time.monotonic() + LET_GO
        while self.has_device():
            if time.monotonic() > deadline:
                raise Failed(f"{self.file} is still in use {LET_GO} s after it was unmounted")
            time.sleep(0.002)

    def has_device(self):
        for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
            try:
                if backing.read_text().strip() == str(self.file.resolve()):
                    return True
            except OSError:
                continue  # Let go in this moment.
        return False

    def restart(self, anew=False):
        """The power comes back: what was only in memory is gone."""
        self.unmount()
        if anew:
            self.make()
        self.mount()

    def sync(self):
        """All that was written is on the disk, whatever its programs did."""
        run("sync", "--file-system", self.root)

    def cut(self, how):
        """From here on nothing reaches the disk; every attempt is an I/O error, until it is mounted again."""
        directory = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(directory, EXT4_IOC_SHUTDOWN, struct.pack("I", how))
        finally:
            os.close(directory)

    @property
    def ballast(self):
        return self.root / "ballast"

    def fill(self, but=0):
        """Takes all the room that is left, but for so many bytes."""
        step = self.bytes
        with open(self.ballast, "ab") as ballast:
            while (step := min(step, shutil.disk_usage(self.root).free - but)) >= 4096:
                try:
                    os.posix_fallocate(ballast.fileno(), ballast.seek(0, os.SEEK_END), step)
                except OSError:
                    step //= 2
