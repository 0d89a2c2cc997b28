//! Reading a ZIP's structure (PKWARE APPNOTE 6.3.10), strictly: what two readers could understand in two ways is refused.
//!
//! ```text
//!  ┌──────────────┬──────┬─ ─ ─┬───────────────────┬──────────────────────┬─────────┬─────┐
//!  │ local header │ data │ ... │ central directory │ zip64 record, locator│ end     │ note│
//!  │ 30 + name +x │      │     │ 46 + name + x + n │ 56+, 20 (optional)   │ 22      │     │
//!  └──────▲───────┴──────┴─ ─ ─┴──┬─────▲──────────┴───────────────▲──────┴────┬────┴─────┘
//!         └───────────────────────┘     └──────────────────────────┴───────────┘
//! ```
//! We walk from the end, take the central directory's word, and insist that each local header says the same. Data may
//! lie anywhere before the central directory, but no two entries may share a byte.

use std::{
    fmt,
    io::{self, Read},
    ops::Range,
};

use flate2::{Crc, bufread::DeflateDecoder};
use types::limits;

use super::{EntryName, EntryProblem, PackageRefused};

const END_SIGNATURE: u32 = 0x0605_4b50;
const END_LEN: usize = 22;
const LONGEST_NOTE: usize = u16::MAX as usize;
const ZIP64_LOCATOR_SIGNATURE: u32 = 0x0706_4b50;
const ZIP64_LOCATOR_LEN: usize = 20;
const ZIP64_END_SIGNATURE: u32 = 0x0606_4b50;
const ZIP64_END_LEN: usize = 56;
const ZIP64_EXTRA: u16 = 1;
const CENTRAL_SIGNATURE: u32 = 0x0201_4b50;
const CENTRAL_LEN: usize = 46;
const LOCAL_SIGNATURE: u32 = 0x0403_4b50;
const LOCAL_LEN: usize = 30;
/// Bits 0, 6 and 13: traditional, strong and header encryption.
const ENCRYPTION_FLAGS: u16 = 1 | 1 << 6 | 1 << 13;
/// Bit 3: sizes and CRC follow the data, the local header does not know them.
const DESCRIPTOR_FLAG: u16 = 1 << 3;
const STORED: u16 = 0;
const DEFLATED: u16 = 8;
/// "Made by" systems that put a Unix mode into the upper half of the external attributes.
const MADE_BY_UNIX: u8 = 3;
const MADE_BY_MACOS: u8 = 19;

const FILE_TYPE: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

/// What an entry becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryKind {
    File { executable: bool },
    Directory,
    Symlink,
}

/// One entry of the central directory, agreed to by its local header.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    name: Range<usize>,
    pub(super) kind: EntryKind,
    deflated: bool,
    /// Unzipped bytes, as stated.
    pub(super) size: u64,
    crc: u32,
    header: usize,
    data: Range<usize>,
}

impl Entry {
    /// The name as it stands in the file.
    pub(super) fn raw_name<'a>(&self, zip: &'a [u8]) -> &'a [u8] {
        &zip[self.name.clone()]
    }

    pub(super) fn is_regular(&self) -> bool {
        matches!(self.kind, EntryKind::File { .. })
    }

    /// The content. Reading to the end checks size and CRC.
    pub(super) fn open<'a>(&self, zip: &'a [u8]) -> EntryReader<'a> {
        EntryReader {
            data: &zip[self.data.clone()],
            deflated: self.deflated,
            size: self.size,
            expected_crc: self.crc,
            source: Source::Unopened,
            read: 0,
            crc: Crc::new(),
        }
    }
}

