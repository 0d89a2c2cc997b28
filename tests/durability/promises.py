#!/usr/bin/env python3
"""What a client of the queue was promised, and whether the queue kept it: the judge of every loss test.

It reads the lines that the client (queue/examples/storm) writes before and after each call, over all processes that had a
directory open one after the other, and raises Broken at the first promise that is not kept.

    finding DAMAGE                                 of opening the directory
    ready                                          it is open
    begin CALL KIND …                              a call is about to be made
    end CALL ok … | refused WHY | full | failed WHY
    position PARTITION POSITION · redirected FUNCTION PARTITION · all CORRUPT SHREDDED
                                                   of a drain: nothing else is there
    drained                                        of a drain: as much as it was asked to is finished

An event is known for sure or in doubt. In doubt is what a call was to bring or to end that did not return, or returned an
error; whatever a later process finds is then right, and known for sure from there on:

    unknown ── enqueue returned, or it was seen ──► live ── ack, checkpoint or purge returned ──► done
       │                                             ▲ │ …did not return
       │                              it was seen    │ ▼
       └──── a drain did not find it ──► done ◄──── in doubt
"""

import re
import sys
from collections import Counter, defaultdict

# Calls whose return promises something.
DURABLE = {"enqueue", "ack", "note", "checkpoint", "purge", "redirect"}
UNKNOWN, LIVE, DONE = "unknown", "live", "done"
# What a fault may leave behind in the last write before it, of which nobody was promised anything.
HARMLESS = re.compile(r"(Torn|Nameless) ")
POSITION, REDIRECT = "position", "redirected"


class Broken(Exception):
    """A promise was not kept."""


class Event:
    """What is known of an event."""

    __slots__ = ("id", "partition", "function", "content", "fate", "answered", "ended", "doubt", "lease", "seen",
                 "told", "open_at_fault", "attempts")

    def __init__(self, id, partition, function, content):
        self.id, self.partition, self.function, self.content = id, partition, function, content
        self.fate = UNKNOWN
        # Lines: when it was accepted, and when it was done.
        self.answered = self.ended = None
        # The process that may have ended it, without anybody knowing.
        self.doubt = None
        # In the present process: None, "short" or "long".
        self.lease = None
        # The last process that was given it, and the line that told of it.
        self.seen, self.told = None, 0
        self.open_at_fault = False
        # Fewest and most that it may come with.
        self.attempts = [0, 0]


class Register:
    """A value of which the last one counts: the promised one, or one that was asked for since and not answered."""

    def __init__(self):
        self.promised, self.asked = None, []

    def check(self, name, found):
        if found != self.promised and found not in self.asked:
            raise Broken(f"{name} is {found}, and was promised to be {self.promised}")
        self.promised, self.asked = found, []


