//! Questions of those who only look: operators, gauges, the scrub.

use std::collections::BTreeMap;

use super::{Boot, Depth, LoadRequest, Log, lease, segments::State, stream::Head};
use crate::{
    EventState, FunctionNumber, Location, PartitionNumber, SegmentId,
    entry::{Entry, StreamKey},
    partition::Order,
};

impl Log {
    /// How much of something is in each stream of a partition.
    pub(crate) fn depths(&self, partition: PartitionNumber) -> impl Iterator<Item = (StreamKey, Depth)> {
        let streams = self.streams.of_partition(partition);
        streams.map(|stream| (stream.key, Depth { events: stream.live, bytes: stream.live_bytes }))
    }

    pub(crate) fn depth(&self, partition: PartitionNumber) -> Depth {
        self.depths(partition).fold(Depth::default(), |sum, (_, depth)| Depth {
            events: sum.events + depth.events,
            bytes: sum.bytes + depth.bytes,
        })
    }

    /// When the oldest event of a stream was accepted, ms; or what must be read to tell.
    pub(crate) fn oldest(&self, key: StreamKey) -> Result<Option<u64>, LoadRequest> {
        let Some(stream) = self.streams.get(key) else { return Ok(None) };
        if let Head::Beyond(from) = stream.head() {
            return Err(LoadRequest::least(key, from));
        }
        let known = [stream.oldest_ms(), self.leases.accepted_of_stream(key)];
        Ok(known.into_iter().flatten().min())
    }

    /// Streams that have events in a segment without an index.
    pub(crate) fn streams_in_memory(&mut self, segment: SegmentId) -> Vec<StreamKey> {
        let segment = self.segments.get_mut(segment);
        segment.map(|segment| segment.postings.streams()).unwrap_or_default()
    }

    /// Up to `most` events of a stream from a place on, in its segment, which has no index yet.
    pub(crate) fn entries_in_memory(&mut self, key: StreamKey, from: Location, most: usize) -> Vec<Entry> {
        let segment = self.segments.get_mut(from.segment);
        let entries = segment.into_iter().flat_map(|segment| segment.postings.from(key, from));
        entries.take(most).copied().collect()
    }

    /// Whether nothing is written to a segment any more.
    pub(crate) fn is_closed(&self, segment: SegmentId) -> bool {
        self.segments.get(segment).is_some_and(|segment| segment.state != State::Writing)
    }

    /// Whether the event at a place of this stream is not done.
    pub(crate) fn is_live(&self, key: StreamKey, location: Location) -> bool {
        let purged = self.sweeps.iter().any(|(swept, before)| *swept == key && location < *before);
        !purged && !self.segments.is_done(location)
    }

    /// What becomes of an event that is not done: whether it is leased or held, and how many attempts failed.
    pub(crate) fn state_of(
        &self,
        key: StreamKey,
        place: Location,
        origin: Option<Location>,
        now: Boot,
    ) -> (EventState, u32) {
        let token = match self.order_of(key) {
            Order::Strict => origin.unwrap_or(place),
            Order::None => self.leases.token_at(place).unwrap_or(place),
        };
        let noted = self.notes.get(&token).copied().unwrap_or_default();
        let state = match self.leases.get(token).map(|outstanding| outstanding.state) {
            Some(lease::State::Leased(_) | lease::State::Finishing(_)) => EventState::Leased,
            Some(lease::State::Held { .. }) => EventState::Held,
            None if noted.until > now => EventState::Held,
            None => EventState::Waiting,
        };
        (state, noted.attempts)
    }

    /// Where the record of a leased or held event is now.
    pub(crate) fn entry_of(&self, token: Location) -> Option<Entry> {
        self.leases.get(token).map(|outstanding| outstanding.entry)
    }

    /// How many events are leased.
    pub(crate) fn leased(&self) -> usize {
        self.leases.leased()
    }

    /// How many events a segment has, and how many of them are not done.
    pub(crate) fn events_of(&self, segment: SegmentId) -> (u32, u32) {
        let segment = self.segments.get(segment);
        segment
            .map_or((0, 0), |segment| (segment.events, segment.events.saturating_sub(segment.done.count())))
    }

    pub(crate) fn partition_names(&self) -> Vec<(PartitionNumber, String, Order)> {
        let partitions = self.names.partitions();
        let names = partitions.map(|(number, state)| (number, state.name.name.clone(), state.order));
        let mut names: Vec<_> = names.collect();
        names.sort_unstable_by_key(|(number, ..)| *number);
        names
    }

    pub(crate) fn function_arns(&self) -> BTreeMap<FunctionNumber, String> {
        self.names.functions().map(|(number, state)| (number, state.name.context.arn.clone())).collect()
    }
}
