//! One at a time for each key, in the order of arrival; different keys do not wait for each other.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// Holds an entry for each key that somebody has or waits for.
#[derive(Debug)]
pub(super) struct Turns<K>(Mutex<HashMap<K, Arc<AsyncMutex<()>>>>);

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash + Clone> Turns<K> {
    /// Waits for this key's turn; dropping the guard ends it. Cancel-safe.
    pub(super) async fn take(&self, key: &K) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Whoever has or awaits a turn holds a second reference.
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(key.clone()).or_default())
        };
        turn.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_key_is_taken_once_and_others_do_not_wait() {
        let turns = Turns::default();
        let first = turns.take(&"a").await;
        let _other = turns.take(&"b").await;
        let mut second = Box::pin(turns.take(&"a"));
        tokio::select! {
            biased;
            _ = &mut second => panic!("taken twice"),
            () = tokio::task::yield_now() => {}
        }
        drop(first);
        second.await;
    }

    #[tokio::test]
    async fn keys_nobody_uses_are_forgotten() {
        let turns = Turns::default();
        for key in 0..100 {
            drop(turns.take(&key).await);
        }
        assert!(turns.0.lock().unwrap().len() <= 1);
    }
}
