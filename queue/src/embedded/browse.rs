//! Looking at events that are not done, without leasing them: for operators.
//!
//! ```text
//!   segment 7           segment 8           segment 9 (no index yet)
//!   index: f ▓▓▓▓▓░░░    f ▓▓▓▓▓▓▓▓          in memory: f ▓▓▓
//!          g ░▓▓▓▓▓▓▓    g ▓▓▓▓                          h ▓▓▓▓▓▓
//!            └── a page: the first live ones of all streams, by their places; their records are read, not opened
//! ```
//! A page holds no more than was asked for, in memory too, however many streams and events there are.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use super::{
    Shared,
    index::IndexFile,
    read::{Lost, index_failed},
};
use crate::{
    Browse, Browsed, Content, EventId, EventState, FunctionNumber, Location, Page, PartitionNumber,
    ReadError, SegmentId,
    entry::{Entry, StreamKey},
    format::{
        done::Reason,
        event::{EventHeader, split_content},
        index::StreamRow,
        segment::SegmentHeader,
    },
};

/// Postings that are read of a stream at once.
const STEP: u32 = 256;

/// Where a segment's events are found.
pub(super) enum Source {
    Index(Arc<IndexFile>),
    Memory,
}

/// The first live events of a segment, by their places; at most so many.
struct First {
    most: usize,
    entries: BTreeMap<Location, (StreamKey, Entry)>,
}

impl First {
    /// Whether an event at this place could be one of them.
    fn wants(&self, location: Location) -> bool {
        self.entries.len() < self.most
            || self.entries.last_key_value().is_some_and(|(last, _)| location < *last)
    }

    fn add(&mut self, key: StreamKey, entry: Entry) {
        self.entries.insert(entry.location, (key, entry));
        if self.entries.len() > self.most {
            self.entries.pop_last();
        }
    }
}

impl Shared {
    pub(super) fn browse(&self, request: Browse) -> Result<Page, ReadError> {
        let Browse { partition, function, events: most, .. } = request;
        let mut page = Page { events: Vec::new(), next: None };
        let mut from = request.from.unwrap_or(Location::start_of(SegmentId(0)));
        while page.events.len() < most {
            let Some(header) = self.segment_at(from.segment) else { return Ok(page) };
            from = from.max(Location::start_of(header.segment));
            let first = self.first_live(&header, partition, function, from, most - page.events.len())?;
            let full = first.len() == most - page.events.len();
            from = match first.last() {
                Some((_, last)) if full => last.location.next(),
                _ => Location::start_of(header.segment.next()),
            };
            for (key, entry) in first {
                let browsed = self.describe(key, entry)?;
                // An ordered partition does not tell functions apart; their events do.
                page.events
                    .extend(browsed.filter(|event| function.is_none_or(|wanted| event.function == wanted)));
            }
            if full {
                break;
            }
        }
        page.next = Some(from);
        Ok(page)
    }