/// Reads every entry's description.
pub(super) fn read_directory(zip: &[u8]) -> Result<Vec<Entry>, PackageRefused> {
    let end = find_end(zip).ok_or(PackageRefused::NotAZip)?;
    if end.entries > limits::ZIP_ENTRIES as u64 {
        return Err(PackageRefused::TooManyEntries);
    }
    let mut entries = Vec::new();
    let mut at = end.directory.start;
    for _ in 0..end.entries {
        let (entry, next) = read_central(zip, at, end.directory.clone())?;
        entries.push(entry);
        at = next;
    }
    if at == end.directory.end { Ok(entries) } else { Err(PackageRefused::NotAZip) }
}

/// Refuses a package in which two entries share bytes: the trick behind bombs that state honest sizes.
pub(super) fn refuse_overlaps(zip: &[u8], entries: &[Entry]) -> Result<(), PackageRefused> {
    let mut by_place: Vec<&Entry> = entries.iter().collect();
    by_place.sort_unstable_by_key(|entry| entry.header);
    match by_place.windows(2).find(|pair| pair[0].data.end > pair[1].header) {
        None => Ok(()),
        Some(pair) => Err(refuse(pair[1].raw_name(zip), EntryProblem::Overlap)),
    }
}

struct End {
    entries: u64,
    directory: Range<usize>,
}

fn find_end(zip: &[u8]) -> Option<End> {
    let last = zip.len().checked_sub(END_LEN)?;
    // The note may itself contain the signature; only an end whose note reaches exactly to the end of the file counts.
    let at = (last.saturating_sub(LONGEST_NOTE)..=last).rev().find(|at| {
        u32_at(zip, *at) == Some(END_SIGNATURE) && u16_at(zip, at + 20).map(usize::from) == Some(last - at)
    })?;
    let one_disk = u16_at(zip, at + 4)? == 0
        && u16_at(zip, at + 6)? == 0
        && u16_at(zip, at + 8)? == u16_at(zip, at + 10)?;
    let entries = u64::from(u16_at(zip, at + 10)?);
    let size = u64::from(u32_at(zip, at + 12)?);
    let offset = u64::from(u32_at(zip, at + 16)?);
    let zip64 =
        at.checked_sub(ZIP64_LOCATOR_LEN).filter(|at| u32_at(zip, *at) == Some(ZIP64_LOCATOR_SIGNATURE));
    let Some(locator) = zip64 else {
        return if one_disk { end(entries, offset, size, at) } else { None };
    };
    let record = usize::try_from(u64_at(zip, locator + 8)?).ok()?;
    if u32_at(zip, record)? != ZIP64_END_SIGNATURE || record.checked_add(ZIP64_END_LEN)? > locator {
        return None;
    }
    let wide = [u64_at(zip, record + 32)?, u64_at(zip, record + 40)?, u64_at(zip, record + 48)?];
    let agrees = |narrow: u64, sentinel: u64, wide: u64| narrow == sentinel || narrow == wide;
    let honest = one_disk
        && u64_at(zip, record + 24)? == wide[0]
        && agrees(entries, u64::from(u16::MAX), wide[0])
        && agrees(size, u64::from(u32::MAX), wide[1])
        && agrees(offset, u64::from(u32::MAX), wide[2]);
    if honest { end(wide[0], wide[2], wide[1], record) } else { None }
}

/// The central directory, if it lies whole before `limit` and can hold that many entries.
fn end(entries: u64, offset: u64, size: u64, limit: usize) -> Option<End> {
    let start = usize::try_from(offset).ok()?;
    let stop = start.checked_add(usize::try_from(size).ok()?)?;
    let roomy = entries.checked_mul(CENTRAL_LEN as u64)? <= size;
    (stop <= limit && roomy).then_some(End { entries, directory: start..stop })
}

