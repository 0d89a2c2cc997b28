//! Opening a directory: which log it holds, which of its segments are to be believed, and what they say.
//!
//! ```text
//!   LOG ──► newest header's digest ──► newest segment ──► its `previous` ──► the segment before ──► …
//!                                          │ index sound?  yes: read the index       no: scan the segment
//! ```
//! Nothing is repaired in place and nothing is written to an old segment: writing goes on in a new one, with a new salt,
//! whether the last end was a crash, an error, a clean stop, or somebody's copy of the directory.

use std::{collections::HashMap, io, ops::Range, sync::Arc};

use super::{
    chain::{self, Verdict},
    files::{self, FileName},
    index::{IndexError, IndexFile},
    scan::scan,
};
use crate::{
    Location, SegmentId,
    entry::Entry,
    format::{
        FormatError,
        event::EventHeader,
        record::{Kind, PREFIX_BYTES},
        segment::SegmentHeader,
    },
    log::{Limits, Log, Now, Postings, Replay},
    storage::{Storage, StorageFile},
};

/// Why a directory is not opened. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("segments of {0} bytes are not possible; from 64 KiB to 32 GiB are")]
    SegmentBytes(u64),
    #[error("{0}")]
    Io(#[from] io::Error),
    /// To look at; whoever opens a queue makes one.
    #[error("there is no queue in this directory")]
    NoQueue,
    /// It may be of a newer Waterwheel; opening it could lose what this one does not understand.
    #[error("{file}: format version {version} is not known to this Waterwheel; use the one that wrote it")]
    UnknownVersion { file: String, version: u32 },
    #[error(
        "{file}: a record of kind {kind} at byte {offset} is not known to this Waterwheel; use the one that wrote it"
    )]
    UnknownKind { file: String, offset: u64, kind: u8 },
    /// The identity is missing or damaged, and so is every segment's header.
    #[error(
        "the file LOG and the headers of all segments are damaged; restore them from a copy of this directory"
    )]
    NoIdentity,
}

/// Something that was not as it should be. All else was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Bytes of a segment are not sound, and they were once: events are lost, or acks.
    Damaged { segment: SegmentId, bytes: Range<u64> },
    /// Bytes of the last write before a crash are not sound. Most likely it was cut off, and nobody was promised what is missing.
    Torn { segment: SegmentId, bytes: Range<u64> },
    /// The segment's header is not sound in either copy: nothing of it can be read. The file is
    /// kept under the name `….unreadable`.
    Unreadable { segment: SegmentId },
    /// The segment is not the one that was written here: of another log, or of another copy of this one. It is kept
    /// under the name `….foreign`.
    Foreign { segment: SegmentId },
    /// The file LOG is missing or damaged. It is made again from the segments; whether the newest of them is the right one is
    /// not known.
    IdentityDamaged,
    /// One of the two copies of the segment's header is not sound.
    HeaderDamaged { segment: SegmentId },
    /// The record of an event is sound, and yet its seal does not open with its function's key: somebody changed it.
    Altered { segment: SegmentId, bytes: Range<u64> },
    /// A segment between others is not there.
    Missing { segment: SegmentId },
    /// The index of a segment was not sound; it was made again from the segment.
    IndexDamaged { segment: SegmentId },
    /// Events whose partition's name is lost. After a crash they are of the write that was cut off.
    Nameless { events: u64 },
    /// A record that is sound but makes no sense; it was passed over.
    Nonsense { segment: SegmentId, offset: u64 },
}

pub(super) struct Opened {
    pub(super) log: Log,
    pub(super) files: HashMap<SegmentId, Arc<dyn StorageFile>>,
    /// Those that were read, still open.
    pub(super) indexes: HashMap<SegmentId, Arc<IndexFile>>,
    pub(super) findings: Vec<Finding>,
}

struct Segment {
    header: SegmentHeader,
    file: Arc<dyn StorageFile>,
    index: Option<IndexFile>,
    /// Of one without an index: its events.
    scanned: Vec<(EventHeader, Entry)>,
}

