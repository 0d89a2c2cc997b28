//! All streams, and which of them have something to lease.
//!
//! ```text
//!   streams: key ──► Stream            ready: (partition, place of the head, function)   a lease takes the first of its partition
//!   keys:    the same keys, sorted     awakened: partitions that had nothing ready and now do
//! ```
//! Every change of a stream goes through here, so that `ready` is always what the heads say. It says nothing of which events are
//! leased; that is the leases' part.

use std::{
    collections::{BTreeSet, hash_map::Entry as Slot},
    mem,
};

use rustc_hash::FxHashMap;

use super::stream::Stream;
use crate::{
    FunctionNumber, Location, PartitionNumber,
    entry::{Entry, StreamKey},
    partition::Order,
};

#[derive(Debug, Default)]
pub(super) struct Streams {
    streams: FxHashMap<StreamKey, Stream>,
    keys: BTreeSet<StreamKey>,
    ready: BTreeSet<(PartitionNumber, Location, FunctionNumber)>,
    /// Partitions of which something can be leased that could not before; since they were last asked for.
    awakened: BTreeSet<PartitionNumber>,
}

impl Streams {
    pub(super) fn get(&self, key: StreamKey) -> Option<&Stream> {
        self.streams.get(&key)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = StreamKey> {
        self.keys.iter().copied()
    }

    /// Streams of a partition.
    pub(super) fn of_partition(&self, partition: PartitionNumber) -> impl Iterator<Item = &Stream> {
        let first = StreamKey { partition, function: FunctionNumber(0) };
        let keys = self.keys.range(first..).take_while(move |key| key.partition == partition);
        keys.filter_map(|key| self.streams.get(key))
    }

    /// Streams of a partition that have something to lease, the one with the oldest first; and the places of their heads.
    pub(super) fn ready(&self, partition: PartitionNumber) -> impl Iterator<Item = (StreamKey, Location)> {
        let first = (partition, Location::FIRST, FunctionNumber(0));
        let ready = self.ready.range(first..).take_while(move |(of, ..)| *of == partition);
        ready.map(move |(_, place, function)| (StreamKey { partition, function: *function }, *place))
    }

    /// Who waits for events of this partition has to look.
    pub(super) fn awaken(&mut self, partition: PartitionNumber) {
        self.awakened.insert(partition);
    }

    pub(super) fn take_awakened(&mut self) -> BTreeSet<PartitionNumber> {
        mem::take(&mut self.awakened)
    }

    /// Changes a stream, which is made if it is not there.
    pub(super) fn change<T>(
        &mut self,
        key: StreamKey,
        order: impl FnOnce() -> Order,
        change: impl FnOnce(&mut Stream) -> T,
    ) -> T {
        let stream = match self.streams.entry(key) {
            Slot::Occupied(known) => known.into_mut(),
            Slot::Vacant(free) => {
                self.keys.insert(key);
                free.insert(Stream::new(key, order()))
            }
        };
        let before = stream.head().place();
        let result = change(stream);
        let after = stream.head().place();
        if before != after {
            if let Some(place) = before {
                self.ready.remove(&(key.partition, place, key.function));
            }
            if let Some(place) = after {
                self.ready.insert((key.partition, place, key.function));
            }
            if before.is_none() {
                self.awakened.insert(key.partition);
            }
        }
        result
    }

    /// A new event, behind all others of its stream.
    pub(super) fn push(&mut self, key: StreamKey, order: impl FnOnce() -> Order, entry: Entry) {
        match self.streams.get_mut(&key) {
            // It is not the head, so there is nothing more to see to.
            Some(stream) if stream.is_waiting() => stream.push(entry),
            _ => self.change(key, order, |stream| stream.push(entry)),
        }
    }

    /// An event that is in none of its stream's queues is done.
    pub(super) fn done(&mut self, key: StreamKey, length: u32) {
        if let Some(stream) = self.streams.get_mut(&key) {
            stream.done(length);
        }
    }
}
