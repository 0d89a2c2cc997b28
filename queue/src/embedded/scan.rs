//! Reading a segment without an index: every sound record, and what lies between them.
//!
//! ```text
//!   │▓▓▓▓▓▓│▓▓▓▓░░░░▓▓│▓▓▓▓▓▓▓▓│▓▓▒▒▒▒▓▓▓▒▒............      ▓ sound   │ a write begins
//!              damage                torn                   ░ not sound, a later write follows: damage
//!                                                           ▒ not sound, in the last write: perhaps it was never finished
//! ```
//! A write begins when the one before is synced. So what is missing before the last one was there once; what is missing of the
//! last one may have been promised to nobody. Where it ends cannot be told if its end is what is missing.

use std::{io, ops::Range};

use crate::{
    format::{
        record::{ALIGNMENT, PREFIX_BYTES, Parsed, Record, Seed, parse},
        segment::{HEADER_BYTES, SegmentHeader},
    },
    storage::StorageFile,
};

/// Read at a time; grows to the longest record.
const CHUNK: usize = 1024 * 1024;

/// What a scan found beside records.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Scanned {
    /// Bytes that are not sound and were synced.
    pub(super) damaged: Vec<Range<u64>>,
    /// Bytes of the last write that are not sound and have sound records behind them.
    pub(super) torn: Vec<Range<u64>>,
    /// Behind the last sound record.
    pub(super) end: u64,
}

