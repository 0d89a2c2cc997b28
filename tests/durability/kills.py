#!/usr/bin/env python3
"""Kills a client of the queue again and again, and judges what it was promised: kills.py [--kills N] [--seed N]

    load, killed 5 to 200 ms after its first answer ─► load, killed at once? ─► drains, killed? ─► a drain, left alone
          ▲                                                                                             │ judged
          └────────────── in the same directory, with what the drain did not finish ◄───────────────────┘
"""

import argparse
import random
import shutil
import sys
from collections import Counter
from pathlib import Path

from client import CLIENT, Client, Failed, Site, drain, exit_on_terminate, must_be_found, workplace
from promises import Broken

# Rounds in one directory.
ROUNDS = 20


class Kills:
    def __init__(self, choice, work, client):
        self.random, self.work, self.client = choice, work, client
        self.counts = Counter()
        self.site = None
        self.round = 0

    def fresh_site(self):
        """Another directory. Of the one before, all that is left comes out."""
        if self.site:
            drain(self.site, self.random, round=self.next_round())
            self.close()
        work = self.work / f"directory-{self.counts['directories']}"
        work.mkdir()
        self.counts["directories"] += 1
        self.site = Site(work / "queue", work, self.client)

    def close(self):
        self.counts.update(self.site.promises.counts)
        self.site.close()
        shutil.rmtree(self.site.work)
        self.site = None

    def next_round(self):
        self.round += 1
        return self.round

    def start(self, mode, **options):
        return Client(self.site, mode, round=self.next_round(), seed=self.random.getrandbits(32), **options)

    def killed(self, mode, seconds, first_answer=False, **options):
        with self.start(mode, **options) as client:
            if first_answer:
                client.until_first_answer()
            client.read(seconds)
            client.kill()
        self.counts["kills"] += 1

    def one_round(self, **options):
        self.killed("load", self.random.uniform(0.005, 0.2), first_answer=True, **options)
        if self.random.random() < 0.2:
            self.killed("load", self.random.uniform(0, 0.03), **options)
        while self.random.random() < 0.35:
            self.killed("drain", self.random.uniform(0, 0.05), finish=self.random.choice([0, 50]))
            self.counts["kills of a recovery"] += 1
        drain(self.site, self.random, round=self.next_round())
        counts = self.site.promises.counts
        failed = {kind: counts[kind] for kind in counts if kind.endswith((" failed", " full"))}
        if failed:
            raise Broken(f"calls failed on a sound disk: {failed}")


def prove(choice, work, client):
    """The judge must see when a promise is broken."""
    for lie in ["early-accept", "early-ack"]:
        kills = Kills(choice, work / lie, client)
        kills.work.mkdir()
        kills.fresh_site()
        must_be_found(f"a client that lies ({lie})", lambda: kills.one_round(lie=lie))
        kills.close()


def run(choice, work, arguments):
    prove(choice, work, arguments.client)
    kills = Kills(choice, work, arguments.client)
    while kills.counts["kills"] < arguments.kills:
        kills.fresh_site()
        for _ in range(ROUNDS):
            kills.one_round()
            if kills.counts["kills"] >= arguments.kills:
                break
    drain(kills.site, choice, round=kills.next_round())
    kills.close()
    counts = kills.counts
    print(f"queue kills: {counts['kills']} kills ({counts['kills of a recovery']} of a recovery) in "
          f"{counts['directories']} directories, {counts['accepted']:,} events accepted, 0 lost, "
          f"{counts['duplicates']:,} duplicates of open leases, 0 others")


def main():
    exit_on_terminate()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=300, metavar="N")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32), metavar="N")
    parser.add_argument("--client", type=Path, default=CLIENT, metavar="FILE", help="queue/examples/storm, built")
    arguments = parser.parse_args()
    print(f"queue kills: seed {arguments.seed}", flush=True)
    try:
        with workplace("queue-kills", arguments.seed, f"KILLS={arguments.kills}") as work:
            run(random.Random(arguments.seed), work, arguments)
    except (Broken, Failed) as failure:
        print(f"queue kills: FAILED: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
