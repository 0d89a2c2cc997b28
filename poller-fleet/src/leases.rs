//! Keeps what is in memory leased: an event may wait here for minutes, a lease lasts for one.
//!
//! ```text
//!   poller ─► Lease ◄── each of its events        Leases::keep ── every third of a lease ──► queue.extend, while any event lives
//! ```

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use queue::{LeaseEpoch, Queue, Refused, WriteError};

/// What the events of one lease share.
#[derive(Debug)]
pub(crate) struct Lease {
    epoch: LeaseEpoch,
    lost: AtomicBool,
}

/// All leases that events in memory have.
#[derive(Debug)]
pub(crate) struct Leases {
    lease: Duration,
    open: Mutex<Vec<Weak<Lease>>>,
}

// === impl Lease ===

impl Lease {
    pub(crate) fn epoch(&self) -> LeaseEpoch {
        self.epoch
    }

    /// Somebody else has its events, or will: they are no business of ours any more.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }
}

// === impl Leases ===

impl Leases {
    pub(crate) fn new(lease: Duration) -> Self {
        Self { lease, open: Mutex::default() }
    }

    /// How long each lasts from its beginning, and from each time it is extended.
    pub(crate) fn duration(&self) -> Duration {
        self.lease
    }

    pub(crate) fn opened(&self, epoch: LeaseEpoch) -> Arc<Lease> {
        let lease = Arc::new(Lease { epoch, lost: AtomicBool::new(false) });
        self.open.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&lease));
        lease
    }

    /// Extends all that are needed, for ever.
    pub(crate) async fn keep(&self, queue: &impl Queue) {
        let mut ticks = tokio::time::interval(self.lease / 3);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.extend(queue);
        }
    }

    fn extend(&self, queue: &impl Queue) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|lease| {
            let Some(lease) = lease.upgrade() else { return false };
            match queue.extend(lease.epoch, self.lease) {
                Ok(()) => true,
                Err(WriteError::Refused(Refused::LeaseLost)) => {
                    // The machine slept, or this process stood still. Its events come again elsewhere.
                    tracing::warn!("a lease was lost; what it held is leased again");
                    lease.lost.store(true, Ordering::Relaxed);
                    false
                }
                Err(error) => {
                    tracing::warn!(%error, "a lease could not be extended; it is tried again");
                    true
                }
            }
        });
    }
}
