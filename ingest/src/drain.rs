//! Shutting down in order.
//!
//! ```text
//!   Serving ──begin()──► Draining ──no request left, or out of time──► Closing
//!   answers requests     503 and Connection: close to new ones         idle connections are closed
//!                        those that run go on
//! ```

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

/// Counts running requests and knows whether new ones are welcome. Clones share one state.
#[derive(Debug, Clone, Default)]
pub(crate) struct Drain(Arc<State>);

#[derive(Debug, Default)]
struct State {
    draining: AtomicBool,
    running: AtomicUsize,
    idle: Notify,
}

/// One running request.
#[derive(Debug)]
pub(crate) struct Running(Arc<State>);

// === impl Drain ===

impl Drain {
    pub(crate) fn begin(&self) {
        self.0.draining.store(true, Ordering::SeqCst);
    }

    /// Counts a request in until the guard is dropped; none once draining has begun.
    pub(crate) fn enter(&self) -> Option<Running> {
        // Counted before looking: between the two orders, one lets a request slip past a drain that saw none running.
        self.0.running.fetch_add(1, Ordering::SeqCst);
        let running = Running(Arc::clone(&self.0));
        (!self.is_draining()).then_some(running)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::SeqCst)
    }

    /// Returns when no request runs, or after `limit`; says whether none ran.
    pub(crate) async fn finished(&self, limit: Duration) -> bool {
        let idle = async {
            loop {
                // Registered before the count is read, so that the last request cannot end unseen in between.
                let notified = self.0.idle.notified();
                if self.0.running.load(Ordering::SeqCst) == 0 {
                    return;
                }
                notified.await;
            }
        };
        tokio::time::timeout(limit, idle).await.is_ok()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn draining_waits_for_what_runs_and_lets_nothing_in() {
        let drain = Drain::default();
        let running = drain.enter().unwrap();
        drain.begin();
        assert!(drain.enter().is_none());
        assert!(!drain.finished(Duration::from_secs(5)).await, "one request still runs");
        let waiting = tokio::spawn({
            let drain = drain.clone();
            async move { drain.finished(Duration::from_secs(5)).await }
        });
        tokio::task::yield_now().await;
        drop(running);
        assert!(waiting.await.unwrap());
    }
}
