//! The operations of a queue, on the log of this machine.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use types::KeyContext;

use super::{
    EmbeddedQueue, Shared,
    commit::{Settlement, Use},
};
use crate::{
    Browse, Content, Depth, Event, EventId, FunctionNumber, FunctionStat, LeaseEpoch, Leased, Location, Page,
    PartitionNumber, Queue, ReadError, Refused, Request, Scrubbed, WriteError,
    format::{partition::MAX_NAME_BYTES, purge::Purge},
    log::{Granted, LeaseRequest, Log, NewEvent},
    partition::Order,
};

/// Acks that one record holds: 28 KB.
const ACKS_TOGETHER: usize = 1000;

impl Queue for EmbeddedQueue {
    fn partition(&self, name: &str, order: Order) -> Result<PartitionNumber, Refused> {
        if name.len() > MAX_NAME_BYTES {
            return Err(Refused::NameTooLong(name.len()));
        }
        Ok(self.shared.state().log.add_partition(name, order))
    }

    fn partitions(&self) -> Vec<(PartitionNumber, String)> {
        let names = self.shared.state().log.partition_names();
        names.into_iter().map(|(number, name, _)| (number, name)).collect()
    }

    fn function(&self, arn: &str) -> Result<FunctionNumber, WriteError> {
        if arn.len() > MAX_NAME_BYTES {
            return Err(Refused::NameTooLong(arn.len()).into());
        }
        let known = self.shared.state().log.function_number(arn);
        match known {
            Some(number) => {
                self.shared.key(number).map_err(|error| WriteError::Key(error.to_string()))?;
                Ok(number)
            }
            None => {
                let context = KeyContext { arn: arn.to_owned(), purpose: "queue".to_owned() };
                let made = self.shared.keys.generate(&context);
                let (key, wrapped) = made.map_err(|error| WriteError::Key(error.to_string()))?;
                let mut state = self.shared.state();
                // Another caller may have been quicker.
                let known = state.log.function_number(arn);
                Ok(known.unwrap_or_else(|| state.log.add_function(context, wrapped, key)))
            }
        }
    }

    fn functions(&self) -> Vec<(FunctionNumber, String)> {
        self.shared.state().log.function_arns().into_iter().collect()
    }

    async fn enqueue(&self, events: &[Event<'_>]) -> Result<(), WriteError> {
        let accepted_ms = self.shared.clocks.now().wall_ms;
        let call = |log: &mut Log, event: &Event<'_>| {
            let Event { id, function, partition, attributes, payload } = *event;
            log.enqueue(NewEvent { id, partition, function, accepted_ms, attributes, payload })
        };
        let last = self.shared.append_all(Use::Event, events, call).await?;
        self.settled(last).await
    }

    async fn lease(&self, request: Request<'_>) -> Result<(LeaseEpoch, Vec<Leased>), ReadError> {
        if request.wait.is_zero() {
            return self.shared.lease_now(&request).await;
        }
        let until = in_time(request.wait);
        let waiter = self.shared.state().waiters.entry(request.partition).or_default().clone();
        loop {
            let mut ready = std::pin::pin!(waiter.notified());
            // Before looking, so that nothing that becomes ready meanwhile is missed.
            ready.as_mut().enable();
            let leased = self.shared.lease_now(&request).await?;
            if !leased.1.is_empty() || Instant::now() >= until {
                return Ok(leased);
            }
            // A lease that runs out, and an event whose time comes, tell nobody.
            let now = self.shared.clocks.now().boot;
            let next = self.shared.state().log.next_deadline();
            let next = next.map_or(until, |next| in_time(next.saturating_sub(now)).min(until));
            let _ = tokio::time::timeout_at(next, ready).await;
        }
    }

    async fn ack(&self, epoch: LeaseEpoch, events: &[(Location, EventId)]) -> Result<(), WriteError> {
        let mut last = None;
        for some in events.chunks(ACKS_TOGETHER) {
            last = Some(self.shared.append(Use::Control, |log| log.ack(epoch, some)).await?);
        }
        self.settled(last).await
    }

    async fn note(
        &self,
        epoch: LeaseEpoch,
        event: (Location, EventId),
        attempts: u32,
        not_before_ms: u64,
    ) -> Result<(), WriteError> {
        let now = self.shared.clocks.now();
        self.control(|log| log.note(epoch, event, attempts, not_before_ms, now)).await
    }

    fn release(&self, epoch: LeaseEpoch, events: &[Location]) -> Result<(), WriteError> {
        let mut state = self.shared.state();
        let released = state.log.release(epoch, events);
        state.wake();
        drop(state);
        self.shared.changed.notify_waiters();
        Ok(released?)
    }

    fn extend(&self, epoch: LeaseEpoch, lease: Duration) -> Result<(), WriteError> {
        let deadline = self.shared.clocks.now().boot.saturating_add(lease);
        let mut state = self.shared.state();
        let next = state.log.next_deadline();
        state.log.extend(epoch, deadline)?;
        if next.is_some_and(|next| deadline < next) {
            // Whoever waits for its end has to look sooner.
            state.waiters.values().for_each(|waiter| waiter.notify_waiters());
        }
        Ok(())
    }