/// Calls `each` with every sound record and its offset, in order.
pub(super) fn scan(
    file: &dyn StorageFile,
    header: &SegmentHeader,
    mut each: impl FnMut(u64, Record<'_>),
) -> io::Result<Scanned> {
    let seed = Seed::of(header.salt);
    let mut window = Window { file, end: header.capacity.min(file.bytes()?), start: 0, bytes: Vec::new() };
    let mut found = Scanned { end: HEADER_BYTES as u64, ..Scanned::default() };
    let mut at = HEADER_BYTES as u64;
    while let Some(bytes) = window.at(at, PREFIX_BYTES)? {
        let parsed = match parse(bytes, seed, at) {
            Parsed::Incomplete(needed) => {
                window.at(at, needed)?.map_or(Parsed::Unsound, |bytes| parse(bytes, seed, at))
            }
            parsed => parsed,
        };
        let Parsed::Sound(record) = parsed else {
            at += ALIGNMENT as u64;
            continue;
        };
        if found.end < at {
            found.torn.push(found.end..at);
        }
        if record.first {
            found.damaged.append(&mut found.torn);
        }
        each(at, record);
        at += record.span() as u64;
        found.end = at;
    }
    Ok(found)
}

/// Part of the file in memory.
struct Window<'a> {
    file: &'a dyn StorageFile,
    end: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// What lies at `offset`, at least `needed` bytes of it; `None` if there is less.
    fn at(&mut self, offset: u64, needed: usize) -> io::Result<Option<&[u8]>> {
        if offset + needed as u64 > self.end {
            return Ok(None);
        }
        let inside = offset >= self.start && offset + needed as u64 <= self.start + self.bytes.len() as u64;
        if !inside {
            let length = usize::try_from((self.end - offset).min(needed.max(CHUNK) as u64)).unwrap_or(CHUNK);
            self.bytes.resize(length, 0);
            let read = self.file.read_at(offset, &mut self.bytes)?;
            self.bytes.truncate(read);
            self.start = offset;
        }
        let skip = usize::try_from(offset - self.start).unwrap_or_default();
        Ok(self.bytes.get(skip..).filter(|bytes| bytes.len() >= needed))
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{
        SegmentId,
        format::{
            record::{Kind, begin, finish},
            segment::{LogId, Salt},
        },
        storage::{Preparation, Storage, memory::MemoryDisk},
    };

    const CAPACITY: u64 = 16 * 1024;

    fn header() -> SegmentHeader {
        SegmentHeader {
            log: LogId([1; 16]),
            segment: SegmentId(1),
            capacity: CAPACITY,
            created_ms: 0,
            salt: Salt([2; 32]),
            previous: [0; 32],
        }
    }

    fn found(content: &[u8]) -> (Vec<(u64, Vec<u8>)>, Scanned) {
        let disk = MemoryDisk::default();
        let file = disk.create("s", CAPACITY + HEADER_BYTES as u64, Preparation::Allocated).unwrap();
        file.write_at(HEADER_BYTES as u64, content).unwrap();
        let mut records = Vec::new();
        let scanned =
            scan(&*file, &header(), |offset, record| records.push((offset, record.body.to_vec()))).unwrap();
        (records, scanned)
    }

    /// Records, each a write of its own, and where they lie.
    fn written(bodies: &[Vec<u8>]) -> (Vec<u8>, Vec<(u64, Vec<u8>)>) {
        writes(&bodies.iter().map(|body| vec![body.clone()]).collect::<Vec<_>>())
    }

    fn writes(writes: &[Vec<Vec<u8>>]) -> (Vec<u8>, Vec<(u64, Vec<u8>)>) {
        let (mut content, mut places) = (Vec::new(), Vec::new());
        for write in writes {
            for (at, body) in write.iter().enumerate() {
                let offset = HEADER_BYTES as u64 + content.len() as u64;
                let start = begin(&mut content, offset, Kind::Note, at == 0);
                content.extend_from_slice(body);
                finish(&mut content, Seed::of(header().salt), start);
                places.push((offset, body.clone()));
            }
        }
        (content, places)
    }

    fn end_of(content: &[u8]) -> u64 {
        HEADER_BYTES as u64 + content.len() as u64
    }

    proptest! {
        #[test]
        fn all_records_are_found(bodies in vec(vec(any::<u8>(), 0..300), 0..20)) {
            let (content, places) = written(&bodies);
            let (records, scanned) = found(&content);
            prop_assert_eq!(records, places);
            prop_assert_eq!(scanned, Scanned { end: end_of(&content), ..Scanned::default() });
        }

        #[test]
        fn damage_costs_only_what_it_hits(bodies in vec(vec(any::<u8>(), 0..300), 1..20), hit in any::<prop::sample::Index>(), noise in any::<u8>()) {
            let (mut content, mut places) = written(&bodies);
            let victim = hit.index(places.len());
            // Its checksum.
            content[(places[victim].0 - HEADER_BYTES as u64) as usize + 8] ^= noise | 1;
            let (records, scanned) = found(&content);
            let (offset, _) = places.remove(victim);
            prop_assert_eq!(&records, &places);
            match places.get(victim) {
                Some((next, _)) => prop_assert_eq!(scanned.damaged, vec![offset..*next]),
                None => prop_assert_eq!(scanned, Scanned { end: offset, ..Scanned::default() }, "perhaps it was never finished"),
            }
        }

        #[test]
        fn any_bytes_are_scanned_without_a_panic(content in vec(any::<u8>(), 0..2000)) {
            let (records, _) = found(&content);
            prop_assert_eq!(records, vec![]);
        }
    }

    #[test]
    fn a_hole_in_the_last_write_is_told_from_damage() {
        let body = || vec![7; 50];
        let (mut content, places) = writes(&[vec![body(), body(), body()], vec![body(), body(), body()]]);
        for victim in [1, 4] {
            content[(places[victim].0 - HEADER_BYTES as u64) as usize + 20] ^= 1;
        }
        let (records, scanned) = found(&content);
        assert_eq!(records.len(), 4);
        let hole = |victim: usize| places[victim].0..places[victim + 1].0;
        assert_eq!((&scanned.damaged[..], &scanned.torn[..]), (&[hole(1)][..], &[hole(4)][..]));
        assert_eq!(scanned.end, end_of(&content));
    }
}
