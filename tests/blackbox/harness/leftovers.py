"""What a server has on the host, seen from outside, so that a test can tell that all of it went away.

The server and what it starts are followed by parentage; their cgroups and mounts are those the test process does not
share. Everything is read from /proc while the server runs, and looked for again afterwards.
"""

import os
import select
import time
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Footprint:
    processes: dict = field(default_factory=dict)  # pid → start time, so that a reused pid is not taken for the old
    cgroups: dict = field(default_factory=dict)  # directory → inode, for the same reason
    mounts: set = field(default_factory=set)  # (device, mount point)


def footprint(server_pid):
    """What the server and its descendants have now."""
    seen = Footprint()
    own_groups, own_mounts = cgroup_directories("self"), mounts("self")
    for pid in [server_pid, *descendants(server_pid)]:
        started = start_time(pid)
        if started is None:
            continue
        seen.processes[pid] = started
        for group in cgroup_directories(pid) - own_groups:
            seen.cgroups[group] = inode(group)
    # Only the server's own name space: inside an environment everything is private by construction.
    seen.mounts = mounts(server_pid) - own_mounts
    return seen


def await_processes_gone(seen, seconds=10):
    """The pids that still run after `seconds`; empty is what one wants."""
    deadline = time.monotonic() + seconds
    left = []
    for pid, started in seen.processes.items():
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if start_time(pid) != started:
                continue
            ready, _, _ = select.select([descriptor], [], [], max(0, deadline - time.monotonic()))
            if not ready and not is_zombie(pid):
                left.append(pid)
        finally:
            os.close(descriptor)
    return left


def mounts_left(seen):
    """Mounts of the server that any process of the host still has."""
    left = set()
    for pid in pids():
        left |= mounts(pid) & seen.mounts
    return left


def cgroups_left(seen):
    return {group for group, number in seen.cgroups.items() if number is not None and inode(group) == number}


def inode(path):
    try:
        return os.stat(path).st_ino
    except OSError:
        return None


# === /proc ===


def pids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def stat(pid):
    """Fields of /proc/PID/stat behind the name, or `None`: state is 0, parent 1, start time 19."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def start_time(pid):
    fields = stat(pid)
    return fields and int(fields[19])


def is_zombie(pid):
    fields = stat(pid)
    return fields is None or fields[0] in "ZX"


def descendants(root):
    children = {}
    for pid in pids():
        fields = stat(pid)
        if fields:
            children.setdefault(int(fields[1]), []).append(pid)
    found, queue = [], [root]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def mounts(pid):
    try:
        lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    except OSError:
        return set()
    return {(line.split()[2], line.split()[4]) for line in lines}


def cgroup_directories(pid):
    """Directories of the cgroups a process is in, on v1 and v2."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return set()
    places = _cgroup_mounts()
    found = set()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        root = places.get(controllers.split(",")[0])
        if root and path != "/":
            found.add(root + path)
    return found


def _cgroup_mounts():
    """Controller (or `name=…`; empty for v2) → where its hierarchy is mounted."""
    places = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, right = line.split(" - ")
        kind, _, options = right.split()[:3]
        point = left.split()[4]
        if kind == "cgroup2":
            places[""] = point
        elif kind == "cgroup":
            places |= dict.fromkeys(options.split(","), point)
    return places
