//! Reading everything, to find damage before somebody needs what is damaged: `waterwheel queue verify`, and the scrub.
//!
//! What is checked: LOG and the chain of headers, both copies of each; every record's checksum; every page of every index, and
//! that it says what the segment does. What is not: the seal of events, for which keys would be needed. A checksum finds what a
//! disk does; a seal also finds what a person does, and that is found when the event is leased.

use std::{collections::HashMap, io};

use super::{
    chain::{self, Verdict},
    files,
    index::{IndexError, IndexFile},
    open::{Finding, OpenError, existing_names},
    scan::scan,
};
use crate::{
    SegmentId,
    format::{
        event::{EventHeader, MOVED_HEADER_BYTES},
        record::{Kind, PREFIX_BYTES},
        segment::SegmentHeader,
    },
    storage::{Storage, StorageFile},
};

/// What a directory holds, and what of it is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verified {
    pub segments: u64,
    /// Sound ones, whether they are done or not.
    pub events: u64,
    pub other_records: u64,
    pub findings: Vec<Finding>,
}

/// Of a sound record: its length, its ordinal if it is an event, and what an index copies of it.
type Sound = HashMap<u64, (u32, Option<u32>, Vec<u8>)>;

pub(super) fn verify(storage: &dyn Storage) -> Result<Verified, OpenError> {
    let names = existing_names(storage)?;
    let chain = chain::read(storage, &names)?;
    let mut verified = Verified { findings: chain.findings, ..Verified::default() };
    for (id, verdict) in chain.segments {
        if let Verdict::Believed(header, file) = verdict {
            verified.segments += 1;
            if files::read_headers(&*file)?.iter().any(|copy| copy.as_ref() != Ok(&header)) {
                verified.findings.push(Finding::HeaderDamaged { segment: id });
            }
            verify_segment(storage, &header, &*file, &mut verified)?;
        }
    }
    Ok(verified)
}

fn verify_segment(
    storage: &dyn Storage,
    header: &SegmentHeader,
    file: &dyn StorageFile,
    verified: &mut Verified,
) -> Result<(), OpenError> {
    let id = header.segment;
    let mut sound = Sound::new();
    let (mut events, mut others) = (0, 0);
    let found = scan(file, header, |offset, record| {
        let length = u32::try_from(PREFIX_BYTES + record.body.len()).unwrap_or(u32::MAX);
        let event =
            (record.kind == Kind::Event as u8).then(|| EventHeader::split(record.body).ok()).flatten();
        let copied = match event {
            Some((EventHeader { moved: None, .. }, _)) => &[],
            Some(_) => record.body.get(..MOVED_HEADER_BYTES).unwrap_or_default(),
            None => record.body,
        };
        sound.insert(offset, (length, event.map(|(header, _)| header.ordinal.0), copied.to_vec()));
        *(if event.is_some() { &mut events } else { &mut others }) += 1;
    })?;
    verified.events += events;
    verified.other_records += others;
    verified.findings.extend(found.damaged.into_iter().map(|bytes| Finding::Damaged { segment: id, bytes }));
    let lost = match lost_by_index(storage, header, &sound) {
        Ok(lost) => lost,
        // The segment that was written last has none.
        Err(IndexError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
            verified
                .findings
                .extend(found.torn.into_iter().map(|bytes| Finding::Torn { segment: id, bytes }));
            return Ok(());
        }
        Err(IndexError::Io(error)) => return Err(error.into()),
        Err(IndexError::Format(_) | IndexError::Foreign) => {
            verified.findings.push(Finding::IndexDamaged { segment: id });
            return Ok(());
        }
    };
    verified.findings.extend(lost.into_iter().map(|bytes| Finding::Damaged { segment: id, bytes }));
    Ok(())
}

/// Records that the index knows and the segment does not have, soundly, in their place.
fn lost_by_index(
    storage: &dyn Storage,
    header: &SegmentHeader,
    sound: &Sound,
) -> Result<Vec<std::ops::Range<u64>>, IndexError> {
    let index = IndexFile::open(storage, header)?;
    let mut lost = Vec::new();
    for row in index.rows()? {
        for entry in index.postings(row, 0, row.count)? {
            let there = sound.get(&entry.offset);
            if there.is_none_or(|(length, ordinal, _)| {
                (*length, *ordinal) != (entry.length, Some(entry.location.ordinal.0))
            }) {
                lost.push(entry.offset..entry.offset + u64::from(entry.length));
            }
        }
    }
    index.controls(|control| {
        if sound.get(&control.offset).is_none_or(|(_, _, copied)| copied != control.body) {
            lost.push(control.offset..control.offset + u64::from(control.length));
        }
        Ok::<(), IndexError>(())
    })?;
    Ok(lost)
}

/// For messages.
impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = |segment: &SegmentId| files::segment_name(*segment);
        match self {
            Self::Damaged { segment, bytes } => {
                write!(
                    f,
                    "{}: bytes {} to {} are damaged; what they held is lost",
                    name(segment),
                    bytes.start,
                    bytes.end
                )
            }
            Self::Torn { segment, bytes } => write!(
                f,
                "{}: bytes {} to {} of the last write are missing; most likely a crash cut it off",
                name(segment),
                bytes.start,
                bytes.end
            ),
            Self::Unreadable { segment } => {
                write!(f, "{}: both copies of the header are damaged", name(segment))
            }
            Self::Foreign { segment } => {
                write!(f, "{}: not the segment that was written here", name(segment))
            }
            Self::IdentityDamaged => write!(f, "LOG: missing or damaged"),
            Self::HeaderDamaged { segment } => {
                write!(f, "{}: one copy of the header is damaged", name(segment))
            }
            Self::Altered { segment, bytes } => write!(
                f,
                "{}: the event in bytes {} to {} does not open with its key; it was changed on purpose",
                name(segment),
                bytes.start,
                bytes.end
            ),
            Self::Missing { segment } => write!(f, "{}: missing", name(segment)),
            Self::IndexDamaged { segment } => {
                write!(f, "{}: damaged; it can be made again from its segment", files::index_name(*segment))
            }
            Self::Nameless { events } => write!(f, "{events} events of a partition whose name is lost"),
            Self::Nonsense { segment, offset } => {
                write!(f, "{}: the record at {offset} makes no sense", name(segment))
            }
        }
    }
}