class Promises:
    """Judges one directory, over all processes that had it open."""

    def __init__(self):
        self.events = {}
        # Those that are not done, by partition, in the order in which they were handed in.
        self.pending = defaultdict(dict)
        self.registers = defaultdict(Register)
        self.found = {}
        self.process = 0
        self.line = 0
        # The line at which a cut began, and the one from which on nothing can become durable.
        self.cut = self.fault = None
        self.calls = {}
        self.purges = Counter()
        self.counts = Counter()

    def live(self):
        return [event for events in self.pending.values() for event in events.values()]

    # --- What a process says ---

    def start(self):
        """Another process is about to open the directory."""
        self.process += 1
        self.found.clear()
        self.cut = self.fault = None

    def cut_begins(self):
        """The disk is being cut off. What was promised until here counts; of a sync that is under way, or is begun, until the
        cut is made, ext4 may say that it succeeded though it did not: what depends on one is in doubt."""
        self.cut = self.line

    def cut_made(self):
        """Nothing can become durable any more: what is asked for from here on must not be promised."""
        self.fault = self.line

    def tell(self, line):
        """Takes a line, without its end."""
        self.line += 1
        word, _, rest = line.partition(" ")
        words = rest.split()
        if word == "begin":
            number, kind, *words = words
            self.calls[number] = (kind, words, self.line, getattr(self, f"begin_{kind}")(words))
        elif word == "end":
            number, outcome, *answer = words
            kind, words, line, note = self.calls.pop(number)
            self.counts[f"{kind} {outcome}"] += 1
            if self.cut is not None and kind in DURABLE and self.is_in_doubt(kind, line, outcome):
                return
            getattr(self, f"end_{kind}")(words, outcome, answer, line, note)
        elif word == "finding":
            self.counts["findings"] += 1
            if not HARMLESS.match(rest):
                raise Broken(f"the queue says that its files are damaged: {rest}")
        elif word in (POSITION, REDIRECT):
            self.found[word, words[0]] = words[1]
        elif word == "all":
            self.settle(words)
        elif word not in ("ready", "drained"):
            raise Broken(f"the client says {line!r}")

    def is_in_doubt(self, kind, begun, outcome):
        """Whether an answer that came since a cut began says nothing."""
        after = self.fault is not None and begun > self.fault
        if after and outcome == "ok":
            raise Broken(f"{kind} was promised, though nothing can become durable any more")
        self.counts["asked after the fault"] += after
        return outcome == "ok"

    def over(self):
        """The process has ended, whatever ended it. What it asked for and got no answer to stays in doubt."""
        self.calls.clear()
        self.purges.clear()
        for event in self.live():
            if event.lease:
                event.open_at_fault, event.lease = True, None

    def event(self, id):
        try:
            return self.events[id]
        except KeyError:
            raise Broken(f"{id} came, and was never queued") from None

    # --- Calls: what may be so from the moment they begin, and what is so when they have ended ---

    def begin_enqueue(self, words):
        partition, function, *events = words
        for told in events:
            id, _, content = told.partition(":")
            event = self.events[id] = self.pending[partition][id] = Event(id, partition, function, content)
            if self.purges[function]:
                event.doubt = self.process

    def end_enqueue(self, words, outcome, answer, begun, note):
        if outcome == "ok":
            self.counts["accepted"] += len(words) - 2
            for told in words[2:]:
                event = self.events[told.partition(":")[0]]
                event.answered = self.line
                if event.fate == UNKNOWN:
                    event.fate = LIVE

    def begin_lease(self, words):
        pass

    def end_lease(self, words, outcome, answer, begun, note):
        if outcome != "ok":
            return
        partition, length = words
        in_order = partition.startswith("lane")
        if answer and in_order:
            self.give_back_behind(partition, answer[0].partition(":")[0])
        ids = [self.given(partition, length, told, begun) for told in answer]
        if ids and in_order:
            self.check_order(partition, ids, begun)

    def give_back_behind(self, lane, id):
        """A lease ran out: with its events, those behind them came back."""
        if self.event(id).lease == "short":
            for event in self.pending[lane].values():
                if event.id >= id:
                    event.lease = None

    def given(self, partition, length, told, begun):
        id, content, attempts = re.match(r"(\w+):(.*):(\d+)$", told).groups()
        event = self.event(id)
        if (partition, content) != (event.partition, event.content):
            raise Broken(f"{id} came from {partition} with {content}, and is {event.content} of {event.partition}")
        if event.fate == DONE:
            # It was leased before the purge that ended it, and is told of only now.
            if event.ended < begun:
                raise Broken(f"{id} is done, and came again")
            return id
        # A short lease that is told of late may have run out before what was told of since.
        late = length == "short" and event.told > begun
        if event.lease == "long" and not late:
            raise Broken(f"{id} is leased, and came again")
        if not (event.attempts[0] <= int(attempts) or late) or int(attempts) > event.attempts[1]:
            raise Broken(f"{id} came with {attempts} attempts, not {event.attempts[0]} to {event.attempts[1]}")
        if event.open_at_fault:
            self.counts["duplicates"] += 1
            event.open_at_fault = False
        if event.doubt != self.process:
            event.doubt = None
        # What is given while the disk is cut off may have been in memory only.
        if self.cut is None:
            event.fate = LIVE
        event.seen, event.told = self.process, self.line
        event.lease = event.lease if late else length
        return id

    def check_order(self, lane, ids, begun):
        if ids != sorted(ids):
            raise Broken(f"{lane} gave {ids}: not in order")
        for event in self.pending[lane].values():
            if event.id >= ids[0]:
                return
            waits = event.fate == LIVE and event.lease is None and event.doubt is None
            if waits and (event.seen == self.process or event.answered is not None and event.answered < begun):
                raise Broken(f"{lane} gave {ids[0]} before {event.id}")

    def begin_ack(self, ids):
        return self.doubt([self.event(id) for id in ids])

    def end_ack(self, ids, outcome, answer, begun, note):
        self.end_or_not(outcome, note)

    def begin_checkpoint(self, words):
        lane, through = words
        self.registers[POSITION, lane].asked.append(through)
        return self.doubt([event for event in self.pending[lane].values() if event.id <= through])

    def end_checkpoint(self, words, outcome, answer, begun, note):
        lane, through = words
        self.settle_register(self.registers[POSITION, lane], through, outcome)
        self.end_or_not(outcome, note)

    def begin_purge(self, words):
        function, = words
        self.purges[function] += 1
        shared = [event for event in self.live() if event.partition.startswith("shared")]
        events = [event for event in shared if event.function == function]
        sure = [event for event in events if event.fate == LIVE]
        self.doubt(events)
        return [(event, None) for event in sure]

    def end_purge(self, words, outcome, answer, begun, note):
        self.purges[words[0]] -= 1
        if outcome == "ok":
            self.end_or_not(outcome, note)

    def begin_note(self, words):
        id, attempts = words
        event = self.event(id)
        event.attempts[1] = max(event.attempts[1], int(attempts))

    def end_note(self, words, outcome, answer, begun, note):
        id, attempts = words
        event = self.event(id)
        if outcome == "ok":
            event.attempts[0] = max(event.attempts[0], int(attempts))

    def begin_release(self, words):
        event = self.event(words[0])
        before, event.lease = event.lease, None
        return event, before

    def end_release(self, words, outcome, answer, begun, note):
        pass

    def begin_redirect(self, words):
        function, to = words
        self.registers[REDIRECT, function].asked.append(None if to == "-" else to)

    def end_redirect(self, words, outcome, answer, begun, note):
        function, to = words
        self.settle_register(self.registers[REDIRECT, function], None if to == "-" else to, outcome)

    # --- What becomes of what is in doubt ---

    def doubt(self, events):
        """They may be ended from now on. Returns them with what was known before."""
        before = [(event, event.doubt) for event in events]
        for event in events:
            event.doubt = self.process
        return before

    def end_or_not(self, outcome, before):
        """The call that was to end them has returned; refused, it did nothing."""
        for event, doubt in before:
            if event.fate == DONE:
                continue
            if outcome == "ok":
                self.end(event)
            elif outcome == "refused":
                event.doubt = doubt

    def end(self, event):
        event.fate, event.ended, event.doubt, event.lease = DONE, self.line, None, None
        del self.pending[event.partition][event.id]

    @staticmethod
    def settle_register(register, value, outcome):
        if outcome == "ok":
            register.promised = value
            register.asked = []
        elif outcome == "refused":
            register.asked.remove(value)

    def settle(self, unreadable):
        """A drain was given all that there is: nothing is in doubt any more."""
        if unreadable != ["0", "0"]:
            raise Broken(f"the queue gave up {unreadable} events as corrupt and shredded")
        for (kind, name), register in self.registers.items():
            register.check(f"{kind} of {name}", self.found.get((kind, name)))
        for event in self.live():
            position = self.registers[POSITION, event.partition].promised
            found = event.seen == self.process
            if found and position is not None and event.id <= position:
                raise Broken(f"{event.id} came again, and {event.partition} is checkpointed through {position}")
            if not found and event.fate == LIVE and event.doubt is None:
                raise Broken(f"{event.id} of {event.partition} is lost")
            if not found:
                self.end(event)
        self.counts["drains"] += 1


def main():
    """Judges a transcript again: lines as above, and "process" before those of each process."""
    promises = Promises()
    for path in sys.argv[1:]:
        with open(path, encoding="utf-8") as transcript:
            for line in transcript:
                if line == "process\n":
                    promises.over()
                    promises.start()
                else:
                    promises.tell(line.rstrip("\n"))
    print(dict(promises.counts))


if __name__ == "__main__":
    main()