/// Reads all that a directory says, and clears away what is not the log's. Nothing is changed before everything was read.
pub(super) fn open(storage: &dyn Storage, limits: Limits, now: Now) -> Result<Opened, OpenError> {
    let names = file_names(storage)?;
    let chain = chain::read(storage, &names)?;
    let (opened, others) = read(storage, chain, limits, now)?;
    for name in &names {
        if let FileName::Leftover(name) = name
            && name != files::OTHER_IDENTITY
        {
            storage.remove(name)?;
        }
    }
    for (id, verdict) in others {
        let name = files::segment_name(id);
        match verdict {
            Verdict::Believed(..) => {}
            // It was being begun when the last process ended.
            Verdict::Unused => storage.remove(&name)?,
            Verdict::Foreign => storage.rename(&name, &files::aside_name(id, "foreign"))?,
            Verdict::Unreadable => storage.rename(&name, &files::aside_name(id, "unreadable"))?,
        }
    }
    // The last process may have exchanged LOG with another file, which is about to be written, and not have made that durable.
    storage.sync_directory()?;
    Ok(opened)
}

/// Reads all that the segments say that are to be believed; returns the others, too.
pub(super) fn read(
    storage: &dyn Storage,
    chain: chain::Chain,
    limits: Limits,
    now: Now,
) -> Result<(Opened, Vec<(SegmentId, Verdict)>), OpenError> {
    let chain::Chain { log, segments: chain, mut findings } = chain;
    let mut replay = Replay::new(log, limits, now);
    let (mut segments, mut others) = (Vec::new(), Vec::new());
    for (id, verdict) in chain {
        match verdict {
            Verdict::Believed(header, file) => {
                segments.push(read_controls(storage, header, file, &mut replay, &mut findings)?);
            }
            other => others.push((id, other)),
        }
    }
    replay.end_of_controls();
    for segment in &mut segments {
        read_postings(segment, &mut replay, &mut findings)?;
    }
    let (mut files, mut indexes) = (HashMap::new(), HashMap::new());
    for Segment { header, file, index, .. } in segments {
        files.insert(header.segment, file);
        indexes.extend(index.map(|index| (header.segment, Arc::new(index))));
    }
    let (log, nameless) = replay.finish();
    if nameless > 0 {
        findings.push(Finding::Nameless { events: nameless });
    }
    Ok((Opened { log, files, indexes, findings }, others))
}

/// Names of the files that are ours, in order.
pub(super) fn file_names(storage: &dyn Storage) -> Result<Vec<FileName>, OpenError> {
    let mut names: Vec<FileName> = storage.list()?.iter().filter_map(|name| FileName::parse(name)).collect();
    names.sort();
    Ok(names)
}

/// The same of a directory that must hold a log. Reading the chain of an empty one would begin a log there.
pub(super) fn existing_names(storage: &dyn Storage) -> Result<Vec<FileName>, OpenError> {
    let names = file_names(storage)?;
    if names.is_empty() {
        match storage.open(files::IDENTITY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(OpenError::NoQueue),
            opened => drop(opened?),
        }
    }
    Ok(names)
}

