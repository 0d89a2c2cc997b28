//! The log as a state machine: calls in, decisions out. There is no clock, disk, thread or task in it; a driver feeds it time,
//! and carries out what it asks for. Simulations and tests drive this very code.
//!
//! ```text
//!     enqueue · ack · note · checkpoint · redirect · purge                      lease · release · extend · tick
//!            │ records                                                                    ▲ │
//!            ▼                                                                            │ ▼
//!     ┌─────────────┐  begin_commit    ┌────────┐  committed    ┌────────────────────────────────────────────┐
//!     │ tail        ├─────────────────►│ driver ├──────────────►│ segments · names · streams · leases        │
//!     │ (pending)   │  bytes to write  │ (disk) │  effects      │ what is durable, and who has what of it    │
//!     └─────────────┘                  └────────┘               └────────────────────────────────────────────┘
//! ```
//! What a call writes holds when its batch is committed, not before: an event can be leased, an ack counts, a redirect
//! directs, when they are durable. If the batch fails, all of it is as if it had not been asked for; only that the disk may
//! say otherwise after a restart, which is what "unknown" means to whoever was told of the failure.
//!
//! The driver's duties, besides writing: [`Log::provide`] a segment when a call says [`Blocked::NoSegment`]; load the window
//! of a stream when a lease says [`Granted::Load`]; make an index for each of [`Log::unindexed`]; delete
//! [`Log::deletable`]; call [`Log::tick`] at [`Log::next_deadline`].

mod apply;
mod effect;
mod lease;
mod leasing;
mod looking;
mod moving;
mod names;
mod postings;
mod replay;
mod segments;
mod stream;
mod streams;
mod tail;
mod writing;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::Duration};

pub(crate) use lease::Boot;
pub use lease::LeaseEpoch;
pub(crate) use leasing::{Grant, Granted, LeaseRequest, LoadRequest};
pub(crate) use postings::Postings;
pub(crate) use replay::Replay;
pub(crate) use tail::{BatchNumber, Write};
pub(crate) use writing::NewEvent;

use self::{
    lease::Leases,
    moving::Moves,
    names::Names,
    segments::{Segments, State},
    stream::Stream,
    streams::Streams,
    tail::Tail,
};
use crate::{
    EventId, FunctionNumber, Location, PartitionNumber, SegmentId,
    entry::StreamKey,
    format::segment::{LogId, SegmentHeader},
    partition::Order,
};

#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Bytes of a segment's file.
    pub(crate) segment_bytes: u64,
    /// Most events that are leased at once; each costs some 200 bytes of memory.
    pub(crate) outstanding: usize,
    /// Most events that are known to be held until their time; as costly. Behind others that must be held, nothing of their function in
    /// their partition is leased.
    pub(crate) held: usize,
    /// Most bytes that wait to be written before an enqueue has to wait too.
    pub(crate) pending_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            segment_bytes: 64 * 1024 * 1024,
            outstanding: 100_000,
            held: 500_000,
            pending_bytes: 16 * 1024 * 1024,
        }
    }
}

/// A call cannot be carried out now. Nothing of it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blocked {
    /// The active segment is full, or there is none: provide another, and call again.
    NoSegment,
    /// Too much waits to be written: commit, and call again.
    Pending,
}

/// Why a call is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The lease ran out, was released, or never had the event. Whoever has it now decides on it.
    #[error("the lease does not hold this event any more")]
    LeaseLost,
    /// Events of an ordered partition are done by a checkpoint, others by an ack.
    #[error("this is not how events of this partition are done")]
    WrongOrder,
    #[error("the event has {bytes} bytes; the limit is {limit}")]
    TooLarge { bytes: usize, limit: usize },
    #[error("the source's position has {0} bytes; the limit is 4096")]
    PositionTooLong(usize),
    #[error("the name of a partition or a function has {0} bytes; the limit is 1024")]
    NameTooLong(usize),
    #[error("there is no such function")]
    NoSuchFunction,
    #[error("there is no such partition")]
    NoSuchPartition,
    #[error("the key of the function is not there")]
    NoKey,
}

