//! The scrub: all of the live log is read now and then, before somebody needs what has become damaged.
//!
//! It goes from segment to segment, at a rate that leaves the disk to others. What is checked: both copies of each header, every
//! page of every index, every record that the index knows, by its checksum and, where the function's key is in memory, by its seal.
//! The segment that is being written is left for the next time. Nothing is changed: what to do is for a person to say, and whoever leases
//! a damaged event finds that out for himself.

use std::{io, ops::Range, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Shared, files,
    index::{IndexError, IndexFile},
};
use crate::{
    Finding, ReadError, Scrubbed, SegmentId,
    entry::Entry,
    format::{
        event::EventHeader,
        record::{self, Parsed, Seed},
        segment::SegmentHeader,
    },
    log::IndexSource,
    seal::Place,
    storage::StorageFile,
};

/// Postings that are read at once.
const STEP: u32 = 1024;
/// It rests for at least so long at a time.
const REST: Duration = Duration::from_millis(5);

/// Holds a reader to its rate.
struct Pace {
    began: Instant,
    bytes: u64,
    bytes_per_second: u64,
}

impl Pace {
    async fn read(&mut self, bytes: u64) {
        self.bytes += bytes;
        let due = Duration::from_millis(self.bytes.saturating_mul(1000) / self.bytes_per_second.max(1));
        if due > self.began.elapsed() + REST {
            tokio::time::sleep_until(self.began + due).await;
        }
    }
}

/// What became of an event on the disk.
enum Checked {
    Opened,
    /// By its checksum only.
    Sound,
    Damaged,
    Altered,
}

impl Shared {
    pub(super) async fn scrub(&self, bytes_per_second: u64) -> Result<Scrubbed, ReadError> {
        let mut pace = Pace { began: Instant::now(), bytes: 0, bytes_per_second };
        let mut scrubbed = Scrubbed::default();
        let mut next = SegmentId(0);
        loop {
            let found = {
                let state = self.state();
                let found = state.log.segment_from(next).map(|(header, _)| header.clone());
                found.map(|header| {
                    let file = state.files.get(&header.segment).cloned();
                    let closed = state.log.is_closed(header.segment);
                    (header, file.filter(|_| closed))
                })
            };
            let Some((header, file)) = found else { return Ok(scrubbed) };
            next = header.segment.next();
            let Some(file) = file else { continue };
            let of_segment = self.scrub_segment(&header, &*file, &mut pace).await;
            // It may have been deleted meanwhile, and its file hold something else.
            if !self.is_gone(header.segment) {
                let of_segment = of_segment?;
                scrubbed.segments += 1;
                scrubbed.records += of_segment.records;
                scrubbed.opened += of_segment.opened;
                scrubbed.findings.extend(of_segment.findings);
            }
        }
    }

    async fn scrub_segment(
        &self,
        header: &SegmentHeader,
        file: &dyn StorageFile,
        pace: &mut Pace,
    ) -> Result<Scrubbed, ReadError> {
        let segment = header.segment;
        let mut scrubbed = Scrubbed::default();
        // What the system remembers is not what the disk has.
        file.forget_cached()?;
        if files::read_headers(file)?.iter().any(|copy| copy.as_ref() != Ok(header)) {
            scrubbed.findings.push(Finding::HeaderDamaged { segment });
        }
        let source = if self.is_indexed(segment) { None } else { self.state().log.index_source(segment) };
        let controls = match source {
            Some(source) => self.scrub_source(source, pace, &mut scrubbed).await?,
            None => match self.scrub_indexed(header, pace, &mut scrubbed).await {
                Ok(controls) => controls,
                Err(Failed::Index(IndexError::Io(error))) => return Err(error.into()),
                Err(Failed::Index(IndexError::Format(_) | IndexError::Foreign)) => {
                    scrubbed.findings.push(Finding::IndexDamaged { segment });
                    return Ok(scrubbed);
                }
                Err(Failed::Read(error)) => return Err(error),
            },
        };
        let seed = Seed::of(header.salt);
        for (offset, length) in controls {
            let mut bytes = vec![0; length as usize];
            let read = file.read_at(offset, &mut bytes)?;
            scrubbed.records += 1;
            if !matches!(record::parse(bytes.get(..read).unwrap_or_default(), seed, offset), Parsed::Sound(_))
            {
                scrubbed.findings.push(Finding::Damaged { segment, bytes: place(offset, length) });
            }
            pace.read(u64::from(length)).await;
        }
        Ok(scrubbed)
    }

