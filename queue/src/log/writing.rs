//! Calls that write events, names, redirects and purges.

use types::{DataKey, KeyContext, WrappedDataKey};

use super::{Blocked, Log, Refused, Stop, effect::Effect, names::Kept, tail::BatchNumber};
use crate::{
    EventId, FunctionNumber, Location, PartitionNumber, SegmentId,
    entry::{Entry, StreamKey},
    format::{
        event::{EventHeader, MOVED_HEADER_BYTES, put_content},
        function::Function,
        partition::Partition,
        purge::Purge,
        record::{Kind, MAX_BODY_BYTES, PREFIX_BYTES},
        redirect::Redirect,
        segment::HEADER_BYTES,
    },
    partition::Order,
    seal::{Place, TAG_BYTES},
};

/// Bytes that an event's record takes beside attributes and payload, moved or not.
const EVENT_OVERHEAD: usize = MOVED_HEADER_BYTES + 4 + TAG_BYTES;

/// Of a segment, for the names that its records need: an event must fit beside those of its function and its partition, each
/// twice.
const NAMES_BYTES: usize = 16 * 1024;

#[derive(Debug, Clone, Copy)]
pub(crate) struct NewEvent<'a> {
    pub(crate) id: EventId,
    pub(crate) partition: PartitionNumber,
    pub(crate) function: FunctionNumber,
    pub(crate) accepted_ms: u64,
    pub(crate) attributes: &'a [u8],
    pub(crate) payload: &'a [u8],
}

impl Log {
    pub(crate) fn function_number(&self, arn: &str) -> Option<FunctionNumber> {
        self.names.function_number(arn)
    }

    /// How the key of a function is wrapped, to open it.
    pub(crate) fn wrapped_key(&self, function: FunctionNumber) -> Option<(&KeyContext, &WrappedDataKey)> {
        self.names.function(function).map(|state| (&state.name.context, &state.name.wrapped))
    }

    /// A function with a new key. It is written before the first event that needs it.
    pub(crate) fn add_function(
        &mut self,
        context: KeyContext,
        wrapped: WrappedDataKey,
        key: DataKey,
    ) -> FunctionNumber {
        let number = self.names.next_function();
        self.names.put_function(Function { number, context, wrapped });
        self.set_key(number, Some(key));
        number
    }

    /// Another wrap of the same key.
    pub(crate) fn rewrap_function(
        &mut self,
        number: FunctionNumber,
        wrapped: WrappedDataKey,
    ) -> Result<BatchNumber, Stop> {
        let state = self.names.function(number).ok_or(Refused::NoSuchFunction)?;
        let function = Function { wrapped, ..state.name.clone() };
        self.names.put_function(function);
        self.write_function(number)
    }

    /// The function's key, opened; `None` to forget it.
    pub(crate) fn set_key(&mut self, number: FunctionNumber, key: Option<DataKey>) {
        if let Some(state) = self.names.function_mut(number) {
            state.key = key;
        }
    }

    pub(crate) fn key(&self, number: FunctionNumber) -> Option<&DataKey> {
        self.names.function(number)?.key.as_ref()
    }

    /// The number of a partition, which is made if there is none of this name.
    pub(crate) fn add_partition(&mut self, name: &str, order: Order) -> PartitionNumber {
        if let Some(number) = self.names.partition_number(name) {
            return number;
        }
        let number = self.names.next_partition();
        self.names.put_partition(Partition { number, order, name: name.to_owned() });
        number
    }

    /// Appends an event. It can be leased when its batch is committed.
    pub(crate) fn enqueue(&mut self, event: NewEvent<'_>) -> Result<BatchNumber, Stop> {
        let body = EVENT_OVERHEAD + event.attributes.len() + event.payload.len();
        if self.tail.pending_bytes() > self.limits.pending_bytes {
            return Err(Blocked::Pending.into());
        }
        let NewEvent { partition, function, .. } = event;
        let (segment, _) = self.tail.end();
        let stream = if self.names.is_settled(partition, segment) {
            StreamKey { partition, function }
        } else {
            self.stream_key(partition, function).ok_or(Refused::NoSuchPartition)?
        };
        self.fits_somewhere(body)?;
        self.write_names(event.partition, event.function)?;
        self.room(body)?;
        let log = self.id;
        let ordinal = self.tail.next_ordinal();
        let key = self
            .names
            .function(event.function)
            .ok_or(Refused::NoSuchFunction)?
            .key
            .as_ref()
            .ok_or(Refused::NoKey)?;
        let location = Location { segment, ordinal };
        let header = EventHeader {
            partition: event.partition,
            function: event.function,
            ordinal,
            accepted_ms: event.accepted_ms,
            id: event.id,
            moved: None,
        };
        let number = self.tail.append(
            Kind::Event,
            |slot, to| {
                let plain = slot.start + PREFIX_BYTES;
                header.put(to);
                let content = to.len();
                put_content(to, event.attributes, event.payload);
                let place = Place { log, segment: slot.header.segment, offset: slot.offset };
                slot.keys.of(event.function, key, slot.header.salt).seal(place, to, plain, content);
            },
            |offset, length| Effect::Event {
                stream,
                entry: Entry { location, offset, length, accepted_ms: event.accepted_ms, moved: false },
            },
        )?;
        Ok(number)
    }

