"""What those who sent asynchronous events were promised, and whether the server kept it: the judge.

It is told what the client was answered, what functions said of themselves as they began, when a fault began and when the server
was no more, and what lay at the ends. Of the server it asks nothing.

    202 ──► attempt ─► … ─► attempt ──► at its end, once or more
                │              └─ noted, or ended, within SETTLES
                └─ a fault within SETTLES: in flight, and may come again

An event may have as many attempts as are documented, and one more for each fault that found it in flight.
"""

import bisect
import json
from collections import Counter, defaultdict
from typing import NamedTuple

from promises import Broken

# Seconds from the beginning of an attempt until it is settled for good: the function's, which does nothing, and some syncs
# of a disk that others use too.
SETTLES = 0.75


class Expected(NamedTuple):
    """How an event of a function ends."""

    end: str
    attempts: int


class Fault(NamedTuple):
    """Times. Between the two nothing can become durable; after the second the server is no more."""

    began: float
    over: float


class EventPromises:
    def __init__(self, functions):
        """`functions`: name → Expected."""
        self.functions = functions
        self.accepted = {}  # id → (function, payload)
        self.attempts = defaultdict(list)  # id → times
        self.faults = []
        self.ended = defaultdict(list)  # id → (end, attempts, payload or None)
        self.counts = Counter()

    # === what is told ===

    def answered(self, id, function, payload):
        """The client has its 202."""
        if id in self.accepted:
            raise Broken(f"two events were accepted as {id}")
        self.accepted[id] = (function, payload)

    def attempt(self, id, function, at):
        self.attempts[id].append(at)
        self.counts[function] += 1

    def fault(self, began, over):
        self.faults.append(Fault(began, over))

    def lies(self, id, end, attempts, payload=None):
        """An event was found at an end, after so many attempts as the record says."""
        self.ended[id].append((end, attempts, payload))

    def save(self, path):
        """All that was told, for people."""
        told = {name: getattr(self, name) for name in ("accepted", "attempts", "faults", "ended")}
        path.write_text(json.dumps(told, indent=1), encoding="utf-8")

    # === what follows ===

    def missing(self):
        """Accepted, and at no end."""
        return self.accepted.keys() - self.ended.keys()

    def judge(self):
        """All has settled. Raises Broken, or returns what was counted."""
        missing = self.missing()
        if missing:
            raise Broken(f"{len(missing)} of {len(self.accepted)} accepted events came to no end, such as {min(missing)}")
        for id, found in self.ended.items():
            self._judge_ends(id, found)
        for id, times in self.attempts.items():
            self._judge_attempts(id, sorted(times))
        return Counter({
            "accepted": len(self.accepted), "unanswered": len(self.ended.keys() - self.accepted.keys()),
            "again": self.counts["again"], "in flight": self.counts["in flight"],
            "records again": sum(len(found) - 1 for found in self.ended.values()),
        })

    def _judge_ends(self, id, found):
        # What a fault kept from being answered may have been accepted all the same.
        function, sent = self.accepted.get(id, (None, None))
        for end, attempts, payload in found:
            expected = self.functions[function] if function else self._expected_at(end)
            if (end, attempts) != expected:
                raise Broken(f"{id} of {function} is at {end} after {attempts} attempts, not at {expected.end} "
                             f"after {expected.attempts}")
            if function and payload not in (None, sent):
                raise Broken(f"{id} ended as {payload}, and was {sent}")

    def _expected_at(self, end):
        return next(expected for expected in self.functions.values() if expected.end == end)

    def _judge_attempts(self, id, times):
        """An id that is known by its attempts only has no function: its end says how often it may be tried."""
        function = self.accepted.get(id, (None,))[0]
        ends = self.ended.get(id)
        if not (function or ends):
            return  # Neither answered nor at an end: nothing was promised.
        documented = (self.functions[function] if function else self._expected_at(ends[0][0])).attempts
        in_flight = self._in_flight(times)
        again = max(0, len(times) - documented)
        if again > in_flight:
            raise Broken(f"{id} was tried {len(times)} times, {documented} are documented, and {in_flight} faults found "
                         f"it in flight: {times}, {self.faults}")
        self.counts["again"] += again
        self.counts["in flight"] += in_flight

    def _in_flight(self, times):
        """Faults that found an event in flight, whose attempts began at these times, in order."""
        over = [fault.over for fault in self.faults]
        last = {bisect.bisect_left(over, at): at for at in times}  # life → its last attempt
        return sum(life < len(self.faults) and at > self.faults[life].began - SETTLES for life, at in last.items())
