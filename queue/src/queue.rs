//! What a queue is, whichever disk or cluster it is on: the operations, and what each of them promises.
//!
//! ```text
//!             enqueue                 lease                     ack · checkpoint
//!   caller ────────────► waiting ───────────────► leased ─────────────────────────► done, for good
//!                         ▲   ▲                     │ │
//!                         │   └── release, lost ────┘ │ note, then release or lost
//!                         └──────────── held ◄────────┘
//!                              its time has come
//! ```
//! An event that was accepted comes at least once, to one lease at a time, until it is done. It comes again when its lease is
//! lost, and after a crash of the queue if whatever ended it was not durable yet. That is what "at least once" means here, and
//! all of it: nothing else brings a copy.
//!
//! Consumers are generic over `Q: Queue`; the futures are `Send`, so that a consumer is a task on any thread. Who adds an
//! implementation runs it through the conformance suite, in which each promise below is a check by name.
//!
//! **Cancelling.** A future that is dropped takes nothing back that it has done: an enqueue, an ack or a note may still become
//! durable, and whoever dropped it was promised nothing. Only [`lease`](Queue::lease) holds something by being called; it gives
//! that back when it is dropped.
//!
//! **A lost lease.** A lease ends when its time is up on the clock that never jumps, whatever its holder believes. From then on
//! every call with its epoch is refused with [`Refused::LeaseLost`], and changes nothing: whoever has the event now decides on it.

use std::{collections::HashSet, future::Future, io, sync::Arc, time::Duration};

use crate::{
    Depth, EventId, Finding, FunctionNumber, LeaseEpoch, Location, PartitionNumber, Refused, SegmentId,
    partition::Order,
};