    /// Checks the events of a segment that has no index yet; returns where its other records are.
    async fn scrub_source(
        &self,
        source: IndexSource,
        pace: &mut Pace,
        scrubbed: &mut Scrubbed,
    ) -> Result<Vec<(u64, u32)>, ReadError> {
        for entry in source.postings.entries() {
            self.scrub_event(*entry, pace, scrubbed).await?;
        }
        Ok(source.controls)
    }

    /// Checks an index and the events that it knows; returns where the other records are.
    async fn scrub_indexed(
        &self,
        header: &SegmentHeader,
        pace: &mut Pace,
        scrubbed: &mut Scrubbed,
    ) -> Result<Vec<(u64, u32)>, Failed> {
        let index: Arc<IndexFile> = self.index(header)?;
        index.check()?;
        for row in index.rows()? {
            for skip in (0..row.count).step_by(STEP as usize) {
                for entry in index.postings(row, skip, STEP)? {
                    self.scrub_event(entry, pace, scrubbed).await?;
                }
            }
        }
        let mut controls = Vec::new();
        index.controls(|control| {
            // Of a moved event it has the header; the event itself is checked already.
            if control.kind != record::Kind::Event as u8 {
                controls.push((control.offset, control.length));
            }
            Ok::<(), IndexError>(())
        })?;
        Ok(controls)
    }

    async fn scrub_event(
        &self,
        entry: Entry,
        pace: &mut Pace,
        scrubbed: &mut Scrubbed,
    ) -> Result<(), ReadError> {
        let (segment, bytes) = (entry.location.segment, place(entry.offset, entry.length));
        scrubbed.records += 1;
        match self.check_event(entry)? {
            Checked::Opened => scrubbed.opened += 1,
            Checked::Sound => {}
            Checked::Damaged => scrubbed.findings.push(Finding::Damaged { segment, bytes }),
            Checked::Altered => scrubbed.findings.push(Finding::Altered { segment, bytes }),
        }
        pace.read(u64::from(entry.length)).await;
        Ok(())
    }

    fn check_event(&self, entry: Entry) -> io::Result<Checked> {
        let Some((segment, mut body)) = self.record(entry)? else { return Ok(Checked::Damaged) };
        let Ok((header, sealed)) = EventHeader::split(&body) else { return Ok(Checked::Damaged) };
        if header.ordinal != entry.location.ordinal {
            return Ok(Checked::Damaged);
        }
        if self.state().log.key(header.function).is_none() {
            return Ok(Checked::Sound);
        }
        // Forgotten just now.
        let Ok(key) = self.segment_key(&segment, header.function) else { return Ok(Checked::Sound) };
        let at = Place { log: segment.log, segment: segment.segment, offset: entry.offset };
        let plain_bytes = body.len() - sealed.len();
        let (plain, sealed) = body.split_at_mut(plain_bytes);
        Ok(if key.open(at, plain, sealed).is_some() { Checked::Opened } else { Checked::Altered })
    }
}

/// Why a segment cannot be scrubbed.
enum Failed {
    Index(IndexError),
    Read(ReadError),
}

impl From<IndexError> for Failed {
    fn from(error: IndexError) -> Self {
        Self::Index(error)
    }
}

impl From<ReadError> for Failed {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

fn place(offset: u64, length: u32) -> Range<u64> {
    offset..offset + u64::from(length)
}
