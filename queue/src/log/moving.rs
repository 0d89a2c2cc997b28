//! Stragglers: the few events that keep an old segment are written again at the tail, so that one slow event pins nothing.
//!
//! ```text
//!   oldest segment   ▓░░░░░░▓░░░░    ─── copy, same event id, same place in its order ──►   tail
//!                    live  done                                                              │ committed: the old copy is done
//!                                                                                            │ failed: the old copy is the event
//! ```
//! From the moment the copy is appended until its batch is committed the event has two records. Whoever acks it then names
//! both. If it waits, it is out of its stream meanwhile, so that nobody leases the copy that is about to go.

use std::collections::HashMap;

use super::{
    Log, Refused, Stop,
    effect::Effect,
    lease::{Outstanding, State},
    stream::Stream,
    tail::BatchNumber,
};
use crate::{
    Location, SegmentId,
    entry::{Entry, StreamKey},
    format::{
        event::{EventHeader, MOVED_HEADER_BYTES, Moved},
        record::{Kind, PREFIX_BYTES},
    },
    partition::Order,
    seal::{Place, TAG_BYTES},
};

/// A segment of which no more than one in so many events is live is emptied: the log then takes at most about this many times
/// what is live in it, and an event is written again only after several times as many others are done.
const EMPTY_BELOW: u32 = 4;

#[derive(Debug)]
struct Waiting {
    /// Its place in the stream.
    place: Location,
    entry: Entry,
    /// It was only counted, and can be again.
    beyond: bool,
}

/// Events whose copy is not committed yet, except those that are leased or held: by the place of the old record.
#[derive(Debug, Default)]
pub(super) struct Moves {
    waiting: HashMap<Location, Waiting>,
    /// Purges that are written but not committed: what they speak of must not come behind them.
    purges: u32,
}

impl Moves {
    pub(super) fn includes(&self, location: Location) -> bool {
        self.waiting.contains_key(&location)
    }

    pub(super) fn purge_began(&mut self) {
        self.purges += 1;
    }

    pub(super) fn purge_ended(&mut self) {
        self.purges = self.purges.saturating_sub(1);
    }
}

impl Log {
    /// The oldest segment, if little of it is live and the rest could go.
    pub(crate) fn straggling(&self) -> Option<SegmentId> {
        let oldest = self.segments.oldest()?;
        let live = oldest.events.saturating_sub(oldest.done.count());
        let few = live > 0 && live <= oldest.events / EMPTY_BELOW;
        (few && oldest.state == super::segments::State::Indexed && self.sweeps.is_empty())
            .then_some(oldest.header.segment)
    }

    pub(crate) fn is_done(&self, location: Location) -> bool {
        self.segments.is_done(location)
    }

    /// Writes an event again at the tail: `header` and `content` are what its record at `entry` holds, opened. `None` if that is
    /// not needed, or must wait for what is being written about it.
    pub(crate) fn move_event(
        &mut self,
        entry: Entry,
        header: EventHeader,
        content: &[u8],
    ) -> Result<Option<BatchNumber>, Stop> {
        let from = entry.location;
        let stream = self.stream_key(header.partition, header.function).ok_or(Refused::NoSuchPartition)?;
        // What a purge has ended is not marked before it is swept: a copy of it, behind the purge, would live again.
        let purged = self.moves.purges > 0 || !self.sweeps.is_empty();
        if purged || self.is_done(from) || self.moves.includes(from) {
            return Ok(None);
        }
        let origin = header.moved.map_or(from, |moved| moved.origin);
        let (place, token) = match self.order_of(stream) {
            Order::Strict => (origin, Some(origin).filter(|origin| self.leases.get(*origin).is_some())),
            Order::None => (from, self.leases.token_at(from)),
        };
        let outstanding = token.and_then(|token| self.leases.get(token));
        if outstanding.is_some_and(|it| it.moving_to.is_some() || matches!(it.state, State::Finishing(_))) {
            return Ok(None);
        }
        let noted = self.notes.get(&token.unwrap_or(place)).copied().unwrap_or_default();
        let moved =
            Moved { attempts: noted.attempts, not_before_ms: noted.not_before_ms, origin, previous: from };
        let (number, to) = self.append_copy(stream, EventHeader { moved: Some(moved), ..header }, content)?;
        match token.and_then(|token| self.leases.get_mut(token)) {
            Some(outstanding) => outstanding.moving_to = Some(to),
            None => {
                let beyond = !self.with_stream(stream, |stream| stream.take_out(place, from));
                self.wait_for_copy(stream, Waiting { place, entry, beyond });
            }
        }
        Ok(Some(number))
    }

