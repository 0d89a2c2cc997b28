//! Calls of those who work on events: lease, ack, note, release, extend, checkpoint.

use std::collections::{BTreeSet, HashSet};

use super::{
    Boot, LeaseEpoch, Log, Noted, Now, Refused, Stop, Token,
    effect::Effect,
    lease::State,
    stream::{Head, Stream},
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

impl Log {
    /// Leases the oldest events of a partition that may be leased.
    pub(crate) fn lease(&mut self, request: LeaseRequest<'_>) -> Granted {
        let epoch = self.leases.open(request.deadline);
        let mut grants: Vec<Grant> = Vec::new();
        let mut bytes = 0;
        while grants.len() < request.events && self.leases.len() < self.limits.outstanding {
            let Some(key) = self.next_ready(request) else { break };
            let Some(stream) = self.streams.get(&key) else { break };
            let (head, short) = (stream.head(), stream.short_of(request.events - grants.len()));
            if let Some(from) = short {
                let load = LoadRequest { stream: key, from };
                if self.load_from_memory(load) {
                    continue;
                }
                // Once events are leased whoever waits for them need not wait for a disk too.
                if grants.is_empty() {
                    self.leases.close(epoch);
                    return Granted::Load(load);
                }
            }
            let Head::Ready(entry) = head else { break };
            bytes += u64::from(entry.length);
            if bytes > request.bytes && !grants.is_empty() {
                break;
            }
            grants.extend(self.grant(epoch, key, request.now));
        }
        if grants.is_empty() {
            self.leases.close(epoch);
            self.starved |= self.leases.len() >= self.limits.outstanding;
        }
        Granted::Events(epoch, grants)
    }

    /// Whose waiting may be over since this was last asked.
    pub(crate) fn take_awakened(&mut self) -> Awakened {
        let everybody = self.starved && self.leases.len() < self.limits.outstanding;
        self.starved &= !everybody;
        Awakened { partitions: std::mem::take(&mut self.awakened), everybody }
    }

    /// What an index says of a stream from a place on, oldest first; `next` is the place behind what was read.
    pub(crate) fn loaded(&mut self, load: LoadRequest, entries: &[Entry], next: Location) {
        let strict = self.order_of(load.stream) == Order::Strict;
        // What was moved keeps its place in an ordered stream, and is in memory already. In another its copy is found behind
        // what was known when it moved; it may be leased by now, or have come back.
        let back = |entry: &Entry| {
            self.streams.get(&load.stream).is_some_and(|stream| stream.is_returned(entry.location))
        };
        let in_memory = |entry: &Entry| {
            entry.moved && (strict || self.leases.token_at(entry.location).is_some() || back(entry))
        };
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
        for (token, _) in events {
            let outstanding = self.leases.get(*token).ok_or(Refused::LeaseLost)?;
            if !self.leases.holds(epoch, *token) {
                return Err(Refused::LeaseLost.into());
            }
            if reason == Reason::Acked && self.order_of(outstanding.stream) == Order::Strict {
                return Err(Refused::WrongOrder.into());
            }
        }
        let mut done = Done { reason, events: Vec::with_capacity(events.len()) };
        for (token, id) in events {
            let Some(outstanding) = self.leases.get(*token) else { continue };
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
        let outstanding =
            self.leases.get(token).filter(|_| self.leases.holds(epoch, token)).ok_or(Refused::LeaseLost)?;
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

    /// The stream with the oldest event that may be leased.
    fn next_ready(&self, request: LeaseRequest<'_>) -> Option<StreamKey> {
        let first = (request.partition, Location::FIRST, FunctionNumber(0));
        let ready = self.ready.range(first..).take_while(|(partition, ..)| *partition == request.partition);
        let mut wanted = ready.filter(|(_, _, function)| !request.exclude.contains(function));
        wanted.next().map(|(partition, _, function)| StreamKey { partition: *partition, function: *function })
    }

    /// Leases the event at the stream's head, or has it wait if its time has not come.
    fn grant(&mut self, epoch: LeaseEpoch, key: StreamKey, now: Boot) -> Option<Grant> {
        let (token, entry) = self.with_stream(key, Stream::take)?;
        let noted = self.notes.get(&token).copied().unwrap_or_default();
        if noted.until > now {
            self.leases.add_held(noted.until, token, key, entry);
            // Whoever else waits has to know of that time.
            self.awakened.insert(key.partition);
            self.with_stream(key, Stream::hold);
            return None;
        }
        self.leases.add(epoch, token, key, entry);
        Some(Grant { token, entry, noted })
    }

    /// Fills a window from a segment that has no index on the disk yet; `false` if that is not where the events are.
    pub(crate) fn load_from_memory(&mut self, load: LoadRequest) -> bool {
        let Some(segment) = self.segments.first_in_memory(load.from.segment) else { return false };
        let from = load.from.max(Location::start_of(segment.header.segment));
        let segment = segment.header.segment;
        let entries = self.entries_in_memory(load.stream, from, super::stream::WINDOW);
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
