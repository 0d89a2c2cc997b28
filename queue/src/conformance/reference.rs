//! A queue that is obviously right: a list of events in memory, and what is known of each. The suite must hold for it; and for each
//! [`Fault`], which makes it wrong on purpose, the suite must not.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::{
    Browse, Browsed, Content, Depth, Event, EventId, EventState, FunctionNumber, FunctionStat, LeaseEpoch,
    Leased, Location, Ordinal, Page, PartitionNumber, Queue, ReadError, Refused, Request, Scrubbed,
    SegmentId, WriteError, partition::Order,
};

/// A promise that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    ForgetsTheLastEventInACrash,
    BringsAckedEventsAgainAfterACrash,
    BringsTheNewestFirst,
    LetsALostLeaseAck,
    ForgetsAttemptsInACrash,
    PurgesWhatComesLater,
    SleepsWhileItWaits,
    GoesOnLeasingInADrain,
}

impl Fault {
    pub(super) const ALL: [Self; 8] = [
        Self::ForgetsTheLastEventInACrash,
        Self::BringsAckedEventsAgainAfterACrash,
        Self::BringsTheNewestFirst,
        Self::LetsALostLeaseAck,
        Self::ForgetsAttemptsInACrash,
        Self::PurgesWhatComesLater,
        Self::SleepsWhileItWaits,
        Self::GoesOnLeasingInADrain,
    ];
}

#[derive(Debug, Clone)]
struct Stored {
    location: Location,
    id: EventId,
    function: FunctionNumber,
    partition: PartitionNumber,
    accepted_ms: u64,
    content: Content,
    attempts: u32,
    not_before_ms: u64,
    lease: Option<LeaseEpoch>,
    acked: bool,
}

#[derive(Debug, Default)]
struct State {
    now_ms: u64,
    names: Vec<String>,
    partitions: Vec<(String, Order)>,
    redirects: BTreeMap<FunctionNumber, PartitionNumber>,
    positions: BTreeMap<PartitionNumber, Vec<u8>>,
    /// Oldest first; what is done is gone, but for acked ones if they are to come again.
    events: Vec<Stored>,
    accepted: u32,
    leases: BTreeMap<LeaseEpoch, u64>,
    epochs: u64,
    purged: Vec<FunctionNumber>,
    draining: bool,
}

#[derive(Debug, Clone)]
pub(super) struct ReferenceQueue {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
    fault: Option<Fault>,
}

/// The machine that it is on.
#[derive(Debug)]
pub(super) struct Machine(ReferenceQueue);

impl Machine {
    pub(super) fn new(fault: Option<Fault>) -> Self {
        let state = State { now_ms: 1_700_000_000_000, ..State::default() };
        Self(ReferenceQueue { state: Arc::new(Mutex::new(state)), changed: Arc::default(), fault })
    }
}

impl super::Subject for Machine {
    type Queue = ReferenceQueue;

    fn open(&mut self) -> ReferenceQueue {
        self.0.clone()
    }

    fn crash(&mut self, queue: ReferenceQueue) {
        let mut state = queue.state();
        state.leases.clear();
        state.draining = false;
        match queue.fault {
            Some(Fault::ForgetsTheLastEventInACrash) => drop(state.events.pop()),
            Some(Fault::ForgetsAttemptsInACrash) => state.events.iter_mut().for_each(|it| it.attempts = 0),
            _ => {}
        }
        for event in &mut state.events {
            event.lease = None;
            event.acked = false;
        }
    }

    fn pass(&mut self, time: Duration) {
        self.0.state().now_ms += time.as_millis() as u64;
    }

    fn wall_ms(&self) -> u64 {
        self.0.state().now_ms
    }
}

impl State {
    fn order(&self, partition: PartitionNumber) -> Order {
        self.partitions[partition.0 as usize - 1].1
    }

    /// Leases that ran out give back what they hold.
    fn tick(&mut self) {
        let over = |deadline: &u64| *deadline <= self.now_ms;
        let epochs: Vec<_> = self.leases.iter().filter(|(_, it)| over(it)).map(|(epoch, _)| *epoch).collect();
        for epoch in epochs {
            self.leases.remove(&epoch);
            for at in 0..self.events.len() {
                if self.events[at].lease == Some(epoch) {
                    self.give_back(at);
                }
            }
        }
    }

