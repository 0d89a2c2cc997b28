//! Calls of those who work on events: lease, ack, note, release, extend, checkpoint.

use std::{
    cmp::Ordering,
    collections::{BTreeSet, HashSet},
};

use super::{
    Boot, LeaseEpoch, Log, Noted, Now, Refused, Stop, Token,
    effect::Effect,
    lease::State,
    stream::{Head, Stream, WINDOW},
    tail::BatchNumber,
};
use crate::{
    FunctionNumber, Location, PartitionNumber,
    entry::{Entry, StreamKey},
    format::{
        checkpoint::{Checkpoint, MAX_POSITION_BYTES},
        done::{Done, Reason},
        note::Note,
        record::Kind,
    },
    partition::Order,
};

/// Most postings that are loaded for one lease: what it is about to take.
const MOST_LOADED: usize = 1024;

/// Bytes of a note's body.
const NOTE_BYTES: usize = 40;

#[derive(Debug, Clone, Copy)]
pub(crate) struct LeaseRequest<'a> {
    pub(crate) partition: PartitionNumber,
    pub(crate) events: usize,
    /// Of records on the disk. One event is leased however large it is.
    pub(crate) bytes: u64,
    pub(crate) now: Boot,
    pub(crate) deadline: Boot,
    /// Functions whose events are passed over.
    pub(crate) exclude: &'a HashSet<FunctionNumber>,
}

/// An event that is leased now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grant {
    /// What the lease calls it.
    pub(crate) token: Location,
    pub(crate) entry: Entry,
    pub(crate) noted: Noted,
}

/// Part of an index that must be read before more can be leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LoadRequest {
    pub(crate) stream: StreamKey,
    pub(crate) from: Location,
    /// Most postings that are of use.
    pub(crate) events: usize,
    /// Of records: what is beyond is not kept, but for a window of events.
    pub(crate) bytes: u64,
}

impl LoadRequest {
    /// A window of events.
    pub(crate) fn least(stream: StreamKey, from: Location) -> Self {
        Self { stream, from, events: WINDOW, bytes: 0 }
    }
}

/// Who waits for events and may get some.
#[derive(Debug)]
pub(crate) struct Awakened {
    /// Of these something can be leased that could not before.
    pub(crate) partitions: BTreeSet<PartitionNumber>,
    /// Too much was leased, and is no longer.
    pub(crate) everybody: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Granted {
    /// Oldest first. Empty: there is nothing now.
    Events(LeaseEpoch, Vec<Grant>),
    /// Read this, tell [`Log::loaded`], and ask again.
    Load(LoadRequest),
}

/// What a lease has got so far.
struct Batch {
    epoch: LeaseEpoch,
    grants: Vec<Grant>,
    bytes: u64,
}

/// How a stream's turn in a lease ended.
enum Turn {
    /// It is another's.
    Over,
    /// Its next event is to wait for its time, and as many do as may.
    PassOver,
    /// The lease is to have no more.
    Enough,
}

impl Log {
    /// Leases the oldest events of a partition that may be leased.
    pub(crate) fn lease(&mut self, request: LeaseRequest<'_>) -> Granted {
        let epoch = self.leases.open(request.deadline);
        let mut batch = Batch { epoch, grants: Vec::new(), bytes: 0 };
        let mut passed_over = HashSet::new();
        while batch.grants.len() < request.events && self.leases.taken() < self.limits.outstanding {
            let Some((key, before)) = self.next_ready(request, &passed_over) else { break };
            if let Some(load) = self.load_for(request, &batch, key, before) {
                if self.load_from_memory(load) {
                    continue;
                }
                // Once events are leased whoever waits for them need not wait for a disk too.
                if batch.grants.is_empty() {
                    self.leases.close(epoch);
                    return Granted::Load(load);
                }
            }
            match self.grant(request, &mut batch, key, before) {
                Turn::Over => {}
                Turn::PassOver => {
                    passed_over.insert(key);
                }
                Turn::Enough => break,
            }
        }
        self.starved |= !passed_over.is_empty();
        if batch.grants.is_empty() {
            self.leases.close(epoch);
            self.starved |= self.is_full();
        }
        Granted::Events(epoch, batch.grants)
    }

    /// Whether no more may be leased, or held.
    fn is_full(&self) -> bool {
        self.leases.taken() >= self.limits.outstanding || self.leases.held() >= self.limits.held
    }