    pub(super) fn peek(
        &self,
        partition: PartitionNumber,
        (location, id): (Location, EventId),
    ) -> Result<Option<Content>, ReadError> {
        let Some(header) = self.segment_at(location.segment) else { return Ok(None) };
        let first = self.first_live(&header, partition, None, location, 1)?;
        let Some((key, entry)) = first.into_iter().find(|(_, entry)| entry.location == location) else {
            return Ok(None);
        };
        let (event, content) = match self.open_event(entry) {
            Ok(opened) => opened,
            Err(_) if !self.state().log.is_live(key, location) => return Ok(None),
            Err(Lost::Reason(Reason::Shredded)) => return Err(ReadError::Shredded),
            Err(Lost::Reason(_)) => return Err(ReadError::Damaged { segment: location.segment }),
            Err(Lost::Error(error)) => return Err(error),
        };
        if event.id != id {
            return Ok(None);
        }
        let (attributes, payload) =
            split_content(&content).map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Some(Content { attributes: attributes.to_vec(), payload: payload.to_vec() }))
    }

    pub(super) fn segment_at(&self, from: SegmentId) -> Option<SegmentHeader> {
        self.state().log.segment_from(from).map(|(header, _)| header.clone())
    }

    /// The first live events of a partition, or of one function in it, from a place on in its segment.
    fn first_live(
        &self,
        header: &SegmentHeader,
        partition: PartitionNumber,
        function: Option<FunctionNumber>,
        from: Location,
        most: usize,
    ) -> Result<Vec<(StreamKey, Entry)>, ReadError> {
        loop {
            let Some(source) = self.source(header)? else { return Ok(Vec::new()) };
            let mut first = First { most, entries: BTreeMap::new() };
            for row in self.streams_in(&source, header.segment)? {
                // 0: an ordered partition's, where it is not yet known whose its events are.
                let of_function =
                    function.is_none_or(|function| [function, FunctionNumber(0)].contains(&row.key.function));
                if row.key.partition == partition && of_function {
                    self.first_of(&source, row, from, &mut first)?;
                }
            }
            // If its index was made meanwhile, memory has been cleared.
            let cleared = matches!(source, Source::Memory) && self.is_indexed(header.segment);
            if !cleared {
                return Ok(first.entries.into_values().collect());
            }
        }
    }

    /// `None`: the segment was deleted, because all of its events are done.
    pub(super) fn source(&self, header: &SegmentHeader) -> Result<Option<Source>, ReadError> {
        if !self.is_indexed(header.segment) {
            return Ok(Some(Source::Memory));
        }
        Ok(self.index_if_there(header)?.map(Source::Index))
    }

    pub(super) fn is_indexed(&self, segment: SegmentId) -> bool {
        let state = self.state();
        state.log.segment_from(segment).is_some_and(|(header, indexed)| header.segment == segment && indexed)
    }

    pub(super) fn streams_in(
        &self,
        source: &Source,
        segment: SegmentId,
    ) -> Result<Vec<StreamRow>, ReadError> {
        match source {
            Source::Index(index) => index.rows().map_err(|error| index_failed(segment, &error)),
            Source::Memory => {
                let keys = self.state().log.streams_in_memory(segment);
                Ok(keys.into_iter().map(|key| StreamRow { key, first: 0, count: 0 }).collect())
            }
        }
    }

    /// Up to [`STEP`] events of a stream from a place on.
    pub(super) fn step(
        &self,
        source: &Source,
        row: StreamRow,
        from: Location,
    ) -> Result<Vec<Entry>, ReadError> {
        match source {
            Source::Index(index) => {
                index.postings_from(row, from, STEP).map_err(|error| index_failed(from.segment, &error))
            }
            Source::Memory => Ok(self.state().log.entries_in_memory(row.key, from, STEP as usize)),
        }
    }

    /// Adds a stream's live events to the first ones.
    fn first_of(
        &self,
        source: &Source,
        row: StreamRow,
        mut from: Location,
        first: &mut First,
    ) -> Result<(), ReadError> {
        while first.wants(from) {
            let entries = self.step(source, row, from)?;
            let Some(last) = entries.last() else { break };
            from = last.location.next();
            let state = self.state();
            let live = entries.into_iter().filter(|entry| state.log.is_live(row.key, entry.location));
            for entry in live.take_while(|entry| first.wants(entry.location)).collect::<Vec<_>>() {
                first.add(row.key, entry);
            }
        }
        Ok(())
    }

    /// What an event's record says that is not sealed; `None` if it is done meanwhile.
    fn describe(&self, key: StreamKey, entry: Entry) -> Result<Option<Browsed>, ReadError> {
        let record = self.record(entry)?;
        let header = record.and_then(|(_, body)| Some(EventHeader::split(&body).ok()?.0));
        let now = self.clocks.now().boot;
        let state = self.state();
        if !state.log.is_live(key, entry.location) {
            return Ok(None);
        }
        let damaged = Browsed {
            location: entry.location,
            id: EventId([0; 16]),
            function: key.function,
            accepted: Duration::from_millis(entry.accepted_ms),
            bytes: entry.length,
            attempts: 0,
            state: EventState::Damaged,
        };
        let Some(header) = header else { return Ok(Some(damaged)) };
        let origin = header.moved.map(|moved| moved.origin);
        let (now_it_is, attempts) = state.log.state_of(key, entry.location, origin, now);
        Ok(Some(Browsed { id: header.id, function: header.function, attempts, state: now_it_is, ..damaged }))
    }
}
