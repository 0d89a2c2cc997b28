//! What the threads of a test have that others do not: randomness from a seed, and pauses in which another task goes on.
//!
//! ```text
//!   thread of a test ──► the shipped queue ──► salts, ids ─────────► `fill`: from the seed, if the thread has one
//!                                         └──► disk, clocks, keys ─► `pause`: whoever simulates may let another thread run
//! ```
//! Threads that were told nothing have the system's randomness, and do not pause.

use std::{
    cell::RefCell,
    sync::{Arc, Mutex, PoisonError},
};

/// SplitMix64: the same seed, the same numbers.
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub(crate) fn shared(self) -> SharedRandom {
        Arc::new(Mutex::new(self))
    }
}

/// Shared by all threads of one test.
pub(crate) type SharedRandom = Arc<Mutex<Random>>;

thread_local! {
    static RANDOM: RefCell<Option<SharedRandom>> = const { RefCell::new(None) };
    static PAUSE: RefCell<Option<Arc<dyn Fn()>>> = const { RefCell::new(None) };
}

/// From now on this thread's salts and ids come from here; `None`: from the system.
pub(crate) fn seed(random: Option<SharedRandom>) {
    RANDOM.set(random);
}

/// What this thread does wherever another one might run.
pub(crate) fn on_pause(pause: Option<Arc<dyn Fn()>>) {
    PAUSE.set(pause);
}

/// Fills with randomness of the thread's seed; `false` if it has none.
pub(crate) fn fill(bytes: &mut [u8]) -> bool {
    RANDOM.with_borrow(|random| {
        let Some(random) = random else { return false };
        let mut random = random.lock().unwrap_or_else(PoisonError::into_inner);
        bytes.iter_mut().for_each(|byte| *byte = random.next() as u8);
        true
    })
}

pub(crate) fn pause() {
    if let Some(pause) = PAUSE.with_borrow(Option::clone) {
        pause();
    }
}