    fn append_copy(
        &mut self,
        stream: StreamKey,
        header: EventHeader,
        content: &[u8],
    ) -> Result<(BatchNumber, Entry), Stop> {
        self.write_names(header.partition, header.function)?;
        self.room(MOVED_HEADER_BYTES + content.len() + TAG_BYTES)?;
        let (log, ordinal) = (self.id, self.tail.next_ordinal());
        let key = self
            .names
            .function(header.function)
            .and_then(|state| state.key.as_ref())
            .ok_or(Refused::NoKey)?;
        let segment = self.tail.active().map_or(SegmentId(0), |header| header.segment);
        let location = Location { segment, ordinal };
        let moved = header.moved.ok_or(Refused::LeaseLost)?;
        let header = EventHeader { ordinal, ..header };
        let mut to = Entry { location, offset: 0, length: 0, accepted_ms: header.accepted_ms, moved: true };
        let number = self.tail.append(
            Kind::Event,
            |slot, bytes| {
                let plain = slot.start + PREFIX_BYTES;
                header.put(bytes);
                let secret = bytes.len();
                bytes.extend_from_slice(content);
                let place = Place { log, segment: slot.header.segment, offset: slot.offset };
                slot.keys.of(header.function, key, slot.header.salt).seal(place, bytes, plain, secret);
            },
            |offset, length| {
                to = Entry { offset, length, ..to };
                Effect::Moved { stream, entry: to, moved }
            },
        )?;
        Ok((number, to))
    }

    /// An event whose copy is being written was leased or held, and is given back.
    pub(super) fn given_back_while_moving(&mut self, token: Location, outstanding: Outstanding) {
        let Outstanding { stream, entry, .. } = outstanding;
        self.wait_for_copy(stream, Waiting { place: token, entry, beyond: false });
    }

    /// Until the copy is durable, or is not, nobody gets the event; nor, in an ordered stream, one that is behind it.
    fn wait_for_copy(&mut self, key: StreamKey, waiting: Waiting) {
        self.moves.waiting.insert(waiting.entry.location, waiting);
        if self.order_of(key) == Order::Strict {
            self.with_stream(key, Stream::hold);
        }
    }

    fn waited_for_copy(&mut self, key: StreamKey, from: Location) -> Option<Waiting> {
        let waiting = self.moves.waiting.remove(&from)?;
        if self.order_of(key) == Order::Strict {
            self.with_stream(key, Stream::unhold);
        }
        Some(waiting)
    }

    /// The copy is durable.
    pub(super) fn moved(&mut self, key: StreamKey, to: Entry, moved: Moved) {
        self.segments.mark(moved.previous);
        if let Some(waiting) = self.waited_for_copy(key, moved.previous) {
            self.with_stream(key, |stream| stream.resized(waiting.entry.length, to.length));
            if waiting.beyond && self.order_of(key) == Order::None {
                self.rename(waiting.place, to.location);
                self.with_stream(key, |stream| stream.place(to));
            } else {
                self.put_back(key, waiting.place, to);
            }
        } else if let Some(token) = self.token_of(key, moved)
            && let Some(before) = self.leases.relocate(token, to)
        {
            self.with_stream(key, |stream| stream.resized(before.length, to.length));
        }
    }

    /// The copy is not durable: the old record is the event, as before.
    pub(super) fn not_moved(&mut self, key: StreamKey, moved: Moved) {
        if let Some(waiting) = self.waited_for_copy(key, moved.previous) {
            self.put_back(key, waiting.place, waiting.entry);
        } else if let Some(outstanding) =
            self.token_of(key, moved).and_then(|token| self.leases.get_mut(token))
        {
            outstanding.moving_to = None;
        }
    }

    fn token_of(&self, key: StreamKey, moved: Moved) -> Option<Location> {
        match self.order_of(key) {
            Order::Strict => Some(moved.origin),
            Order::None => self.leases.token_at(moved.previous),
        }
    }

    /// An event waits again. What calls it from now on is its place in an ordered stream, else where its record is.
    pub(super) fn put_back(&mut self, key: StreamKey, token: Location, entry: Entry) {
        let place = match self.order_of(key) {
            Order::Strict => token,
            Order::None => entry.location,
        };
        self.rename(token, place);
        self.with_stream(key, |stream| stream.put_back(place, entry));
    }

    fn rename(&mut self, before: Location, after: Location) {
        if before != after
            && let Some(noted) = self.notes.remove(&before)
        {
            self.notes.insert(after, noted);
        }
    }
}