    /// Whose waiting may be over since this was last asked.
    pub(crate) fn take_awakened(&mut self) -> Awakened {
        let everybody = self.starved && !self.is_full();
        self.starved &= !everybody;
        Awakened { partitions: self.streams.take_awakened(), everybody }
    }

    /// What an index says of a stream from a place on, oldest first; `next` is the place behind what was read.
    pub(crate) fn loaded(&mut self, load: LoadRequest, entries: &[Entry], next: Location) {
        let strict = self.order_of(load.stream) == Order::Strict;
        // What was moved keeps its place in an ordered stream, and is in memory already. In another its copy is found behind
        // what was known when it moved; it may be leased by now, or have come back.
        let back = |entry: &Entry| {
            self.streams.get(load.stream).is_some_and(|stream| stream.is_returned(entry.location))
        };
        let in_memory = |entry: &Entry| {
            entry.moved && (strict || self.leases.token_at(entry.location).is_some() || back(entry))
        };
        let (entries, next) = within(entries, next, load.bytes);
        let here = entries.iter().copied().filter(|entry| !in_memory(entry));
        let gone =
            |entry: &Entry| self.segments.is_done(entry.location) || self.moves.includes(entry.location);
        let live: Vec<Entry> = here.filter(|entry| !gone(entry)).collect();
        self.with_stream(load.stream, |stream| stream.loaded(load.from, live.into_iter(), next));
    }

    /// Events are done. Those that the lease does not hold are refused, the others written; they are done for good when the
    /// batch is committed, and given back if it fails.
    pub(crate) fn ack(&mut self, epoch: LeaseEpoch, events: &[Token]) -> Result<BatchNumber, Stop> {
        self.finish(epoch, events, Reason::Acked)
    }

    /// Events cannot be read, and never will be.
    pub(crate) fn give_up(
        &mut self,
        epoch: LeaseEpoch,
        events: &[Token],
        reason: Reason,
    ) -> Result<BatchNumber, Stop> {
        self.finish(epoch, events, reason)
    }

    fn finish(&mut self, epoch: LeaseEpoch, events: &[Token], reason: Reason) -> Result<BatchNumber, Stop> {
        let mut done = Done { reason, events: Vec::with_capacity(events.len()) };
        // Neighbours are mostly of one stream.
        let mut unordered = None;
        for (token, id) in events {
            let outstanding = self.leases.held_by(epoch, *token).ok_or(Refused::LeaseLost)?;
            let stream = outstanding.stream;
            if reason == Reason::Acked && unordered != Some(stream) {
                if self.order_of(stream) == Order::Strict {
                    return Err(Refused::WrongOrder.into());
                }
                unordered = Some(stream);
            }
            // Both copies of one that is being moved: whichever is found after a crash is done.
            done.events.push((outstanding.entry.location, *id));
            done.events.extend(outstanding.moving_to.map(|entry| (entry.location, *id)));
        }
        let tokens: Vec<Location> = events.iter().map(|(token, _)| *token).collect();
        let effect = || Effect::Done { reason, tokens: tokens.clone() };
        let number =
            self.control(Kind::Done, Done::body_bytes(done.events.len()), |to| done.put(to), effect)?;
        for token in tokens {
            self.leases.set_state(token, State::Finishing(epoch));
        }
        Ok(number)
    }

    /// An attempt failed. The lease goes on. When the event is given back it waits until `not_before_ms`; who leases it then, or
    /// after a restart, is told of the attempts.
    pub(crate) fn note(
        &mut self,
        epoch: LeaseEpoch,
        (token, id): Token,
        attempts: u32,
        not_before_ms: u64,
        now: Now,
    ) -> Result<BatchNumber, Stop> {
        let outstanding = self.leases.held_by(epoch, token).ok_or(Refused::LeaseLost)?;
        let location = outstanding.moving_to.unwrap_or(outstanding.entry).location;
        let note = Note { location, attempts, not_before_ms, id };
        let number = self.control(Kind::Note, NOTE_BYTES, |to| note.put(to), || Effect::Note)?;
        // It counts at once: the attempt has failed, whether or not the disk learns of it.
        self.notes.insert(token, Noted { attempts, not_before_ms, until: now.until(not_before_ms) });
        Ok(number)
    }

