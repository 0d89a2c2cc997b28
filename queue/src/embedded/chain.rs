//! Which segments of a directory are to be believed: from LOG and the newest segment backwards, each vouches for the one before.

use std::{io, sync::Arc};

use super::{
    files::{self, FileName, IDENTITY},
    open::{Finding, OpenError},
    scan::scan,
};
use crate::{
    SegmentId,
    format::{
        FormatError,
        identity::Identity,
        segment::{LogId, SegmentHeader},
    },
    storage::{Storage, StorageFile},
};

/// What a segment's file is.
pub(super) enum Verdict {
    Believed(SegmentHeader, Arc<dyn StorageFile>),
    /// Not what the chain says, but nothing was ever written to it.
    Unused,
    /// Of another log, or of another copy of this one, or in another's place.
    Foreign,
    /// Both copies of its header are damaged.
    Unreadable,
}

pub(super) struct Chain {
    pub(super) log: LogId,
    /// Oldest first.
    pub(super) segments: Vec<(SegmentId, Verdict)>,
    pub(super) findings: Vec<Finding>,
}

/// What a segment must hash to.
type Expected = Option<(SegmentId, [u8; 32])>;

/// Looks at LOG and all headers. Changes nothing, unless the directory is empty: then it becomes a log's.
pub(super) fn read(storage: &dyn Storage, names: &[FileName]) -> Result<Chain, OpenError> {
    let ids = names.iter().filter_map(|name| if let FileName::Segment(id) = name { Some(*id) } else { None });
    let ids: Vec<SegmentId> = ids.collect();
    let mut findings = Vec::new();
    let identity = match identity(storage)? {
        Some(identity) => identity,
        None if ids.is_empty() => begin_log(storage)?,
        None => {
            findings.push(Finding::IdentityDamaged);
            unknown(log_of_newest(storage, &ids)?)
        }
    };
    let log = identity.log;
    let mut expected = (identity.newest != SegmentId(0)).then_some((identity.newest, identity.digest));
    let mut segments = Vec::new();
    // The segment behind the one that is looked at; behind the newest there is none.
    let mut next = expected.map_or(0, |(newest, _)| newest.0 + 1);
    for id in ids.into_iter().rev() {
        for missing in (id.0 + 1..next).rev() {
            findings.push(Finding::Missing { segment: SegmentId(missing) });
            expected = None;
        }
        next = id.0;
        let verdict = judge(storage, log, id, &mut expected)?;
        match &verdict {
            Verdict::Foreign => findings.push(Finding::Foreign { segment: id }),
            Verdict::Unreadable => findings.push(Finding::Unreadable { segment: id }),
            Verdict::Believed(..) | Verdict::Unused => {}
        }
        segments.push((id, verdict));
    }
    for missing in (identity.oldest.0..next).rev() {
        findings.push(Finding::Missing { segment: SegmentId(missing) });
    }
    segments.reverse();
    Ok(Chain { log, segments, findings })
}

/// Judges a segment, and sets what is expected of the one before it.
fn judge(
    storage: &dyn Storage,
    log: LogId,
    id: SegmentId,
    expected: &mut Expected,
) -> Result<Verdict, OpenError> {
    let name = files::segment_name(id);
    let file = storage.open(&name)?;
    let copies = files::read_headers(&*file)?;
    if let Some(version) = copies.iter().find_map(|copy| match copy {
        Err(FormatError::UnknownVersion(version)) => Some(*version),
        _ => None,
    }) {
        return Err(OpenError::UnknownVersion { file: name, version });
    }
    let vouched = |header: &&SegmentHeader| {
        let by_chain = match *expected {
            Some((segment, digest)) if segment == id => header.digest() == digest,
            // One that was begun just before the end, before LOG could say so.
            Some((segment, digest)) if segment.0 + 1 == id.0 => header.previous == digest,
            Some(_) => false,
            None => true,
        };
        header.log == log && header.segment == id && by_chain
    };
    // One copy may be damaged, or be another segment's.
    if let Some(header) = copies.iter().flatten().find(vouched).cloned() {
        *expected = (id.0 > 1).then_some((SegmentId(id.0 - 1), header.previous));
        return Ok(Verdict::Believed(header, file));
    }
    // What it says of the one before is not to be believed; what was expected of it is known no more.
    *expected = expected.filter(|(segment, _)| *segment < id);
    let [first, second] = copies;
    let verdict = match (first, second) {
        (Ok(first), Ok(second)) if first == second => {
            let mut records = 0_u64;
            scan(&*file, &first, |_, _| records += 1)?;
            if records == 0 { Verdict::Unused } else { Verdict::Foreign }
        }
        (Err(_), Err(_)) => Verdict::Unreadable,
        _ => Verdict::Foreign,
    };
    Ok(verdict)
}

/// `None` if it is missing or damaged.
fn identity(storage: &dyn Storage) -> Result<Option<Identity>, OpenError> {
    let content = match files::read_small(storage, IDENTITY) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match Identity::decode(&content) {
        Ok(identity) => Ok(Some(identity)),
        Err(FormatError::UnknownVersion(version)) => {
            Err(OpenError::UnknownVersion { file: IDENTITY.to_owned(), version })
        }
        Err(_) => Ok(None),
    }
}

fn begin_log(storage: &dyn Storage) -> Result<Identity, OpenError> {
    let identity = Identity { oldest: SegmentId(1), ..unknown(LogId(files::random()?)) };
    files::replace(storage, IDENTITY, &identity.encode())?;
    Ok(identity)
}

/// Of a log of which no segment is known.
fn unknown(log: LogId) -> Identity {
    Identity { log, newest: SegmentId(0), digest: [0; 32], oldest: SegmentId(u64::MAX) }
}

fn log_of_newest(storage: &dyn Storage, ids: &[SegmentId]) -> Result<LogId, OpenError> {
    for id in ids.iter().rev() {
        if let Ok(header) = files::read_header(&*storage.open(&files::segment_name(*id))?)? {
            return Ok(header.log);
        }
    }
    Err(OpenError::NoIdentity)
}
