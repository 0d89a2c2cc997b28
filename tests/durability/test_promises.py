#!/usr/bin/env python3
"""The judge itself: each promise that is broken is found, and what is right is not found wrong."""

import unittest

from promises import Broken, Promises

A, B, C = "a:1:x", "b:1:y", "c:1:z"


def judge(*processes):
    """Each process is a text, a line each; `drain PARTITION EVENT…` stands for the lines of a drain."""
    promises = Promises()
    for process in processes:
        promises.start()
        for line in process.strip().splitlines():
            for told in spell(line.strip()):
                promises.tell(told)
        promises.over()
    return promises


def spell(line):
    word, *rest = line.split()
    if word == "call":
        return [f"begin 0 {' '.join(rest)}", "end 0 ok"]
    if word == "drain":
        partition, *events = rest
        return [f"begin 0 lease {partition} long", f"end 0 ok {' '.join(events)}", "all 0 0", "drained"]
    if word == "lease":
        partition, length, *events = rest
        return [f"begin 0 lease {partition} {length}", f"end 0 ok {' '.join(events)}"]
    return [line]


ACCEPTED = f"call enqueue shared/0 steady {A} {B}"
IN_LANE = f"call enqueue lane/0 steady {A} {B} {C}"


class Right(unittest.TestCase):
    def test_all_comes_back(self):
        self.assertEqual(judge(ACCEPTED, f"drain shared/0 {A}:0 {B}:0").counts["accepted"], 2)

    def test_a_call_without_an_answer_may_have_happened_or_not(self):
        for found in ["", f"{A}:0"]:
            judge(f"begin 1 enqueue shared/0 steady {A}", f"drain shared/0 {found}")
            judge(f"call enqueue shared/0 steady {A}\nlease shared/0 long {A}:0\nbegin 1 ack a", f"drain shared/0 {found}")

    def test_an_open_lease_is_a_duplicate(self):
        promises = judge(f"{ACCEPTED}\nlease shared/0 long {A}:0", f"drain shared/0 {A}:0 {B}:0")
        self.assertEqual(promises.counts["duplicates"], 1)

    def test_a_checkpoint_ends_all_before_it(self):
        judge(f"{IN_LANE}\nlease lane/0 long {A}:0 {B}:0\ncall checkpoint lane/0 b", f"position lane/0 b\ndrain lane/0 {C}:0")


class Wrong(unittest.TestCase):
    def found(self, text, *processes):
        with self.assertRaisesRegex(Broken, text):
            judge(*processes)

    def test_an_event_is_lost(self):
        self.found("a of shared/0 is lost", ACCEPTED, f"drain shared/0 {B}:0")

    def test_what_a_drain_did_not_find_comes_later(self):
        self.found("a is done", f"begin 1 enqueue shared/0 steady {A}", "drain shared/0", f"drain shared/0 {A}:0")

    def test_content_is_wrong(self):
        self.found("a came from", ACCEPTED, f"drain shared/0 a:1:y:0 {B}:0")

    def test_it_was_never_queued(self):
        self.found("never queued", ACCEPTED, f"drain shared/0 {C}:0")

    def test_an_acked_event_comes_again(self):
        self.found("a is done", f"{ACCEPTED}\nlease shared/0 long {A}:0\ncall ack a", f"drain shared/0 {A}:0 {B}:0")

    def test_a_purged_event_comes_again(self):
        self.found("a is done", f"{ACCEPTED}\ncall purge steady", f"drain shared/0 {A}:0")

    def test_an_event_is_leased_twice_at_once(self):
        self.found("a is leased", f"{ACCEPTED}\nlease shared/0 long {A}:0\nlease shared/0 long {A}:0")

    def test_a_note_is_lost(self):
        noted = f"{ACCEPTED}\nlease shared/0 long {A}:0\ncall note a 1"
        self.found("0 attempts", noted, f"drain shared/0 {A}:0 {B}:0")
        self.found("2 attempts", noted, f"drain shared/0 {A}:2 {B}:0")

    def test_order_is_lost(self):
        self.found("not in order", IN_LANE, f"drain lane/0 {B}:0 {A}:0 {C}:0")
        self.found("before a", f"{IN_LANE}\nlease lane/0 long {B}:0")

    def test_a_checkpoint_is_lost(self):
        done = f"{IN_LANE}\nlease lane/0 long {A}:0\ncall checkpoint lane/0 a"
        self.found("position of lane/0", done, f"drain lane/0 {B}:0 {C}:0")
        self.found("a is done", done, f"position lane/0 a\ndrain lane/0 {A}:0 {B}:0 {C}:0")

    def test_a_redirect_is_lost(self):
        self.found("redirected of moving", "call redirect moving lane/0", "drain shared/0")

    def test_damage_is_reported(self):
        self.found("damaged", "finding Damaged { segment: 1 }")
        self.found("gave up", "all 1 0")

    def test_a_promise_comes_after_the_cut(self):
        promises = Promises()
        promises.start()
        promises.cut_begins()
        promises.cut_made()
        promises.tell(f"begin 1 enqueue shared/0 steady {A}")
        with self.assertRaises(Broken):
            promises.tell("end 1 ok")


if __name__ == "__main__":
    unittest.main()
