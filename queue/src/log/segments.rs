//! What is known of every segment: how many of its events are done, and what of it must be kept.
//!
//! ```text
//!   Writing ──► Closed ──► Indexed ──► (oldest, all done, nothing of it still needed) ──► deleted
//!                 └──────────────────────────────────────────────────────────────────────────▲
//! ```
//! Segments are deleted oldest first, and only so. A Done record, a note, a purge speaks of events that lie before it; when it
//! goes, they are gone. Names, redirects and checkpoints that are still the newest of their kind are written again first.

use std::collections::VecDeque;

use super::postings::Postings;
use crate::{Location, Ordinal, SegmentId, format::segment::SegmentHeader};

/// Which of up to 2³² things are marked; costs memory up to the highest one.
#[derive(Debug, Default)]
pub(super) struct Marks {
    words: Vec<u64>,
    count: u32,
}

impl Marks {
    /// Marks; `false` if it was.
    pub(super) fn set(&mut self, ordinal: Ordinal) -> bool {
        let (word, bit) = (ordinal.0 as usize / 64, ordinal.0 % 64);
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        let Some(word) = self.words.get_mut(word) else { return false };
        let fresh = *word & (1 << bit) == 0;
        *word |= 1 << bit;
        self.count += u32::from(fresh);
        fresh
    }

    pub(super) fn get(&self, ordinal: Ordinal) -> bool {
        self.words.get(ordinal.0 as usize / 64).is_some_and(|word| word & (1 << (ordinal.0 % 64)) != 0)
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Writing,
    Closed,
    Indexed,
}

#[derive(Debug)]
pub(super) struct Segment {
    pub(super) header: SegmentHeader,
    pub(super) state: State,
    pub(super) events: u32,
    pub(super) done: Marks,
    /// Until there is an index on the disk: where its events are, by stream, and its other records (offset, length).
    pub(super) postings: Postings,
    pub(super) controls: Vec<(u64, u32)>,
}

impl Segment {
    fn new(header: SegmentHeader, state: State) -> Self {
        Self {
            header,
            state,
            events: 0,
            done: Marks::default(),
            postings: Postings::default(),
            controls: Vec::new(),
        }
    }

    fn all_done(&self) -> bool {
        self.done.count() >= self.events
    }
}

/// The segments that exist, oldest first.
#[derive(Debug, Default)]
pub(super) struct Segments(VecDeque<Segment>);

impl Segments {
    pub(super) fn add(&mut self, header: SegmentHeader, state: State) -> &mut Segment {
        self.0.push_back(Segment::new(header, state));
        self.0.back_mut().expect("it was just pushed")
    }

    pub(super) fn get(&self, id: SegmentId) -> Option<&Segment> {
        self.position(id).and_then(|at| self.0.get(at))
    }

    pub(super) fn get_mut(&mut self, id: SegmentId) -> Option<&mut Segment> {
        let at = self.position(id)?;
        self.0.get_mut(at)
    }

    /// Ids rise, but a segment without records may have left a gap.
    fn position(&self, id: SegmentId) -> Option<usize> {
        let is_at = |at: &usize| self.0.get(*at).is_some_and(|segment| segment.header.segment == id);
        let oldest = self.0.front()?.header.segment;
        let without_gaps = id.0.checked_sub(oldest.0).and_then(|at| usize::try_from(at).ok());
        if let Some(at) = without_gaps.filter(is_at) {
            return Some(at);
        }
        self.0.binary_search_by_key(&id, |segment| segment.header.segment).ok()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Segment> {
        self.0.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Segment> {
        self.0.iter_mut()
    }

    /// The first segment from `id` on.
    pub(super) fn from(&self, id: SegmentId) -> Option<&Segment> {
        let at = self.0.partition_point(|segment| segment.header.segment < id);
        self.0.get(at)
    }

    /// The first segment from `id` on, if its postings are in memory.
    pub(super) fn first_in_memory(&self, id: SegmentId) -> Option<&Segment> {
        self.from(id).filter(|segment| segment.state != State::Indexed)
    }

    pub(super) fn newest(&self) -> Option<&SegmentHeader> {
        self.0.back().map(|segment| &segment.header)
    }

    pub(super) fn oldest(&self) -> Option<&Segment> {
        self.0.front()
    }

    /// The oldest segment, if it is closed and all its events are done. On a full disk it may have no index.
    pub(super) fn finished(&self) -> Option<SegmentId> {
        let oldest = self.0.front()?;
        (oldest.state != State::Writing && oldest.all_done()).then_some(oldest.header.segment)
    }

    pub(super) fn remove_oldest(&mut self, id: SegmentId) {
        if self.0.front().is_some_and(|oldest| oldest.header.segment == id) {
            self.0.pop_front();
        }
    }

    /// A segment that waits for its index.
    pub(super) fn unindexed(&self) -> impl Iterator<Item = &Segment> {
        self.0.iter().filter(|segment| segment.state == State::Closed)
    }

    pub(super) fn is_done(&self, location: Location) -> bool {
        // What is in no segment was in one that is deleted, so it was done.
        self.get(location.segment).is_none_or(|segment| segment.done.get(location.ordinal))
    }

    /// Marks an event as done; `false` if it was.
    pub(super) fn mark(&mut self, location: Location) -> bool {
        let segment = self.get_mut(location.segment);
        let segment = segment.filter(|segment| location.ordinal.0 < segment.header.most_events());
        segment.is_some_and(|segment| segment.done.set(location.ordinal))
    }
}
