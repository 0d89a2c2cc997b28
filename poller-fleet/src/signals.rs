//! What pollers see of a partition, for those who decide how many of them there are and where a function's events go.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use queue::{FunctionNumber, Leased};

#[derive(Debug, Default)]
pub(crate) struct Signals {
    seen: Mutex<Seen>,
}

/// Since the last look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Greatest age of an event when it was leased for its first attempt.
    pub(crate) age: Duration,
    pub(crate) functions: HashMap<FunctionNumber, Traffic>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) events: u64,
    pub(crate) bytes: u64,
}

impl Signals {
    pub(crate) fn leased(&self, events: &[Leased], now: Duration) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for event in events {
            if event.attempts == 0 {
                seen.age = seen.age.max(now.saturating_sub(event.accepted));
            }
            let traffic = seen.functions.entry(event.function).or_default();
            traffic.events += 1;
            traffic.bytes += event.payload.len() as u64;
        }
    }

    pub(crate) fn take(&self) -> Seen {
        std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
