//! The worker's memory, shared out among environments: what comes free goes to the pool that has least.
//!
//! ```text
//!   reserve ─► waits ──────────────────────────────► MemoryShare ──dropped──┐
//!                ▲    least memory first, then oldest                       │
//!                └──────────────────────── what is free now ◄───────────────┘
//!   while somebody waits: `short`, and pools are asked for idle environments
//! ```
//! Nobody overtakes whoever is next, however little he needs: else one who needs much would wait for ever.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, oneshot};
use types::MemorySize;

use crate::InvokeError;

/// While somebody waits for memory, idle environments are asked for this often: some were in use the last time.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Memory for environments, counted by what their functions are configured to use, so that no function can be pushed out of
/// its own by another.
#[derive(Clone)]
pub(crate) struct Capacity {
    shared: Arc<Shared>,
    wait: Duration,
}

/// Who memory is set aside for. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Owner(Arc<AtomicU32>);

#[derive(Debug)]
struct Shared {
    total: u32,
    ledger: Mutex<Ledger>,
    /// Told when memory is short: pools then give back environments.
    short: Notify,
}

#[derive(Debug)]
struct Ledger {
    free: u32,
    /// Oldest first.
    waiting: Vec<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    owner: Owner,
    megabytes: u32,
    granted: oneshot::Sender<MemoryShare>,
}

/// Memory set aside for one environment, until dropped.
#[derive(Debug)]
pub(crate) struct MemoryShare {
    owner: Owner,
    megabytes: u32,
    shared: Arc<Shared>,
}

// === impl Owner ===

