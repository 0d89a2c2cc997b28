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
use crate::{
    WriteError,
    log::{BatchNumber, Blocked, Log, Stop},
};

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
        let last = self.append_all(purpose, &[()], |log, ()| call(log)).await?;
        Ok(last.expect("one was appended"))
    }

    /// Appends all items, one after the other. Returns the settlement of the last, which comes after the others'.
    pub(super) async fn append_all<T>(
        &self,
        purpose: Use,
        items: &[T],
        mut call: impl FnMut(&mut Log, &T) -> Result<BatchNumber, Stop>,
    ) -> Result<Option<Arc<Settlement>>, WriteError> {
        let (mut rest, mut last) = (items, None);
        while !rest.is_empty() {
            let waiting = {
                let mut state = self.state();
                if purpose == Use::Event && state.full {
                    return Err(WriteError::NoSpace);
                }
                let (number, stop) = append_some(&mut state.log, &mut rest, &mut call);
                if let Some(number) = number {
                    last = Some(state.settlement(number));
                }
                match stop {
                    None => continue,
                    Some(Stop::Refused(refused)) => return Err(refused.into()),
                    Some(Stop::Blocked(Blocked::NoSegment)) => {
                        self.next_segment(&mut state, purpose)?;
                        continue;
                    }
                    Some(Stop::Blocked(Blocked::Pending)) => state.settlements.values().next().cloned(),
                }
            };
            match waiting {
                Some(waiting) => drop(self.settled(&waiting).await),
                None => drop(self.lead()),
            }
        }
        Ok(last)
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
        // A segment that failed is never written, nor synced, again: the log goes on in another.
        let written = file.ok_or_else(|| io::Error::other("the segment is closed")).and_then(|file| {
            file.write_at(write.offset, &write.bytes)?;
            file.sync()
        });
        let mut state = self.state();
        state.log.reuse(write.bytes);
        let last = match &written {
            Ok(()) => {
                state.log.committed();
                Some(write.number)
            }
            Err(_) => {
                let now = self.clocks.now().boot;
                state.failures += 1;
                state.failed.insert(write.segment);
                // What was prepared behind it is as good as before.
                state.log.commit_failed(now)
            }
        };
        state.settle(last.unwrap_or(write.number), &written.map_err(Arc::new));
        state.wake();
        drop(state);
        self.changed.notify_waiters();
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
        let begun = files::begin_segment(&*self.storage, state.log.id(), previous.as_ref(), &blank, created);
        // A disk that keeps failing must not fill with what it could not make segments of.
        let header = begun.inspect_err(|_| drop(self.storage.remove(&blank.name)))?;
        let oldest = state.log.oldest_segment().unwrap_or(header.segment).max(state.oldest);
        files::write_identity(&*self.storage, &header, oldest)?;
        state.prepared = Some((header, blank.file));
        Ok(())
    }
}

/// Appends until all are, a batch is full, or something stops it. Others wait for the lock meanwhile. The last one's batch.
fn append_some<T>(
    log: &mut Log,
    items: &mut &[T],
    call: &mut impl FnMut(&mut Log, &T) -> Result<BatchNumber, Stop>,
) -> (Option<BatchNumber>, Option<Stop>) {
    let mut last = None;
    while let Some((item, rest)) = items.split_first() {
        match call(log, item) {
            Ok(number) => {
                *items = rest;
                if last.replace(number).is_some_and(|before| before != number) {
                    break;
                }
            }
            Err(stop) => return (last, Some(stop)),
        }
    }
    (last, None)
}

impl State {
    /// Tells those who wait for what can be leased now.
    pub(super) fn wake(&mut self) {
        let awakened = self.log.take_awakened();
        if awakened.everybody {
            self.waiters.values().for_each(|waiter| waiter.notify_waiters());
            return;
        }
        let waiters = awakened.partitions.iter().filter_map(|partition| self.waiters.get(partition));
        waiters.for_each(|waiter| waiter.notify_waiters());
    }

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
        // One of those who wait leads the next batch. Of each batch that follows one is told: for the next one perhaps nobody waits,
        // because who appended to it went on to another batch, or gave up.
        self.settlements.values().for_each(|waiting| waiting.changed.notify_one());
    }
}
