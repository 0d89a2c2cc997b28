//! What becomes of the state when records are durable, or when their write failed.

use super::{
    Boot, Log,
    effect::Effect,
    lease::State,
    names::{Kept, Written},
    stream::Stream,
};
use crate::{
    FunctionNumber, Location, SegmentId,
    entry::{Entry, StreamKey},
    format::{checkpoint::Checkpoint, done::Reason, purge::Purge},
};

impl Log {
    /// A record of this segment is durable.
    pub(super) fn apply(&mut self, segment: SegmentId, effect: Effect) {
        match effect {
            Effect::Event { stream, entry } => {
                self.add_posting(segment, stream, entry);
                let Self { streams, names, .. } = self;
                streams.push(stream, || names.order_of(stream.partition), entry);
            }
            Effect::Moved { stream, entry, moved } => {
                self.add_posting(segment, stream, entry);
                self.moved(stream, entry, moved);
            }
            Effect::Done { reason, tokens } => {
                match reason {
                    Reason::Acked => {}
                    Reason::Corrupt => self.unreadable.corrupt += tokens.len() as u64,
                    Reason::Shredded => self.unreadable.shredded += tokens.len() as u64,
                }
                tokens.into_iter().for_each(|token| self.done(token));
            }
            Effect::Checkpoint { token, checkpoint } => self.apply_checkpoint(segment, token, checkpoint),
            Effect::Redirect(redirect) => self.keep_redirect(redirect, Some(segment)),
            Effect::Note | Effect::Function(_) | Effect::Partition(_) => {}
            Effect::Purge { purge, before } => self.apply_purge(purge, before),
        }
    }

    /// The record was not made durable.
    pub(super) fn undo(&mut self, effect: Effect, now: Boot) {
        match effect {
            Effect::Done { tokens, .. } => self.unfinish(&tokens, now),
            Effect::Function(number) => {
                if let Some(state) = self.names.function_mut(number) {
                    state.written = Written::NOWHERE;
                }
            }
            Effect::Partition(number) => {
                if let Some(state) = self.names.partition_mut(number) {
                    state.written = Written::NOWHERE;
                }
            }
            Effect::Checkpoint { token, checkpoint } => {
                let stream = StreamKey { partition: checkpoint.partition, function: FunctionNumber(0) };
                let tokens = self
                    .leases
                    .of_stream(stream, Location::FIRST)
                    .into_iter()
                    .take_while(|other| *other <= token);
                self.unfinish(&tokens.collect::<Vec<_>>(), now);
            }
            Effect::Moved { stream, moved, .. } => self.not_moved(stream, moved),
            Effect::Purge { .. } => self.moves.purge_ended(),
            Effect::Event { .. } | Effect::Note | Effect::Redirect(_) => {}
        }
    }

    /// What should have been finished goes on as it was, or back if its lease is over meanwhile.
    fn unfinish(&mut self, tokens: &[Location], now: Boot) {
        let mut over = Vec::new();
        for token in tokens {
            if let Some(State::Finishing(epoch)) =
                self.leases.get(*token).map(|outstanding| outstanding.state)
            {
                self.leases.set_state(*token, State::Leased(epoch));
                over.extend(self.leases.is_over(epoch, now).then_some(*token));
            }
        }
        // Behind all others: what comes back takes what follows it along.
        for token in over {
            self.give_back(token);
        }
    }

    fn add_posting(&mut self, segment: SegmentId, stream: StreamKey, entry: Entry) {
        if let Some(segment) = self.segments.get_mut(segment) {
            segment.events += 1;
            segment.postings.push(stream, entry);
        }
    }

    fn done(&mut self, token: Location) {
        let Some(outstanding) = self.leases.remove(token) else { return };
        self.notes.remove(&token);
        self.segments.mark(outstanding.entry.location);
        if matches!(outstanding.state, State::Held { .. }) {
            self.with_stream(outstanding.stream, Stream::unhold);
        }
        self.streams.done(outstanding.stream, outstanding.entry.length);
    }

    fn apply_checkpoint(&mut self, segment: SegmentId, token: Location, checkpoint: Checkpoint) {
        let stream = StreamKey { partition: checkpoint.partition, function: FunctionNumber(0) };
        for done in
            self.leases.of_stream(stream, Location::FIRST).into_iter().take_while(|done| *done <= token)
        {
            self.done(done);
        }
        if let Some(state) = self.names.partition_mut(checkpoint.partition) {
            state.checkpoint = Some(Box::new(Kept { value: checkpoint, logged: Some(segment) }));
        }
    }

    fn apply_purge(&mut self, purge: Purge, before: Location) {
        self.moves.purge_ended();
        let of = |key: &StreamKey| match purge {
            Purge::Function(number) => key.function == number,
            Purge::Partition(number) => key.partition == number,
        };
        let keys: Vec<StreamKey> = self.streams.keys().filter(of).collect();
        for key in keys {
            for token in self.leases.of_stream(key, Location::FIRST) {
                self.leases.remove(token);
                self.notes.remove(&token);
            }
            self.with_stream(key, |stream| Stream::clear(stream, before));
            self.sweeps.push((key, before));
        }
    }

    /// Streams whose events before a place are done but not yet marked, because only indexes know them.
    pub(crate) fn unswept(&self) -> Option<(StreamKey, Location)> {
        self.sweeps.first().copied()
    }

    /// All events of the stream before the place, in every segment.
    pub(crate) fn swept(&mut self, sweep: (StreamKey, Location), events: &[Location]) {
        for event in events.iter().filter(|event| **event < sweep.1) {
            self.segments.mark(*event);
        }
        self.sweeps.retain(|waiting| *waiting != sweep);
    }

    /// Events of this stream in segments that have no index on the disk yet.
    pub(crate) fn postings_in_memory(&mut self, stream: StreamKey) -> Vec<Location> {
        let entries = self.segments.iter_mut().flat_map(|segment| segment.postings.of(stream));
        entries.map(|entry| entry.location).collect()
    }
}
