//! Group commit, led by the callers: whoever waits and finds no commit under way writes and syncs for all.
//!
//! ```text
//!   caller A   append ─ lead ─ write + sync ───────────── done
//!   caller B      append ─ wait ·························· done          same batch as A: nothing to do
//!   caller C              append ─ wait ·················· lead ─ write + sync ─ done
//!   caller D                    append ─ wait ································· done
//! ```
//! There is no writer thread: waking one would cost more than half of what the sync itself takes. The leader writes without
//! the lock; meanwhile others append, and what they append is the next batch.

use std::{
    io,
    sync::{Arc, OnceLock},
};

use tokio::sync::Notify;

use super::{Shared, State, files};
use crate::log::{BatchNumber, Blocked, Log, Refused, Stop};

/// Why something was not written. After `Io` the outcome is unknown: it may be there after a restart.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The disk is full. Acks and notes still work, so that room is made.
    #[error("the disk is full")]
    NoSpace,
    #[error("writing to the log failed: {0}")]
    Io(Arc<io::Error>),
    #[error("the key service failed: {0}")]
    Key(String),
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::StorageFull { Self::NoSpace } else { Self::Io(Arc::new(error)) }
    }
}

/// The outcome of a batch, for all who wait for it.
#[derive(Debug, Default)]
pub(super) struct Settlement {
    outcome: OnceLock<Result<(), Arc<io::Error>>>,
    changed: Notify,
}

/// What is appended counts for room: an event is refused when the disk is full, what makes room is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Event,
    Control,
}

impl Shared {
    /// Appends to the log, and gets it the segment that it may need.
    pub(super) async fn append(
        &self,
        purpose: Use,
        mut call: impl FnMut(&mut Log) -> Result<BatchNumber, Stop>,
    ) -> Result<Arc<Settlement>, WriteError> {
        loop {
            let waiting = {
                let mut state = self.state();
                if purpose == Use::Event && state.full {
                    return Err(WriteError::NoSpace);
                }
                match call(&mut state.log) {
                    Ok(number) => return Ok(state.settlement(number)),
                    Err(Stop::Refused(refused)) => return Err(refused.into()),
                    Err(Stop::Blocked(Blocked::NoSegment)) => {
                        self.next_segment(&mut state, purpose)?;
                        continue;
                    }
                    Err(Stop::Blocked(Blocked::Pending)) => state.settlements.values().next().cloned(),
                }
            };
            match waiting {
                Some(waiting) => drop(self.settled(&waiting).await),
                None => drop(self.lead()),
            }
        }
    }

    /// Waits until a batch is durable, and makes it so if nobody else does.
    ///
    /// Cancel-safe: who stops waiting does not learn the outcome; the batch is committed with the next.
    pub(super) async fn settled(&self, settlement: &Settlement) -> Result<(), WriteError> {
        loop {
            let mut changed = std::pin::pin!(settlement.changed.notified());
            // Before looking, so that no change is missed.
            changed.as_mut().enable();
            if let Some(outcome) = settlement.outcome.get() {
                return outcome.clone().map_err(WriteError::Io);
            }
            if !self.lead() {
                changed.await;
            }
        }
    }

    /// Commits one batch; `false` if another caller is at it, or nothing waits.
    pub(super) fn lead(&self) -> bool {
        let (write, file) = {
            let mut state = self.state();
            let Some(write) = state.log.begin_commit() else { return false };
            let file = state.files.get(&write.segment).cloned();
            (write, file)
        };
        // A segment that failed has lost its file: it is never written, nor synced, again.
        let written = file.ok_or_else(|| io::Error::other("the segment is closed")).and_then(|file| {
            file.write_at(write.offset, &write.bytes)?;
            file.sync()
        });
        let mut state = self.state();
        let last = match &written {
            Ok(()) => {
                state.log.committed();
                Some(write.number)
            }
            Err(_) => {
                let now = self.clocks.now().boot;
                state.failures += 1;
                // What was prepared behind it is as good as before.
                state.log.commit_failed(now)
            }
        };
        state.settle(last.unwrap_or(write.number), &written.map_err(Arc::new));
        drop(state);
        self.ready.notify_waiters();
        true
    }

    /// Goes on in the segment that is prepared, or in one that is made now.
    pub(super) fn next_segment(&self, state: &mut State, purpose: Use) -> Result<(), WriteError> {
        if state.prepared.is_none() {
            let made = match state.blanks.pop() {
                Some(blank) => Ok(blank),
                None => files::make_blank(
                    &*self.storage,
                    self.config.segment_bytes,
                    crate::storage::Preparation::Allocated,
                ),
            };
            let blank = match made {
                Ok(blank) => blank,
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                    state.full = true;
                    match (purpose, state.reserve.take()) {
                        (Use::Control, Some(reserve)) => reserve,
                        (_, reserve) => {
                            state.reserve = reserve;
                            return Err(WriteError::NoSpace);
                        }
                    }
                }
                Err(error) => return Err(error.into()),
            };
            self.prepare(state, blank)?;
        }
        if let Some((header, file)) = state.prepared.take() {
            state.files.insert(header.segment, file);
            state.log.provide(header);
            self.upkeep.notify_one();
        }
        Ok(())
    }

    /// Makes a blank file the segment that comes next.
    pub(super) fn prepare(&self, state: &mut State, blank: files::Blank) -> io::Result<()> {
        let previous = state.log.newest_segment().cloned();
        let created = self.clocks.now().wall_ms;
        let header =
            files::begin_segment(&*self.storage, state.log.id(), previous.as_ref(), &blank, created)?;
        let oldest = state.log.oldest_segment().unwrap_or(header.segment).max(state.oldest);
        files::write_identity(&*self.storage, &header, oldest)?;
        state.prepared = Some((header, blank.file));
        Ok(())
    }
}

impl State {
    pub(super) fn settlement(&mut self, number: BatchNumber) -> Arc<Settlement> {
        self.settlements.entry(number).or_default().clone()
    }

    /// All batches up to this one have an outcome.
    fn settle(&mut self, last: BatchNumber, outcome: &Result<(), Arc<io::Error>>) {
        while let Some(entry) = self.settlements.first_entry().filter(|entry| *entry.key() <= last) {
            let settlement = entry.remove();
            let _ = settlement.outcome.set(outcome.clone());
            settlement.changed.notify_waiters();
        }
        // One of those who wait for the next batch leads it.
        if let Some(next) = self.settlements.values().next() {
            next.changed.notify_one();
        }
    }
}
