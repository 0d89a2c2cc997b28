#!/usr/bin/env python3
"""Cuts the power of a client of the queue, and fills its disk; as root: cuts.py [--cuts N] [--seed N]

    load ─► cut ─► calls fail, none is promised ─► killed ─► mounted again ─► a drain, cut at times ─► judged ─► load …

The disk is a file system on a loop device, and the cut ext4's shutdown: what was not synced is gone with the
mount, and the client, which runs on, gets real I/O errors from real files. What had reached the loop device
unsynced is not taken away. And a sync that is under way while ext4 shuts down may return success for a file whose
room was set aside but not written, though it failed: what is answered in that moment counts as not answered.
"""

import argparse
import random
import sys
from collections import Counter
from pathlib import Path

from client import CLIENT, Client, Failed, Site, drain, exit_on_terminate, must_be_found, workplace
from image import DEFAULT, LOG_FLUSH, NO_LOG_FLUSH, Image, own_mounts
from promises import LIVE, Broken

# Cuts of one file system, and fillings of each disk.
CUTS = 30
FILLINGS = 3
MEBIBYTES = 96
# Too small for what the load has in its backlog.
TINY_MEBIBYTES = 8
# Of it, in bytes: some segments of the client's, which pollers cannot always keep up with.
ROOM = 7 * 256 * 1024
# Answers that show that something goes on.
ANSWERS = 20


class Cuts:
    def __init__(self, choice, work, client, mebibytes):
        work.mkdir()
        self.random, self.work, self.client = choice, work, client
        self.image = Image(work, mebibytes)
        self.counts = Counter()
        self.site = None
        self.round = 0

    def __enter__(self):
        self.image.__enter__()
        self.begin()
        return self

    def __exit__(self, *what):
        self.site.close()
        self.image.__exit__(*what)

    def begin(self):
        self.site = Site(self.image.root / "queue", self.work, self.client)

    def anew(self):
        """Another file system. Of the one before, all that is left comes out."""
        self.drain()
        self.finish()
        self.image.restart(anew=True)
        self.begin()

    def finish(self):
        self.counts.update(self.site.promises.counts)
        self.site.close()

    def options(self):
        self.round += 1
        return {"round": self.round, "seed": self.random.getrandbits(32)}

    def load(self, **options):
        return Client(self.site, "load", **self.options(), **options)

    def drain(self, if_stuck=None):
        self.round += 1
        drain(self.site, self.random, if_stuck, round=self.round)

    def make_room(self):
        self.image.ballast.unlink()
        self.counts["stuck"] += 1

    def cut(self, client):
        """The power fails, and the client works on for a while."""
        promises = self.site.promises
        before = client.take_what_is_there()
        self.image.cut(self.random.choices([NO_LOG_FLUSH, LOG_FLUSH, DEFAULT], [8, 1, 1])[0])
        # What is in the pipe by now was asked for before.
        during = client.take_what_is_there()
        client.judge(before)
        promises.cut_begins()
        client.judge(during)
        promises.cut_made()
        self.counts["cuts"] += 1

    def cut_load(self, **options):
        with self.load(**options) as client:
            client.until_first_answer()
            client.read(self.random.uniform(0.005, 0.1))
            self.cut(client)
            asked = self.site.promises.counts["asked after the fault"]
            client.until("errors after the cut", lambda: self.site.promises.counts["asked after the fault"] > asked)
            client.read(self.random.uniform(0, 0.03))
            client.kill()
        self.image.restart()

    def cut_drain(self):
        """Recovery is cut off too."""
        with Client(self.site, "drain", finish=50, **self.options()) as client:
            client.read(self.random.uniform(0, 0.05))
            self.cut(client)
            client.kill(may_fail=True)
        self.counts["cuts of a recovery"] += 1
        self.image.restart()

    def one_round(self, **options):
        self.cut_load(**options)
        while self.random.random() < 0.3:
            self.cut_drain()
        self.drain()


def wait_for(client, what, kinds, answers=ANSWERS, or_if=lambda: False):
    """Goes on until there are so many more of these answers."""
    counts = client.site.promises.counts
    client.judge()
    before = sum(counts[kind] for kind in kinds)
    client.until(what, lambda: sum(counts[kind] for kind in kinds) >= before + answers or or_if())


