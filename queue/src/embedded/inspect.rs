//! A log read without being opened: for whoever wants to know what is in it, also beside the process that has it open.
//!
//! ```text
//!   LOG ─ headers ─ indexes ─ segments without an index       the same reading as when a log is opened, and nothing after it:
//!        └───────────────► Snapshot                            no lock, no new segment, no write, no key
//! ```
//! What a snapshot says was so while it was read. The process that has the log open goes on meanwhile: what it deletes under the
//! reader's hands is noticed, and the reading begins again. Once that is done the indexes stay open, whether or not they are deleted.

use std::{collections::BTreeMap, io, path::Path, sync::Arc, time::Duration};

use types::{Clock, DataKey, KeyContext, KeyError, Keys, WrappedDataKey};

use super::{
    Config, EmbeddedQueue, Finding, OpenError,
    chain::{self, Verdict},
    files::FileName,
    open::{self, existing_names},
    scan::scan,
};
use crate::{
    BootClock, Depth, EventId, EventState, FunctionNumber, FunctionStat, Location, PartitionNumber,
    Queue as _, ReadError, SegmentId,
    clock::Clocks,
    entry::{Entry, StreamKey},
    format::{
        event::EventHeader,
        record::{self, Parsed, Seed},
        segment::HEADER_BYTES,
    },
    log::Limits,
    partition::Order,
    storage::read_only::ReadOnlyDirectory,
};

/// Of a segment, to see whether there is anything in it.
const BEGINNING_BYTES: usize = 64 * 1024;
/// Readings that another process may disturb before it is given up.
const ATTEMPTS: u32 = 10;

/// What a log held when it was read.
#[derive(Debug)]
pub struct Snapshot {
    /// Never handed out: it can be asked, and nothing else works.
    queue: EmbeddedQueue,
    findings: Vec<Finding>,
    disk_bytes: u64,
}

/// A partition, and how much is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionStat {
    pub number: PartitionNumber,
    pub name: String,
    pub order: Order,
    pub depth: Depth,
    /// When the oldest event was accepted. Unix time.
    pub oldest: Option<Duration>,
    pub functions: Vec<FunctionStat>,
}

/// A segment of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentStat {
    pub segment: SegmentId,
    /// Unix time.
    pub created: Duration,
    /// Bytes that its records can take.
    pub capacity: u64,
    /// Without one it is being written, or was when the log was last open.
    pub indexed: bool,
    pub events: u64,
    /// Events that are not done.
    pub live: u64,
}

/// The events of one stream in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamStat {
    pub partition: PartitionNumber,
    /// `None` in an ordered partition, where functions are not told apart.
    pub function: Option<FunctionNumber>,
    pub events: u64,
    pub live: u64,
    /// Of their records.
    pub bytes: u64,
}

/// The header fields of an event's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordHeader {
    pub location: Location,
    /// In the segment's file.
    pub offset: u64,
    /// Of the record.
    pub bytes: u32,
    pub id: EventId,
    pub partition: PartitionNumber,
    pub function: FunctionNumber,
    /// Unix time.
    pub accepted: Duration,
    /// Where the event was written first, if it was written again since.
    pub origin: Option<Location>,
    pub attempts: u32,
    /// `None`: it is done.
    pub state: Option<EventState>,
}

/// No key is at hand, and none is needed.
#[derive(Debug)]
struct NoKeys;

impl Keys for NoKeys {
    fn generate(&self, _: &KeyContext) -> Result<(DataKey, WrappedDataKey), KeyError> {
        Err(KeyError::Unavailable("a snapshot has no keys".to_owned()))
    }

    fn unwrap(&self, _: &WrappedDataKey, _: &KeyContext) -> Result<DataKey, KeyError> {
        Err(KeyError::Unavailable("a snapshot has no keys".to_owned()))
    }

    fn rewrap(&self, _: &WrappedDataKey, _: &KeyContext) -> Result<WrappedDataKey, KeyError> {
        Err(KeyError::Unavailable("a snapshot has no keys".to_owned()))
    }
}

/// Leaves out the newest segment while it is empty. The one before it is being written then, and what is read of that is the end:
/// should the writer go on in the newest meanwhile, what it writes there speaks of events that were not read.
fn leave_out_prepared(chain: &mut chain::Chain) -> io::Result<()> {
    let [.., _, (_, Verdict::Believed(header, file))] = &chain.segments[..] else { return Ok(()) };
    let mut beginning = vec![0; BEGINNING_BYTES];
    file.read_at(HEADER_BYTES as u64, &mut beginning)?;
    let first = record::parse(&beginning, Seed::of(header.salt), HEADER_BYTES as u64);
    let mut empty = !matches!(first, Parsed::Sound(_));
    if empty {
        // Unless the first record is a long one, or damaged.
        scan(&**file, header, |_, _| empty = false)?;
    }
    if empty {
        chain.segments.pop();
    }
    Ok(())
}

impl Snapshot {
    /// Reads a log, whether or not somebody has it open.
    pub fn read(directory: &Path, wall: Arc<dyn Clock>, boot: Arc<dyn BootClock>) -> Result<Self, OpenError> {
        let clocks = Clocks { wall, boot };
        let mut attempt = 1;
        loop {
            match Self::read_once(directory, &clocks) {
                // It was there a moment ago, so somebody is at work.
                Err(OpenError::Io(error))
                    if error.kind() == io::ErrorKind::NotFound && attempt < ATTEMPTS => {}
                Ok(snapshot) if snapshot.is_torn_apart() && attempt < ATTEMPTS => {}
                outcome => return outcome,
            }
            attempt += 1;
        }
    }

