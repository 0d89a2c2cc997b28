//! The queue on a disk of this machine: the log, driven.
//!
//! ```text
//!   callers ──► EmbeddedQueue ──► Mutex<State { log, files, … }>  ◄── Upkeep: indexes, deletion, moving stragglers, blanks
//!                  │ without the lock                                   │ without the lock
//!                  └──────────────► Storage ◄───────────────────────────┘
//! ```
//! The lock is held while the state machine thinks, and when a segment begins; not while events are written, synced or read.

mod chain;
mod commit;
mod files;
mod index;
mod open;
mod read;
mod scan;
mod upkeep;
mod verify;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;
use types::{Clock, KeyContext, Keys};

pub use commit::WriteError;
pub use open::{Finding, OpenError};
pub use read::{Leased, ReadError};
pub use upkeep::{Upkeep, UpkeepError};
pub use verify::Verified;

use self::{
    commit::{Settlement, Use},
    files::Blank,
    index::IndexFile,
    read::ReadKeys,
};
use crate::{
    EventId, FunctionNumber, Location, PartitionNumber, SegmentId,
    clock::{BootClock, Clocks},
    format::{checkpoint::Checkpoint, partition::MAX_NAME_BYTES, purge::Purge, segment::SegmentHeader},
    log::{
        BatchNumber, Depth, Granted, LeaseEpoch, LeaseRequest, Limits, Log, NewEvent, Refused, Unreadable,
    },
    partition::Order,
    storage::{Storage, StorageFile, disk::Directory},
};

/// Acks that one record holds: 28 KB.
const ACKS_TOGETHER: usize = 1000;
/// Sizes of segments that a log can be kept with.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 64 * 1024..=32 * 1024 * 1024 * 1024;

/// How a log is kept.
#[derive(Debug, Clone)]
pub struct Config {
    /// Holds this log and nothing else.
    pub directory: PathBuf,
    /// Bytes of a segment's file: what is deleted at once, and what a restart may have to read whole. From 64 KiB to 32 GiB.
    pub segment_bytes: u64,
    /// Most events that are leased or held at once; each costs some 200 bytes of memory.
    pub outstanding: usize,
}

impl Config {
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, segment_bytes: 64 * 1024 * 1024, outstanding: 100_000 }
    }
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
    /// From now on.
    pub lease: Duration,
    /// Functions whose events are passed over.
    pub exclude: &'a HashSet<FunctionNumber>,
}

/// An open log. Cheap to clone; the directory is let go when the last clone is dropped.
#[derive(Clone)]
pub struct EmbeddedQueue {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for EmbeddedQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedQueue").finish_non_exhaustive()
    }
}

struct Shared {
    config: Config,
    storage: Box<dyn Storage>,
    keys: Arc<dyn Keys>,
    clocks: Clocks,
    state: Mutex<State>,
    read_keys: Mutex<ReadKeys>,
    /// Something may be ready to be leased.
    ready: Notify,
    /// There may be something for the upkeep to do.
    upkeep: Notify,
}

