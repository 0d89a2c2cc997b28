//! The writing end of the log: records are placed, sealed and gathered into batches; one write and one sync make a batch durable.
//!
//! ```text
//!             append                    begin                      finish
//!   record ─────────► pending batches ─────────► batch in flight ─────────► durable: its effects are applied
//!                     (one segment each)         (at most one)   └────────► failed:  it, and all that is pending, never was
//! ```
//! A record gets its place when it is appended, because its seal depends on the place. A place is never given twice: after a
//! failure the segment is closed for good, and writing goes on in another one.

use std::collections::VecDeque;

use super::effect::Effect;
use crate::{
    Ordinal, SegmentId,
    format::{
        record::{self, Kind, Seed},
        segment::{HEADER_BYTES, SegmentHeader},
    },
    seal::SegmentKeys,
};

/// From here on a batch is left to be written, and the next begun: a longer write only makes its waiters wait.
const FULL_BATCH_BYTES: usize = 1024 * 1024;

/// A write ends at a multiple of this, with zeros, which the next one overwrites: the system need not read the rest of a page before it
/// can be written.
const PAGE_BYTES: u64 = 4096;

/// Buffers that are kept for batches to come, and the most bytes of one.
const SPARE_BUFFERS: usize = 2;
const SPARE_BUFFER_BYTES: usize = 4 * FULL_BATCH_BYTES;

/// The how-manieth batch since the log was opened. Batches become durable, or fail, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BatchNumber(pub(crate) u64);

/// Records that are made durable together: `bytes` at `offset` of `segment`.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) number: BatchNumber,
    pub(crate) segment: SegmentId,
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
    /// Where records end in this segment.
    capacity: u64,
    pub(super) meaning: Meaning,
}

/// What a batch means once it is durable.
#[derive(Debug, Default)]
pub(super) struct Meaning {
    pub(super) effects: Vec<Effect>,
    /// Records that are not events: offset and length.
    pub(super) controls: Vec<(u64, u32)>,
}

/// What is to be written, without what it will mean.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) number: BatchNumber,
    pub(crate) segment: SegmentId,
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
}

/// Nothing can be appended before a new segment is provided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoSegment;

/// The segment that is written.
#[derive(Debug)]
struct Active {
    header: SegmentHeader,
    seed: Seed,
    keys: SegmentKeys,
    end: u64,
    ordinals: u32,
}

#[derive(Debug)]
pub(crate) struct Tail {
    active: Option<Active>,
    pending: VecDeque<Batch>,
    in_flight: Option<(BatchNumber, SegmentId, Meaning)>,
    next_batch: u64,
    spare: Vec<Vec<u8>>,
}

/// Where a record is about to lie; handed to whoever encodes its body.
#[derive(Debug)]
pub(super) struct Slot<'a> {
    pub(super) header: &'a SegmentHeader,
    pub(super) keys: &'a mut SegmentKeys,
    pub(super) offset: u64,
    /// Where the record's prefix begins in the buffer.
    pub(super) start: usize,
}

impl Tail {
    pub(super) fn new() -> Self {
        Self { active: None, pending: VecDeque::new(), in_flight: None, next_batch: 0, spare: Vec::new() }
    }

    /// The segment that is written, if there is one.
    pub(super) fn active(&self) -> Option<&SegmentHeader> {
        self.active.as_ref().map(|active| &active.header)
    }

    /// The place of the next event.
    pub(super) fn next_ordinal(&self) -> Ordinal {
        Ordinal(self.active.as_ref().map_or(0, |active| active.ordinals))
    }

    /// Where the next record will begin, if it fits.
    pub(super) fn end(&self) -> (SegmentId, u64) {
        self.active.as_ref().map_or((SegmentId(0), 0), |active| (active.header.segment, active.end))
    }

    /// Whether a record with such a body fits into the active segment.
    pub(super) fn fits(&self, body: usize) -> bool {
        let span = record::span(body) as u64;
        self.active.as_ref().is_some_and(|active| active.end + span <= active.header.capacity)
    }

    /// Goes on in this segment, whose header is durable.
    pub(super) fn enter(&mut self, header: SegmentHeader) {
        let seed = Seed::of(header.salt);
        let keys = SegmentKeys::default();
        self.active = Some(Active { header, seed, keys, end: HEADER_BYTES as u64, ordinals: 0 });
    }

    /// Ends the active segment; what is pending in it is still written.
    pub(super) fn leave(&mut self) {
        self.active = None;
    }