    /// Gives events back, to be leased again when their time has come. In an ordered partition all that follow come back too.
    pub(crate) fn release(&mut self, epoch: LeaseEpoch, tokens: &[Location]) -> Result<(), Refused> {
        if tokens.iter().any(|token| !self.leases.holds(epoch, *token)) {
            return Err(Refused::LeaseLost);
        }
        for token in tokens {
            self.give_back(*token);
        }
        Ok(())
    }

    /// Puts the end of a lease off, or nearer.
    pub(crate) fn extend(&mut self, epoch: LeaseEpoch, deadline: Boot) -> Result<(), Refused> {
        if self.leases.extend(epoch, deadline) { Ok(()) } else { Err(Refused::LeaseLost) }
    }

    /// All events of an ordered partition up to this one, which the lease holds, are done.
    pub(crate) fn checkpoint(
        &mut self,
        epoch: LeaseEpoch,
        through: Location,
        position: &[u8],
    ) -> Result<BatchNumber, Stop> {
        if position.len() > MAX_POSITION_BYTES {
            return Err(Refused::PositionTooLong(position.len()).into());
        }
        if !self.leases.holds(epoch, through) {
            return Err(Refused::LeaseLost.into());
        }
        let stream =
            self.leases.get(through).map(|outstanding| outstanding.stream).ok_or(Refused::LeaseLost)?;
        if self.order_of(stream) != Order::Strict {
            return Err(Refused::WrongOrder.into());
        }
        let checkpoint = Checkpoint { partition: stream.partition, through, position: position.to_vec() };
        let number = self.write_checkpoint(checkpoint, Some(through))?;
        for token in
            self.leases.of_stream(stream, Location::FIRST).into_iter().take_while(|token| *token <= through)
        {
            if let Some(State::Leased(epoch)) = self.leases.get(token).map(|outstanding| outstanding.state) {
                self.leases.set_state(token, State::Finishing(epoch));
            }
        }
        Ok(number)
    }

    /// The newest durable checkpoint of a partition.
    pub(crate) fn checkpoint_of(&self, partition: PartitionNumber) -> Option<&Checkpoint> {
        Some(&self.names.partition(partition)?.checkpoint.as_ref()?.value)
    }

    pub(super) fn write_checkpoint(
        &mut self,
        checkpoint: Checkpoint,
        token: Option<Location>,
    ) -> Result<BatchNumber, Stop> {
        self.write_partition_if_wanted(checkpoint.partition)?;
        let body = 20 + checkpoint.position.len();
        let token = token.unwrap_or(checkpoint.through);
        let copy = checkpoint.clone();
        self.control(Kind::Checkpoint, body, |to| copy.put(to), || Effect::Checkpoint { token, checkpoint })
    }

    /// The stream with the oldest event that may be leased, and the place from which on it is another's turn.
    fn next_ready(
        &self,
        request: LeaseRequest<'_>,
        passed_over: &HashSet<StreamKey>,
    ) -> Option<(StreamKey, Location)> {
        let ready = self.streams.ready(request.partition);
        let mut wanted =
            ready.filter(|(key, _)| !request.exclude.contains(&key.function) && !passed_over.contains(key));
        let (key, _) = wanted.next()?;
        Some((key, wanted.next().map_or(Location::LAST, |(_, place)| place)))
    }

    /// What must be read before more of a stream can be leased, and as much of it as this lease may take before it is another's turn.
    fn load_for(
        &self,
        request: LeaseRequest<'_>,
        batch: &Batch,
        key: StreamKey,
        before: Location,
    ) -> Option<LoadRequest> {
        let wanted = request.events - batch.grants.len();
        let from = self.streams.get(key)?.short_of(wanted)?;
        let its_turn = match before.segment.cmp(&from.segment) {
            Ordering::Less => 0,
            Ordering::Equal => before.ordinal.0.saturating_sub(from.ordinal.0) as usize,
            Ordering::Greater => wanted,
        };
        let events = wanted.min(its_turn).clamp(WINDOW, MOST_LOADED);
        Some(LoadRequest { stream: key, from, events, bytes: request.bytes.saturating_sub(batch.bytes) })
    }

