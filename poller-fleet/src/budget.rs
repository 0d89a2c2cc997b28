//! How much the fleet may hold in memory: of all functions, and of each.
//!
//! ```text
//!   events of a function   0 ────────── ¾ ─────── 1   of its share: what is configured, but an eighth of what is free at most
//!   polled for                 yes      │   │  no: it is in the exclusion set of every lease
//!                                again ◄┘   └► until it is down to three quarters
//! ```
//! A function that has its share full is passed over, and nobody waits for it. Shares shrink as memory fills (the dynamic thresholds of
//! Choudhury and Hahne, 1998), and so does what one lease brings: each function that comes and stays takes an eighth of what is free, so
//! that twenty of them leave a tenth of it for others. Shares are looked at before a lease, so both may be exceeded by what one lease of each
//! poller brings; then nothing is polled for until there is room again.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use queue::FunctionNumber;
use tokio::sync::watch;

/// A function may hold one in so many of what is free.
const FREE_PART: usize = 8;

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
    /// By one lease. Nothing at all if no event has room.
    pub(crate) most: Amount,
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

    fn part(self, of: usize) -> Self {
        Self { events: self.events / of, bytes: self.bytes / of }
    }

    fn max(self, other: Self) -> Self {
        Self { events: self.events.max(other.events), bytes: self.bytes.max(other.bytes) }
    }

    fn min(self, other: Self) -> Self {
        Self { events: self.events.min(other.events), bytes: self.bytes.min(other.bytes) }
    }

    /// Nothing at all if either is used up.
    fn without(self, used: Self) -> Self {
        if used.reaches(self) {
            return Self::default();
        }
        Self { events: self.events - used.events, bytes: self.bytes - used.bytes }
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
        let mut holdings = self.shared.holdings();
        let (left, share) = (self.shared.left(&holdings), self.shared.share(&holdings));
        let most = if left.events > 0 { share.max(Amount { events: 1, bytes: 1 }) } else { left };
        let Holdings { functions, full, .. } = &mut *holdings;
        // What others hold has changed since, and with it everybody's share.
        let (enough, before) = (share.three_quarters(), full.len());
        full.retain(|function| functions.get(function).is_some_and(|held| held.reaches(enough)));
        let again = full.len() < before;
        full.extend(functions.iter().filter(|(_, held)| held.reaches(share)).map(|(function, _)| *function));
        let exclude = full.clone();
        drop(holdings);
        if again {
            // Whoever waits with the old set in hand.
            self.shared.freed.send_modify(|generation| *generation += 1);
        }
        Room { most, exclude, freed }
    }

    /// An event of so many bytes is in memory from now on.
    pub(crate) fn hold(&self, function: FunctionNumber, bytes: usize) -> Holding {
        let mut holdings = self.shared.holdings();
        holdings.total.add(bytes);
        holdings.functions.entry(function).or_default().add(bytes);
        Holding { shared: self.shared.clone(), function, bytes }
    }

    /// What is held now.
    pub(crate) fn held(&self) -> Amount {
        self.shared.holdings().total
    }

    /// Functions that have their share full.
    pub(crate) fn full(&self) -> HashSet<FunctionNumber> {
        self.room().exclude
    }

    /// Whether a function holds half its share, `waiting` events of which wait for their time: more of those would keep others out.
    pub(crate) fn is_crowded(&self, function: FunctionNumber, waiting: usize) -> bool {
        let holdings = self.shared.holdings();
        let half = self.shared.share(&holdings).part(2);
        let bytes = holdings.functions.get(&function).map_or(0, |held| held.bytes);
        waiting > 0 && Amount { events: waiting, bytes }.reaches(half)
    }
}

impl Shared {
    fn holdings(&self) -> MutexGuard<'_, Holdings> {
        self.holdings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn left(&self, holdings: &Holdings) -> Amount {
        self.total.without(holdings.total)
    }

    /// What one function may hold now.
    fn share(&self, holdings: &Holdings) -> Amount {
        self.share.min(self.left(holdings).part(FREE_PART))
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
            let again = !held.reaches(self.shared.share(&holdings).three_quarters());
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
        Budget::new(Amount { events: 120, bytes: 100_000 }, Amount { events: 8, bytes: 1_000 })
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
        held.remove(0);
        held.remove(0);
        assert!(
            budget.full().contains(&F) && !room.freed.has_changed().unwrap(),
            "6 of 8 are three quarters"
        );
        held.remove(0);
        assert!(room.freed.has_changed().unwrap() && budget.full().is_empty());
        assert!(budget.room().exclude.is_empty());
    }

    #[test]
    fn however_many_functions_fill_their_shares_there_is_room_for_another() {
        let budget =
            Budget::new(Amount { events: 1_000, bytes: 1 << 20 }, Amount { events: 100, bytes: 1 << 20 });
        let mut held: HashMap<FunctionNumber, Vec<Holding>> = HashMap::new();
        for hogs in 1..=20 {
            let hog = FunctionNumber(hogs);
            while !budget.room().exclude.contains(&hog) {
                held.entry(hog).or_default().push(budget.hold(hog, 1));
            }
            let room = budget.room();
            assert!(room.most.events >= 1 && !room.exclude.contains(&FunctionNumber(99)), "after {hogs}");
        }
        assert!(budget.held().events < 950);
        // The others end, and nothing of the first: it is let in again by the next look, and whoever waits is told.
        let waits = budget.room();
        held.retain(|hog, _| hog.0 == 20);
        assert!(waits.exclude.contains(&FunctionNumber(20)));
        assert!(budget.room().exclude.is_empty() && waits.freed.has_changed().unwrap());
    }

    #[test]
    fn what_waits_crowds_a_function_by_number_and_by_bytes() {
        let budget = budget();
        let small = budget.hold(F, 1);
        assert!(!budget.is_crowded(F, 0) && !budget.is_crowded(F, 3) && budget.is_crowded(F, 4));
        let large = budget.hold(F, 499);
        assert!(budget.is_crowded(F, 1) && !budget.is_crowded(F, 0) && !budget.is_crowded(G, 1));
        drop((small, large));
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
        let mut held: Vec<_> = (0..120).map(|n| budget.hold(FunctionNumber(n), 1)).collect();
        let room = budget.room();
        assert_eq!(room.most, Amount::default());
        assert!(!room.freed.has_changed().unwrap());
        held.pop();
        assert!(room.freed.has_changed().unwrap());
        assert_eq!(budget.room().most.events, 1);
    }
}