fn read_central(zip: &[u8], at: usize, directory: Range<usize>) -> Result<(Entry, usize), PackageRefused> {
    let central = Central::read(zip, at, &directory).ok_or(PackageRefused::NotAZip)?;
    let name = &zip[central.name.clone()];
    if central.flags & ENCRYPTION_FLAGS != 0 {
        return Err(refuse(name, EntryProblem::Encrypted));
    }
    if central.method != STORED && central.method != DEFLATED {
        return Err(refuse(name, EntryProblem::Method));
    }
    if central.method == STORED && central.packed != central.size {
        return Err(refuse(name, EntryProblem::Size));
    }
    let kind = central.kind(name).map_err(|problem| refuse(name, problem))?;
    let data =
        central.local_data(zip, directory.start).ok_or_else(|| refuse(name, EntryProblem::Contradiction))?;
    let entry = Entry {
        kind,
        deflated: central.method == DEFLATED,
        size: central.size,
        crc: central.crc,
        header: central.header,
        data,
        name: central.name,
    };
    Ok((entry, central.next))
}

/// A header of the central directory, as it stands there.
struct Central {
    made_by: u8,
    flags: u16,
    method: u16,
    crc: u32,
    packed: u64,
    size: u64,
    attributes: u32,
    header: usize,
    name: Range<usize>,
    next: usize,
}

impl Central {
    fn read(zip: &[u8], at: usize, directory: &Range<usize>) -> Option<Self> {
        if u32_at(zip, at)? != CENTRAL_SIGNATURE || u16_at(zip, at + 34)? != 0 {
            return None;
        }
        let name = at + CENTRAL_LEN..at + CENTRAL_LEN + usize::from(u16_at(zip, at + 28)?);
        let extra = name.end..name.end + usize::from(u16_at(zip, at + 30)?);
        let next = extra.end + usize::from(u16_at(zip, at + 32)?);
        if next > directory.end {
            return None;
        }
        let narrow = [u32_at(zip, at + 24)?, u32_at(zip, at + 20)?, u32_at(zip, at + 42)?];
        let [size, packed, header] = widen(zip.get(extra)?, narrow)?;
        Some(Self {
            made_by: *zip.get(at + 5)?,
            flags: u16_at(zip, at + 8)?,
            method: u16_at(zip, at + 10)?,
            crc: u32_at(zip, at + 16)?,
            packed,
            size,
            attributes: u32_at(zip, at + 38)?,
            header: usize::try_from(header).ok()?,
            name,
            next,
        })
    }

    fn kind(&self, name: &[u8]) -> Result<EntryKind, EntryProblem> {
        let unix = matches!(self.made_by, MADE_BY_UNIX | MADE_BY_MACOS);
        let mode = if unix { self.attributes >> 16 } else { 0 };
        let directory = name.ends_with(b"/");
        let kind = match mode & FILE_TYPE {
            DIRECTORY => EntryKind::Directory,
            0 | REGULAR if directory => EntryKind::Directory,
            0 | REGULAR => EntryKind::File { executable: mode & 0o111 != 0 },
            SYMLINK if !directory => EntryKind::Symlink,
            SYMLINK => return Err(EntryProblem::Contradiction),
            _ => return Err(EntryProblem::Special),
        };
        if kind == EntryKind::Directory && self.size != 0 {
            return Err(EntryProblem::DirectoryWithContent);
        }
        Ok(kind)
    }

    /// Where the data lies, if the local header agrees with this one and all of it lies before the central directory.
    fn local_data(&self, zip: &[u8], limit: usize) -> Option<Range<usize>> {
        let at = self.header;
        let name_start = at.checked_add(LOCAL_LEN)?;
        if u32_at(zip, at)? != LOCAL_SIGNATURE {
            return None;
        }
        let flags = u16_at(zip, at + 6)?;
        let name = name_start..name_start + usize::from(u16_at(zip, at + 26)?);
        let extra = name.end..name.end + usize::from(u16_at(zip, at + 28)?);
        let start = extra.end;
        let stop = start.checked_add(usize::try_from(self.packed).ok()?)?;
        let [size, packed, _] = widen(zip.get(extra)?, [u32_at(zip, at + 22)?, u32_at(zip, at + 18)?, 0])?;
        let sizes = (size, packed, u32_at(zip, at + 14)?);
        let later = flags & DESCRIPTOR_FLAG != 0 && sizes.2 == 0;
        let agrees = u16_at(zip, at + 8)? == self.method
            && flags & (ENCRYPTION_FLAGS | DESCRIPTOR_FLAG)
                == self.flags & (ENCRYPTION_FLAGS | DESCRIPTOR_FLAG)
            && zip.get(name)? == &zip[self.name.clone()]
            && (later || sizes == (self.size, self.packed, self.crc));
        (agrees && stop <= limit).then_some(start..stop)
    }
}

