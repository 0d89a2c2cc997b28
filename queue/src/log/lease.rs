//! Leases: who has which events, and until when.
//!
//! ```text
//!            lease                ack, checkpoint                     durable
//!   ready ──────────► Leased ─────────────────────► Finishing ─────────────────► done
//!     ▲                 │                               │ the write failed
//!     │  time is up,    │ ◄─────────────────────────────┘
//!     │  released       │
//!     ├─────────────────┤
//!     └──── Held ◄──────┘ released, with a time before which it must not be tried again
//! ```
//! An event is called by its token, the place it had when it was first leased; it keeps it even if its record moves.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use crate::{
    Location,
    entry::{Entry, StreamKey},
};

/// One lease. A later one is greater; none is ever used twice while the log is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseEpoch(pub u64);

/// On the clock that does not jump: since the machine was started.
pub(crate) type Boot = std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Leased(LeaseEpoch),
    /// What ends it is written, but not yet durable.
    Finishing(LeaseEpoch),
    Held {
        until: Boot,
    },
}

#[derive(Debug)]
pub(super) struct Outstanding {
    pub(super) stream: StreamKey,
    pub(super) entry: Entry,
    /// Where its record is being rewritten.
    pub(super) moving_to: Option<Entry>,
    pub(super) state: State,
}

#[derive(Debug)]
struct Lease {
    deadline: Boot,
    /// Of all events that it was given; some may have left it.
    tokens: Vec<Location>,
    /// How many have not.
    events: usize,
}

#[derive(Debug, Default)]
pub(super) struct Leases {
    outstanding: FxHashMap<Location, Outstanding>,
    /// By stream too: an ordered one gives back all that follows.
    by_stream: BTreeSet<(StreamKey, Location)>,
    leases: FxHashMap<LeaseEpoch, Lease>,
    deadlines: BTreeSet<(Boot, LeaseEpoch)>,
    held: BTreeSet<(Boot, Location)>,
    /// Tokens of those whose record is not where the token says.
    elsewhere: FxHashMap<Location, Location>,
    epoch: u64,
}

impl Leases {
    pub(super) fn open(&mut self, deadline: Boot) -> LeaseEpoch {
        self.epoch += 1;
        let epoch = LeaseEpoch(self.epoch);
        self.leases.insert(epoch, Lease { deadline, tokens: Vec::new(), events: 0 });
        self.deadlines.insert((deadline, epoch));
        epoch
    }

    /// Ends a lease that got no events.
    pub(super) fn close(&mut self, epoch: LeaseEpoch) {
        if let Some(lease) = self.leases.remove(&epoch) {
            self.deadlines.remove(&(lease.deadline, epoch));
        }
    }

    pub(super) fn add(&mut self, epoch: LeaseEpoch, token: Location, stream: StreamKey, entry: Entry) {
        if let Some(lease) = self.leases.get_mut(&epoch) {
            lease.tokens.push(token);
            lease.events += 1;
            self.by_stream.insert((stream, token));
            self.outstanding
                .insert(token, Outstanding { stream, entry, moving_to: None, state: State::Leased(epoch) });
        }
    }

    /// An event that was about to be leased waits for its time instead.
    pub(super) fn add_held(&mut self, until: Boot, token: Location, stream: StreamKey, entry: Entry) {
        self.by_stream.insert((stream, token));
        self.held.insert((until, token));
        self.outstanding
            .insert(token, Outstanding { stream, entry, moving_to: None, state: State::Held { until } });
    }

    pub(super) fn get(&self, token: Location) -> Option<&Outstanding> {
        self.outstanding.get(&token)
    }

    pub(super) fn get_mut(&mut self, token: Location) -> Option<&mut Outstanding> {
        self.outstanding.get_mut(&token)
    }

    pub(super) fn accepted_of_stream(&self, stream: StreamKey) -> Option<u64> {
        let tokens = self.by_stream.range((stream, Location::FIRST)..).take_while(|(key, _)| *key == stream);
        tokens.filter_map(|(_, token)| Some(self.get(*token)?.entry.accepted_ms)).min()
    }

    /// Events that are leased, or whose end is being written.
    pub(super) fn leased(&self) -> usize {
        self.leases.values().map(|lease| lease.events).sum()
    }

    /// Events that are in a lease, their end being written or not.
    pub(super) fn taken(&self) -> usize {
        self.outstanding.len() - self.held.len()
    }

    /// Events that wait for their time.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// The token of the event whose record is here.
    pub(super) fn token_at(&self, location: Location) -> Option<Location> {
        let token = self.elsewhere.get(&location).copied().unwrap_or(location);
        self.outstanding.contains_key(&token).then_some(token)
    }