    /// In an ordered partition all that follow come back too.
    fn give_back(&mut self, at: usize) {
        let partition = self.events[at].partition;
        let behind = if self.order(partition) == Order::Strict { self.events.len() } else { at + 1 };
        for event in self.events[at..behind].iter_mut().filter(|event| event.partition == partition) {
            event.lease = None;
        }
    }

    /// Where the events are, if the lease holds all of them.
    fn held(&mut self, epoch: LeaseEpoch, tokens: &[Location]) -> Result<Vec<usize>, Refused> {
        self.tick();
        let find = |token: &Location| {
            let found = self
                .events
                .iter()
                .position(|it| it.location == *token && it.lease == Some(epoch) && !it.acked);
            found.ok_or(Refused::LeaseLost)
        };
        tokens.iter().map(find).collect()
    }

    fn waiting(&self, event: &Stored) -> EventState {
        match event.lease {
            Some(_) => EventState::Leased,
            None if event.not_before_ms > self.now_ms => EventState::Held,
            None => EventState::Waiting,
        }
    }

    fn of(&self, partition: PartitionNumber) -> impl Iterator<Item = &Stored> {
        self.events.iter().filter(move |event| event.partition == partition && !event.acked)
    }

    /// Which events a lease gets.
    fn choose(&self, request: &Request<'_>) -> Vec<Location> {
        let strict = self.order(request.partition) == Order::Strict;
        let (mut chosen, mut bytes) = (Vec::new(), 0);
        for event in self.of(request.partition) {
            let state = self.waiting(event);
            if strict && state == EventState::Held {
                break;
            }
            if state == EventState::Waiting && (strict || !request.exclude.contains(&event.function)) {
                bytes += event.bytes();
                if chosen.len() == request.events || (!chosen.is_empty() && bytes > request.bytes) {
                    break;
                }
                chosen.push(event.location);
            }
        }
        chosen
    }
}

impl Stored {
    fn bytes(&self) -> u64 {
        (self.content.attributes.len() + self.content.payload.len()) as u64
    }
}

impl ReferenceQueue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn end(&self, gone: impl Fn(&Stored) -> bool) {
        self.state().events.retain(|event| !gone(event));
        self.changed.notify_waiters();
    }

    fn lease_now(&self, request: &Request<'_>) -> Result<(LeaseEpoch, Vec<Leased>), ReadError> {
        let mut state = self.state();
        state.tick();
        if state.draining && !self.has(Fault::GoesOnLeasingInADrain) {
            return Err(ReadError::Draining);
        }
        let mut chosen = state.choose(request);
        if self.has(Fault::BringsTheNewestFirst) {
            chosen.reverse();
        }
        state.epochs += 1;
        let epoch = LeaseEpoch(state.epochs);
        if !chosen.is_empty() {
            let deadline = state.now_ms + request.lease.as_millis() as u64;
            state.leases.insert(epoch, deadline);
        }
        let lease = |token: &Location| {
            let event = state.events.iter_mut().find(|event| event.location == *token).unwrap();
            event.lease = Some(epoch);
            Leased {
                token: *token,
                id: event.id,
                function: event.function,
                partition: event.partition,
                accepted: Duration::from_millis(event.accepted_ms),
                attempts: event.attempts,
                attributes: event.content.attributes.clone(),
                payload: event.content.payload.clone(),
            }
        };
        let leased = chosen.iter().map(lease).collect();
        Ok((epoch, leased))
    }
}

fn number(names: &mut Vec<String>, name: &str) -> Result<u32, Refused> {
    if name.len() > 1024 {
        return Err(Refused::NameTooLong(name.len()));
    }
    let at = names.iter().position(|known| known == name).unwrap_or_else(|| {
        names.push(name.to_owned());
        names.len() - 1
    });
    Ok(at as u32 + 1)
}

impl Queue for ReferenceQueue {
    fn partition(&self, name: &str, order: Order) -> Result<PartitionNumber, Refused> {
        let mut state = self.state();
        let mut names = state.partitions.iter().map(|(name, _)| name.clone()).collect();
        let number = PartitionNumber(number(&mut names, name)?);
        if names.len() > state.partitions.len() {
            state.partitions.push((name.to_owned(), order));
        }
        Ok(number)
    }

