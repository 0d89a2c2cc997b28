//! The queue on a disk of this machine: the log, driven.
//!
//! ```text
//!   callers ──► EmbeddedQueue ──► Mutex<State { log, files, … }>  ◄── Upkeep: indexes, deletion, moving stragglers, blanks
//!                  │ without the lock                                   │ without the lock
//!                  └──────────────► Storage ◄───────────────────────────┘
//! ```
//! The lock is held while the state machine thinks, and when a segment begins; not while events are written, synced or read.

mod browse;
mod chain;
mod commit;
mod drain;
mod files;
mod index;
mod inspect;
mod open;
mod operations;
mod read;
mod scan;
mod scrub;
mod stat;
mod upkeep;
mod verify;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;
use types::{Clock, Keys};

pub use inspect::{PartitionStat, RecordHeader, SegmentStat, Snapshot, StreamStat};
pub use open::{Finding, OpenError};
pub use upkeep::{Upkeep, UpkeepError};
pub use verify::Verified;

use self::{commit::Settlement, files::Blank, index::IndexFile, open::Opened, read::ReadKeys};
use crate::{
    FunctionNumber, PartitionNumber, Refused, SegmentId, Unreadable, WriteError,
    clock::{BootClock, Clocks},
    format::segment::SegmentHeader,
    log::{BatchNumber, Limits, Log},
    storage::{Storage, StorageFile, disk::Directory},
};

/// Sizes of segments that a log can be kept with.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 64 * 1024..=32 * 1024 * 1024 * 1024;

/// How a log is kept.
#[derive(Debug, Clone)]
pub struct Config {
    /// Holds this log and nothing else.
    pub directory: PathBuf,
    /// Bytes of a segment's file: what is deleted at once, and what a restart may have to read whole. From 64 KiB to 32 GiB.
    pub segment_bytes: u64,
    /// Most events that are leased at once; each costs some 200 bytes of memory.
    pub outstanding: usize,
    /// Most events that are known to be held until their time; as costly. When they are so many, a function whose next event must be held
    /// too gets nothing leased until one's time has come; others do.
    pub held: usize,
}

impl Config {
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        let Limits { segment_bytes, outstanding, held, .. } = Limits::default();
        Self { directory, segment_bytes, outstanding, held }
    }
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
    /// Something was committed or given back.
    changed: Notify,
    /// There may be something for the upkeep to do.
    upkeep: Notify,
}

struct State {
    log: Log,
    files: HashMap<SegmentId, Arc<dyn StorageFile>>,
    indexes: HashMap<SegmentId, Arc<IndexFile>>,
    settlements: BTreeMap<BatchNumber, Arc<Settlement>>,
    /// Those who wait for events of a partition.
    waiters: HashMap<PartitionNumber, Arc<Notify>>,
    /// The next segment, if it is begun already.
    prepared: Option<(SegmentHeader, Arc<dyn StorageFile>)>,
    blanks: Vec<Blank>,
    /// For acks and notes when the disk is full.
    reserve: Option<Blank>,
    full: bool,
    /// Nothing is leased any more.
    draining: bool,
    /// Segments before this one may be gone, as LOG says.
    oldest: SegmentId,
    /// Writes or syncs that failed since the log was opened.
    failures: u64,
    /// Segments that they were of.
    failed: HashSet<SegmentId>,
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
            held: config.held,
            ..Limits::default()
        };
        let opened = open::open(&*storage, limits, clocks.now())?;
        Ok(Self::assemble(config, storage, keys, clocks, opened))
    }

    fn assemble(
        config: Config,
        storage: Box<dyn Storage>,
        keys: Arc<dyn Keys>,
        clocks: Clocks,
        opened: Opened,
    ) -> (Self, Vec<Finding>) {
        let state = State {
            log: opened.log,
            files: opened.files,
            indexes: opened.indexes,
            settlements: BTreeMap::new(),
            waiters: HashMap::new(),
            prepared: None,
            blanks: Vec::new(),
            reserve: None,
            full: false,
            draining: false,
            oldest: SegmentId(0),
            failures: 0,
            failed: HashSet::new(),
        };
        let shared = Shared {
            config,
            storage,
            keys,
            clocks,
            state: Mutex::new(state),
            read_keys: Mutex::default(),
            changed: Notify::new(),
            upkeep: Notify::new(),
        };
        (Self { shared: Arc::new(shared) }, opened.findings)
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
        self.control(|log| log.rewrap_function(function, again.clone())).await
    }

    /// The function's key is not used again before the key service has opened it again: it may be destroyed.
    pub fn forget_key(&self, function: FunctionNumber) {
        self.shared.state().log.set_key(function, None);
        self.shared.forget_keys(function);
    }

    /// Segments on the disk, and bytes of their files.
    pub fn disk_use(&self) -> (usize, u64) {
        let segments = self.shared.state().log.segment_count();
        (segments, segments as u64 * self.shared.config.segment_bytes)
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
