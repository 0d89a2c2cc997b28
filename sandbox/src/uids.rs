//! User ids for environments.

use std::sync::{Arc, Mutex, PoisonError};

/// Users an environment takes: the agent's and the function's.
const UIDS_PER_ENVIRONMENT: u32 = 2;

/// User ids for environments: each live one has its own, so that nothing the kernel counts by user is shared.
#[derive(Debug)]
pub(crate) struct UidPool {
    base: u32,
    /// Which slots are taken; a freed one is used again first.
    taken: Mutex<Vec<bool>>,
}

/// The user ids of one environment, until dropped.
#[derive(Debug)]
pub(crate) struct UidLease {
    pool: Arc<UidPool>,
    slot: usize,
}

impl UidPool {
    pub(crate) fn new(base: u32) -> Self {
        Self { base, taken: Mutex::default() }
    }

    pub(crate) fn lease(pool: &Arc<Self>) -> UidLease {
        let mut taken = pool.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = taken.iter().position(|taken| !taken).unwrap_or_else(|| {
            taken.push(false);
            taken.len() - 1
        });
        taken[slot] = true;
        UidLease { pool: pool.clone(), slot }
    }
}

impl UidLease {
    pub(crate) fn agent(&self) -> u32 {
        let slot = u32::try_from(self.slot).unwrap_or(u32::MAX);
        self.pool.base.saturating_add(slot.saturating_mul(UIDS_PER_ENVIRONMENT))
    }

    pub(crate) fn function(&self) -> u32 {
        self.agent().saturating_add(1)
    }
}

impl Drop for UidLease {
    fn drop(&mut self) {
        let mut taken = self.pool.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken[self.slot] = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_environments_never_share_a_user() {
        let pool = Arc::new(UidPool::new(1000));
        let (first, second) = (UidPool::lease(&pool), UidPool::lease(&pool));
        assert_eq!((first.agent(), first.function()), (1000, 1001));
        assert_eq!((second.agent(), second.function()), (1002, 1003));
        drop(first);
        assert_eq!(UidPool::lease(&pool).agent(), 1000);
    }
}