/// Blocked for now, or refused for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    Blocked(Blocked),
    Refused(Refused),
}

impl From<Blocked> for Stop {
    fn from(blocked: Blocked) -> Self {
        Self::Blocked(blocked)
    }
}

impl From<Refused> for Stop {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<tail::NoSegment> for Stop {
    fn from(_: tail::NoSegment) -> Self {
        Self::Blocked(Blocked::NoSegment)
    }
}

#[derive(Debug)]
pub(crate) struct Log {
    id: LogId,
    limits: Limits,
    tail: Tail,
    segments: Segments,
    names: Names,
    streams: Streams,
    /// Somebody got nothing because too much is leased.
    starved: bool,
    leases: Leases,
    /// What is known of failed attempts, by token.
    notes: BTreeMap<Location, Noted>,
    unreadable: Unreadable,
    moves: Moves,
    sweeps: Vec<(StreamKey, Location)>,
}

#[derive(Debug)]
pub(crate) struct IndexSource {
    pub(crate) header: SegmentHeader,
    pub(crate) events: u32,
    pub(crate) postings: Postings,
    /// Offset and length.
    pub(crate) controls: Vec<(u64, u32)>,
}

/// Failed attempts of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Noted {
    pub(crate) attempts: u32,
    /// Milliseconds since the Unix epoch; 0: at once.
    pub(crate) not_before_ms: u64,
    /// The same on the clock that does not jump.
    pub(crate) until: Boot,
}

/// Events that were given up because they could not be read, since the log was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unreadable {
    pub corrupt: u64,
    pub shredded: u64,
}

/// The two clocks, read together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Now {
    pub(crate) boot: Boot,
    /// Milliseconds since the Unix epoch; may jump.
    pub(crate) wall_ms: u64,
}

impl Now {
    /// When a wall-clock time will be, by the clock that does not jump.
    fn until(self, wall_ms: u64) -> Boot {
        self.boot + Duration::from_millis(wall_ms.saturating_sub(self.wall_ms))
    }
}

/// How much of something there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depth {
    /// Events that are not done: waiting, held and leased.
    pub events: u64,
    /// Of their records on the disk.
    pub bytes: u64,
}

impl Log {
    pub(crate) fn new(id: LogId, limits: Limits) -> Self {
        Self {
            id,
            limits,
            tail: Tail::new(),
            segments: Segments::default(),
            names: Names::default(),
            streams: Streams::default(),
            starved: false,
            leases: Leases::default(),
            notes: BTreeMap::new(),
            unreadable: Unreadable::default(),
            moves: Moves::default(),
            sweeps: Vec::new(),
        }
    }

    pub(crate) fn id(&self) -> LogId {
        self.id
    }

    /// The newest segment, whose digest the next one's header needs.
    pub(crate) fn newest_segment(&self) -> Option<&SegmentHeader> {
        self.segments.newest()
    }

    pub(crate) fn oldest_segment(&self) -> Option<SegmentId> {
        self.segments.oldest().map(|segment| segment.header.segment)
    }

    /// Goes on in a segment whose header is durable. The one before is closed as soon as all of it is written.
    pub(crate) fn provide(&mut self, header: SegmentHeader) {
        self.tail.leave();
        self.segments.add(header.clone(), State::Writing);
        self.tail.enter(header);
        self.close_segments();
    }

    /// What is to be written and synced next; `None` if a write is under way or nothing waits.
    pub(crate) fn begin_commit(&mut self) -> Option<Write> {
        self.tail.begin()
    }

    /// The buffer of a write that is over, to be used again.
    pub(crate) fn reuse(&mut self, buffer: Vec<u8>) {
        self.tail.reuse(buffer);
    }

    /// The write of [`Log::begin_commit`] is durable.
    pub(crate) fn committed(&mut self) {
        let Some((segment, meaning)) = self.tail.succeeded() else { return };
        if let Some(segment) = self.segments.get_mut(segment) {
            segment.controls.extend(meaning.controls);
        }
        for effect in meaning.effects {
            self.apply(segment, effect);
        }
        self.close_segments();
    }

