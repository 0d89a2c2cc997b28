//! A segment's index on the disk: making it, and reading no more of it than is asked for.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::files::{index_name, replace};
use crate::{
    Location, SegmentId,
    entry::{Entry, StreamKey},
    format::{
        FormatError,
        codec::Fields,
        index::{
            self, Control, IndexHeader, PAGE_BYTES, PAGE_CONTENT, POSTING_BYTES, STREAM_BYTES, StreamRow,
        },
        record::{self, Parsed, Seed},
        segment::SegmentHeader,
    },
    log::IndexSource,
    storage::{Storage, StorageFile},
};

/// Why an index is of no use. It can be made again from its segment.
#[derive(Debug, thiserror::Error)]
pub(super) enum IndexError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Format(#[from] FormatError),
    #[error("it is the index of another segment")]
    Foreign,
}

pub(super) struct IndexFile {
    file: Arc<dyn StorageFile>,
    /// It never changes.
    bytes: u64,
    header: IndexHeader,
    cursors: Mutex<HashMap<StreamKey, Cursor>>,
}

/// Where reading a stream ended: whoever goes on there need not search.
#[derive(Clone, Copy)]
struct Cursor {
    row: StreamRow,
    next: Location,
    skip: u32,
}

/// Records that an index copies and that lie no further apart than this are read together, up to so many bytes, or one record.
const GAP_BYTES: u64 = 4096;
const READ_TOGETHER: u64 = 1 << 20;

/// Cursors that are kept; each costs some 60 bytes.
const CURSORS: usize = 256;

impl IndexFile {
    /// Opens the index of this segment.
    pub(super) fn open(storage: &dyn Storage, segment: &SegmentHeader) -> Result<Self, IndexError> {
        let file = storage.open(&index_name(segment.segment))?;
        let mut page = vec![0; PAGE_BYTES];
        file.read_at(0, &mut page)?;
        let header = IndexHeader::decode(&page)?;
        if (header.log, header.segment, header.salt) != (segment.log, segment.segment, segment.salt) {
            return Err(IndexError::Foreign);
        }
        if header.events > segment.most_events() {
            return Err(FormatError::Damaged("an index's count of events").into());
        }
        Ok(Self { bytes: file.bytes()?, file, header, cursors: Mutex::default() })
    }

    pub(super) fn events(&self) -> u32 {
        self.header.events
    }

    /// Reads all of it once: whether every page is sound.
    pub(super) fn check(&self) -> Result<(), IndexError> {
        /// At a time.
        const STEP: u64 = 64 * PAGE_CONTENT as u64;
        let [.., end] = self.header.sections();
        let mut start = 0;
        while start < end {
            self.content(start, (start + STEP).min(end))?;
            start += STEP;
        }
        Ok(())
    }

    /// All streams.
    pub(super) fn rows(&self) -> Result<Vec<StreamRow>, IndexError> {
        let [start, end, ..] = self.header.sections();
        let content = self.content(start, end)?;
        let mut fields = Fields::new(&content);
        (0..self.header.streams).map(|_| Ok(index::take_row(&mut fields)?)).collect()
    }

