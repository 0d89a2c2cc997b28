//! Whether this machine has processor time to spare.
//!
//! The kernel counts what each processor did (`/proc/stat`, first line: user, nice, system, idle, iowait, irq, softirq, steal …, in ticks).
//! Two looks, at least 100 ms apart, tell how much of the time between them was idle.

use std::{
    fs,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Part of the time that must have been idle.
const ROOM: f64 = 0.10;
const APART: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Load {
    /// `None`: there is always room.
    state: Option<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    looked: Instant,
    ticks: Ticks,
    has_room: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Ticks {
    idle: u64,
    all: u64,
}

impl Load {
    pub(crate) fn new() -> Self {
        let state = State { looked: Instant::now(), ticks: Ticks::now().unwrap_or_default(), has_room: true };
        Self { state: Some(Mutex::new(state)) }
    }

    /// What a test does not want to hang on.
    #[cfg(test)]
    pub(crate) fn unwatched() -> Self {
        Self { state: None }
    }

    /// Where the kernel does not tell, there is always room.
    pub(crate) fn has_room(&self) -> bool {
        let Some(state) = &self.state else { return true };
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= APART
            && let Some(ticks) = Ticks::now()
            && ticks.all > state.ticks.all
        {
            state.has_room = ticks.idle_since(state.ticks) >= ROOM;
            state.looked = Instant::now();
            state.ticks = ticks;
        }
        state.has_room
    }
}

impl Ticks {
    fn now() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/stat").ok()?)
    }

    fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().next()?.strip_prefix("cpu ")?;
        // Time of guests, the ninth and tenth, is in the first two already.
        let ticks: Vec<u64> = line.split_whitespace().take(8).map_while(|ticks| ticks.parse().ok()).collect();
        let idle = ticks.get(3)? + ticks.get(4)?;
        Some(Self { idle, all: ticks.iter().sum() })
    }

    /// 0 to 1.
    fn idle_since(self, before: Self) -> f64 {
        let (idle, all) = (self.idle.saturating_sub(before.idle), self.all.saturating_sub(before.all));
        if all == 0 { 1.0 } else { idle as f64 / all as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_and_waiting_for_disks_is_room() {
        let ticks = Ticks::parse("cpu  10 0 10 70 5 1 2 2 100 0\ncpu0 1 1\n").unwrap();
        assert_eq!(ticks, Ticks { idle: 75, all: 100 });
        let later = Ticks { idle: 80, all: 200 };
        assert!(later.idle_since(ticks) < ROOM);
        assert!((ticks.idle_since(ticks) - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn what_is_no_statistic_is_not_believed() {
        for text in ["", "intr 5", "cpu  1 2", "cpu  a b c d e"] {
            assert_eq!(Ticks::parse(text), None);
        }
        assert!(Ticks::now().is_some_and(|ticks| ticks.all > 0));
    }
}
