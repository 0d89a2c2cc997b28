//! Where the events of one segment are, by stream, until an index on the disk says so.
//!
//! ```text
//!   list       0: a    1: b    2: a    3: c    4: b    5: a  │  6: b    7: c       in the order of their places
//!   next       2       4       5       –       –       –     │  not linked yet
//!   streams    a: 0 … 5     b: 1 … 4     c: 3                │
//! ```
//! A new posting goes behind all others, whatever its stream, and that is all: with ten thousand streams, finding the right one
//! costs more than sealing an event. Postings are linked by stream when somebody asks for those of one, which is seldom: what is
//! leased soon is in its stream's window, and what is leased late is in an index. Nothing is ever taken out.

use std::{iter, sync::Arc};

use rustc_hash::FxHashMap;

use crate::{
    Location,
    entry::{Entry, StreamKey},
};

#[derive(Debug, Default)]
pub(crate) struct Postings {
    /// Shared with whoever makes an index of it. By then no event is added any more.
    list: Arc<Vec<(StreamKey, Entry)>>,
    /// Of those that are linked: where the next of its stream is; `NONE`: it is the last.
    next: Vec<u32>,
    streams: FxHashMap<StreamKey, Ends>,
}

/// Of a stream's postings: the first and the last that is linked.
#[derive(Debug, Clone, Copy)]
struct Ends {
    first: u32,
    last: u32,
}

/// A segment never has so many events: each takes more than 16 bytes of at most 32 GiB.
const NONE: u32 = u32::MAX;

impl Postings {
    /// An event behind all others.
    pub(crate) fn push(&mut self, stream: StreamKey, entry: Entry) {
        Arc::make_mut(&mut self.list).push((stream, entry));
    }

    /// The same postings, for somebody else to ask.
    pub(crate) fn share(&self) -> Self {
        Self { list: self.list.clone(), ..Self::default() }
    }

    /// All events, in the order of their places.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.list.iter().map(|(_, entry)| entry)
    }

    /// All streams, sorted.
    pub(crate) fn streams(&mut self) -> Vec<StreamKey> {
        self.link();
        let mut keys: Vec<StreamKey> = self.streams.keys().copied().collect();
        keys.sort_unstable();
        keys
    }

    /// Events of a stream, in order.
    pub(crate) fn of(&mut self, stream: StreamKey) -> impl Iterator<Item = &Entry> {
        self.link();
        self.chain(self.streams.get(&stream).map(|ends| ends.first))
    }

    /// Events of a stream from a place on, in order.
    pub(crate) fn from(&mut self, stream: StreamKey, from: Location) -> impl Iterator<Item = &Entry> {
        self.link();
        let here = self.list.partition_point(|(_, entry)| entry.location < from);
        let is_of_stream = |at: &usize| self.list.get(*at).is_some_and(|(key, _)| *key == stream);
        // Mostly it is asked for what follows something that was asked for before.
        let first = match here.checked_sub(1).filter(is_of_stream) {
            Some(before) => self.next.get(before).copied(),
            None if is_of_stream(&here) => u32::try_from(here).ok(),
            None => self.streams.get(&stream).map(|ends| ends.first),
        };
        self.chain(first).skip_while(move |entry| entry.location < from)
    }

    fn chain(&self, first: Option<u32>) -> impl Iterator<Item = &Entry> {
        let chain = iter::successors(first, |at| self.next.get(*at as usize).copied());
        chain.map_while(|at| self.list.get(at as usize).map(|(_, entry)| entry))
    }

    fn link(&mut self) {
        for (stream, _) in self.list.get(self.next.len()..).unwrap_or_default() {
            let at = u32::try_from(self.next.len()).unwrap_or(NONE);
            let ends = self.streams.entry(*stream).or_insert(Ends { first: at, last: at });
            if let Some(last) = self.next.get_mut(ends.last as usize) {
                *last = at;
            }
            ends.last = at;
            self.next.push(NONE);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{FunctionNumber, Ordinal, PartitionNumber, SegmentId};

    fn stream(number: u32) -> StreamKey {
        StreamKey { partition: PartitionNumber(number), function: FunctionNumber(1) }
    }

    fn place(ordinal: u32) -> Location {
        Location { segment: SegmentId(3), ordinal: Ordinal(ordinal) }
    }

    proptest! {
        #[test]
        fn each_stream_has_its_events_in_order(events in vec((0..4_u32, 1..3_u32, any::<bool>()), 0..60), from in 0..120_u32) {
            let (mut postings, mut expected) = (Postings::default(), BTreeMap::<_, Vec<Entry>>::new());
            let mut ordinal = 0;
            for (number, step, asked) in events {
                // Of a damaged segment some are missing.
                ordinal += step;
                let entry = Entry { location: place(ordinal), offset: 0, length: 1, accepted_ms: 0, moved: false };
                postings.push(stream(number), entry);
                expected.entry(stream(number)).or_default().push(entry);
                if asked {
                    prop_assert_eq!(postings.of(stream(number)).last(), Some(&entry));
                }
            }
            let mut shared = postings.share();
            prop_assert_eq!(shared.streams(), expected.keys().copied().collect::<Vec<_>>());
            prop_assert_eq!(postings.entries().count(), expected.values().flatten().count());
            for key in (0..5).map(stream) {
                let all = expected.get(&key).cloned().unwrap_or_default();
                prop_assert_eq!(shared.of(key).copied().collect::<Vec<_>>(), all.clone());
                let later = all.into_iter().filter(|entry| entry.location >= place(from));
                prop_assert_eq!(postings.from(key, place(from)).copied().collect::<Vec<_>>(), later.collect::<Vec<_>>());
            }
        }
    }
}
