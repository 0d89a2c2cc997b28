//! What a queue promises, in a few lines that are obviously right: a map of events, and the facts that are known of each.
//!
//! ```text
//!            enqueue answers               ack, purge begin          they answer
//!   begun ───────────────────► accepted ─────────────────► doubtful ───────────────► done
//!                                   ▲                          │ refused
//!                                   └──────────────────────────┘
//! ```
//! Facts are only ever added, so that calls that overlap need no order. What a call answered with an error, or what a crash cut
//! off, stays in doubt: the event may be there or not, and both are right until somebody has looked.

use std::collections::BTreeMap;

use crate::{EventId, Leased, WriteError};

/// What became of a call that ends events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    /// It was refused: nothing of it was written.
    Refused,
    Unknown,
}

impl From<&Result<(), WriteError>> for Outcome {
    fn from(result: &Result<(), WriteError>) -> Self {
        match result {
            Ok(()) => Self::Done,
            Err(WriteError::Refused(_) | WriteError::NoSpace) => Self::Refused,
            Err(_) => Self::Unknown,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) partition: usize,
    pub(super) function: usize,
    pub(super) payload: Vec<u8>,
    /// Fewest and most failed attempts that may be told of.
    pub(super) attempts: (u32, u32),
    pub(super) accepted: bool,
    /// Calls that would end it and have not answered, or not clearly.
    doubts: u32,
    /// It must not come in answer to a call that began later than this.
    done: Option<u64>,
}

impl Expected {
    /// Accepted, and nothing was asked that might have ended it: it must come.
    pub(super) fn is_live(&self) -> bool {
        self.accepted && self.doubts == 0 && self.done.is_none()
    }

    pub(super) fn is_done(&self) -> bool {
        self.done.is_some()
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    pub(super) events: BTreeMap<EventId, Expected>,
    /// The last position that was promised to each partition, and all that may have been written since.
    pub(super) positions: BTreeMap<usize, Vec<Option<Vec<u8>>>>,
    next: u64,
    moment: u64,
}

impl Model {
    pub(super) fn new_event(&mut self, partition: usize, function: usize, payload_bytes: usize) -> EventId {
        self.next += 1;
        let mut id = [0; 16];
        // Greater is later.
        id[..8].copy_from_slice(&self.next.to_be_bytes());
        let payload = self.next.to_le_bytes().into_iter().cycle().take(payload_bytes).collect();
        let expected = Expected {
            partition,
            function,
            payload,
            attempts: (0, 0),
            accepted: false,
            doubts: 0,
            done: None,
        };
        self.events.insert(EventId(id), expected);
        EventId(id)
    }

    /// Now, for those who ask later whether something was done before.
    pub(super) fn moment(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }

    pub(super) fn accepted(&mut self, ids: &[EventId]) {
        self.each(ids, |event| event.accepted = true);
    }

    /// A call begins that would end these, and may do so before it answers.
    pub(super) fn ending(&mut self, ids: &[EventId]) {
        self.each(ids, |event| event.doubts += 1);
    }

    /// The call has answered.
    pub(super) fn ended(&mut self, ids: &[EventId], outcome: Outcome) {
        let moment = self.moment();
        self.each(ids, |event| match outcome {
            Outcome::Done => event.done = event.done.or(Some(moment)),
            Outcome::Refused => event.doubts -= 1,
            Outcome::Unknown => {}
        });
    }

    fn each(&mut self, ids: &[EventId], mut change: impl FnMut(&mut Expected)) {
        ids.iter().for_each(|id| change(self.events.get_mut(id).unwrap()));
    }

    /// An attempt is being noted; `told`: that is durable.
    pub(super) fn note(&mut self, id: EventId, attempts: u32, told: bool) {
        let (fewest, most) = &mut self.events.get_mut(&id).unwrap().attempts;
        *most = attempts.max(*most);
        if told {
            *fewest = attempts.max(*fewest);
        }
    }

    /// This came in answer to a call that began at that moment, from a partition. Panics if it may not.
    pub(super) fn came(&self, partition: usize, event: &Leased, asked: u64) {
        let id = event.id;
        let expected = self.events.get(&id).unwrap_or_else(|| panic!("{id} was never queued"));
        assert!(expected.done.is_none_or(|done| done >= asked), "{id} is done, and came again");
        assert_eq!(expected.partition, partition, "{id} came from elsewhere");
        assert!(expected.payload == event.payload, "{id} has another payload");
        let (fewest, most) = expected.attempts;
        let attempts = event.attempts;
        assert!((fewest..=most).contains(&attempts), "{attempts} attempts of {id}, not {fewest} to {most}");
    }

    /// What was found is there, what was not found is not: nothing is in doubt any more. Panics if it may not be so.
    pub(super) fn settle(&mut self, found: &[EventId]) {
        let mut seen = BTreeMap::new();
        for id in found {
            let expected = self.events.get(id).unwrap_or_else(|| panic!("{id} was never queued"));
            assert!(!expected.is_done(), "{id} is done, and came again");
            assert_eq!(seen.insert(*id, ()), None, "{id} came twice");
        }
        let moment = self.moment();
        for (id, expected) in &mut self.events {
            let found = seen.contains_key(id);
            assert!(found || !expected.is_live(), "{id} is lost");
            expected.doubts = 0;
            expected.accepted = true;
            expected.done = (!found).then_some(expected.done.unwrap_or(moment));
        }
        // What is done need not be remembered for ever; a few thousand suffice to see it come again.
        while self.events.len() > 5000 {
            let Some(first) = self.events.first_entry().filter(|entry| entry.get().is_done()) else {
                break;
            };
            first.remove();
        }
    }

    pub(super) fn of_partition(&self, partition: usize) -> impl Iterator<Item = (&EventId, &Expected)> {
        self.events.iter().filter(move |(_, expected)| expected.partition == partition)
    }

    /// What a purge of a function speaks of: in ordered partitions events of all functions are one stream, which it leaves alone.
    pub(super) fn purgeable(&self, function: usize, ordered: impl Fn(usize) -> bool) -> Vec<EventId> {
        let of =
            |event: &Expected| event.function == function && !ordered(event.partition) && !event.is_done();
        self.events.iter().filter(|(_, event)| of(event)).map(|(id, _)| *id).collect()
    }
}
