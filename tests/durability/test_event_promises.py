#!/usr/bin/env python3
"""The judge of asynchronous events itself: each promise that is broken is found, and what is right is not found wrong."""

import unittest

from event_promises import SETTLES, EventPromises, Expected
from promises import Broken

FUNCTIONS = {"works": Expected("worked", 1), "fails": Expected("failed", 3)}


def told(attempts=(), faults=(), ends=(), function="fails", payload="p"):
    """One event, `a`, that was accepted."""
    promises = EventPromises(FUNCTIONS)
    promises.answered("a", function, payload)
    for at in attempts:
        promises.attempt("a", function, at)
    for fault in faults:
        promises.fault(*fault)
    for end in ends:
        promises.lies("a", *end)
    return promises


FAILED = ("failed", 3, "p")


class Right(unittest.TestCase):
    def test_as_often_as_documented(self):
        counts = told([1, 2, 4], ends=[FAILED]).judge()
        self.assertEqual((counts["accepted"], counts["again"], counts["in flight"]), (1, 0, 0))

    def test_what_was_in_flight_comes_again(self):
        counts = told([1, 2, 3, 5], [(2.1, 2.2)], [FAILED]).judge()
        self.assertEqual((counts["again"], counts["in flight"]), (1, 1))

    def test_what_began_after_a_cut_comes_again(self):
        self.assertEqual(told([1, 2.15, 3, 5], [(2.1, 2.2)], [FAILED]).judge()["again"], 1)

    def test_a_record_may_be_there_twice(self):
        self.assertEqual(told([1, 2, 4], ends=[FAILED, FAILED]).judge()["records again"], 1)

    def test_what_was_not_answered_may_have_been_accepted_or_not(self):
        promises = told([1], ends=[("worked", 1, "p")], function="works")
        promises.lies("b", "worked", 1, "q")
        promises.attempt("b", "works", 1)
        promises.attempt("c", "works", 1)
        self.assertEqual(promises.judge()["unanswered"], 1)


class Wrong(unittest.TestCase):
    def found(self, text, promises):
        with self.assertRaisesRegex(Broken, text):
            promises.judge()

    def test_an_event_is_lost(self):
        self.found("1 of 1 accepted events came to no end", told([1, 2, 4]))

    def test_an_event_is_at_another_end(self):
        self.found("a of works is at failed", told([1], ends=[FAILED], function="works"))

    def test_an_event_is_given_up_too_early(self):
        self.found("failed after 2 attempts", told([1, 2], ends=[("failed", 2, "p")]))

    def test_its_payload_is_another(self):
        self.found("ended as q", told([1, 2, 4], ends=[("failed", 3, "q")]))

    def test_it_is_tried_too_often(self):
        self.found("tried 4 times", told([1, 2, 4, 5], ends=[FAILED]))

    def test_a_restart_grants_attempts_that_were_settled(self):
        fault = (2 + SETTLES + 0.1, 3)
        self.found("0 faults found it in flight", told([1, 2, 4, 5], [fault], [FAILED]))

    def test_a_fault_grants_one_attempt_and_not_two(self):
        self.found("1 faults found it in flight", told([1, 2, 3, 5, 6], [(2.1, 2.2)], [FAILED]))

    def test_an_id_is_given_twice(self):
        with self.assertRaisesRegex(Broken, "two events"):
            told().answered("a", "works", "p")


if __name__ == "__main__":
    unittest.main()