/// Sizes and offset with what a zip64 field says for those that are all ones. Such a field may be absent, not short.
fn widen(mut extra: &[u8], narrow: [u32; 3]) -> Option<[u64; 3]> {
    let mut wide = narrow.map(u64::from);
    // Some writers pad with fewer bytes than a field's header: not ours to judge.
    while let (Some(id), Some(length)) = (u16_at(extra, 0), u16_at(extra, 2)) {
        let field = extra.get(4..4 + usize::from(length))?;
        if id == ZIP64_EXTRA {
            let mut values = field.chunks_exact(8);
            for value in wide.iter_mut().filter(|value| **value == u64::from(u32::MAX)) {
                *value = u64_at(values.next()?, 0)?;
            }
            break;
        }
        extra = &extra[4 + usize::from(length)..];
    }
    Some(wide)
}

fn refuse(name: &[u8], problem: EntryProblem) -> PackageRefused {
    PackageRefused::Entry { name: EntryName::new(name), problem }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// Inflates one entry. The inflating window exists only between the first and the last byte, so that a reader for
/// every entry of a package costs little.
pub(super) struct EntryReader<'a> {
    data: &'a [u8],
    deflated: bool,
    size: u64,
    expected_crc: u32,
    source: Source<'a>,
    read: u64,
    crc: Crc,
}

enum Source<'a> {
    Unopened,
    Stored(&'a [u8]),
    Deflated(Box<DeflateDecoder<&'a [u8]>>),
    Done,
}

impl fmt::Debug for EntryReader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EntryReader")
            .field("size", &self.size)
            .field("read", &self.read)
            .finish_non_exhaustive()
    }
}

impl Read for EntryReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Source::Unopened = self.source {
            self.source = match self.deflated {
                true => Source::Deflated(Box::new(DeflateDecoder::new(self.data))),
                false => Source::Stored(self.data),
            };
        }
        let count = match &mut self.source {
            Source::Stored(rest) => rest.read(buffer)?,
            Source::Deflated(decoder) => decoder.read(buffer).map_err(|_| broken(EntryProblem::Damaged))?,
            Source::Unopened | Source::Done => return Ok(0),
        };
        self.read += count as u64;
        self.crc.update(&buffer[..count]);
        if self.read > self.size {
            return Err(broken(EntryProblem::Size));
        }
        if count == 0 && !buffer.is_empty() {
            self.finish()?;
        }
        Ok(count)
    }
}

impl EntryReader<'_> {
    fn finish(&mut self) -> io::Result<()> {
        let whole = match std::mem::replace(&mut self.source, Source::Done) {
            Source::Deflated(decoder) => decoder.total_in() == self.data.len() as u64,
            _ => true,
        };
        if self.read != self.size || !whole {
            return Err(broken(EntryProblem::Size));
        }
        if self.crc.sum() != self.expected_crc {
            return Err(broken(EntryProblem::Damaged));
        }
        Ok(())
    }
}

fn broken(problem: EntryProblem) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

/// What an [`EntryReader`]'s error says of its entry.
pub(super) fn problem_of(error: &io::Error) -> EntryProblem {
    error.get_ref().and_then(|inner| inner.downcast_ref()).copied().unwrap_or(EntryProblem::Damaged)
}