    /// From here on the function's events go to this partition; `None`: to the shared ones.
    pub(crate) fn redirect(
        &mut self,
        function: FunctionNumber,
        partition: Option<PartitionNumber>,
    ) -> Result<BatchNumber, Stop> {
        self.names.function(function).ok_or(Refused::NoSuchFunction)?;
        match partition {
            Some(partition) => self.write_names(partition, function)?,
            None => self.write_function_if_wanted(function)?,
        }
        let redirect = Redirect { function, partition };
        self.control(Kind::Redirect, 8, |to| redirect.put(to), || Effect::Redirect(redirect))
    }

    /// Where a function's events go, if not to the shared partitions.
    pub(crate) fn redirected(&self, function: FunctionNumber) -> Option<PartitionNumber> {
        self.names.function(function)?.redirect.as_ref()?.value
    }

    /// Everything of a function, or of a partition, that was written before this is done.
    pub(crate) fn purge(&mut self, purge: Purge) -> Result<BatchNumber, Stop> {
        self.room(8)?;
        self.moves.purge_began();
        let segment = self.tail.active().map_or(SegmentId(0), |header| header.segment);
        let before = Location { segment, ordinal: self.tail.next_ordinal() };
        self.control(Kind::Purge, 8, |to| purge.put(to), || Effect::Purge { purge, before })
    }

    /// Writes again what the oldest segment holds and the log still needs, so that the segment can go.
    pub(crate) fn carry(&mut self) -> Result<Option<BatchNumber>, Stop> {
        let Some(oldest) = self.segments.finished() else { return Ok(None) };
        let mut last = None;
        for redirect in self.names.redirects_in(oldest) {
            if !self.is_being_written(|effect| effect.redirects(redirect.function)) {
                last = Some(self.redirect(redirect.function, redirect.partition)?);
            }
        }
        for checkpoint in self.names.checkpoints_in(oldest) {
            if !self.is_being_written(|effect| effect.is_checkpoint_of(checkpoint.partition)) {
                last = Some(self.write_checkpoint(checkpoint, None)?);
            }
        }
        Ok(last)
    }

    /// Whether a newer one is on its way: behind it, the older would be the last word.
    fn is_being_written(&self, is_newer: impl Fn(&Effect) -> bool) -> bool {
        self.tail.unsettled().any(is_newer)
    }

    /// Appends a record that is not an event.
    pub(super) fn control(
        &mut self,
        kind: Kind,
        body: usize,
        put: impl FnOnce(&mut Vec<u8>),
        effect: impl FnOnce() -> Effect,
    ) -> Result<BatchNumber, Stop> {
        self.room(body)?;
        Ok(self.tail.append(kind, |_, to| put(to), |_, _| effect())?)
    }

    /// Stops what does not fit into the active segment, and refuses what would fit into none.
    pub(super) fn room(&self, body: usize) -> Result<(), Stop> {
        self.fits_somewhere(body)?;
        if self.tail.fits(body) { Ok(()) } else { Err(Blocked::NoSegment.into()) }
    }

    fn fits_somewhere(&self, body: usize) -> Result<(), Refused> {
        let segment = usize::try_from(self.limits.segment_bytes).unwrap_or(usize::MAX);
        let limit = MAX_BODY_BYTES.min(segment.saturating_sub(2 * HEADER_BYTES + NAMES_BYTES));
        if body > limit { Err(Refused::TooLarge { bytes: body, limit }) } else { Ok(()) }
    }

    /// Writes the names that a record needs, unless they are written often enough.
    pub(super) fn write_names(
        &mut self,
        partition: PartitionNumber,
        function: FunctionNumber,
    ) -> Result<(), Stop> {
        self.write_function_if_wanted(function)?;
        self.write_partition_if_wanted(partition)
    }

    pub(super) fn write_partition_if_wanted(&mut self, partition: PartitionNumber) -> Result<(), Stop> {
        let here = self.tail.end();
        if self.names.wants_partition(partition, here).ok_or(Refused::NoSuchPartition)? {
            self.write_partition(partition)?;
        }
        Ok(())
    }

    fn write_function_if_wanted(&mut self, function: FunctionNumber) -> Result<(), Stop> {
        let state = self.names.function(function).ok_or(Refused::NoSuchFunction)?;
        if state.written.wanted(self.tail.end()) {
            self.write_function(function)?;
        }
        Ok(())
    }

    fn write_function(&mut self, number: FunctionNumber) -> Result<BatchNumber, Stop> {
        let function = &self.names.function(number).ok_or(Refused::NoSuchFunction)?.name;
        let mut body = Vec::new();
        function.put(&mut body);
        self.room(body.len())?;
        let end = self.tail.end();
        let written = self.control(
            Kind::Function,
            body.len(),
            |to| to.extend_from_slice(&body),
            || Effect::Function(number),
        )?;
        if let Some(state) = self.names.function_mut(number) {
            state.written.add(end);
        }
        Ok(written)
    }

    fn write_partition(&mut self, number: PartitionNumber) -> Result<BatchNumber, Stop> {
        let partition = &self.names.partition(number).ok_or(Refused::NoSuchPartition)?.name;
        let mut body = Vec::new();
        partition.put(&mut body);
        self.room(body.len())?;
        let end = self.tail.end();
        let written = self.control(
            Kind::Partition,
            body.len(),
            |to| to.extend_from_slice(&body),
            || Effect::Partition(number),
        )?;
        if let Some(state) = self.names.partition_mut(number) {
            state.written.add(end);
        }
        Ok(written)
    }

    /// Keeps a redirect that is durable, or being written.
    pub(super) fn keep_redirect(&mut self, redirect: Redirect, logged: Option<SegmentId>) {
        if let Some(state) = self.names.function_mut(redirect.function) {
            state.redirect = Some(Kept { value: redirect.partition, logged });
        }
    }
}
