//! The events of one function that are in memory, in the order in which they are tried. Pure; generic, so that its tests need no events.
//!
//! ```text
//!   arrive ─► ready ── begin ─► (running, with its task) ── end ─► gone
//!               ▲                                            │
//!               └────────── due ◄── waiting ◄── wait ────────┘
//! ```
//! What waited comes before what has just arrived: it is older. Asynchronous events promise no order beyond that.

use std::collections::{BTreeMap, VecDeque};

use tokio::time::Instant;

use crate::window::{Bounds, Window};

#[derive(Debug)]
pub(crate) struct Lane<E> {
    ready: VecDeque<E>,
    /// By when each is due; the number tells those of one moment apart.
    waiting: BTreeMap<(Instant, u64), E>,
    waits: u64,
    window: Window,
}

impl<E> Lane<E> {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { ready: VecDeque::new(), waiting: BTreeMap::new(), waits: 0, window: Window::new(bounds) }
    }

    pub(crate) fn arrive(&mut self, event: E) {
        self.ready.push_back(event);
    }

    /// The event is to be tried again as soon as there is a place.
    pub(crate) fn next(&mut self, event: E) {
        self.ready.push_front(event);
    }

    /// The event is to be tried again, not before this time.
    pub(crate) fn wait(&mut self, event: E, until: Instant) {
        self.waiting.insert((until, self.waits), event);
        self.waits += 1;
    }

    /// The next event to be tried, which is running from now on.
    pub(crate) fn begin(&mut self, now: Instant) -> Option<E> {
        let later = self.waiting.split_off(&(now, u64::MAX));
        let due = std::mem::replace(&mut self.waiting, later);
        due.into_values().rev().for_each(|event| self.ready.push_front(event));
        if self.ready.is_empty() || !self.window.begin() { None } else { self.ready.pop_front() }
    }

    /// One that was running is not any more. What becomes of it is not the lane's.
    pub(crate) fn end(&mut self) {
        self.window.end();
    }

    /// One that was begun then was refused for want of room.
    pub(crate) fn refused(&mut self, begun: Instant, now: Instant) {
        self.window.refused(begun, now);
    }

    pub(crate) fn tick(&mut self, machine_has_room: bool) {
        self.window.tick(machine_has_room);
    }

    /// When the first of those that wait is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|((due, _), _)| *due)
    }

    pub(crate) fn running(&self) -> u32 {
        self.window.running()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running() > 0
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Everything that is not running, taken out.
    pub(crate) fn clear(&mut self) -> Vec<E> {
        self.ready.drain(..).chain(std::mem::take(&mut self.waiting).into_values()).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.waiting.is_empty() && !self.is_running()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const BOUNDS: Bounds = Bounds { least: 2, most: 2 };
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn events_are_tried_in_the_order_they_came_as_far_as_there_are_places() {
        let (mut lane, now) = (Lane::new(BOUNDS), Instant::now());
        (1..=3).for_each(|n| lane.arrive(n));
        assert_eq!((lane.begin(now), lane.begin(now), lane.begin(now)), (Some(1), Some(2), None));
        lane.end();
        assert_eq!(lane.begin(now), Some(3));
        assert!(!lane.is_empty());
        lane.end();
        lane.end();
        assert!(lane.is_empty());
    }

    #[test]
    fn what_waits_is_tried_when_it_is_due_and_before_what_has_just_come() {
        let (mut lane, now) = (Lane::new(BOUNDS), Instant::now());
        lane.wait("later", now + SECOND * 2);
        lane.wait("soon", now + SECOND);
        assert_eq!(lane.begin(now), None);
        assert_eq!(lane.due(), Some(now + SECOND));
        lane.arrive("new");
        assert_eq!(lane.begin(now + SECOND), Some("soon"));
        assert_eq!(lane.begin(now + SECOND), Some("new"));
        lane.end();
        assert_eq!(lane.begin(now + SECOND), None);
        assert_eq!(lane.begin(now + SECOND * 2), Some("later"));
        lane.end();
        lane.wait("second", now + SECOND * 4);
        lane.wait("first", now + SECOND * 3);
        assert_eq!(lane.begin(now + SECOND * 9), Some("first"));
    }

    #[test]
    fn what_was_refused_is_the_next_to_be_tried() {
        let (mut lane, now) = (Lane::new(BOUNDS), Instant::now());
        (1..=3).for_each(|n| lane.arrive(n));
        assert_eq!((lane.begin(now), lane.begin(now)), (Some(1), Some(2)));
        lane.end();
        lane.next(2);
        assert!(lane.is_running());
        assert_eq!(lane.begin(now), Some(2));
    }

    #[test]
    fn clearing_takes_all_but_what_runs() {
        let (mut lane, now) = (Lane::new(BOUNDS), Instant::now());
        (1..=4).for_each(|n| lane.arrive(n));
        lane.wait(5, now + SECOND);
        assert_eq!((lane.begin(now), lane.begin(now)), (Some(1), Some(2)));
        assert_eq!(lane.clear(), [3, 4, 5]);
        assert!(!lane.is_empty());
    }
}