    fn partitions(&self) -> Vec<(PartitionNumber, String)> {
        (1..).map(PartitionNumber).zip(self.state().partitions.iter().map(|(name, _)| name.clone())).collect()
    }

    fn function(&self, arn: &str) -> Result<FunctionNumber, WriteError> {
        Ok(FunctionNumber(number(&mut self.state().names, arn)?))
    }

    fn functions(&self) -> Vec<(FunctionNumber, String)> {
        (1..).map(FunctionNumber).zip(self.state().names.iter().cloned()).collect()
    }

    async fn enqueue(&self, events: &[Event<'_>]) -> Result<(), WriteError> {
        let mut state = self.state();
        for event in events {
            state.accepted += 1;
            let stored = Stored {
                location: Location { segment: SegmentId(1), ordinal: Ordinal(state.accepted) },
                id: event.id,
                function: event.function,
                partition: event.partition,
                accepted_ms: state.now_ms,
                content: Content { attributes: event.attributes.to_vec(), payload: event.payload.to_vec() },
                attempts: 0,
                not_before_ms: 0,
                lease: None,
                acked: false,
            };
            if !(self.has(Fault::PurgesWhatComesLater) && state.purged.contains(&event.function)) {
                state.events.push(stored);
            }
        }
        self.changed.notify_waiters();
        Ok(())
    }

    async fn lease(&self, request: Request<'_>) -> Result<(LeaseEpoch, Vec<Leased>), ReadError> {
        let until = Instant::now() + request.wait;
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let leased = self.lease_now(&request)?;
            if !leased.1.is_empty() || Instant::now() >= until {
                return Ok(leased);
            }
            if self.has(Fault::SleepsWhileItWaits) {
                tokio::time::sleep_until(until).await;
            }
            let _ = tokio::time::timeout_at(until, changed).await;
        }
    }

    async fn ack(&self, epoch: LeaseEpoch, events: &[(Location, EventId)]) -> Result<(), WriteError> {
        let tokens: Vec<Location> = events.iter().map(|(token, _)| *token).collect();
        let mut state = self.state();
        let held = match state.held(epoch, &tokens) {
            Err(Refused::LeaseLost) if self.has(Fault::LetsALostLeaseAck) => return Ok(()),
            held => held?,
        };
        if held.iter().any(|at| state.order(state.events[*at].partition) == Order::Strict) {
            return Err(Refused::WrongOrder.into());
        }
        held.iter().for_each(|at| state.events[*at].acked = true);
        drop(state);
        if !self.has(Fault::BringsAckedEventsAgainAfterACrash) {
            self.end(|event| event.acked);
        }
        Ok(())
    }

    async fn note(
        &self,
        epoch: LeaseEpoch,
        (token, _): (Location, EventId),
        attempts: u32,
        not_before_ms: u64,
    ) -> Result<(), WriteError> {
        let mut state = self.state();
        let at = state.held(epoch, &[token])?[0];
        state.events[at].attempts = attempts;
        state.events[at].not_before_ms = not_before_ms;
        Ok(())
    }

    fn release(&self, epoch: LeaseEpoch, events: &[Location]) -> Result<(), WriteError> {
        let mut state = self.state();
        for at in state.held(epoch, events)? {
            state.give_back(at);
        }
        self.changed.notify_waiters();
        Ok(())
    }

    fn extend(&self, epoch: LeaseEpoch, lease: Duration) -> Result<(), WriteError> {
        let mut state = self.state();
        state.tick();
        let now_ms = state.now_ms;
        let deadline = state.leases.get_mut(&epoch).ok_or(Refused::LeaseLost)?;
        *deadline = now_ms + lease.as_millis() as u64;
        Ok(())
    }