/// A durable, encrypted queue of many partitions. Cheap to clone: all clones are the same queue.
///
/// Methods without a future answer from memory and wait for nothing.
pub trait Queue: Clone + Send + Sync + 'static {
    /// The number of a partition, which is made if there is none of this name. A name has up to 1024 bytes.
    ///
    /// The number is the same after a restart once anything in the partition is durable; before, it may be another's.
    /// The order of a partition that is there already stays as it is.
    fn partition(&self, name: &str, order: Order) -> Result<PartitionNumber, Refused>;

    /// Every partition that has a name: those made since the queue was opened, and those that something durable is in or speaks of.
    fn partitions(&self) -> Vec<(PartitionNumber, String)>;

    /// The number of a function, which gets a data key of its own if it has none. An ARN has up to 1024 bytes.
    ///
    /// The number is the same after a restart once anything of the function is durable.
    fn function(&self, arn: &str) -> Result<FunctionNumber, WriteError>;

    /// Every function whose name is known: those asked for since the queue was opened, and those that something durable is of. An
    /// ARN whose key was destroyed and made anew has more than one number.
    fn functions(&self) -> Vec<(FunctionNumber, String)>;

    /// Queues events. When this returns `Ok`, all of them are durable; after an error it is unknown which are. Payload and
    /// attributes are unreadable on the disk without the function's key.
    ///
    /// *Order:* in an ordered partition, events that one call queues come in the order given, and behind those of every call
    /// that returned before it began. In others any event may come before any other.
    ///
    /// *Room:* when the disk is full this is refused with [`WriteError::NoSpace`]; acks, notes and checkpoints go on, in a segment that is
    /// kept for them. Should they fill it before anything could be deleted, or a crash come while it is in use, they are refused too: ask
    /// again, and make room.
    ///
    /// *Dropped:* some of the events may come, some not.
    fn enqueue(&self, events: &[Event<'_>]) -> impl Future<Output = Result<(), WriteError>> + Send;

    /// Leases the oldest events of a partition that may be leased, and waits for the first of them as long as
    /// [`Request::wait`] says; it returns as soon as there is one. Until the lease ends nobody else gets them. Nothing: no event
    /// came in time.
    ///
    /// *Order:* an ordered partition's events come oldest first, each only when all before it are done or leased. An event that is
    /// held stops those behind it.
    ///
    /// *Unreadable events* are given up for good and counted, not returned: damaged ones and those whose key was destroyed.
    ///
    /// *Dropped:* what was leased is given back at once.
    fn lease(
        &self,
        request: Request<'_>,
    ) -> impl Future<Output = Result<(LeaseEpoch, Vec<Leased>), ReadError>> + Send;

    /// Events are done: they never come again. When this returns `Ok`, that is durable. If the lease does not hold one of them
    /// any more, that is an error, and some of the others may be done. Refused in an ordered partition.
    ///
    /// *Dropped:* they may be done or not; if not, they come again when the lease ends.
    fn ack(
        &self,
        epoch: LeaseEpoch,
        events: &[(Location, EventId)],
    ) -> impl Future<Output = Result<(), WriteError>> + Send;

    /// An attempt failed: how many did, and before when (Unix time, ms) the event is not to be tried again. When this returns
    /// `Ok`, that is durable. The lease goes on; once it ends, however it does, the event is held until its time, and whoever
    /// leases it then is told of the attempts.
    ///
    /// *Dropped:* it may count or not.
    fn note(
        &self,
        epoch: LeaseEpoch,
        event: (Location, EventId),
        attempts: u32,
        not_before_ms: u64,
    ) -> impl Future<Output = Result<(), WriteError>> + Send;

    /// Gives events back, to be leased again. In an ordered partition all that are leased behind them come back too, so that
    /// the order holds. Nothing of it is durable, nor needs to be.
    fn release(&self, epoch: LeaseEpoch, events: &[Location]) -> Result<(), WriteError>;

    /// The lease ends so long from now, which may be sooner than before.
    fn extend(&self, epoch: LeaseEpoch, lease: Duration) -> Result<(), WriteError>;

    /// All events of an ordered partition up to this one, which the lease holds, are done, and the source that they come from
    /// was read up to `position` (up to 4096 bytes). When this returns `Ok`, both are durable, and they are so together. Refused in
    /// partitions without an order.
    ///
    /// *Dropped:* both may be so, or neither.
    fn checkpoint(
        &self,
        epoch: LeaseEpoch,
        through: Location,
        position: &[u8],
    ) -> impl Future<Output = Result<(), WriteError>> + Send;

    /// The source's position of the newest checkpoint.
    fn position(&self, partition: PartitionNumber) -> Option<Vec<u8>>;

    /// From here on the function's events belong in this partition, or in the shared ones again; those before stay where they
    /// are. When this returns `Ok`, that is durable. The queue only remembers it: [`enqueue`](Queue::enqueue) puts events where its
    /// caller says.
    fn redirect(
        &self,
        function: FunctionNumber,
        partition: Option<PartitionNumber>,
    ) -> impl Future<Output = Result<(), WriteError>> + Send;

    /// Where a function was redirected to.
    fn redirected(&self, function: FunctionNumber) -> Option<PartitionNumber>;

    /// Every event of the function that is queued now in partitions without an order is done, leased or not; what is queued
    /// later is not. When this returns `Ok`, that is durable.
    fn purge(&self, function: FunctionNumber) -> impl Future<Output = Result<(), WriteError>> + Send;

    /// The same of every event of a partition. Its checkpoint stays.
    fn purge_partition(
        &self,
        partition: PartitionNumber,
    ) -> impl Future<Output = Result<(), WriteError>> + Send;

    /// How much is in a partition: waiting, held and leased.
    fn depth(&self, partition: PartitionNumber) -> Depth;

    /// How much of each function is in a partition, and since when.
    fn stat(
        &self,
        partition: PartitionNumber,
    ) -> impl Future<Output = Result<Vec<FunctionStat>, ReadError>> + Send;

    /// What is known of events that are not done, in the order of their places. Nobody is kept from them, and no payload is
    /// opened. A page may hold fewer events than asked for and not be the last. An event that is written again elsewhere between
    /// two pages may be missed or come twice; no other may.
    fn browse(&self, request: Browse) -> impl Future<Output = Result<Page, ReadError>> + Send;

    /// One event that is not done, opened; `None` if there is no such event at this place any more. Nobody is kept from it.
    fn peek(
        &self,
        partition: PartitionNumber,
        event: (Location, EventId),
    ) -> impl Future<Output = Result<Option<Content>, ReadError>> + Send;

    /// Leases nothing any more: from the call on, and until the queue is opened again, [`lease`](Queue::lease) answers
    /// [`ReadError::Draining`], at once also to those who wait. What is leased can be acked, noted and extended as before, and events
    /// are still accepted. Returns when no lease is open or `within` is over, and says how many events are leased then.
    fn drain(&self, within: Duration) -> impl Future<Output = usize> + Send;

    /// Reads all that is no longer being written, so many bytes a second, and says what of it is damaged. Nothing is changed.
    /// Seals are opened where the function's key is in memory; the key service is not asked.
    fn scrub(&self, bytes_per_second: u64) -> impl Future<Output = Result<Scrubbed, ReadError>> + Send;
}

/// An event to be queued.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    pub id: EventId,
    pub function: FunctionNumber,
    pub partition: PartitionNumber,
    /// What travels with the payload, sealed like it; opaque to the queue.
    pub attributes: &'a [u8],
    pub payload: &'a [u8],
}

