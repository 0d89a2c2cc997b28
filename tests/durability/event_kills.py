#!/usr/bin/env python3
"""Kills the whole server under a load of asynchronous events, and judges what was promised, as root:
event_kills.py [--kills N] [--seed N]

    start, killed at once? ─► load ─► killed 0 to 2 s after it was up ─► start …      all comes to its end ─► judged
"""

import argparse
import random
import shutil
import sys
import time
from collections import Counter

from client import Failed, exit_on_terminate, workplace
from event_load import Site
from promises import Broken

# Kills of one data directory.
KILLS = 75


class Kills:
    def __init__(self, choice, work):
        self.random, self.work, self.counts = choice, work, Counter()

    def of_one_directory(self, kills):
        work = self.work / f"directory-{self.counts['directories']}"
        self.counts["directories"] += 1
        with Site(work) as site:
            for _ in range(kills):
                self.one(site)
            self.counts.update(site.judge())
        shutil.rmtree(work)

    def one(self, site):
        time.sleep(self.moment())
        site.kill()
        self.counts["kills"] += 1
        if self.random.random() < 0.15:
            self.kill_a_start(site)
        site.start()

    def moment(self):
        """Any is as good as another; some are long enough for waits between attempts to end."""
        return self.random.uniform(0, 0.5) if self.random.random() < 0.7 else self.random.uniform(0.5, 2)

    def kill_a_start(self, site):
        starting = site.begin_start()
        starting.until_there()
        time.sleep(self.random.uniform(0, 0.2))
        site.kill()
        starting.join()
        self.counts["kills"] += 1
        self.counts["kills of a start"] += 1


def run(choice, work, arguments):
    kills = Kills(choice, work)
    while (left := arguments.kills - kills.counts["kills"]) > 0:
        kills.of_one_directory(min(KILLS, left))
    counts = kills.counts
    print(f"event kills: {counts['kills']} kills ({counts['kills of a start']} of a start), {counts['accepted']:,} events "
          f"accepted, 0 lost, {counts['again']:,} attempts came again of {counts['in flight']:,} in flight, "
          f"{counts['records again']:,} records came again", flush=True)


def main():
    exit_on_terminate()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=150, metavar="N")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32), metavar="N")
    arguments = parser.parse_args()
    print(f"event kills: seed {arguments.seed}", flush=True)
    try:
        with workplace("event-kills", arguments.seed, f"EVENT_KILLS={arguments.kills}") as work:
            run(random.Random(arguments.seed), work, arguments)
    except (Broken, Failed) as failure:
        print(f"event kills: FAILED: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
