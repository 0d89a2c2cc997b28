//! A stream: the events of one function in one partition (or of all functions in an ordered one), as far as they wait.
//!
//! ```text
//!   oldest ◄──────────────────────────────────────────────────────────────────────► newest
//!   returned (released, or of a lost lease)    window (≤ 64)    beyond: only counted; found again
//!   └──────────── in memory ─────────────────────────────────┘  from `next` on in the segments' indexes
//! ```
//! So a stream costs memory for what was handed out and for a short window, never for its backlog. A lease that asks for more than
//! a window has as much read at once as it is about to take (≤ 1024).

use std::collections::{BTreeMap, VecDeque};

use crate::{
    Location,
    entry::{Entry, StreamKey},
    partition::Order,
};

/// Most entries that a stream holds ready for leases to come. Large enough that reading an index page serves many of them.
pub(crate) const WINDOW: usize = 64;

#[derive(Debug)]
pub(crate) struct Stream {
    pub(super) key: StreamKey,
    pub(super) order: Order,
    /// By place in the order.
    returned: BTreeMap<Location, Entry>,
    window: VecDeque<Entry>,
    beyond: u64,
    next: Location,
    /// Events that wait for their time, or for their copy. An ordered stream stands still meanwhile.
    held: u32,
    /// Events that are not done: waiting, held or leased; and bytes of their records.
    pub(super) live: u64,
    pub(super) live_bytes: u64,
}

/// The next event of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    /// Nothing can be leased.
    None,
    /// This one, whose lease will call it by this place.
    Ready { place: Location, entry: Entry },
    /// One that is somewhere from here on.
    Beyond(Location),
}

impl Head {
    /// What streams of a partition are ordered by.
    pub(super) fn place(self) -> Option<Location> {
        match self {
            Self::None => None,
            Self::Ready { place, .. } | Self::Beyond(place) => Some(place),
        }
    }
}

impl Stream {
    pub(super) fn new(key: StreamKey, order: Order) -> Self {
        Self {
            key,
            order,
            returned: BTreeMap::new(),
            window: VecDeque::new(),
            beyond: 0,
            next: Location::FIRST,
            held: 0,
            live: 0,
            live_bytes: 0,
        }
    }

    pub(super) fn head(&self) -> Head {
        if self.order == Order::Strict && self.held > 0 {
            return Head::None;
        }
        match (self.next_returned(), self.window.front()) {
            (Some(place), _) => {
                self.returned.get(&place).map_or(Head::None, |entry| Head::Ready { place, entry: *entry })
            }
            (None, Some(entry)) => Head::Ready { place: entry.location, entry: *entry },
            (None, None) if self.beyond > 0 => Head::Beyond(self.next),
            (None, None) => Head::None,
        }
    }

    /// The place of the first that came back, if it is before all that did not. After a crash in the middle of moving events some
    /// that were moved may be behind some that were not.
    fn next_returned(&self) -> Option<Location> {
        let beyond = (self.beyond > 0).then_some(self.next);
        let queued = self.window.front().map(|entry| entry.location).or(beyond);
        let returned = self.returned.keys().next().copied();
        returned.filter(|place| queued.is_none_or(|queued| *place < queued))
    }

    /// Takes out the event at the head, which is at this place.
    pub(super) fn take(&mut self, place: Location) {
        if self.returned.remove(&place).is_none() {
            self.window.pop_front();
        }
    }

    /// Whether events wait that never were leased, so that a new one is behind them.
    pub(super) fn is_waiting(&self) -> bool {
        !self.window.is_empty()
    }

    /// A new event, behind all others.
    pub(super) fn push(&mut self, entry: Entry) {
        self.count(entry);
        self.place(entry);
    }

    pub(super) fn count(&mut self, entry: Entry) {
        self.live += 1;
        self.live_bytes += u64::from(entry.length);
    }

    /// Puts an event that is counted behind all others.
    pub(super) fn place(&mut self, entry: Entry) {
        if self.beyond == 0 && self.window.len() < WINDOW {
            self.window.push_back(entry);
            self.next = entry.location.next();
        } else {
            self.beyond += 1;
        }
    }

    /// Events that are known to be there, but not yet which.
    pub(super) fn push_beyond(&mut self, events: u64, bytes: u64) {
        self.live += events;
        self.live_bytes += bytes;
        self.beyond += events;
    }

    /// An event is to be leased again, or was moved and keeps its place in the order.
    pub(super) fn put_back(&mut self, place: Location, entry: Entry) {
        self.returned.insert(place, entry);
    }

    /// Whether an event of this place waits for being leased again.
    pub(super) fn is_returned(&self, place: Location) -> bool {
        self.returned.contains_key(&place)
    }

    pub(super) fn hold(&mut self) {
        self.held += 1;
    }

    pub(super) fn unhold(&mut self) {
        self.held = self.held.saturating_sub(1);
    }

    /// From where on the window should be filled, if it has less than so many events and more are known to be there.
    pub(super) fn short_of(&self, events: usize) -> Option<Location> {
        (self.beyond > 0 && self.window.len() < events.min(WINDOW)).then_some(self.next)
    }

    /// Takes what an index says lies from `from` on: the events that are not done, and where to go on. Ignored if the stream
    /// has moved on meanwhile.
    pub(super) fn loaded(&mut self, from: Location, entries: impl Iterator<Item = Entry>, next: Location) {
        if self.next != from || self.beyond == 0 {
            return;
        }
        for entry in entries {
            self.window.push_back(entry);
            self.beyond = self.beyond.saturating_sub(1);
        }
        self.next = next;
    }

    /// Nothing lies beyond, whatever was counted.
    pub(super) fn forget_beyond(&mut self) -> u64 {
        self.live = self.live.saturating_sub(self.beyond);
        std::mem::take(&mut self.beyond)
    }

    /// An event is done. It is in none of the queues any more.
    pub(super) fn done(&mut self, length: u32) {
        self.live = self.live.saturating_sub(1);
        self.live_bytes = self.live_bytes.saturating_sub(u64::from(length));
    }

    /// Takes out the waiting event of this place in the order, whose record is here; `false` if it was only counted.
    pub(super) fn take_out(&mut self, place: Location, location: Location) -> bool {
        if self.returned.remove(&place).is_some() {
            return true;
        }
        if let Some(at) = self.window.iter().position(|entry| entry.location == location) {
            self.window.remove(at);
            return true;
        }
        self.beyond = self.beyond.saturating_sub(1);
        false
    }

    /// The record of a live event has another length.
    pub(super) fn resized(&mut self, before: u32, after: u32) {
        self.live_bytes = self.live_bytes.saturating_sub(u64::from(before)) + u64::from(after);
    }

    /// Empties the stream; it goes on at `next`.
    pub(super) fn clear(&mut self, next: Location) {
        *self = Self { next, ..Self::new(self.key, self.order) };
    }

    /// When the oldest event was accepted, as far as it is known without reading an index.
    pub(super) fn oldest_ms(&self) -> Option<u64> {
        self.returned.values().chain(self.window.front()).map(|entry| entry.accepted_ms).min()
    }
}