    async fn checkpoint(
        &self,
        epoch: LeaseEpoch,
        through: Location,
        position: &[u8],
    ) -> Result<(), WriteError> {
        self.control(|log| log.checkpoint(epoch, through, position)).await
    }

    fn position(&self, partition: PartitionNumber) -> Option<Vec<u8>> {
        let state = self.shared.state();
        Some(state.log.checkpoint_of(partition)?.position.clone())
    }

    async fn redirect(
        &self,
        function: FunctionNumber,
        partition: Option<PartitionNumber>,
    ) -> Result<(), WriteError> {
        self.control(|log| log.redirect(function, partition)).await
    }

    fn redirected(&self, function: FunctionNumber) -> Option<PartitionNumber> {
        self.shared.state().log.redirected(function)
    }

    async fn purge(&self, function: FunctionNumber) -> Result<(), WriteError> {
        self.control(|log| log.purge(Purge::Function(function))).await?;
        self.shared.upkeep.notify_one();
        Ok(())
    }

    async fn purge_partition(&self, partition: PartitionNumber) -> Result<(), WriteError> {
        self.control(|log| log.purge(Purge::Partition(partition))).await?;
        self.shared.upkeep.notify_one();
        Ok(())
    }

    fn depth(&self, partition: PartitionNumber) -> Depth {
        self.shared.state().log.depth(partition)
    }

    async fn stat(&self, partition: PartitionNumber) -> Result<Vec<FunctionStat>, ReadError> {
        self.shared.stat(partition)
    }

    async fn browse(&self, request: Browse) -> Result<Page, ReadError> {
        self.shared.browse(request)
    }

    async fn peek(
        &self,
        partition: PartitionNumber,
        event: (Location, EventId),
    ) -> Result<Option<Content>, ReadError> {
        self.shared.peek(partition, event)
    }

    async fn drain(&self, within: Duration) -> usize {
        self.shared.drain(within).await
    }

    async fn scrub(&self, bytes_per_second: u64) -> Result<Scrubbed, ReadError> {
        self.shared.scrub(bytes_per_second).await
    }
}

impl EmbeddedQueue {
    /// Writes a record that is not an event, and waits until it is durable.
    pub(super) async fn control(
        &self,
        call: impl FnMut(&mut Log) -> Result<crate::log::BatchNumber, crate::log::Stop>,
    ) -> Result<(), WriteError> {
        let settlement = self.shared.append(Use::Control, call).await?;
        self.shared.settled(&settlement).await
    }

    async fn settled(&self, last: Option<Arc<Settlement>>) -> Result<(), WriteError> {
        match last {
            Some(last) => self.shared.settled(&last).await,
            None => Ok(()),
        }
    }
}

impl Shared {
    /// Leases what there is now.
    async fn lease_now(&self, request: &Request<'_>) -> Result<(LeaseEpoch, Vec<Leased>), ReadError> {
        loop {
            let granted = {
                let mut state = self.state();
                if state.draining {
                    return Err(ReadError::Draining);
                }
                let now = self.clocks.now().boot;
                state.log.tick(now);
                let deadline = now.saturating_add(request.lease);
                let Request { partition, events, bytes, exclude, .. } = *request;
                let granted =
                    state.log.lease(LeaseRequest { partition, events, bytes, now, deadline, exclude });
                state.wake();
                granted
            };
            match granted {
                Granted::Load(load) => self.load(load)?,
                Granted::Events(epoch, grants) => {
                    let tokens = grants.iter().map(|grant| grant.token).collect();
                    let handing_over = HandingOver { shared: self, epoch, tokens };
                    let events = self.read(epoch, &grants).await?;
                    handing_over.done();
                    // None of them could be read: there may be others.
                    if events.is_empty() && !grants.is_empty() {
                        continue;
                    }
                    return Ok((epoch, events));
                }
            }
        }
    }
}

/// So long from now, or so late that it makes no difference.
pub(super) fn in_time(wait: Duration) -> Instant {
    const YEARS: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
    Instant::now() + wait.min(YEARS)
}

/// Events between being leased and being returned: whoever asked for them may stop waiting.
struct HandingOver<'a> {
    shared: &'a Shared,
    epoch: LeaseEpoch,
    tokens: Vec<Location>,
}

impl HandingOver<'_> {
    fn done(mut self) {
        self.tokens.clear();
    }
}

impl Drop for HandingOver<'_> {
    fn drop(&mut self) {
        if self.tokens.is_empty() {
            return;
        }
        let mut state = self.shared.state();
        for token in &self.tokens {
            // Some may have been given up meanwhile.
            let _ = state.log.release(self.epoch, &[*token]);
        }
        state.wake();
        drop(state);
        self.shared.changed.notify_waiters();
    }
}
