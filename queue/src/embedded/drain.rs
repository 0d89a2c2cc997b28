//! Ending the work on a queue without losing or repeating any of it: nothing more is leased, what is leased is finished.
//!
//! ```text
//!   drain ──► lease: Draining ── ack · note · release · lease runs out ──► no lease is open ──► returned
//!                                                                     └──► time is up ────────► returned: so many are leased
//! ```
//! An event that is given back stays in the queue and comes again when it is opened.

use std::time::Duration;

use tokio::time::Instant;

use super::{Shared, operations::in_time};

impl Shared {
    pub(super) async fn drain(&self, within: Duration) -> usize {
        let until = in_time(within);
        {
            let mut state = self.state();
            state.draining = true;
            // Those who wait for events are told.
            state.waiters.values().for_each(|waiter| waiter.notify_waiters());
        }
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Before looking, so that no end of a lease is missed.
            changed.as_mut().enable();
            let now = self.clocks.now().boot;
            let (leased, next) = {
                let mut state = self.state();
                state.log.tick(now);
                state.wake();
                (state.log.leased(), state.log.next_deadline())
            };
            if leased == 0 || Instant::now() >= until {
                return leased;
            }
            let next = next.map_or(until, |next| in_time(next.saturating_sub(now)).min(until));
            let _ = tokio::time::timeout_at(next, changed).await;
        }
    }
}