def fill(cuts):
    """A full disk: events are refused, acks go on and make room; with room again, all goes on, without a restart."""
    def empty():
        return not any(event.fate == LIVE for event in cuts.site.promises.live())

    for _ in range(FILLINGS):
        with cuts.load() as client:
            client.until_first_answer()
            client.read(cuts.random.uniform(0.05, 0.2))
            cuts.image.fill()
            wait_for(client, "a full disk is refused", ["enqueue full"], 1)
            wait_for(client, "acks on a full disk", ["ack ok", "checkpoint ok"], or_if=empty)
            wait_for(client, "accepting in the room that acks make", ["enqueue ok"])
            cuts.image.fill()
            client.read(cuts.random.uniform(0, 0.1))
            cuts.image.ballast.unlink()
            wait_for(client, "accepting with room again", ["enqueue ok"])
            cuts.image.fill()
            client.read(cuts.random.uniform(0, 0.3))
            client.kill()
        # What is opened on a full disk takes none of what makes room. Only if the kill came while the segment that is kept for acks was
        # in use, and all before it is live, do they have to wait for room.
        cuts.drain(if_stuck=cuts.make_room)
        cuts.image.ballast.unlink(missing_ok=True)
        cuts.counts["fillings"] += 1


def overflow(cuts):
    """A disk that is too small: it is full again and again, and the load goes on as acks make room."""
    cuts.image.fill(but=ROOM)
    for _ in range(FILLINGS):
        with cuts.load() as client:
            wait_for(client, "a disk that is too small is full", ["enqueue full"])
            wait_for(client, "accepting in the room that acks make", ["enqueue ok"])
            client.read(cuts.random.uniform(0, 0.3))
            client.kill()
        cuts.drain()
        cuts.counts["overflows"] += 1


def run(choice, work, arguments):
    def place(name, mebibytes=MEBIBYTES):
        return Cuts(choice, work / name, arguments.client, mebibytes)

    for name, lie in [("a client that lies (early-accept)", {"lie": "early-accept"}),
                      ("a disk that does not sync", {"lying_disk": True})]:
        with place(name.split()[1] + name[-4:-1]) as cuts:
            must_be_found(name, lambda: cuts.one_round(**lie))
    with place("cuts") as cuts:
        while cuts.counts["cuts"] < arguments.cuts:
            if cuts.counts["cuts"] // CUTS > cuts.counts["file systems"]:
                cuts.counts["file systems"] += 1
                cuts.anew()
            cuts.one_round()
        cuts.finish()
        counts = cuts.counts
        print(f"queue cuts: {counts['cuts']} cuts ({counts['cuts of a recovery']} of a recovery), "
              f"{counts['accepted']:,} events accepted, 0 lost, {counts['duplicates']:,} duplicates of open leases, "
              f"0 others; {counts['asked after the fault']:,} calls met real EIO (by ext4's shutdown), 0 promised",
              flush=True)
    counts = Counter()
    for name, mebibytes, exercise in [("fill", MEBIBYTES, fill), ("overflow", TINY_MEBIBYTES, overflow)]:
        with place(name, mebibytes) as cuts:
            exercise(cuts)
            cuts.finish()
            counts.update(cuts.counts)
    print(f"queue full disks: {counts['fillings']} filled and {counts['overflows']} too small, "
          f"{counts['enqueue full']:,} calls refused, {counts['ack ok'] + counts['checkpoint ok']:,} acks and checkpoints, {counts['accepted']:,} "
          f"events accepted, {counts['stuck']} openings waited for room, 0 lost, 0 others", flush=True)


def main():
    exit_on_terminate()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cuts", type=int, default=300, metavar="N")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32), metavar="N")
    parser.add_argument("--client", type=Path, default=CLIENT, metavar="FILE", help="queue/examples/storm, built")
    arguments = parser.parse_args()
    print(f"queue cuts: seed {arguments.seed}", flush=True)
    own_mounts()
    try:
        with workplace("queue-cuts", arguments.seed, f"CUTS={arguments.cuts}") as work:
            run(random.Random(arguments.seed), work, arguments)
    except (Broken, Failed) as failure:
        print(f"queue cuts: FAILED: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
