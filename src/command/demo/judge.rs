//! Who says what became of the events. It knows what the sender was promised and what was found outside of the server's memory, and
//! asks no counter of the server. Pure.
//!
//! ```text
//!   a 202 for number n ───────────────► accepted ─┐
//!   a line of the destination's file ─► succeeded ├─► verdict: accepted = succeeded + dead-lettered + lost
//!   a payload in the dead-letter store ─► dead ───┘
//! ```
//! An event is known by the number in its payload. One that was sent again, because a kill ate the answer, may have run twice; its
//! number counts once, and as a success if any of the two was one.

use std::{collections::BTreeSet, fmt};

use serde::Deserialize;

/// Most missing numbers that a verdict names.
const NAMED: usize = 10;

#[derive(Debug, Default)]
pub(super) struct Judge {
    accepted: BTreeSet<u32>,
    succeeded: BTreeSet<u32>,
    dead: BTreeSet<u32>,
    /// Records of numbers that had one already.
    repeated: u64,
}

/// What became of what was accepted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    accepted: usize,
    succeeded: usize,
    dead_lettered: usize,
    /// Numbers that are nowhere.
    missing: Vec<u32>,
}

/// The payload of an event.
#[derive(Debug, Deserialize)]
pub(super) struct Order {
    pub(super) order: u32,
}

/// A record of the destination, as AWS shapes it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    request_context: RequestContext,
    request_payload: Order,
}

#[derive(Deserialize)]
struct RequestContext {
    condition: String,
}

// === impl Judge ===

impl Judge {
    /// The event of this number was answered 202.
    pub(super) fn accepted(&mut self, number: u32) {
        self.accepted.insert(number);
    }

    /// Lines of the file that OnSuccess names. One that a kill cut short is no record: nobody was told that it is there.
    pub(super) fn records(&mut self, lines: &[u8]) {
        for line in lines.split(|byte| *byte == b'\n') {
            let Ok(record) = serde_json::from_slice::<Record>(line) else { continue };
            let is_success = record.request_context.condition == "Success";
            if is_success && !self.succeeded.insert(record.request_payload.order) {
                self.repeated += 1;
            }
        }
    }

    /// All that the dead-letter store holds now: what was redriven is not among it any more.
    pub(super) fn dead_letters(&mut self, numbers: impl IntoIterator<Item = u32>) {
        self.dead = numbers.into_iter().collect();
    }

    /// Accepted, succeeded, dead: while these stay as they are, nothing goes on.
    pub(super) fn counts(&self) -> [usize; 3] {
        [self.accepted.len(), self.succeeded.len(), self.dead.len()]
    }

    pub(super) fn accepted_count(&self) -> usize {
        self.accepted.len()
    }

    /// Accepted, and without an end that is known here.
    pub(super) fn open_count(&self) -> usize {
        self.open().count()
    }

    pub(super) fn dead_count(&self) -> usize {
        self.dead.len()
    }

    pub(super) fn succeeded_count(&self) -> usize {
        self.succeeded.len()
    }

    /// Successes beyond the first of each number.
    pub(super) fn repeated(&self) -> u64 {
        self.repeated
    }

    pub(super) fn verdict(&self) -> Verdict {
        let succeeded = self.accepted.intersection(&self.succeeded).count();
        let dead_lettered =
            self.accepted.intersection(&self.dead).filter(|number| !self.succeeded.contains(number)).count();
        Verdict {
            accepted: self.accepted.len(),
            succeeded,
            dead_lettered,
            missing: self.open().copied().collect(),
        }
    }

    fn open(&self) -> impl Iterator<Item = &u32> {
        let ended = |number: &u32| self.succeeded.contains(number) || self.dead.contains(number);
        self.accepted.iter().filter(move |number| !ended(number))
    }
}

// === impl Verdict ===

impl Verdict {
    pub(super) fn is_nothing_lost(&self) -> bool {
        self.missing.is_empty()
    }

    /// Which are missing: the first few.
    pub(super) fn missing(&self) -> String {
        let named: Vec<_> = self.missing.iter().take(NAMED).map(u32::to_string).collect();
        let more = if self.missing.len() > NAMED { ", …" } else { "" };
        format!("{}{more}", named.join(", "))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { accepted, succeeded, dead_lettered, missing } = self;
        let lost = missing.len();
        write!(f, "accepted {accepted}, succeeded {succeeded}, dead-lettered {dead_lettered}, lost {lost}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: u32, condition: &str) -> String {
        format!(
            r#"{{"version":"1.0","requestContext":{{"requestId":"x","condition":"{condition}"}},"requestPayload":{{"order": {number}}}}}"#
        )
    }

    fn judge(accepted: std::ops::Range<u32>) -> Judge {
        let mut judge = Judge::default();
        accepted.for_each(|number| judge.accepted(number));
        judge
    }

    #[test]
    fn what_has_neither_an_outcome_nor_a_dead_letter_is_lost_and_named() {
        let mut judge = judge(0..4);
        judge.records(format!("{}\n{}\n", record(0, "Success"), record(3, "Success")).as_bytes());
        judge.dead_letters([1]);
        let verdict = judge.verdict();
        assert_eq!(verdict.to_string(), "accepted 4, succeeded 2, dead-lettered 1, lost 1");
        assert!(!verdict.is_nothing_lost());
        assert_eq!(verdict.missing(), "2");
    }

    #[test]
    fn of_many_that_are_missing_the_first_are_named() {
        assert_eq!(judge(0..99).verdict().missing(), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …");
    }

    #[test]
    fn each_number_counts_once_and_a_success_outweighs_a_dead_letter() {
        let mut judge = judge(0..2);
        judge.records(format!("{}\n{}\n", record(0, "Success"), record(0, "Success")).as_bytes());
        judge.dead_letters([0, 1, 1]);
        assert_eq!(judge.verdict().to_string(), "accepted 2, succeeded 1, dead-lettered 1, lost 0");
        assert_eq!(judge.repeated(), 1);
    }

    #[test]
    fn what_was_never_promised_proves_nothing() {
        let mut judge = judge(0..1);
        judge.records(record(7, "Success").as_bytes());
        judge.dead_letters([8]);
        assert_eq!(judge.verdict().to_string(), "accepted 1, succeeded 0, dead-lettered 0, lost 1");
        judge.accepted(7);
        assert_eq!(judge.verdict().to_string(), "accepted 2, succeeded 1, dead-lettered 0, lost 1");
    }

    #[test]
    fn a_line_that_was_cut_and_a_record_of_a_failure_are_no_successes() {
        let mut judge = judge(0..3);
        let cut = &record(0, "Success")[..60];
        let lines = format!("{cut}\n{}\n{}\n", record(1, "RetriesExhausted"), record(2, "Success"));
        judge.records(lines.as_bytes());
        assert_eq!(judge.verdict().missing, [0, 1]);
    }

    #[test]
    fn what_left_the_dead_letter_store_is_open_again() {
        let mut judge = judge(0..2);
        judge.dead_letters([0, 1]);
        assert_eq!((judge.open_count(), judge.dead_count()), (0, 2));
        judge.dead_letters([1]);
        assert_eq!(judge.open_count(), 1);
        assert_eq!(judge.verdict().missing(), "0");
    }
}