struct State {
    log: Log,
    files: HashMap<SegmentId, Arc<dyn StorageFile>>,
    indexes: HashMap<SegmentId, Arc<IndexFile>>,
    settlements: BTreeMap<BatchNumber, Arc<Settlement>>,
    /// The next segment, if it is begun already.
    prepared: Option<(SegmentHeader, Arc<dyn StorageFile>)>,
    blanks: Vec<Blank>,
    /// For acks and notes when the disk is full.
    reserve: Option<Blank>,
    full: bool,
    /// Segments before this one may be gone, as LOG says.
    oldest: SegmentId,
    /// Writes or syncs that failed since the log was opened.
    failures: u64,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EmbeddedQueue {
    /// Opens the log of a directory, which is made if it is not there. Returns what was not as it should be, too.
    pub fn open(
        config: Config,
        keys: Arc<dyn Keys>,
        wall: Arc<dyn Clock>,
        boot: Arc<dyn BootClock>,
    ) -> Result<(Self, Vec<Finding>), OpenError> {
        std::fs::create_dir_all(&config.directory)?;
        let storage = Box::new(Directory::open(&config.directory)?);
        Self::open_on(config, storage, keys, Clocks { wall, boot })
    }

    fn open_on(
        config: Config,
        storage: Box<dyn Storage>,
        keys: Arc<dyn Keys>,
        clocks: Clocks,
    ) -> Result<(Self, Vec<Finding>), OpenError> {
        if !SEGMENT_BYTES.contains(&config.segment_bytes) {
            return Err(OpenError::SegmentBytes(config.segment_bytes));
        }
        let limits = Limits {
            segment_bytes: config.segment_bytes,
            outstanding: config.outstanding,
            ..Limits::default()
        };
        let opened = open::open(&*storage, limits, clocks.now())?;
        let state = State {
            log: opened.log,
            files: opened.files,
            indexes: HashMap::new(),
            settlements: BTreeMap::new(),
            prepared: None,
            blanks: Vec::new(),
            reserve: None,
            full: false,
            oldest: SegmentId(0),
            failures: 0,
        };
        let shared = Shared {
            config,
            storage,
            keys,
            clocks,
            state: Mutex::new(state),
            read_keys: Mutex::default(),
            ready: Notify::new(),
            upkeep: Notify::new(),
        };
        Ok((Self { shared: Arc::new(shared) }, opened.findings))
    }

    /// The number of a partition, which is made if there is none of this name. A name has up to 1024 bytes.
    pub fn partition(&self, name: &str, order: Order) -> Result<PartitionNumber, Refused> {
        if name.len() > MAX_NAME_BYTES {
            return Err(Refused::NameTooLong(name.len()));
        }
        Ok(self.shared.state().log.add_partition(name, order))
    }

    /// The number of a function, which gets a data key if it has none.
    pub fn function(&self, arn: &str) -> Result<FunctionNumber, WriteError> {
        if arn.len() > MAX_NAME_BYTES {
            return Err(Refused::NameTooLong(arn.len()).into());
        }
        let known = self.shared.state().log.function_number(arn);
        match known {
            Some(number) => {
                self.shared.key(number).map_err(|error| WriteError::Key(error.to_string()))?;
                Ok(number)
            }
            None => {
                let context = KeyContext { arn: arn.to_owned(), purpose: "queue".to_owned() };
                let made = self.shared.keys.generate(&context);
                let (key, wrapped) = made.map_err(|error| WriteError::Key(error.to_string()))?;
                let mut state = self.shared.state();
                // Another caller may have been quicker.
                let known = state.log.function_number(arn);
                Ok(known.unwrap_or_else(|| state.log.add_function(context, wrapped, key)))
            }
        }
    }

    /// Queues events. When this returns, all of them are durable; after an error it is unknown which are.
    ///
    /// Cancel-safe as far as a promise goes: who stops waiting was promised nothing.
    pub async fn enqueue(&self, events: &[Event<'_>]) -> Result<(), WriteError> {
        let mut last = None;
        for event in events {
            let new = NewEvent {
                id: event.id,
                partition: event.partition,
                function: event.function,
                accepted_ms: self.shared.clocks.now().wall_ms,
                attributes: event.attributes,
                payload: event.payload,
            };
            last = Some(self.shared.append(Use::Event, |log| log.enqueue(new)).await?);
        }
        self.settled(last).await
    }

    /// Leases the oldest events of a partition that may be leased, without waiting for any. Until the lease ends nobody else
    /// gets them; then, whoever held it, they come again.
    pub async fn lease(&self, request: Request<'_>) -> Result<(LeaseEpoch, Vec<Leased>), ReadError> {
        loop {
            let granted = {
                let mut state = self.shared.state();
                let now = self.shared.clocks.now().boot;
                state.log.tick(now);
                let deadline = now + request.lease;
                let Request { partition, events, bytes, exclude, .. } = request;
                state.log.lease(LeaseRequest { partition, events, bytes, now, deadline, exclude })
            };
            match granted {
                Granted::Load(load) => self.shared.load(load)?,
                Granted::Events(epoch, grants) => {
                    let asked = !grants.is_empty();
                    let events = self.shared.read(epoch, &grants).await?;
                    // None of them could be read: there may be others.
                    if events.is_empty() && asked {
                        continue;
                    }
                    return Ok((epoch, events));
                }
            }
        }
    }

    /// Waits until something may have become ready.
    pub async fn changed(&self) {
        let next = self.shared.state().log.next_deadline();
        let now = self.shared.clocks.now().boot;
        let wait = next.map_or(Duration::from_secs(60), |next| next.saturating_sub(now));
        let _ = tokio::time::timeout(wait, self.shared.ready.notified()).await;
    }

    /// Events are done: they never come again. When this returns, that is durable. If the lease does not hold one of them any more,
    /// that is an error, and some of the others may be done.
    pub async fn ack(&self, epoch: LeaseEpoch, events: &[(Location, EventId)]) -> Result<(), WriteError> {
        let mut last = None;
        for some in events.chunks(ACKS_TOGETHER) {
            last = Some(self.shared.append(Use::Control, |log| log.ack(epoch, some)).await?);
        }
        self.settled(last).await
    }

    /// An attempt failed: how many did, and before when (Unix time, ms) it is not to be tried again. The lease goes on.
    pub async fn note(
        &self,
        epoch: LeaseEpoch,
        event: (Location, EventId),
        attempts: u32,
        not_before_ms: u64,
    ) -> Result<(), WriteError> {
        let now = self.shared.clocks.now();
        let call = |log: &mut Log| log.note(epoch, event, attempts, not_before_ms, now);
        let settlement = self.shared.append(Use::Control, call).await?;
        self.shared.settled(&settlement).await
    }

    /// Gives events back. In an ordered partition all that follow come back too.
    pub fn release(&self, epoch: LeaseEpoch, events: &[Location]) -> Result<(), WriteError> {
        self.shared.state().log.release(epoch, events)?;
        self.shared.ready.notify_waiters();
        Ok(())
    }

    /// The lease ends so long from now.
    pub fn extend(&self, epoch: LeaseEpoch, lease: Duration) -> Result<(), WriteError> {
        let deadline = self.shared.clocks.now().boot + lease;
        Ok(self.shared.state().log.extend(epoch, deadline)?)
    }

    /// All events of an ordered partition up to this one are done. When this returns, that is durable.
    pub async fn checkpoint(
        &self,
        epoch: LeaseEpoch,
        through: Location,
        position: &[u8],
    ) -> Result<(), WriteError> {
        let settlement =
            self.shared.append(Use::Control, |log| log.checkpoint(epoch, through, position)).await?;
        self.shared.settled(&settlement).await
    }

    /// The source's position of the newest checkpoint.
    pub fn position(&self, partition: PartitionNumber) -> Option<Vec<u8>> {
        let state = self.shared.state();
        let checkpoint: &Checkpoint = state.log.checkpoint_of(partition)?;
        Some(checkpoint.position.clone())
    }

    /// From here on the function's events belong in this partition; those before stay where they are.
    pub async fn redirect(
        &self,
        function: FunctionNumber,
        partition: Option<PartitionNumber>,
    ) -> Result<(), WriteError> {
        let settlement = self.shared.append(Use::Control, |log| log.redirect(function, partition)).await?;
        self.shared.settled(&settlement).await
    }

    /// Where a function was redirected to.
    pub fn redirected(&self, function: FunctionNumber) -> Option<PartitionNumber> {
        self.shared.state().log.redirected(function)
    }

    /// Every event of the function that is queued now is done.
    pub async fn purge(&self, function: FunctionNumber) -> Result<(), WriteError> {
        let settlement = self.shared.append(Use::Control, |log| log.purge(Purge::Function(function))).await?;
        self.shared.settled(&settlement).await?;
        self.shared.upkeep.notify_one();
        Ok(())
    }

    /// Wraps the function's key anew, under what is now the key service's current key. Events stay as they are.
    pub async fn rewrap(&self, function: FunctionNumber) -> Result<(), WriteError> {
        let known = self
            .shared
            .state()
            .log
            .wrapped_key(function)
            .map(|(context, key)| (context.clone(), key.clone()));
        let (context, wrapped) = known.ok_or(Refused::NoSuchFunction)?;
        let again = self.shared.keys.rewrap(&wrapped, &context);
        let again = again.map_err(|error| WriteError::Key(error.to_string()))?;
        let call = |log: &mut Log| log.rewrap_function(function, again.clone());
        let settlement = self.shared.append(Use::Control, call).await?;
        self.shared.settled(&settlement).await
    }

    /// The function's key is not used again before the key service has opened it again: it may be destroyed.
    pub fn forget_key(&self, function: FunctionNumber) {
        self.shared.state().log.set_key(function, None);
        self.shared.forget_keys(function);
    }

    /// How many events of each function are in a partition: waiting, held and leased. In an ordered one they are not told apart.
    pub fn waiting(&self, partition: PartitionNumber) -> Vec<(FunctionNumber, u64)> {
        self.shared.state().log.waiting(partition).collect()
    }

    /// When the oldest event of a partition was accepted, whether it waits, is held or is leased. Unix time.
    pub fn oldest(&self, partition: PartitionNumber) -> Result<Option<Duration>, ReadError> {
        loop {
            let mut state = self.shared.state();
            match state.log.oldest(partition) {
                Ok(millis) => return Ok(millis.map(Duration::from_millis)),
                Err(load) if state.log.load_from_memory(load) => {}
                Err(load) => {
                    drop(state);
                    self.shared.load(load)?;
                }
            }
        }
    }

    /// Segments on the disk, and bytes of their files.
    pub fn disk_use(&self) -> (usize, u64) {
        let segments = self.shared.state().log.segment_count();
        (segments, segments as u64 * self.shared.config.segment_bytes)
    }

    pub fn depth(&self, partition: PartitionNumber) -> Depth {
        self.shared.state().log.depth(partition)
    }

    /// Events that were given up because they cannot be read, since the log was opened.
    pub fn unreadable(&self) -> Unreadable {
        self.shared.state().log.unreadable()
    }

    /// Writes or syncs that failed since the log was opened.
    pub fn failures(&self) -> u64 {
        self.shared.state().failures
    }

    /// What keeps the log in shape; to be [run](Upkeep::run) beside it.
    #[must_use]
    pub fn upkeep(&self) -> Upkeep {
        Upkeep::new(self.shared.clone())
    }

    async fn settled(&self, last: Option<Arc<Settlement>>) -> Result<(), WriteError> {
        match last {
            Some(last) => self.shared.settled(&last).await,
            None => Ok(()),
        }
    }
}

/// Reads all of a log that nobody has open, and changes nothing.
pub fn verify(directory: &std::path::Path) -> Result<Verified, OpenError> {
    verify::verify(&Directory::open(directory)?)
}

impl From<OpenError> for io::Error {
    fn from(error: OpenError) -> Self {
        Self::other(error.to_string())
    }
}
