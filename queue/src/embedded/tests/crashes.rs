//! Random histories against the model, and machines that stop at every single call of the storage.
//!
//! ```text
//!   one number:   ── up to 300 steps, with faults of all kinds ──┬── 40 more, to the end            counts the storage calls
//!                                                                ├──╳ stopped at the first of them ── 30 more, to the end
//!                                                                ├────╳ at the second ── …
//!                                                                └─ ·· ───────────╳ at the last
//! ```
//! Each branch begins with the log's being opened, so recovery is stopped at every call too, and what follows a stop is another
//! recovery. A sequence is one history with one place where it is stopped, or none.
//!
//! `QUEUE_SEQUENCES` says how many. One number with all its branches, which is printed when it goes wrong, is done again by
//! `QUEUE_SEED=n QUEUE_SEQUENCES=1`; with `QUEUE_TRACE=1` it tells what is done.

use super::{history::History, rig::for_numbers};
use crate::seal;

/// Most steps before the histories part.
const STEM: u64 = 300;
const BRANCH: u64 = 40;
const AFTERWARDS: u64 = 30;
/// Most calls of one branch at which it is stopped; if there are more, every second one, or third.
const STOPS: u64 = 400;

/// Sequences, storage calls at which one was stopped, seals.
fn run(seed: u64) -> [u64; 3] {
    let mut stem = History::begin(seed);
    for _ in 0..seed % STEM {
        stem.step();
    }
    let whole = branch(&stem, None);
    let calls = whole.rig.disk.calls();
    whole.end();
    let every = calls.div_ceil(STOPS).max(1);
    let mut stops = 0;
    for call in (0..calls).step_by(every as usize) {
        branch(&stem, Some(call)).end();
        stops += 1;
    }
    stem.end();
    [stops + 2, stops, seal::audit::count() as u64]
}

/// A history goes on from here on a machine of its own, which stops at this call of those that follow.
fn branch(stem: &History, stop: Option<u64>) -> History {
    let mut history = stem.fork();
    if let Some(call) = stop {
        history.rig.disk.stop_at(call);
    }
    history.restart(false);
    let reached = |history: &History| stop.is_some_and(|call| history.rig.disk.calls() > call);
    for _ in 0..BRANCH {
        if reached(&history) {
            break;
        }
        history.step();
    }
    if let Some(call) = stop {
        assert!(reached(&history), "call {call} was made once, and not this time");
        // What follows is not the same at every stop.
        history.random.0 ^= call << 32;
        (0..AFTERWARDS).for_each(|_| history.step());
    }
    history
}

#[test]
fn every_history_keeps_its_promises() {
    let [sequences, stops, seals] = for_numbers("QUEUE_SEQUENCES", 500, run);
    println!(
        "queue: {sequences} sequences, {stops} of them stopped at a storage call of its own: \
         0 lost, 0 done twice; {seals} seals, no nonce twice under a key"
    );
}