    fn read_once(directory: &Path, clocks: &Clocks) -> Result<Self, OpenError> {
        let storage = Box::new(ReadOnlyDirectory::new(directory));
        let names = existing_names(&*storage)?;
        let mut chain = chain::read(&*storage, &names)?;
        leave_out_prepared(&mut chain)?;
        // Nothing is leased.
        let limits = Limits { outstanding: 0, ..Limits::default() };
        let (opened, _) = open::read(&*storage, chain, limits, clocks.now())?;
        // A segment that was deleted before it was read may have been another one by then, in the same file.
        let after = existing_names(&*storage)?;
        let scanned = opened.files.keys().filter(|id| !opened.indexes.contains_key(id));
        if scanned.copied().any(|id| !after.contains(&FileName::Segment(id))) {
            return Err(io::Error::new(io::ErrorKind::NotFound, "segments are deleted meanwhile").into());
        }
        let config = Config::new(directory.to_owned());
        let keys = Arc::new(NoKeys);
        let disk_bytes = storage.disk_bytes()?;
        let (queue, findings) = EmbeddedQueue::assemble(config, storage, keys, clocks.clone(), opened);
        Ok(Self { queue, findings, disk_bytes })
    }

    /// Segments came or went while the directory was read.
    fn is_torn_apart(&self) -> bool {
        self.findings
            .iter()
            .any(|finding| matches!(finding, Finding::Missing { .. } | Finding::Foreign { .. }))
    }

    /// What was not as it should be. Beside a process that has the log open, what that is writing just now looks [torn](Finding::Torn).
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Bytes that the directory takes on the disk.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// ARNs by their numbers.
    #[must_use]
    pub fn functions(&self) -> BTreeMap<FunctionNumber, String> {
        self.queue.shared.state().log.function_arns()
    }

    /// Every partition that the log knows, by its number.
    pub fn partitions(&self) -> Result<Vec<PartitionStat>, ReadError> {
        let names = self.queue.shared.state().log.partition_names();
        let stat = |(number, name, order)| {
            let functions = self.queue.shared.stat(number)?;
            let oldest = functions.iter().filter_map(|function| function.oldest).min();
            let depth = self.queue.depth(number);
            Ok(PartitionStat { number, name, order, depth, oldest, functions })
        };
        names.into_iter().map(stat).collect()
    }

    /// The segments, oldest first.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentStat> {
        let state = self.queue.shared.state();
        let mut segments = Vec::new();
        let mut next = SegmentId(0);
        while let Some((header, indexed)) = state.log.segment_from(next) {
            let (events, live) = state.log.events_of(header.segment);
            segments.push(SegmentStat {
                segment: header.segment,
                created: Duration::from_millis(header.created_ms),
                capacity: header.capacity,
                indexed,
                events: events.into(),
                live: live.into(),
            });
            next = header.segment.next();
        }
        segments
    }

    /// What a segment holds of each stream; `None` if there is no such segment.
    pub fn streams(&self, segment: SegmentId) -> Result<Option<Vec<StreamStat>>, ReadError> {
        let mut streams: BTreeMap<StreamKey, StreamStat> = BTreeMap::new();
        let there = self.each_event(segment, |key, entry, live| {
            let stat = streams.entry(key).or_insert(StreamStat {
                partition: key.partition,
                // 0 is the number of no function.
                function: Some(key.function).filter(|function| function.0 != 0),
                events: 0,
                live: 0,
                bytes: 0,
            });
            stat.events += 1;
            stat.live += u64::from(live);
            stat.bytes += u64::from(entry.length);
        })?;
        Ok(there.then(|| streams.into_values().collect()))
    }

    /// The header fields of one event's record; `None` if there is none at this place.
    pub fn record(&self, location: Location) -> Result<Option<RecordHeader>, ReadError> {
        let mut found = None;
        self.each_event(location.segment, |key, entry, live| {
            if entry.location == location {
                found = Some((key, entry, live));
            }
        })?;
        let Some((key, entry, live)) = found else { return Ok(None) };
        let shared = &self.queue.shared;
        let body = shared.record(entry)?.map(|(_, body)| body);
        let Some((header, _)) = body.as_deref().and_then(|body| EventHeader::split(body).ok()) else {
            return Err(ReadError::Damaged { segment: location.segment });
        };
        let origin = header.moved.map(|moved| moved.origin);
        let now = shared.clocks.now().boot;
        let (state, attempts) = shared.state().log.state_of(key, location, origin, now);
        Ok(Some(RecordHeader {
            location,
            offset: entry.offset,
            bytes: entry.length,
            id: header.id,
            partition: header.partition,
            function: header.function,
            accepted: Duration::from_millis(header.accepted_ms),
            origin,
            attempts,
            state: live.then_some(state),
        }))
    }

    /// Goes through the events of a segment by their streams, and says whether each is live; `false` if there is no such segment.
    fn each_event(
        &self,
        segment: SegmentId,
        mut each: impl FnMut(StreamKey, Entry, bool),
    ) -> Result<bool, ReadError> {
        let shared = &self.queue.shared;
        let header = shared.segment_at(segment).filter(|header| header.segment == segment);
        let Some(header) = header else { return Ok(false) };
        let Some(source) = shared.source(&header)? else { return Ok(false) };
        for row in shared.streams_in(&source, segment)? {
            let mut from = Location::start_of(segment);
            loop {
                let entries = shared.step(&source, row, from)?;
                let Some(last) = entries.last() else { break };
                from = last.location.next();
                let state = shared.state();
                entries.into_iter().for_each(|entry| {
                    each(row.key, entry, state.log.is_live(row.key, entry.location));
                });
            }
        }
        Ok(true)
    }
}