    /// Leases events from a stream's head on until it is another's turn, and has those wait whose time has not come.
    fn grant(
        &mut self,
        request: LeaseRequest<'_>,
        batch: &mut Batch,
        key: StreamKey,
        before: Location,
    ) -> Turn {
        let most_held = self.limits.held;
        let room = self.limits.outstanding.saturating_sub(self.leases.taken());
        let room = room.min(request.events - batch.grants.len());
        let Self { streams, names, notes, leases, .. } = self;
        let order = || names.order_of(key.partition);
        let (mut taken, mut held) = (0, 0);
        let turn = streams.change(key, order, |stream| {
            while taken < room
                && let Head::Ready { place, entry } = stream.head()
                && (taken == 0 || place < before)
            {
                let noted = notes.get(&place).copied().unwrap_or_default();
                let waits = noted.until > request.now;
                let bytes = batch.bytes + u64::from(entry.length);
                if !waits && bytes > request.bytes && !batch.grants.is_empty() {
                    return Turn::Enough;
                }
                if waits && leases.held() >= most_held {
                    return Turn::PassOver;
                }
                stream.take(place);
                taken += 1;
                if waits {
                    leases.add_held(noted.until, place, key, entry);
                    stream.hold();
                    held += 1;
                } else {
                    leases.add(batch.epoch, place, key, entry);
                    batch.grants.push(Grant { token: place, entry, noted });
                    batch.bytes = bytes;
                }
            }
            if taken > 0 { Turn::Over } else { Turn::Enough }
        });
        if held > 0 {
            // Whoever else waits has to know of that time.
            self.streams.awaken(key.partition);
        }
        turn
    }

    /// Fills a window from a segment that has no index on the disk yet; `false` if that is not where the events are.
    pub(crate) fn load_from_memory(&mut self, load: LoadRequest) -> bool {
        let Some(segment) = self.segments.first_in_memory(load.from.segment) else { return false };
        let from = load.from.max(Location::start_of(segment.header.segment));
        let segment = segment.header.segment;
        let entries = self.entries_in_memory(load.stream, from, load.events);
        let next = match entries.last() {
            Some(last) => last.location.next(),
            None => Location::start_of(segment.next()),
        };
        // Behind the newest event there is nothing to go on to.
        if entries.is_empty() && self.segments.newest().is_some_and(|newest| newest.segment < next.segment) {
            self.with_stream(load.stream, Stream::forget_beyond);
            return true;
        }
        self.loaded(load, &entries, next);
        true
    }

    pub(super) fn unhold(&mut self, token: Location) -> bool {
        let Some(outstanding) = self.leases.remove(token) else { return false };
        let stream = outstanding.stream;
        self.with_stream(stream, Stream::unhold);
        match outstanding.moving_to {
            // It comes back when it has moved, or has not.
            Some(_) => self.given_back_while_moving(token, outstanding),
            None => self.put_back(stream, token, outstanding.entry),
        }
        true
    }

    /// An event may be leased again; in an ordered stream, all that were leased behind it too.
    pub(super) fn give_back(&mut self, token: Location) -> bool {
        let Some(outstanding) = self.leases.get(token) else { return false };
        let stream = outstanding.stream;
        let tokens = match self.order_of(stream) {
            Order::None => vec![token],
            Order::Strict => self.leases.of_stream(stream, token),
        };
        let mut changed = false;
        for token in tokens {
            // What is being finished, or waits for its time, is left to that.
            let leased = self
                .leases
                .get(token)
                .is_some_and(|outstanding| matches!(outstanding.state, State::Leased(_)));
            if !leased {
                continue;
            }
            let Some(outstanding) = self.leases.remove(token) else { continue };
            match outstanding.moving_to {
                // It comes back when it has moved, or has not.
                Some(_) => self.given_back_while_moving(token, outstanding),
                None => self.put_back(stream, token, outstanding.entry),
            }
            changed = true;
        }
        changed
    }
}

/// Of what was read, as much as so many bytes of records are, but a window of events at least; and where to go on.
fn within(entries: &[Entry], next: Location, bytes: u64) -> (&[Entry], Location) {
    let mut sum = 0;
    let beyond = entries.iter().enumerate().position(|(at, entry)| {
        sum += u64::from(entry.length);
        at >= WINDOW && sum > bytes
    });
    let cut = beyond.and_then(|at| Some((entries.get(..at)?, entries.get(at)?.location)));
    cut.unwrap_or((entries, next))
}