    /// The write failed, or its sync did. All that waits is undone; returns the last batch that is.
    pub(crate) fn commit_failed(&mut self, now: Boot) -> Option<BatchNumber> {
        let (last, undone) = self.tail.failed();
        for effect in undone {
            self.undo(effect, now);
        }
        self.close_segments();
        last
    }

    /// Segments that are written no more, and wait for their index.
    pub(crate) fn unindexed(&self) -> Option<SegmentId> {
        self.segments.unindexed().next().map(|segment| segment.header.segment)
    }

    /// What an index of such a segment is made of: its header, its events, and where its other records are.
    pub(crate) fn index_source(&self, id: SegmentId) -> Option<IndexSource> {
        let segment = self.segments.get(id)?;
        Some(IndexSource {
            header: segment.header.clone(),
            events: segment.events,
            postings: segment.postings.share(),
            controls: segment.controls.clone(),
        })
    }

    /// The first segment from this one on, and whether its events are found in an index on the disk.
    pub(crate) fn segment_from(&self, id: SegmentId) -> Option<(&SegmentHeader, bool)> {
        self.segments.from(id).map(|segment| (&segment.header, segment.state == State::Indexed))
    }

    pub(crate) fn segment_header(&self, id: SegmentId) -> Option<&SegmentHeader> {
        self.segments.get(id).map(|segment| &segment.header)
    }

    pub(crate) fn segment_count(&self) -> usize {
        self.segments.iter().count()
    }

    /// The segment's index is durable; what it says is no longer kept in memory.
    pub(crate) fn indexed(&mut self, id: SegmentId) {
        if let Some(segment) = self.segments.get_mut(id) {
            segment.state = State::Indexed;
            segment.postings = Postings::default();
            segment.controls = Vec::new();
        }
    }

    /// The oldest segment, if nothing in it is needed any more.
    pub(crate) fn deletable(&self) -> Option<SegmentId> {
        self.segments.finished().filter(|id| self.sweeps.is_empty() && !self.names.needs(*id))
    }

    /// The segment is gone from the disk.
    pub(crate) fn deleted(&mut self, id: SegmentId) {
        self.segments.remove_oldest(id);
    }

    /// Time passes: leases run out, held events become ready. Returns whether something became ready.
    pub(crate) fn tick(&mut self, now: Boot) -> bool {
        let mut changed = false;
        for token in self.leases.expired(now) {
            changed |= self.give_back(token);
        }
        self.leases.forget_deadlines(now);
        for token in self.leases.due(now) {
            changed |= self.unhold(token);
        }
        changed
    }

    pub(crate) fn next_deadline(&self) -> Option<Boot> {
        self.leases.next_deadline()
    }

    pub(crate) fn unreadable(&self) -> Unreadable {
        self.unreadable
    }

    fn close_segments(&mut self) {
        let active = self.tail.active().map(|header| header.segment);
        let ids: Vec<SegmentId> = self
            .segments
            .iter()
            .filter(|segment| segment.state == State::Writing)
            .map(|segment| segment.header.segment)
            .collect();
        for id in ids {
            if Some(id) != active
                && !self.tail.owes(id)
                && let Some(segment) = self.segments.get_mut(id)
            {
                segment.state = State::Closed;
            }
        }
    }

    fn stream_key(&self, partition: PartitionNumber, function: FunctionNumber) -> Option<StreamKey> {
        let order = self.names.partition(partition)?.order;
        Some(StreamKey::of(partition, order, function))
    }

    fn order_of(&self, stream: StreamKey) -> Order {
        self.names.order_of(stream.partition)
    }

    /// Changes a stream.
    fn with_stream<T>(&mut self, key: StreamKey, change: impl FnOnce(&mut Stream) -> T) -> T {
        let Self { streams, names, .. } = self;
        streams.change(key, || names.order_of(key.partition), change)
    }
}

/// Milliseconds of a wall-clock time, as they are stored.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What `ack` and its like are told: the event's token, and its id for the record.
pub(crate) type Token = (Location, EventId);
