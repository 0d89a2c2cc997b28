//! How many events of one function are tried at once. Pure.
//!
//! ```text
//!   tick, every 100 ms   full, and the machine has room     grow: twice as many, or an eighth more once it was ever cut
//!                        full, and the machine has none     shrink by a tenth, down to what every function may have
//!                        not full                           as it is; forgotten ten seconds after the last event
//!   refused (throttled, no environment)                     what was not; an eighth less, once for all that were begun before
//! ```
//! A function that waits for others gets as many environments as it can use; one that computes gets as many as keep the machine
//! busy and no more, since each costs a cold start and takes time from all others.

use std::time::Duration;

use tokio::time::Instant;

/// How often a window is looked at.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// What a window may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// What a function always has.
    pub(crate) least: u32,
    pub(crate) most: u32,
}

#[derive(Debug)]
pub(crate) struct Window {
    bounds: Bounds,
    limit: u32,
    running: u32,
    /// All places were taken since the last tick.
    was_full: bool,
    /// When it was last cut by more than what was refused.
    cut: Option<Instant>,
    /// It doubles no more.
    careful: bool,
}

impl Window {
    pub(crate) fn new(bounds: Bounds) -> Self {
        let limit = bounds.least.min(bounds.most).max(1);
        Self { bounds, limit, running: 0, was_full: false, cut: None, careful: false }
    }

    #[cfg(test)]
    fn limit(&self) -> u32 {
        self.limit
    }

    pub(crate) fn running(&self) -> u32 {
        self.running
    }

    /// Takes a place if there is one.
    pub(crate) fn begin(&mut self) -> bool {
        let free = self.running < self.limit;
        if free {
            self.running += 1;
        }
        self.was_full |= self.running >= self.limit;
        free
    }

    /// A place is free again.
    pub(crate) fn end(&mut self) {
        self.running -= 1;
    }

    /// What was begun at this time, and runs no more, was refused.
    pub(crate) fn refused(&mut self, begun: Instant, now: Instant) {
        // Those that run were let in, or will be heard of here.
        self.limit = self.limit.min(self.running).max(1);
        if self.cut.is_some_and(|cut| begun < cut) {
            return;
        }
        // Somebody else may be waiting for some of it.
        self.limit = (self.limit - self.limit / 8).max(1);
        self.cut = Some(now);
        self.careful = true;
    }

    /// A tick has passed.
    pub(crate) fn tick(&mut self, machine_has_room: bool) {
        let was_full = std::mem::replace(&mut self.was_full, self.running >= self.limit);
        if !was_full {
            return;
        }
        if machine_has_room {
            let more = if self.careful { (self.limit / 8).max(1) } else { self.limit };
            self.limit = self.limit.saturating_add(more).min(self.bounds.most.max(1));
        } else {
            self.careful = true;
            let less = self.limit - (self.limit / 10).max(1).min(self.limit - 1);
            self.limit = less.max(self.bounds.least.min(self.limit));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { least: 4, most: 1000 };

    fn fill(window: &mut Window) {
        while window.begin() {}
    }

    #[test]
    fn a_function_that_waits_for_others_gets_all_places_in_a_second() {
        let mut window = Window::new(BOUNDS);
        for _ in 0..10 {
            fill(&mut window);
            window.tick(true);
        }
        assert_eq!(window.limit(), 1000);
    }

    #[test]
    fn a_window_that_is_not_full_stays_as_it_is() {
        let mut window = Window::new(BOUNDS);
        assert!(window.begin());
        window.tick(true);
        window.tick(false);
        assert_eq!(window.limit(), 4);
    }

    #[test]
    fn without_room_on_the_machine_it_shrinks_to_what_every_function_has() {
        let mut window = Window::new(BOUNDS);
        for _ in 0..5 {
            fill(&mut window);
            window.tick(true);
        }
        assert_eq!(window.limit(), 128);
        for _ in 0..100 {
            fill(&mut window);
            window.tick(false);
        }
        assert_eq!(window.limit(), 4);
        fill(&mut window);
        window.tick(true);
        assert_eq!(window.limit(), 5, "it has learnt");
    }

    #[test]
    fn refusals_leave_what_was_let_in_and_an_eighth_less_once() {
        let mut window = Window::new(Bounds { least: 64, most: 64 });
        fill(&mut window);
        let start = Instant::now();
        let later = start + Duration::from_millis(5);
        // 32 are let in.
        for _ in 0..32 {
            window.end();
            window.refused(start, later);
        }
        assert_eq!(window.limit(), 32);
        window.end();
        window.refused(later, later + TICK);
        assert_eq!((window.limit(), window.running()), (28, 31));
        for n in 2..40 {
            if window.running() > 0 {
                window.end();
            }
            window.refused(later + TICK * n, later + TICK * n);
        }
        assert_eq!(window.limit(), 1, "one is tried always");
        window.begin();
        window.tick(true);
        assert_eq!(window.limit(), 2);
    }
}