impl Owner {
    /// MB.
    pub(crate) fn holds(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

// === impl Capacity ===

impl Capacity {
    pub(crate) fn new(total: u32, wait: Duration) -> Self {
        let ledger = Mutex::new(Ledger { free: total, waiting: Vec::new() });
        Self { shared: Arc::new(Shared { total, ledger, short: Notify::new() }), wait }
    }

    /// Sets memory aside, waiting for environments to give theirs back if need be.
    pub(crate) async fn reserve(
        &self,
        owner: &Owner,
        memory: MemorySize,
    ) -> Result<MemoryShare, InvokeError> {
        if memory.0 > self.shared.total {
            return Err(InvokeError::unavailable("the function needs more memory than this worker has"));
        }
        let (granted, share) = oneshot::channel();
        self.shared.ledger().waiting.push(Waiter { owner: owner.clone(), megabytes: memory.0, granted });
        self.shared.serve();
        match tokio::time::timeout(self.wait, share).await {
            Ok(Ok(share)) => Ok(share),
            _ => Err(InvokeError::unavailable("the worker's memory is in use by other environments")),
        }
    }

    /// Waits until an environment should be given back, and by whom: whoever has this much, MB, without it. `None`: nobody waits any more.
    pub(crate) async fn short(&self) -> Option<u32> {
        let asked = self.shared.short.notified();
        if self.level().is_none() {
            asked.await;
        } else {
            // Whoever is still waiting then is helped by what has become idle since.
            let _ = tokio::time::timeout(ASK_AGAIN, asked).await;
        }
        self.level()
    }

    fn level(&self) -> Option<u32> {
        let mut ledger = self.shared.ledger();
        let next = ledger.next()?;
        let Waiter { owner, megabytes, .. } = ledger.waiting.get(next)?;
        // Who has nothing is served in any case. Who has something gets no more than others: they would take it from one another for ever.
        Some(if owner.holds() == 0 { 1 } else { owner.holds().saturating_add(*megabytes) })
    }

    /// Memory nobody holds, MB.
    pub(crate) fn free(&self) -> u32 {
        self.shared.ledger().free
    }
}

// === impl Shared ===

impl Shared {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Every change is whole before the next line can panic.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Grants what can be granted.
    fn serve(self: &Arc<Self>) {
        let mut ledger = self.ledger();
        // Shares that nobody waits for any more give themselves back, which takes the lock.
        let mut unwanted = Vec::new();
        while let Some(next) = ledger.next() {
            if ledger.waiting.get(next).is_none_or(|waiter| waiter.megabytes > ledger.free) {
                self.short.notify_one();
                break;
            }
            let Waiter { owner, megabytes, granted } = ledger.waiting.remove(next);
            ledger.free -= megabytes;
            owner.0.fetch_add(megabytes, Ordering::Relaxed);
            let share = MemoryShare { owner, megabytes, shared: self.clone() };
            unwanted.extend(granted.send(share).err());
        }
        drop(ledger);
    }
}

impl Ledger {
    /// Where the next to be served stands.
    fn next(&mut self) -> Option<usize> {
        self.waiting.retain(|waiter| !waiter.granted.is_closed());
        let waiting = self.waiting.iter().enumerate();
        waiting
            .min_by_key(|(position, waiter)| (waiter.owner.holds(), *position))
            .map(|(position, _)| position)
    }
}

impl Drop for MemoryShare {
    fn drop(&mut self) {
        self.owner.0.fetch_sub(self.megabytes, Ordering::Relaxed);
        self.shared.ledger().free += self.megabytes;
        // What came back may not be enough for whoever waits: more is asked for.
        self.shared.serve();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_needs_much_memory_gets_it_from_several_small_environments() {
        let capacity = Capacity::new(300, Duration::from_secs(5));
        let (owner, mut small) = (Owner::default(), Vec::new());
        for _ in 0..3 {
            small.push(capacity.reserve(&owner, MemorySize(100)).await.unwrap());
        }
        let give_back = async {
            while let Some(share) = small.pop() {
                assert_eq!(capacity.short().await, Some(1));
                drop(share);
            }
        };
        let other = Owner::default();
        let (big, ()) = tokio::join!(capacity.reserve(&other, MemorySize(300)), give_back);
        assert!(big.is_ok());
        assert_eq!(capacity.free(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_cannot_be_served_is_refused_not_kept() {
        let capacity = Capacity::new(300, Duration::from_secs(5));
        let owner = Owner::default();
        let held = capacity.reserve(&owner, MemorySize(200)).await.unwrap();
        assert!(capacity.reserve(&owner, MemorySize(301)).await.is_err());
        assert!(capacity.reserve(&owner, MemorySize(200)).await.is_err());
        drop(held);
        assert!(capacity.reserve(&owner, MemorySize(300)).await.is_ok());
        assert_eq!((capacity.free(), owner.holds()), (300, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_free_goes_to_whom_has_least() {
        let capacity = Capacity::new(300, Duration::from_secs(5));
        let (greedy, newcomer) = (Owner::default(), Owner::default());
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(capacity.reserve(&greedy, MemorySize(100)).await.unwrap());
        }
        let give_back = async {
            // Both wait.
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(capacity.short().await, Some(1));
            held.pop();
        };
        let (more, first, ()) = tokio::join!(
            capacity.reserve(&greedy, MemorySize(100)),
            capacity.reserve(&newcomer, MemorySize(100)),
            give_back
        );
        assert!(more.is_err(), "it has asked first, and has two");
        assert!(first.is_ok());
        assert_eq!((greedy.holds(), newcomer.holds(), capacity.free()), (200, 100, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_waiting_takes_nothing_along() {
        let capacity = Capacity::new(100, Duration::from_secs(5));
        let (one, other) = (Owner::default(), Owner::default());
        let held = capacity.reserve(&one, MemorySize(100)).await.unwrap();
        {
            let waiting = capacity.reserve(&other, MemorySize(100));
            tokio::pin!(waiting);
            assert!(futures::poll!(&mut waiting).is_pending());
            // It has been granted, and nobody has heard of it.
            drop(held);
        }
        assert_eq!((capacity.free(), other.holds()), (100, 0));
    }
}