    /// Bytes that wait to be written.
    pub(super) fn pending_bytes(&self) -> usize {
        self.pending.iter().map(|batch| batch.bytes.len()).sum()
    }

    /// Appends a record; `body` appends its body to the buffer. The caller has asked whether it [fits](Self::fits).
    pub(super) fn append(
        &mut self,
        kind: Kind,
        body: impl FnOnce(Slot<'_>, &mut Vec<u8>),
        effect: impl FnOnce(u64, u32) -> Effect,
    ) -> Result<BatchNumber, NoSegment> {
        let active = self.active.as_mut().ok_or(NoSegment)?;
        let segment = active.header.segment;
        let open = self
            .pending
            .back_mut()
            .filter(|batch| batch.segment == segment && batch.bytes.len() < FULL_BATCH_BYTES);
        let batch = match open {
            Some(batch) => batch,
            None => {
                let number = BatchNumber(self.next_batch);
                self.next_batch += 1;
                let batch = Batch {
                    number,
                    segment,
                    offset: active.end,
                    bytes: self.spare.pop().unwrap_or_default(),
                    capacity: active.header.capacity,
                    meaning: Meaning::default(),
                };
                self.pending.push_back(batch);
                self.pending.back_mut().ok_or(NoSegment)?
            }
        };
        let offset = active.end;
        let first = batch.bytes.is_empty();
        let start = record::begin(&mut batch.bytes, offset, kind, first);
        let slot = Slot { header: &active.header, keys: &mut active.keys, offset, start };
        body(slot, &mut batch.bytes);
        let length = u32::try_from(batch.bytes.len() - start).unwrap_or(u32::MAX);
        record::finish(&mut batch.bytes, active.seed, start);
        active.end += (batch.bytes.len() - start) as u64;
        if kind == Kind::Event {
            active.ordinals += 1;
        } else {
            batch.meaning.controls.push((offset, length));
        }
        batch.meaning.effects.push(effect(offset, length));
        Ok(batch.number)
    }

    /// Hands out the next batch to be written, unless one is in flight or none waits.
    pub(super) fn begin(&mut self) -> Option<Write> {
        if self.in_flight.is_some() {
            return None;
        }
        let Batch { number, segment, offset, mut bytes, capacity, meaning } = self.pending.pop_front()?;
        let end = offset + bytes.len() as u64;
        let padding = end.next_multiple_of(PAGE_BYTES).min(capacity).saturating_sub(end);
        bytes.resize(bytes.len() + usize::try_from(padding).unwrap_or_default(), 0);
        self.in_flight = Some((number, segment, meaning));
        Some(Write { number, segment, offset, bytes })
    }

    /// A buffer that was written.
    pub(super) fn reuse(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < SPARE_BUFFERS && buffer.capacity() <= SPARE_BUFFER_BYTES {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    /// The batch in flight is durable: what it means now holds, in this segment.
    pub(super) fn succeeded(&mut self) -> Option<(SegmentId, Meaning)> {
        self.in_flight.take().map(|(_, segment, meaning)| (segment, meaning))
    }

    /// The batch in flight may or may not be on the disk: it, and everything behind it, is as if it had never been. Nothing is
    /// written to its segment any more, nor to the active one. Returns what is undone, and the last batch that failed.
    pub(super) fn failed(&mut self) -> (Option<BatchNumber>, Vec<Effect>) {
        self.active = None;
        let in_flight = self.in_flight.take().map(|(number, _, meaning)| (number, meaning));
        let pending = self.pending.drain(..).map(|batch| (batch.number, batch.meaning));
        let (mut last, mut undone) = (None, Vec::new());
        for (number, meaning) in in_flight.into_iter().chain(pending) {
            last = Some(number);
            undone.extend(meaning.effects);
        }
        (last, undone)
    }

    /// What is appended and not durable yet means this.
    pub(super) fn unsettled(&self) -> impl Iterator<Item = &Effect> {
        let in_flight = self.in_flight.iter().map(|(_, _, meaning)| meaning);
        in_flight.chain(self.pending.iter().map(|batch| &batch.meaning)).flat_map(|meaning| &meaning.effects)
    }

    /// Whether something of this segment is still to be written.
    pub(super) fn owes(&self, segment: SegmentId) -> bool {
        self.pending.iter().any(|batch| batch.segment == segment)
            || self.in_flight.as_ref().is_some_and(|(_, in_flight, _)| *in_flight == segment)
    }
}