    /// The row of a stream, if the segment holds events of it.
    pub(super) fn row(&self, key: StreamKey) -> Result<Option<StreamRow>, IndexError> {
        let (mut low, mut high) = (0, self.header.streams);
        while low < high {
            let middle = low + (high - low) / 2;
            let at = u64::from(middle) * STREAM_BYTES as u64;
            let content = self.content(at, at + STREAM_BYTES as u64)?;
            let row = index::take_row(&mut Fields::new(&content))?;
            match row.key.cmp(&key) {
                std::cmp::Ordering::Equal => return Ok(Some(row)),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }

    /// Postings `skip..skip + most` of a stream.
    pub(super) fn postings(&self, row: StreamRow, skip: u32, most: u32) -> Result<Vec<Entry>, IndexError> {
        let count = row.count.saturating_sub(skip).min(most);
        let [_, postings, ..] = self.header.sections();
        let start = postings + (u64::from(row.first) + u64::from(skip)) * POSTING_BYTES as u64;
        let content = self.content(start, start + u64::from(count) * POSTING_BYTES as u64)?;
        let mut fields = Fields::new(&content);
        let mut take = || {
            let entry = index::take_posting(self.header.segment, &mut fields)?;
            let counted = entry.location.ordinal.0 < self.header.events;
            counted.then_some(entry).ok_or(FormatError::Damaged("an ordinal in an index"))
        };
        (0..count).map(|_| Ok(take()?)).collect()
    }

    /// Up to `most` events of a stream that do not lie before `from`.
    pub(super) fn from(&self, key: StreamKey, from: Location, most: u32) -> Result<Vec<Entry>, IndexError> {
        let known = self.cursors().get(&key).copied().filter(|cursor| cursor.next == from);
        let (row, skip) = match known {
            Some(cursor) => (cursor.row, cursor.skip),
            None => {
                let Some(row) = self.row(key)? else { return Ok(Vec::new()) };
                (row, self.before(row, from)?)
            }
        };
        let entries = self.postings(row, skip, most)?;
        if let Some(last) = entries.last() {
            let cursor = Cursor {
                row,
                next: last.location.next(),
                skip: skip + u32::try_from(entries.len()).unwrap_or(0),
            };
            let mut cursors = self.cursors();
            if cursors.len() >= CURSORS {
                cursors.clear();
            }
            cursors.insert(key, cursor);
        }
        Ok(entries)
    }

    fn cursors(&self) -> MutexGuard<'_, HashMap<StreamKey, Cursor>> {
        self.cursors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same of a stream whose row is known.
    pub(super) fn postings_from(
        &self,
        row: StreamRow,
        from: Location,
        most: u32,
    ) -> Result<Vec<Entry>, IndexError> {
        self.postings(row, self.before(row, from)?, most)
    }

    /// How many events of a stream lie before `from`.
    fn before(&self, row: StreamRow, from: Location) -> Result<u32, IndexError> {
        let (mut low, mut high) = (0, row.count);
        while low < high {
            let middle = low + (high - low) / 2;
            let before = self.postings(row, middle, 1)?.first().is_some_and(|entry| entry.location < from);
            if before { low = middle + 1 } else { high = middle }
        }
        Ok(low)
    }

    /// Calls `each` with every record that is not an event, in the order of the segment.
    pub(super) fn controls<E: From<IndexError>>(
        &self,
        mut each: impl FnMut(Control<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let [_, _, start, end] = self.header.sections();
        let content = self.content(start, end)?;
        let mut fields = Fields::new(&content);
        while !fields.rest().is_empty() {
            each(index::take_control(&mut fields).map_err(IndexError::from)?)?;
        }
        Ok(())
    }

    /// Part of the joined content of the pages, each of them checked.
    fn content(&self, start: u64, end: u64) -> Result<Vec<u8>, IndexError> {
        let page_content = PAGE_CONTENT as u64;
        let (first, behind) = (start / page_content, end.div_ceil(page_content));
        // A length is believed as far as the file goes.
        if start >= end || (behind + 1) * PAGE_BYTES as u64 > self.bytes {
            let empty = start == end;
            return if empty {
                Ok(Vec::new())
            } else {
                Err(FormatError::Damaged("an index is cut short").into())
            };
        }
        let mut pages = vec![0; usize::try_from((behind - first) * PAGE_BYTES as u64).unwrap_or_default()];
        self.file.read_at((first + 1) * PAGE_BYTES as u64, &mut pages)?;
        let mut content = Vec::with_capacity(pages.len());
        for (number, page) in (first + 1..).zip(pages.chunks(PAGE_BYTES)) {
            let number = u32::try_from(number).map_err(|_| FormatError::Damaged("an index's length"))?;
            content.extend_from_slice(index::page_content(self.header.salt, number, page)?);
        }
        let skip = usize::try_from(start - first * page_content).unwrap_or_default();
        let length = usize::try_from(end - start).unwrap_or_default();
        content.drain(..skip);
        content.truncate(length);
        Ok(content)
    }
}

/// Makes the index of a segment that is no longer written.
pub(super) fn make(
    storage: &dyn Storage,
    segment: &dyn StorageFile,
    source: &mut IndexSource,
) -> io::Result<()> {
    let moved = source.postings.entries().filter(|entry| entry.moved);
    let headers = moved.map(|entry| (entry.offset, entry.length));
    let mut places: Vec<(u64, u32)> = source.controls.iter().copied().chain(headers).collect();
    places.sort_unstable();
    let mut controls = Vec::new();
    let mut bytes = Vec::new();
    let mut start = places.first().map_or(0, |place| place.0);
    let together = |one: &(u64, u32), next: &(u64, u32)| {
        let end = |place: &(u64, u32)| place.0 + u64::from(place.1);
        let together = next.0 <= end(one) + GAP_BYTES && end(next) - start <= READ_TOGETHER;
        if !together {
            start = next.0;
        }
        together
    };
    for places in places.chunk_by(together) {
        copy_controls(segment, Seed::of(source.header.salt), places, &mut bytes, &mut controls)?;
    }
    let content = index::encode(&source.header, source.events, &mut source.postings, &controls);
    replace(storage, &index_name(source.header.segment), &content)
}

/// Copies records that lie close together, with one read into `bytes`.
fn copy_controls(
    segment: &dyn StorageFile,
    seed: Seed,
    places: &[(u64, u32)],
    bytes: &mut Vec<u8>,
    controls: &mut Vec<u8>,
) -> io::Result<()> {
    let (Some(&(start, _)), Some(&(last, length))) = (places.first(), places.last()) else { return Ok(()) };
    bytes.resize(usize::try_from(last + u64::from(length) - start).unwrap_or_default(), 0);
    let read = segment.read_at(start, bytes)?;
    bytes.truncate(read);
    for &(offset, length) in places {
        let from = usize::try_from(offset - start).unwrap_or(usize::MAX);
        let record = bytes.get(from..).unwrap_or_default();
        let record = record.get(..length as usize).unwrap_or(record);
        // One that is not sound any more is as lost to the index as to a scan.
        let Parsed::Sound(sound) = record::parse(record, seed, offset) else { continue };
        let body = match sound.kind {
            kind if kind == record::Kind::Event as u8 => {
                sound.body.get(..crate::format::event::MOVED_HEADER_BYTES).unwrap_or_default()
            }
            _ => sound.body,
        };
        index::put_control(controls, Control { offset, length, kind: sound.kind, body });
    }
    Ok(())
}

pub(super) fn remove(storage: &dyn Storage, segment: SegmentId) -> io::Result<()> {
    match storage.remove(&index_name(segment)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
