#!/usr/bin/env python3
"""Cuts the power of the whole data directory under a load of asynchronous events, and judges what was promised, as root:
event_cuts.py [--cuts N] [--seed N]

    start, cut off at once? ─► load ─► cut ─► works on for a moment, promising nothing ─► killed ─► mounted again ─► start …

The disk and the cut are those of cuts.py, which says what they are worth. What is answered while the cut is being made counts as
not answered.
"""

import argparse
import random
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

from client import Failed, exit_on_terminate, must_be_found, workplace
from event_load import Site
from image import DEFAULT, LOG_FLUSH, NO_LOG_FLUSH, Image, own_mounts
from promises import Broken

# Cuts of one file system.
CUTS = 30
# Each life begins a segment of 16 MiB, however little it has to say. On a slow machine those of all lives are there at once.
MEBIBYTES = 1024


class Cuts:
    def __init__(self, choice, work, prefix=()):
        work.mkdir()
        self.random, self.counts = choice, Counter()
        self.image = Image(work, MEBIBYTES)
        self.work, self.prefix = work, prefix

    def __enter__(self):
        self.image.__enter__()
        self.site = Site(self.work / "site", data=self.image.root / "data", prefix=self.prefix)
        self.site.__enter__()
        return self

    def __exit__(self, *what):
        self.site.__exit__(*what)
        self.image.__exit__(*what)

    def one(self):
        time.sleep(self.random.uniform(0.1, 0.6) if self.random.random() < 0.7 else self.random.uniform(0.6, 2))
        began = self.cut()
        asked = self.site.refused
        deadline = time.monotonic() + 1
        while self.site.refused == asked and not self.site.is_busy() and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(self.random.uniform(0, 0.05))
        self.power_returns(began)
        if self.random.random() < 0.15:
            self.cut_a_start()
        self.site.start()

    def cut(self):
        began = time.monotonic()
        self.site.cut(lambda: self.image.cut(self.random.choices([NO_LOG_FLUSH, LOG_FLUSH, DEFAULT], [8, 1, 1])[0]))
        self.counts["cuts"] += 1
        return began

    def cut_a_start(self):
        starting = self.site.begin_start()
        starting.until_there()
        time.sleep(self.random.uniform(0, 0.2))
        began = self.cut()
        self.power_returns(began)
        starting.join()
        self.counts["cuts of a start"] += 1

    def power_returns(self, began):
        self.site.kill(began)
        self.image.restart()
        self.site.powered()

    def judge(self):
        self.counts.update(self.site.judge())
        self.counts["met"] += self.site.refused


def run(choice, work, arguments):
    def lying_disk():
        place = work / "lie"
        try:
            with Cuts(choice, place, prefix=[sys.executable, Path(__file__).parent / "lying_disk.py"]) as cuts:
                # It is events that are to be missed, not the keyring.
                cuts.image.sync()
                cuts.one()
                cuts.judge()
        finally:
            shutil.rmtree(place)

    must_be_found("a disk that does not sync", lying_disk)
    counts = Counter()
    while (left := arguments.cuts - counts["cuts"]) > 0:
        place = work / f"file-system-{counts['file systems']}"
        counts["file systems"] += 1
        with Cuts(choice, place) as cuts:
            while cuts.counts["cuts"] < min(CUTS, left):
                cuts.one()
            cuts.judge()
        counts.update(cuts.counts)
        shutil.rmtree(place)
    print(f"event cuts: {counts['cuts']} cuts ({counts['cuts of a start']} of a start), {counts['accepted']:,} events "
          f"accepted, 0 lost, {counts['again']:,} attempts came again of {counts['in flight']:,} in flight, "
          f"{counts['records again']:,} records came again; {counts['met']:,} calls after a cut, 0 promised", flush=True)


def main():
    exit_on_terminate()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cuts", type=int, default=50, metavar="N")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32), metavar="N")
    arguments = parser.parse_args()
    print(f"event cuts: seed {arguments.seed}", flush=True)
    own_mounts()
    try:
        with workplace("event-cuts", arguments.seed, f"EVENT_CUTS={arguments.cuts}") as work:
            run(random.Random(arguments.seed), work, arguments)
    except (Broken, Failed) as failure:
        print(f"event cuts: FAILED: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
