//! What all that run in the client share: the queue, its partitions and functions, and calls that are told of.

use std::{collections::HashSet, fmt::Write, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use queue::{
    EmbeddedQueue, Event, EventId, FunctionNumber, LeaseEpoch, Leased, Location, PartitionNumber, Queue,
    Request, WriteError, partition::Order,
};

use tokio::sync::Notify;

use crate::{
    Failure,
    random::Random,
    tell::{Lie, Tell},
};

/// Of two partitions events are acked; of the others, which keep their order, checkpointed.
pub(crate) const PARTITIONS: [(&str, Order); 4] = [
    ("shared/0", Order::None),
    ("shared/1", Order::None),
    ("lane/0", Order::Strict),
    ("lane/1", Order::Strict),
];
/// The last one is purged now and then.
pub(crate) const FUNCTIONS: [&str; 3] = ["steady", "moving", "purged"];
pub(crate) const MOVING: usize = 1;
pub(crate) const PURGED: usize = 2;

/// Longer than any run: it ends with the process.
const LONG: Duration = Duration::from_secs(3600);
/// For the first event of a lease, of who has nothing else to do.
pub(crate) const WAIT: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy)]
pub(crate) struct Partition {
    pub(crate) name: &'static str,
    pub(crate) order: Order,
    pub(crate) number: PartitionNumber,
}

pub(crate) struct World {
    pub(crate) queue: EmbeddedQueue,
    pub(crate) tell: Tell,
    pub(crate) partitions: Vec<Partition>,
    pub(crate) functions: Vec<FunctionNumber>,
    pub(crate) round: u64,
    /// Events were finished: there may be room in a backlog.
    pub(crate) progress: Notify,
    seed: u64,
}

/// Events that somebody works on.
pub(crate) struct Held {
    pub(crate) epoch: LeaseEpoch,
    /// It runs out soon.
    pub(crate) short: bool,
    pub(crate) events: Vec<Leased>,
}

impl World {
    pub(crate) fn new(queue: EmbeddedQueue, tell: Tell, round: u64, seed: u64) -> Result<Self, Failure> {
        let functions = FUNCTIONS.iter().map(|arn| queue.function(arn)).collect::<Result<_, _>>()?;
        let named = PARTITIONS.iter().map(|(name, order)| {
            Ok(Partition { name, order: *order, number: queue.partition(name, *order)? })
        });
        let partitions = named.collect::<Result<_, Failure>>()?;
        Ok(Self { queue, tell, partitions, functions, round, progress: Notify::new(), seed })
    }

    pub(crate) fn random(&self, which: u64) -> Random {
        Random::new(self.seed, which)
    }

    /// Hands in events of these sizes. An id tells the run, who handed the event in, and which of his it is.
    pub(crate) async fn enqueue(
        &self,
        partition: Partition,
        function: usize,
        ids: &[EventId],
        sizes: &[usize],
    ) -> Result<(), WriteError> {
        let payloads: Vec<Vec<u8>> = ids.iter().zip(sizes).map(|(id, size)| payload(*id, *size)).collect();
        let told = ids.iter().zip(&payloads).map(|(id, payload)| told(*id, &id.0, payload));
        let told: Vec<String> = told.collect();
        let events: Vec<Event<'_>> = ids
            .iter()
            .zip(&payloads)
            .map(|(id, payload)| Event {
                id: *id,
                function: self.functions[function],
                partition: partition.number,
                attributes: &id.0,
                payload,
            })
            .collect();
        let what = format!("enqueue {} {} {}", partition.name, FUNCTIONS[function], told.join(" "));
        let early = self.tell.lie == Lie::EarlyAccept;
        self.tell.promised(what, early, self.queue.enqueue(&events)).await
    }

    /// Leases up to so many events; `None` if none came in time.
    pub(crate) async fn lease(
        &self,
        partition: Partition,
        events: usize,
        wait: Duration,
        short: Option<Duration>,
    ) -> Option<Held> {
        let length = if short.is_some() { "short" } else { "long" };
        let call = self.tell.begin(format_args!("lease {} {length}", partition.name));
        let exclude = HashSet::new();
        let request = Request {
            partition: partition.number,
            events,
            bytes: u64::MAX,
            wait,
            lease: short.unwrap_or(LONG),
            exclude: &exclude,
        };
        match self.queue.lease(request).await {
            Ok((epoch, events)) => {
                let told = events.iter().map(|event| {
                    format!("{}:{}", told(event.id, &event.attributes, &event.payload), event.attempts)
                });
                self.tell.end(call, format_args!("ok {}", told.collect::<Vec<_>>().join(" ")));
                (!events.is_empty()).then_some(Held { epoch, short: short.is_some(), events })
            }
            Err(error) => {
                self.tell.not_read(call, &error).await;
                None
            }
        }
    }

    pub(crate) async fn ack(&self, epoch: LeaseEpoch, events: &[Leased]) -> Result<(), WriteError> {
        let tokens: Vec<(Location, EventId)> = events.iter().map(|event| (event.token, event.id)).collect();
        let early = self.tell.lie == Lie::EarlyAck;
        let call = self.queue.ack(epoch, &tokens);
        let result = self.tell.promised(format!("ack {}", ids(events)), early, call).await;
        self.progress.notify_waiters();
        result
    }

    /// Gives events back, each by itself: some may be lost to the lease.
    pub(crate) async fn release(&self, epoch: LeaseEpoch, events: &[Leased]) {
        for event in events {
            let call = async { self.queue.release(epoch, &[event.token]) };
            // A lease that is lost needs no release.
            let _ = self.tell.promised(format!("release {}", hex(&event.id.0)), false, call).await;
        }
    }

    /// All of the lane up to this event are done. The position tells which event it was.
    pub(crate) async fn checkpoint(
        &self,
        partition: Partition,
        epoch: LeaseEpoch,
        event: &Leased,
    ) -> Result<(), WriteError> {
        let position = event.id.0;
        let what = format!("checkpoint {} {}", partition.name, hex(&position));
        let call = self.queue.checkpoint(epoch, event.token, &position);
        let result = self.tell.promised(what, false, call).await;
        self.progress.notify_waiters();
        result
    }
}

/// What an event carries follows from its id.
fn payload(id: EventId, size: usize) -> Vec<u8> {
    let (first, second) = id.0.split_at(8);
    let number = |half: &[u8]| half.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    let mut random = Random::new(number(first), number(second));
    let mut payload = Vec::with_capacity(size + 8);
    while payload.len() < size {
        payload.extend_from_slice(&random.next().to_le_bytes());
    }
    payload.truncate(size);
    payload
}

/// An event as it is told of: its id, its size and what it must hash to.
fn told(id: EventId, attributes: &[u8], payload: &[u8]) -> String {
    let hash = digest(&SHA256, &[attributes, payload].concat());
    format!("{}:{}:{}", hex(&id.0), payload.len(), hex(&hash.as_ref()[..8]))
}

fn ids(events: &[Leased]) -> String {
    events.iter().map(|event| hex(&event.id.0)).collect::<Vec<_>>().join(" ")
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