/// What a poller asks for.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    pub partition: PartitionNumber,
    pub events: usize,
    /// Of records on the disk. One event is leased however large it is.
    pub bytes: u64,
    /// How long to wait for the first event.
    pub wait: Duration,
    /// From when they are leased.
    pub lease: Duration,
    /// Functions whose events are passed over. In an ordered partition, where that would break the order, none is.
    pub exclude: &'a HashSet<FunctionNumber>,
}

/// An event that is leased, opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leased {
    /// What the lease calls it.
    pub token: Location,
    pub id: EventId,
    pub function: FunctionNumber,
    pub partition: PartitionNumber,
    /// Unix time.
    pub accepted: Duration,
    /// Failed attempts that are known of.
    pub attempts: u32,
    pub attributes: Vec<u8>,
    pub payload: Vec<u8>,
}

/// How much of a function is in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FunctionStat {
    /// `None` in an ordered partition, where functions are not told apart.
    pub function: Option<FunctionNumber>,
    pub depth: Depth,
    /// When the oldest event was accepted, whether it waits, is held or is leased. Unix time. `None`: there is none.
    pub oldest: Option<Duration>,
}

/// Which events to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Browse {
    pub partition: PartitionNumber,
    /// `None`: all functions'.
    pub function: Option<FunctionNumber>,
    /// [`Page::next`] of the page before; `None`: from the oldest on.
    pub from: Option<Location>,
    /// Most events of a page.
    pub events: usize,
}

/// Some of the events that were asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub events: Vec<Browsed>,
    /// Where to go on; `None`: there are no more.
    pub next: Option<Location>,
}

/// What is known of an event without opening it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Browsed {
    pub location: Location,
    pub id: EventId,
    pub function: FunctionNumber,
    /// Unix time.
    pub accepted: Duration,
    /// Of its record on the disk.
    pub bytes: u32,
    pub attempts: u32,
    pub state: EventState,
}

/// What becomes of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventState {
    Waiting,
    /// Not to be tried again before its time.
    Held,
    Leased,
    /// Its record is damaged: it is given up when its turn comes. Id, function and attempts are not known.
    Damaged,
}

/// What an event holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    pub attributes: Vec<u8>,
    pub payload: Vec<u8>,
}

/// What a scrub read, and what of it is damaged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scrubbed {
    pub segments: u64,
    pub records: u64,
    /// Events whose seal was opened.
    pub opened: u64,
    pub findings: Vec<Finding>,
}

/// Why something was not written. After `Io` the outcome is unknown: it may be there after a restart.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The disk is full. Acks and notes have a segment kept for them, so that room is made.
    #[error("the disk is full")]
    NoSpace,
    #[error("writing to the log failed: {0}")]
    Io(Arc<io::Error>),
    #[error("the key service failed: {0}")]
    Key(String),
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::StorageFull { Self::NoSpace } else { Self::Io(Arc::new(error)) }
    }
}

/// Why nothing was read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("reading from the log failed: {0}")]
    Io(#[from] io::Error),
    #[error("the key service failed: {0}")]
    Key(String),
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Nothing is leased until the queue is opened again.
    #[error("the queue is being drained")]
    Draining,
    #[error("the event in segment {segment} is damaged")]
    Damaged { segment: SegmentId },
    #[error("the key of the event's function is destroyed")]
    Shredded,
}