    async fn checkpoint(
        &self,
        epoch: LeaseEpoch,
        through: Location,
        position: &[u8],
    ) -> Result<(), WriteError> {
        let partition = {
            let mut state = self.state();
            let at = state.held(epoch, &[through])?[0];
            let partition = state.events[at].partition;
            match state.order(partition) {
                Order::None => return Err(Refused::WrongOrder.into()),
                Order::Strict if position.len() > 4096 => {
                    return Err(Refused::PositionTooLong(position.len()).into());
                }
                Order::Strict => drop(state.positions.insert(partition, position.to_vec())),
            }
            partition
        };
        self.end(|event| event.partition == partition && event.location <= through);
        Ok(())
    }

    fn position(&self, partition: PartitionNumber) -> Option<Vec<u8>> {
        self.state().positions.get(&partition).cloned()
    }

    async fn redirect(&self, from: FunctionNumber, to: Option<PartitionNumber>) -> Result<(), WriteError> {
        let redirects = &mut self.state().redirects;
        match to {
            Some(partition) => drop(redirects.insert(from, partition)),
            None => drop(redirects.remove(&from)),
        }
        Ok(())
    }

    fn redirected(&self, function: FunctionNumber) -> Option<PartitionNumber> {
        self.state().redirects.get(&function).copied()
    }

    async fn purge(&self, function: FunctionNumber) -> Result<(), WriteError> {
        let ordered: Vec<_> = (1..).zip(self.state().partitions.iter().map(|(_, order)| *order)).collect();
        let unordered = |partition| ordered.contains(&(partition, Order::None));
        self.state().purged.push(function);
        self.end(|event| event.function == function && unordered(event.partition.0));
        Ok(())
    }

    async fn purge_partition(&self, partition: PartitionNumber) -> Result<(), WriteError> {
        self.end(|event| event.partition == partition);
        Ok(())
    }

    fn depth(&self, partition: PartitionNumber) -> Depth {
        let state = self.state();
        let bytes = state.of(partition).map(Stored::bytes).sum();
        Depth { events: state.of(partition).count() as u64, bytes }
    }

    async fn stat(&self, partition: PartitionNumber) -> Result<Vec<FunctionStat>, ReadError> {
        let state = self.state();
        let ordered = state.order(partition) == Order::Strict;
        let mut stats: BTreeMap<Option<FunctionNumber>, FunctionStat> = BTreeMap::new();
        for event in state.of(partition) {
            let function = Some(event.function).filter(|_| !ordered);
            let oldest = Some(Duration::from_millis(event.accepted_ms));
            let stat =
                stats.entry(function).or_insert(FunctionStat { function, depth: Depth::default(), oldest });
            stat.depth.events += 1;
            stat.depth.bytes += event.bytes();
        }
        Ok(stats.into_values().collect())
    }

    async fn browse(&self, request: Browse) -> Result<Page, ReadError> {
        let state = self.state();
        let from = request.from.unwrap_or(Location { segment: SegmentId(0), ordinal: Ordinal(0) });
        let wanted = state.of(request.partition).filter(|event| {
            event.location >= from && request.function.is_none_or(|function| event.function == function)
        });
        let mut found: Vec<&Stored> = wanted.take(request.events + 1).collect();
        let next = found.get(request.events).map(|event| event.location);
        found.truncate(request.events);
        let describe = |event: &&Stored| Browsed {
            location: event.location,
            id: event.id,
            function: event.function,
            accepted: Duration::from_millis(event.accepted_ms),
            bytes: event.bytes() as u32,
            attempts: event.attempts,
            state: state.waiting(event),
        };
        Ok(Page { events: found.iter().map(describe).collect(), next })
    }

    async fn peek(
        &self,
        partition: PartitionNumber,
        (location, id): (Location, EventId),
    ) -> Result<Option<Content>, ReadError> {
        let state = self.state();
        let found = state.of(partition).find(|event| event.location == location && event.id == id);
        Ok(found.map(|event| event.content.clone()))
    }

    async fn drain(&self, within: Duration) -> usize {
        self.state().draining = true;
        self.changed.notify_waiters();
        let until = Instant::now() + within;
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let leased =
                self.state().events.iter().filter(|event| event.lease.is_some() && !event.acked).count();
            if leased == 0 || Instant::now() >= until {
                return leased;
            }
            let _ = tokio::time::timeout_at(until, changed).await;
        }
    }

    async fn scrub(&self, _: u64) -> Result<Scrubbed, ReadError> {
        Ok(Scrubbed::default())
    }
}
