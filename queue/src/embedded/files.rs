//! The files of a log, by name.

use std::{io, sync::Arc};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};

use crate::{
    SegmentId,
    format::{
        FormatError,
        identity::Identity,
        segment::{HEADER_BYTES, LogId, Salt, SegmentHeader},
    },
    storage::{Preparation, Storage, StorageFile},
};

pub(super) const IDENTITY: &str = "LOG";
/// What was LOG before, or is to be it: its room is never given up.
pub(super) const OTHER_IDENTITY: &str = "LOG.partial";
const PARTIAL: &str = ".partial";

/// What a file is for, by its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FileName {
    Segment(SegmentId),
    Index(SegmentId),
    /// Not finished, or not yet part of the log: can go.
    Leftover(String),
}

impl FileName {
    pub(super) fn parse(name: &str) -> Option<Self> {
        if name.ends_with(PARTIAL) {
            return Some(Self::Leftover(name.to_owned()));
        }
        let (number, kind) = name.split_once('.')?;
        let id = SegmentId(u64::from_str_radix(number, 16).ok().filter(|_| number.len() == 16)?);
        match kind {
            "segment" => Some(Self::Segment(id)),
            "index" => Some(Self::Index(id)),
            _ => None,
        }
    }
}

pub(super) fn segment_name(id: SegmentId) -> String {
    format!("{:016x}.segment", id.0)
}

pub(super) fn index_name(id: SegmentId) -> String {
    format!("{:016x}.index", id.0)
}

/// Where a segment is kept that is not part of the log any more, but may be of use to a person.
pub(super) fn aside_name(id: SegmentId, why: &str) -> String {
    format!("{:016x}.{why}", id.0)
}

/// Random bytes for salts and ids.
pub(super) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    #[cfg(test)]
    if crate::testing::fill(&mut bytes) {
        return Ok(bytes);
    }
    SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("randomness is not available"))?;
    Ok(bytes)
}

/// Writes a small file in one step: it is there whole, or as before.
pub(super) fn replace(storage: &dyn Storage, name: &str, content: &[u8]) -> io::Result<()> {
    let partial = write_partial(storage, name, content)?;
    storage.rename(&partial, name)?;
    storage.sync_directory()
}

/// Writes what is to be a small file; returns its name meanwhile.
fn write_partial(storage: &dyn Storage, name: &str, content: &[u8]) -> io::Result<String> {
    let partial = format!("{name}{PARTIAL}");
    let bytes = content.len() as u64;
    let write = || {
        let file = match storage.open(&partial) {
            Ok(file) if file.bytes()? == bytes => file,
            left => {
                if left.is_ok() {
                    storage.remove(&partial)?;
                }
                storage.create(&partial, bytes, Preparation::Allocated)?
            }
        };
        file.write_at(0, content)?;
        file.sync()
    };
    write().inspect_err(|_| {
        // What could be set aside of it would be missing elsewhere, and after a failed sync it could not be trusted.
        let _ = storage.remove(&partial);
    })?;
    Ok(partial)
}

/// Reads a file that is known to be small.
pub(super) fn read_small(storage: &dyn Storage, name: &str) -> io::Result<Vec<u8>> {
    const MOST: u64 = 64 * 1024;
    let file = storage.open(name)?;
    let mut content = vec![0; usize::try_from(file.bytes()?.min(MOST)).unwrap_or_default()];
    let length = file.read_at(0, &mut content)?;
    content.truncate(length);
    Ok(content)
}

/// A segment's file, with its space set aside, before it is known which segment it will be.
pub(super) struct Blank {
    pub(super) name: String,
    pub(super) file: Arc<dyn StorageFile>,
    pub(super) bytes: u64,
}

impl std::fmt::Debug for Blank {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blank").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A name that no file has.
pub(super) fn blank_name() -> io::Result<String> {
    Ok(format!("blank-{}{PARTIAL}", hex::encode(random::<8>()?)))
}

pub(super) fn make_blank(storage: &dyn Storage, bytes: u64, preparation: Preparation) -> io::Result<Blank> {
    let name = blank_name()?;
    let file = storage.create(&name, bytes, preparation).inspect_err(|_| {
        // What could be set aside of it would be missing elsewhere.
        let _ = storage.remove(&name);
    })?;
    Ok(Blank { name, file, bytes })
}

/// Makes of a blank file the segment behind `previous`. When this returns, the header and the name are durable.
pub(super) fn begin_segment(
    storage: &dyn Storage,
    log: LogId,
    previous: Option<&SegmentHeader>,
    blank: &Blank,
    created_ms: u64,
) -> io::Result<SegmentHeader> {
    let header = SegmentHeader {
        log,
        segment: SegmentId(previous.map_or(0, |previous| previous.segment.0) + 1),
        capacity: blank.bytes - HEADER_BYTES as u64,
        created_ms,
        salt: Salt(random()?),
        previous: previous.map_or([0; 32], SegmentHeader::digest),
    };
    let bytes = header.encode();
    blank.file.write_at(0, &bytes)?;
    blank.file.write_at(header.capacity, &bytes)?;
    blank.file.sync()?;
    storage.rename(&blank.name, &segment_name(header.segment))?;
    storage.sync_directory()?;
    Ok(header)
}

/// Notes in LOG which segments must be there.
pub(super) fn write_identity(
    storage: &dyn Storage,
    newest: &SegmentHeader,
    oldest: SegmentId,
) -> io::Result<()> {
    let identity = Identity { log: newest.log, newest: newest.segment, digest: newest.digest(), oldest };
    let partial = write_partial(storage, IDENTITY, &identity.encode())?;
    // What was LOG is kept for the next time: that takes no room then, so that segments can be deleted from a full disk.
    match storage.exchange(&partial, IDENTITY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => storage.rename(&partial, IDENTITY)?,
        exchanged => exchanged?,
    }
    storage.sync_directory().inspect_err(|_| {
        // On the disk that file may still be LOG: it must not be written to.
        let _ = storage.remove(&partial);
    })
}

/// The header of a segment, from whichever of its copies is sound.
pub(super) fn read_header(file: &dyn StorageFile) -> io::Result<Result<SegmentHeader, FormatError>> {
    let [first, second] = read_headers(file)?;
    Ok(if matches!(first, Err(FormatError::Damaged(_))) { second.or(first) } else { first })
}

/// Both copies.
pub(super) fn read_headers(file: &dyn StorageFile) -> io::Result<[Result<SegmentHeader, FormatError>; 2]> {
    let end = file.bytes()?.saturating_sub(HEADER_BYTES as u64);
    let read = |offset| {
        let mut page = vec![0; HEADER_BYTES];
        let length = file.read_at(offset, &mut page)?;
        io::Result::Ok(SegmentHeader::decode(page.get(..length).unwrap_or_default()))
    };
    Ok([read(0)?, read(end)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let id = SegmentId(0xab);
        assert_eq!(FileName::parse(&segment_name(id)), Some(FileName::Segment(id)));
        assert_eq!(FileName::parse(&index_name(id)), Some(FileName::Index(id)));
        assert_eq!(FileName::parse("LOG.partial"), Some(FileName::Leftover("LOG.partial".to_owned())));
        for other in
            ["LOG", "ab.segment", "00000000000000ab", "00000000000000ab.txt", "zzzzzzzzzzzzzzzz.index"]
        {
            assert_eq!(FileName::parse(other), None, "{other}");
        }
    }
}
