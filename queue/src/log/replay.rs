//! A log that is opened: the same state again, from what is on the disk.
//!
//! ```text
//!   1. segment(…), then its control(…)s in order; segments oldest first      names, notes, which events are done
//!      end_of_controls()
//!   2. postings(…) of every segment, oldest first                            what is live, by stream
//!   3. finish()
//! ```
//! The second pass is there because an event says nothing of its end: a Done record of a later segment does. And a name may
//! come behind what it names, when it was carried on from a segment that is gone. Neither pass reads events themselves, and
//! neither keeps more than the log will.

use std::collections::{BTreeMap, HashMap};

use super::{
    Limits, Log, Noted, Now, Postings,
    names::Kept,
    segments::{Marks, State},
    stream::Stream,
};
use crate::{
    FunctionNumber, Location, Ordinal, PartitionNumber, SegmentId,
    entry::{Entry, StreamKey},
    format::{
        FormatError,
        checkpoint::Checkpoint,
        done::Done,
        event::EventHeader,
        function::Function,
        note::Note,
        partition::Partition,
        purge::Purge,
        record::Kind,
        redirect::Redirect,
        segment::{LogId, SegmentHeader},
    },
    partition::Order,
};

/// A place among records of all kinds.
type Spot = (SegmentId, u64);

#[derive(Debug)]
pub(crate) struct Replay {
    log: Log,
    now: Now,
    /// By the place of the record.
    notes: HashMap<Location, Noted>,
    /// By the place of a record: where it was written again. The newest copy counts.
    copies: HashMap<Location, Location>,
    /// Of moved events: their first place.
    origins: HashMap<Location, Location>,
    checkpoints: BTreeMap<PartitionNumber, Kept<Checkpoint>>,
    redirects: BTreeMap<FunctionNumber, Kept<Redirect>>,
    purged_functions: BTreeMap<FunctionNumber, Spot>,
    purged_partitions: BTreeMap<PartitionNumber, Spot>,
    /// Events of the segment whose postings are being told.
    seen: Marks,
    nameless: u64,
}

impl Replay {
    pub(crate) fn new(id: LogId, limits: Limits, now: Now) -> Self {
        Self {
            log: Log::new(id, limits),
            now,
            notes: HashMap::new(),
            copies: HashMap::new(),
            origins: HashMap::new(),
            checkpoints: BTreeMap::new(),
            redirects: BTreeMap::new(),
            purged_functions: BTreeMap::new(),
            purged_partitions: BTreeMap::new(),
            seen: Marks::default(),
            nameless: 0,
        }
    }

    /// The next segment. `indexed`: it has an index on the disk, which need not be kept in memory.
    pub(crate) fn segment(&mut self, header: SegmentHeader, events: u32, indexed: bool) {
        let state = if indexed { State::Indexed } else { State::Closed };
        self.log.segments.add(header, state).events = events;
    }

    /// How many events a segment without an index has, as far as is known.
    pub(crate) fn count_events(&mut self, id: SegmentId, events: u32) {
        if let Some(segment) = self.log.segments.get_mut(id) {
            segment.events = events;
        }
    }

    /// All postings of the segment were told. Events that are in none are lost, so nobody waits for them.
    pub(crate) fn end_of_postings(&mut self, id: SegmentId) {
        let seen = std::mem::take(&mut self.seen);
        if let Some(segment) = self.log.segments.get_mut(id) {
            for lost in (0..segment.events).map(Ordinal).filter(|ordinal| !seen.get(*ordinal)) {
                segment.done.set(lost);
            }
        }
    }

    /// The stream that an event of this partition and function belongs to. A partition whose name is lost has no order.
    pub(crate) fn stream_key(&self, partition: PartitionNumber, function: FunctionNumber) -> StreamKey {
        self.log.stream_key(partition, function).unwrap_or(StreamKey { partition, function })
    }