/// The first pass: names, notes, and which events are done.
fn read_controls(
    storage: &dyn Storage,
    header: SegmentHeader,
    file: Arc<dyn StorageFile>,
    replay: &mut Replay,
    findings: &mut Vec<Finding>,
) -> Result<Segment, OpenError> {
    let id = header.segment;
    match IndexFile::open(storage, &header).and_then(|index| index.check().map(|()| index)) {
        Ok(index) => {
            replay.segment(header.clone(), index.events(), true);
            let replayed: Result<(), IndexError> = index.controls(|control| {
                if control_of(replay, id, control.offset, control.length, control.kind, control.body).is_err()
                {
                    findings.push(Finding::Nonsense { segment: id, offset: control.offset });
                }
                Ok(())
            });
            replayed.map_err(|error| io::Error::other(error.to_string()))?;
            return Ok(Segment { header, file, index: Some(index), scanned: Vec::new() });
        }
        Err(IndexError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
        Err(IndexError::Io(error)) => return Err(error.into()),
        Err(IndexError::Format(FormatError::UnknownVersion(version))) => {
            return Err(OpenError::UnknownVersion { file: files::index_name(id), version });
        }
        Err(IndexError::Format(_) | IndexError::Foreign) => {
            findings.push(Finding::IndexDamaged { segment: id });
        }
    }
    let scanned = scan_segment(&header, &*file, replay, findings)?;
    Ok(Segment { header, file, index: None, scanned })
}

fn control_of(
    replay: &mut Replay,
    segment: SegmentId,
    offset: u64,
    length: u32,
    kind: u8,
    body: &[u8],
) -> Result<(), FormatError> {
    replay.control(segment, offset, length, Kind::try_from(kind)?, body)
}

/// A segment without an index: all of it is read.
fn scan_segment(
    header: &SegmentHeader,
    file: &dyn StorageFile,
    replay: &mut Replay,
    findings: &mut Vec<Finding>,
) -> Result<Vec<(EventHeader, Entry)>, OpenError> {
    let id = header.segment;
    let mut events: Vec<(EventHeader, Entry)> = Vec::new();
    let mut unknown = None;
    // What the last process wrote and did not sync is there, but a power cut may still take it away: what is believed now must
    // be so then. If the disk cannot take it, only what it has is read.
    let _ = file.sync();
    file.forget_cached()?;
    replay.segment(header.clone(), 0, false);
    let most = header.most_events();
    let found = scan(file, header, |offset, record| {
        let length = u32::try_from(PREFIX_BYTES + record.body.len()).unwrap_or(u32::MAX);
        let Ok(kind) = Kind::try_from(record.kind) else {
            unknown.get_or_insert((offset, record.kind));
            return;
        };
        let sense = match (kind, EventHeader::split(record.body)) {
            (Kind::Event, Ok((header, _))) if header.ordinal.0 >= most => {
                Err(FormatError::Damaged("an event's ordinal"))
            }
            (Kind::Event, Ok((header, _))) => {
                let location = Location { segment: id, ordinal: header.ordinal };
                let moved = header.moved.is_some();
                events.push((
                    header,
                    Entry { location, offset, length, accepted_ms: header.accepted_ms, moved },
                ));
                replay.control(id, offset, length, kind, record.body)
            }
            (Kind::Event, Err(error)) => Err(error),
            _ => replay.control(id, offset, length, kind, record.body),
        };
        if sense.is_err() {
            findings.push(Finding::Nonsense { segment: id, offset });
        }
    })?;
    if let Some((offset, kind)) = unknown {
        return Err(OpenError::UnknownKind { file: files::segment_name(id), offset, kind });
    }
    findings.extend(found.damaged.into_iter().map(|bytes| Finding::Damaged { segment: id, bytes }));
    findings.extend(found.torn.into_iter().map(|bytes| Finding::Torn { segment: id, bytes }));
    // They are, if it was this program that wrote them.
    events.sort_by_key(|(_, entry)| entry.location);
    replay.count_events(id, events.iter().map(|(_, entry)| entry.location.ordinal.0 + 1).max().unwrap_or(0));
    Ok(events)
}

/// The second pass: what is live.
fn read_postings(
    segment: &mut Segment,
    replay: &mut Replay,
    findings: &mut Vec<Finding>,
) -> Result<(), OpenError> {
    let id = segment.header.segment;
    let Some(index) = &segment.index else {
        let mut postings = Postings::default();
        for (header, entry) in std::mem::take(&mut segment.scanned) {
            postings.push(replay.stream_key(header.partition, header.function), entry);
        }
        for key in postings.streams() {
            let entries: Vec<Entry> = postings.of(key).copied().collect();
            replay.postings(key, &entries);
        }
        replay.keep_postings(id, postings);
        replay.end_of_postings(id);
        return Ok(());
    };
    let rows = index.rows().and_then(|rows| {
        for row in rows {
            replay.postings(row.key, &index.postings(row, 0, row.count)?);
        }
        Ok(())
    });
    match rows {
        Ok(()) => {
            replay.end_of_postings(id);
            Ok(())
        }
        Err(IndexError::Io(error)) => Err(error.into()),
        // It was checked a moment ago.
        Err(_) => {
            findings.push(Finding::IndexDamaged { segment: id });
            Err(io::Error::other("an index changed while it was read").into())
        }
    }
}
