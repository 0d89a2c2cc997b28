//! How much the fleet may hold in memory: of all functions, and of each.
//!
//! ```text
//!   events of a function   0 ────────── ¾ ─────── 1   of its share
//!   polled for                 yes      │   │  no: it is in the exclusion set of every lease
//!                                again ◄┘   └► until it is down to three quarters
//! ```
//! A function that has its share full is passed over, and nobody waits for it. When the total is full, nothing is polled for until
//! something ends. Shares are looked at before a lease, so both may be exceeded by what one lease brings.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use queue::FunctionNumber;
use tokio::sync::watch;

/// How many events, and how many bytes of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amount {
    pub events: usize,
    /// Of payloads and attributes.
    pub bytes: usize,
}

/// Cheap to clone; all clones are one budget.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    total: Amount,
    share: Amount,
    holdings: Mutex<Holdings>,
    /// Changes when somebody who was full is not any more.
    freed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Holdings {
    total: Amount,
    functions: HashMap<FunctionNumber, Amount>,
    full: HashSet<FunctionNumber>,
}

/// What may be leased now.
#[derive(Debug)]
pub(crate) struct Room {
    /// Nothing at all if no event has room.
    pub(crate) left: Amount,
    pub(crate) exclude: HashSet<FunctionNumber>,
    /// Hears when this is out of date.
    pub(crate) freed: watch::Receiver<u64>,
}

/// A part of the budget, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Holding {
    shared: Arc<Shared>,
    function: FunctionNumber,
    bytes: usize,
}

// === impl Amount ===

impl Amount {
    fn add(&mut self, bytes: usize) {
        self.events += 1;
        self.bytes += bytes;
    }

    fn remove(&mut self, bytes: usize) {
        self.events -= 1;
        self.bytes -= bytes;
    }

    fn reaches(self, limit: Self) -> bool {
        self.events >= limit.events || self.bytes >= limit.bytes
    }

    fn three_quarters(self) -> Self {
        Self { events: self.events - self.events / 4, bytes: self.bytes - self.bytes / 4 }
    }
}

// === impl Budget ===

impl Budget {
    pub(crate) fn new(total: Amount, share: Amount) -> Self {
        let shared = Shared { total, share, holdings: Mutex::default(), freed: watch::Sender::new(0) };
        Self { shared: Arc::new(shared) }
    }

    pub(crate) fn room(&self) -> Room {
        // First, so that what is freed from here on is heard.
        let freed = self.shared.freed.subscribe();
        let holdings = self.shared.holdings();
        let (total, limit) = (holdings.total, self.shared.total);
        let left = if total.reaches(limit) {
            Amount::default()
        } else {
            Amount { events: limit.events - total.events, bytes: limit.bytes - total.bytes }
        };
        Room { left, exclude: holdings.full.clone(), freed }
    }

    /// An event of so many bytes is in memory from now on.
    pub(crate) fn hold(&self, function: FunctionNumber, bytes: usize) -> Holding {
        let mut holdings = self.shared.holdings();
        holdings.total.add(bytes);
        let held = holdings.functions.entry(function).or_default();
        held.add(bytes);
        if held.reaches(self.shared.share) {
            holdings.full.insert(function);
        }
        Holding { shared: self.shared.clone(), function, bytes }
    }

    /// What is held now.
    pub(crate) fn held(&self) -> Amount {
        self.shared.holdings().total
    }

    /// Functions that have their share full.
    pub(crate) fn full(&self) -> HashSet<FunctionNumber> {
        self.shared.holdings().full.clone()
    }

    /// Share of one function.
    pub(crate) fn share(&self) -> Amount {
        self.shared.share
    }
}

impl Shared {
    fn holdings(&self) -> MutexGuard<'_, Holdings> {
        self.holdings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let mut holdings = self.shared.holdings();
        let was_full = holdings.total.reaches(self.shared.total);
        holdings.total.remove(self.bytes);
        let mut freed = was_full && !holdings.total.reaches(self.shared.total);
        if let Some(held) = holdings.functions.get_mut(&self.function) {
            held.remove(self.bytes);
            let held = *held;
            if held.events == 0 {
                holdings.functions.remove(&self.function);
            }
            let again = !held.reaches(self.shared.share.three_quarters());
            freed |= again && holdings.full.remove(&self.function);
        }
        drop(holdings);
        if freed {
            self.shared.freed.send_modify(|generation| *generation += 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const F: FunctionNumber = FunctionNumber(1);
    const G: FunctionNumber = FunctionNumber(2);

    fn budget() -> Budget {
        Budget::new(Amount { events: 12, bytes: 10_000 }, Amount { events: 8, bytes: 1_000 })
    }

    #[test]
    fn a_function_with_its_share_full_is_passed_over_until_a_quarter_is_free() {
        let budget = budget();
        let mut held: Vec<_> = (0..7).map(|_| budget.hold(F, 1)).collect();
        held.push(budget.hold(G, 1));
        assert!(budget.room().exclude.is_empty());
        held.insert(0, budget.hold(F, 1));
        let room = budget.room();
        assert_eq!(room.exclude, HashSet::from([F]));
        assert_eq!(room.left.events, 3);
        held.remove(0);
        held.remove(0);
        assert!(
            budget.full().contains(&F) && !room.freed.has_changed().unwrap(),
            "6 of 8 are three quarters"
        );
        held.remove(0);
        assert!(budget.full().is_empty() && room.freed.has_changed().unwrap());
        assert!(budget.room().exclude.is_empty());
    }

    #[test]
    fn bytes_fill_a_share_as_events_do() {
        let budget = budget();
        let large = budget.hold(F, 1_000);
        assert!(budget.full().contains(&F));
        drop(large);
        assert!(budget.full().is_empty());
        assert_eq!(budget.held(), Amount::default());
    }

    #[test]
    fn a_full_total_leaves_no_room_for_anybody_and_says_when_there_is_some() {
        let budget = budget();
        let mut held: Vec<_> = (0..12).map(|n| budget.hold(FunctionNumber(n), 1)).collect();
        let room = budget.room();
        assert_eq!(room.left, Amount::default());
        assert!(!room.freed.has_changed().unwrap());
        held.pop();
        assert!(room.freed.has_changed().unwrap());
        assert_eq!(budget.room().left.events, 1);
    }
}
