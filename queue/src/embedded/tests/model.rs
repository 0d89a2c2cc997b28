//! What a queue promises, in a few lines that are obviously right: a map of events, and what is known of each.
//!
//! A call that failed, or that a crash cut off, leaves its events *uncertain*: they may be there or not, and both are right
//! until somebody has looked. Everything else is known for sure.

use std::collections::BTreeMap;

use crate::EventId;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Accepted, not done: it must come.
    Live,
    /// Accepted, and done: it must never come.
    Done,
    /// Nobody was promised anything.
    Uncertain,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) fate: Fate,
    pub(super) partition: usize,
    pub(super) function: usize,
    pub(super) payload: Vec<u8>,
    /// Fewest and most failed attempts that may be told of.
    pub(super) attempts: (u32, u32),
}

#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) events: BTreeMap<EventId, Expected>,
    /// The last position that was promised to each partition, and all that may have been written since.
    pub(super) positions: BTreeMap<usize, Vec<Option<Vec<u8>>>>,
    next: u64,
}

impl Model {
    pub(super) fn new_event(&mut self, partition: usize, function: usize, payload_bytes: usize) -> EventId {
        self.next += 1;
        let mut id = [0; 16];
        // Greater is later.
        id[..8].copy_from_slice(&self.next.to_be_bytes());
        let payload = self.next.to_le_bytes().into_iter().cycle().take(payload_bytes).collect();
        let expected = Expected { fate: Fate::Uncertain, partition, function, payload, attempts: (0, 0) };
        self.events.insert(EventId(id), expected);
        EventId(id)
    }

    pub(super) fn set(&mut self, ids: impl IntoIterator<Item = EventId>, fate: Fate) {
        for id in ids {
            self.events.get_mut(&id).unwrap().fate = fate;
        }
    }

    /// What was found is there, what was not found is not: nothing is uncertain any more. Panics if it may not be so.
    pub(super) fn settle(&mut self, found: &[EventId]) {
        let mut seen = BTreeMap::new();
        for id in found {
            let expected = self.events.get(id).unwrap_or_else(|| panic!("{id} was never queued"));
            assert_ne!(expected.fate, Fate::Done, "{id} is done, and came again");
            assert_eq!(seen.insert(*id, ()), None, "{id} came twice");
        }
        for (id, expected) in &mut self.events {
            let found = seen.contains_key(id);
            assert!(found || expected.fate != Fate::Live, "{id} is lost");
            expected.fate = if found { Fate::Live } else { Fate::Done };
        }
        // What is done need not be remembered for ever; a few thousand suffice to see it come again.
        while self.events.len() > 5000 {
            let Some(first) = self.events.first_entry().filter(|entry| entry.get().fate == Fate::Done) else {
                break;
            };
            first.remove();
        }
    }

    pub(super) fn of_partition(&self, partition: usize) -> impl Iterator<Item = (&EventId, &Expected)> {
        self.events.iter().filter(move |(_, expected)| expected.partition == partition)
    }
}
