//! The worker's memory, shared out among environments.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use types::MemorySize;

use crate::InvokeError;

/// While somebody waits for memory, idle environments are asked for this often: some were in use the last time.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Memory for environments, counted by what their functions are configured to use, so that no function can be pushed out of
/// its own by another.
#[derive(Clone)]
pub(crate) struct Capacity {
    megabytes: Arc<Semaphore>,
    total: u32,
    wait: Duration,
    shortage: Arc<Shortage>,
}

#[derive(Debug, Default)]
struct Shortage {
    waiting: AtomicUsize,
    /// Told when memory is short: pools then give back idle environments.
    notify: Notify,
}

/// Memory set aside for one environment, until dropped.
#[derive(Debug)]
pub(crate) struct MemoryShare {
    permit: Option<OwnedSemaphorePermit>,
    shortage: Arc<Shortage>,
}

impl Capacity {
    pub(crate) fn new(total: u32, wait: Duration) -> Self {
        let megabytes = Arc::new(Semaphore::new(usize::try_from(total).unwrap_or(Semaphore::MAX_PERMITS)));
        Self { megabytes, total, wait, shortage: Arc::default() }
    }

    /// Sets memory aside, waiting for idle environments to give theirs back if need be.
    pub(crate) async fn reserve(&self, memory: MemorySize) -> Result<MemoryShare, InvokeError> {
        if memory.0 > self.total {
            return Err(InvokeError::unavailable("the function needs more memory than this worker has"));
        }
        let share = |permit| MemoryShare { permit: Some(permit), shortage: self.shortage.clone() };
        if let Ok(permit) = self.megabytes.clone().try_acquire_many_owned(memory.0) {
            return Ok(share(permit));
        }
        let _waiting = Waiting::new(&self.shortage);
        match tokio::time::timeout(self.wait, self.megabytes.clone().acquire_many_owned(memory.0)).await {
            Ok(Ok(permit)) => Ok(share(permit)),
            _ => Err(InvokeError::unavailable("the worker's memory is in use by other environments")),
        }
    }

    /// Waits until an idle environment should be given back.
    pub(crate) async fn short(&self) {
        let asked = self.shortage.notify.notified();
        if self.shortage.waiting.load(Ordering::SeqCst) == 0 {
            asked.await;
        } else {
            // Whoever is still waiting then is helped by what has become idle since.
            let _ = tokio::time::timeout(ASK_AGAIN, asked).await;
        }
    }

    /// Memory nobody holds, MB.
    pub(crate) fn free(&self) -> usize {
        self.megabytes.available_permits()
    }
}

/// Somebody waits for memory, until dropped.
struct Waiting<'a>(&'a Shortage);

impl<'a> Waiting<'a> {
    fn new(shortage: &'a Shortage) -> Self {
        shortage.waiting.fetch_add(1, Ordering::SeqCst);
        shortage.notify.notify_one();
        Self(shortage)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for MemoryShare {
    fn drop(&mut self) {
        drop(self.permit.take());
        // What came back may not be enough for whoever waits: ask for more.
        if self.shortage.waiting.load(Ordering::SeqCst) > 0 {
            self.shortage.notify.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_needs_much_memory_gets_it_from_several_small_environments() {
        let capacity = Capacity::new(300, Duration::from_secs(5));
        let mut small = Vec::new();
        for _ in 0..3 {
            small.push(capacity.reserve(MemorySize(100)).await.unwrap());
        }
        let give_back = async {
            while let Some(share) = small.pop() {
                capacity.short().await;
                drop(share);
            }
        };
        let (big, ()) = tokio::join!(capacity.reserve(MemorySize(300)), give_back);
        assert!(big.is_ok());
        assert_eq!(capacity.free(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_cannot_be_served_is_refused_not_kept() {
        let capacity = Capacity::new(300, Duration::from_secs(5));
        let held = capacity.reserve(MemorySize(200)).await.unwrap();
        assert!(capacity.reserve(MemorySize(301)).await.is_err());
        assert!(capacity.reserve(MemorySize(200)).await.is_err());
        drop(held);
        assert!(capacity.reserve(MemorySize(300)).await.is_ok());
    }
}