    /// A record that is not an event, or the header of an event that was moved, in its place.
    pub(crate) fn control(
        &mut self,
        segment: SegmentId,
        offset: u64,
        length: u32,
        kind: Kind,
        body: &[u8],
    ) -> Result<(), FormatError> {
        let names = &mut self.log.names;
        match kind {
            Kind::Event => {
                let (header, _) = EventHeader::split(body)?;
                if let Some(moved) = header.moved {
                    let location = Location { segment, ordinal: header.ordinal };
                    // Also a copy that was made before and failed, but is on the disk all the same.
                    self.done(moved.previous);
                    self.copies.insert(moved.previous, location);
                    self.origins.insert(location, moved.origin);
                    self.note(location, moved.attempts, moved.not_before_ms);
                }
                return Ok(());
            }
            Kind::Done => {
                for (location, _) in Done::decode(body)?.events {
                    self.done(location);
                }
            }
            Kind::Note => {
                let note = Note::decode(body)?;
                let location = self.copies_of(note.location).last().unwrap_or(note.location);
                self.note(location, note.attempts, note.not_before_ms);
            }
            Kind::Checkpoint => {
                let value = Checkpoint::decode(body)?;
                self.checkpoints.insert(value.partition, Kept { value, logged: Some(segment) });
            }
            Kind::Redirect => {
                let value = Redirect::decode(body)?;
                self.redirects.insert(value.function, Kept { value, logged: Some(segment) });
            }
            Kind::Function => names.put_function(Function::decode(body)?),
            Kind::Partition => names.put_partition(Partition::decode(body)?),
            Kind::Purge => match Purge::decode(body)? {
                Purge::Function(number) => drop(self.purged_functions.insert(number, (segment, offset))),
                Purge::Partition(number) => drop(self.purged_partitions.insert(number, (segment, offset))),
            },
        }
        if let Some(segment) =
            self.log.segments.get_mut(segment).filter(|segment| segment.state == State::Closed)
        {
            segment.controls.push((offset, length));
        }
        Ok(())
    }

    /// The event that was here is done, and so are its copies so far: those of which whoever said so did not know.
    fn done(&mut self, location: Location) {
        let copies: Vec<Location> = self.copies_of(location).collect();
        for place in std::iter::once(location).chain(copies) {
            self.log.segments.mark(place);
        }
    }

    /// The copy of a record, the copy of that, and so on. A copy lies behind what it is a copy of.
    fn copies_of(&self, location: Location) -> impl Iterator<Item = Location> {
        let next = |place: &Location| self.copies.get(place).copied().filter(|copy| copy > place);
        std::iter::successors(next(&location), next)
    }

    fn note(&mut self, location: Location, attempts: u32, not_before_ms: u64) {
        if attempts > 0 || not_before_ms > 0 {
            let until = self.now.until(not_before_ms);
            self.notes.insert(location, Noted { attempts, not_before_ms, until });
        }
    }

    /// All controls of all segments were told: now every name is known.
    pub(crate) fn end_of_controls(&mut self) {
        for (partition, checkpoint) in std::mem::take(&mut self.checkpoints) {
            if let Some(state) = self.log.names.partition_mut(partition) {
                state.checkpoint = Some(Box::new(checkpoint));
            }
        }
        for redirect in std::mem::take(&mut self.redirects).into_values() {
            self.log.keep_redirect(redirect.value, redirect.logged);
        }
    }

    /// All events of a segment that has no index, to be kept in memory. They are told one stream after the other, too.
    pub(crate) fn keep_postings(&mut self, segment: SegmentId, postings: Postings) {
        if let Some(segment) = self.log.segments.get_mut(segment) {
            segment.postings = postings;
        }
    }

    /// Events of a stream in a segment, in order.
    pub(crate) fn postings(&mut self, key: StreamKey, entries: &[Entry]) {
        self.log.names.saw(key.partition, key.function);
        // The record that named the partition was cut off or damaged.
        if self.log.names.partition(key.partition).is_none() {
            for entry in entries {
                self.seen.set(entry.location.ordinal);
                self.log.segments.mark(entry.location);
            }
            self.nameless += entries.len() as u64;
            return;
        }
        let order = self.log.order_of(key);
        let through = self.log.checkpoint_of(key.partition).map(|checkpoint| checkpoint.through);
        let purged =
            self.purged_functions.get(&key.function).max(self.purged_partitions.get(&key.partition)).copied();
        for entry in entries {
            self.seen.set(entry.location.ordinal);
            let place = match order {
                Order::Strict => self.origins.get(&entry.location).copied().unwrap_or(entry.location),
                Order::None => entry.location,
            };
            let purged = purged.is_some_and(|purged| (entry.location.segment, entry.offset) < purged);
            if purged || (order == Order::Strict && Some(place) <= through) {
                self.log.segments.mark(entry.location);
            } else if !self.log.segments.is_done(entry.location) {
                self.live(key, order, place, *entry);
            }
        }
    }

    fn live(&mut self, key: StreamKey, order: Order, place: Location, entry: Entry) {
        if let Some(noted) = self.notes.get(&entry.location) {
            self.log.notes.insert(place, *noted);
        }
        self.log.with_stream(key, |stream: &mut Stream| {
            if order == Order::Strict && entry.moved {
                stream.count(entry);
                stream.put_back(place, entry);
            } else {
                stream.push_beyond(1, u64::from(entry.length));
            }
        });
    }

    /// The log, and how many events were given up because the name of their partition is lost.
    pub(crate) fn finish(self) -> (Log, u64) {
        (self.log, self.nameless)
    }
}