    /// The record of an outstanding event has moved; returns where it was.
    pub(super) fn relocate(&mut self, token: Location, entry: Entry) -> Option<Entry> {
        let outstanding = self.outstanding.get_mut(&token)?;
        let before = std::mem::replace(&mut outstanding.entry, entry);
        outstanding.moving_to = None;
        self.elsewhere.remove(&before.location);
        self.elsewhere.insert(entry.location, token);
        Some(before)
    }

    /// Whether this lease has this event now.
    pub(super) fn holds(&self, epoch: LeaseEpoch, token: Location) -> bool {
        self.held_by(epoch, token).is_some()
    }

    /// The event, if this lease has it now.
    pub(super) fn held_by(&self, epoch: LeaseEpoch, token: Location) -> Option<&Outstanding> {
        self.get(token).filter(|outstanding| outstanding.state == State::Leased(epoch))
    }

    /// Tokens of a stream's outstanding events from `from` on, in order.
    pub(super) fn of_stream(&self, stream: StreamKey, from: Location) -> Vec<Location> {
        let range = self.by_stream.range((stream, from)..);
        range.take_while(|(key, _)| *key == stream).map(|(_, token)| *token).collect()
    }

    /// Puts the deadline off; `false` if the lease is lost.
    pub(super) fn extend(&mut self, epoch: LeaseEpoch, deadline: Boot) -> bool {
        let Some(lease) = self.leases.get_mut(&epoch) else { return false };
        self.deadlines.remove(&(lease.deadline, epoch));
        lease.deadline = deadline;
        self.deadlines.insert((deadline, epoch));
        true
    }

    pub(super) fn set_state(&mut self, token: Location, state: State) {
        let Some(outstanding) = self.outstanding.get_mut(&token) else { return };
        let before = std::mem::replace(&mut outstanding.state, state);
        if let State::Held { until } = before {
            self.held.remove(&(until, token));
        }
        if let (State::Leased(epoch) | State::Finishing(epoch), State::Held { .. }) = (before, state) {
            self.leave(epoch);
        }
        if let State::Held { until } = state {
            self.held.insert((until, token));
        }
    }

    /// Forgets an event: it is done, or ready again.
    pub(super) fn remove(&mut self, token: Location) -> Option<Outstanding> {
        let outstanding = self.outstanding.remove(&token)?;
        self.by_stream.remove(&(outstanding.stream, token));
        self.elsewhere.remove(&outstanding.entry.location);
        match outstanding.state {
            State::Leased(epoch) | State::Finishing(epoch) => self.leave(epoch),
            State::Held { until } => drop(self.held.remove(&(until, token))),
        }
        Some(outstanding)
    }

    /// Takes an event out of its lease; a lease without events ends.
    fn leave(&mut self, epoch: LeaseEpoch) {
        let Some(lease) = self.leases.get_mut(&epoch) else { return };
        lease.events = lease.events.saturating_sub(1);
        if lease.events == 0 {
            self.deadlines.remove(&(lease.deadline, epoch));
            self.leases.remove(&epoch);
        }
    }

    /// Events whose lease has run out. Those that are finishing stay: what ends them is on its way to the disk.
    pub(super) fn expired(&self, now: Boot) -> Vec<Location> {
        let epochs = self.deadlines.iter().take_while(|(deadline, _)| *deadline <= now);
        let leases = epochs.filter_map(|(_, epoch)| Some((epoch, self.leases.get(epoch)?)));
        let tokens = leases.flat_map(|(epoch, lease)| lease.tokens.iter().map(move |token| (*epoch, *token)));
        tokens.filter(|(epoch, token)| self.holds(*epoch, *token)).map(|(_, token)| token).collect()
    }

    /// Events whose time has come.
    pub(super) fn due(&self, now: Boot) -> Vec<Location> {
        self.held.iter().take_while(|(until, _)| *until <= now).map(|(_, token)| *token).collect()
    }

    /// Deadlines that have passed have had their effect.
    pub(super) fn forget_deadlines(&mut self, now: Boot) {
        while self.deadlines.first().is_some_and(|(deadline, _)| *deadline <= now) {
            self.deadlines.pop_first();
        }
    }

    /// Whether a lease has run out, or is gone.
    pub(super) fn is_over(&self, epoch: LeaseEpoch, now: Boot) -> bool {
        self.leases.get(&epoch).is_none_or(|lease| lease.deadline <= now)
    }

    /// When `expired` or `due` will next have something to say.
    pub(super) fn next_deadline(&self) -> Option<Boot> {
        let lease = self.deadlines.first().map(|(deadline, _)| *deadline);
        let held = self.held.first().map(|(until, _)| *until);
        [lease, held].into_iter().flatten().min()
    }
}
