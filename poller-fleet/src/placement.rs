//! Which functions get a partition of their own, and when they come back to the shared ones. Pure.
//!
//! ```text
//!            backs up: its share of memory is full for two seconds            ┐
//!   shared ─ floods: over half of what its partition gives, and over 200/s  ──┼──► own
//!            large events: over 256 KiB each, and over 4 MiB/s                ┘     │
//!      ▲                                                                            │
//!      └── for a minute: nothing waits there, no share full, less than 40/s ────────┘
//! ```
//! Looked at twice a second. Moving is one record in the log and costs nobody anything; events that are queued already stay where
//! they are, so a function that is moved back and forth would only be slow to calm down: hence the minute.

use std::collections::HashMap;

use queue::FunctionNumber;

/// Looks, of which there are two a second.
const TROUBLED: u32 = 4;
const CALM: u32 = 120;
const FLOOD_EVENTS: u64 = 100;
const LARGE_EVENT: u64 = 256 * 1024;
const LARGE_BYTES: u64 = 2 * 1024 * 1024;
const CALM_EVENTS: u64 = 20;
/// Most functions with partitions of their own.
const MOST: usize = 500;

/// What was seen of a function since the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Look {
    /// Leased.
    pub(crate) events: u64,
    pub(crate) bytes: u64,
    /// All that was leased from the partitions it was seen in.
    pub(crate) neighbourhood: u64,
    pub(crate) share_full: bool,
    /// Events in its own partition, if it has one.
    pub(crate) own_depth: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Move {
    Away(Reason),
    Back,
}

/// Why a function is moved away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    BacksUp,
    Floods,
    LargeEvents,
}

#[derive(Debug, Default)]
pub(crate) struct Placement {
    functions: HashMap<FunctionNumber, State>,
}

#[derive(Debug, Default)]
struct State {
    own: bool,
    troubled: u32,
    calm: u32,
}

impl Look {
    fn trouble(&self) -> Option<Reason> {
        if self.share_full {
            Some(Reason::BacksUp)
        } else if self.events > FLOOD_EVENTS
            && self.events * 2 > self.neighbourhood
            && self.events < self.neighbourhood
        {
            Some(Reason::Floods)
        } else if self.bytes > LARGE_BYTES && self.bytes / self.events.max(1) > LARGE_EVENT {
            Some(Reason::LargeEvents)
        } else {
            None
        }
    }

    fn is_calm(&self) -> bool {
        !self.share_full && self.own_depth == 0 && self.events < CALM_EVENTS
    }
}

impl Placement {
    /// This function had a partition of its own when the fleet was started.
    pub(crate) fn has_own(&mut self, function: FunctionNumber) {
        self.functions.entry(function).or_default().own = true;
    }

    /// It could not be moved away: it is looked at as if it had never been.
    pub(crate) fn stays(&mut self, function: FunctionNumber) {
        self.functions.remove(&function);
    }

    /// Functions with partitions of their own.
    pub(crate) fn own(&self) -> impl Iterator<Item = FunctionNumber> {
        self.functions.iter().filter(|(_, state)| state.own).map(|(function, _)| *function)
    }

    /// What a look says is to be done. Every function that was seen, or has its own, is looked at.
    pub(crate) fn look(&mut self, function: FunctionNumber, look: &Look) -> Option<Move> {
        let room = self.own().count() < MOST;
        let state = self.functions.entry(function).or_default();
        if state.own {
            state.calm = if look.is_calm() { state.calm + 1 } else { 0 };
            if state.calm < CALM {
                return None;
            }
            self.functions.remove(&function);
            return Some(Move::Back);
        }
        let Some(reason) = look.trouble() else {
            self.functions.remove(&function);
            return None;
        };
        state.troubled += 1;
        if state.troubled < TROUBLED || !room {
            return None;
        }
        *state = State { own: true, ..State::default() };
        Some(Move::Away(reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const F: FunctionNumber = FunctionNumber(1);

    fn full() -> Look {
        Look { share_full: true, ..Look::default() }
    }

    #[test]
    fn a_function_that_backs_up_is_moved_away_after_two_seconds_and_back_after_a_calm_minute() {
        let mut placement = Placement::default();
        let looks: Vec<_> = (0..4).map(|_| placement.look(F, &full())).collect();
        assert_eq!(looks, [None, None, None, Some(Move::Away(Reason::BacksUp))]);
        assert_eq!(placement.own().collect::<Vec<_>>(), [F]);
        for _ in 0..119 {
            assert_eq!(placement.look(F, &Look::default()), None);
        }
        assert_eq!(
            placement.look(F, &Look { own_depth: 1, ..Look::default() }),
            None,
            "not calm: from the start"
        );
        for _ in 0..119 {
            assert_eq!(placement.look(F, &Look::default()), None);
        }
        assert_eq!(placement.look(F, &Look::default()), Some(Move::Back));
        assert_eq!(placement.own().count(), 0);
    }

    #[test]
    fn a_moment_of_trouble_moves_nobody() {
        let mut placement = Placement::default();
        for _ in 0..100 {
            assert_eq!(placement.look(F, &full()), None);
            assert_eq!(placement.look(F, &full()), None);
            assert_eq!(placement.look(F, &Look::default()), None);
        }
    }

    #[test]
    fn who_is_alone_floods_nobody_and_who_sends_large_events_is_moved_for_that() {
        let alone = Look { events: 5_000, neighbourhood: 5_000, ..Look::default() };
        assert_eq!(alone.trouble(), None);
        let beside = Look { events: 5_000, neighbourhood: 5_100, ..Look::default() };
        assert_eq!(beside.trouble(), Some(Reason::Floods));
        let one_of_three = Look { events: 5_000, neighbourhood: 15_000, ..Look::default() };
        assert_eq!(one_of_three.trouble(), None);
        let large = Look { events: 5, bytes: 5 * 1024 * 1024, ..Look::default() };
        assert_eq!(large.trouble(), Some(Reason::LargeEvents));
        let one_large = Look { events: 1, bytes: 1024 * 1024, ..Look::default() };
        assert_eq!(one_large.trouble(), None);
    }
}
