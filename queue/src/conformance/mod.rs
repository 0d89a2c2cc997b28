//! The conformance suite: each promise of [`Queue`] is a check by name, for any implementation.
//!
//! ```text
//!   Subject (opens a queue, crashes it, lets time pass) ──► run ──► for each check, on a queue of its own: kept, or how it was broken
//! ```
//! An implementation brings a [`Subject`]; its tests call [`assert_kept`]. The suite itself is tested against a queue that is
//! obviously right and against several that are wrong on purpose (`tests.rs`). It looks at one promise at a time; histories at
//! random, faults of the disk and speed are for each implementation's own tests.

mod delivery;
mod leases;
mod operators;
mod ordered;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

use std::{collections::HashSet, fmt, time::Duration};

use crate::{
    Event, EventId, FunctionNumber, LeaseEpoch, Leased, Location, PartitionNumber, Queue, ReadError, Request,
    WriteError, partition::Order,
};

/// A place where a queue can be made, lost and found again.
pub trait Subject: Send {
    type Queue: Queue;

    /// Opens the queue: an empty one at first, the same again after a crash.
    fn open(&mut self) -> Self::Queue;

    /// The process that has the queue open ends without a word, and whatever was not durable is lost.
    fn crash(&mut self, queue: Self::Queue);

    /// Time passes for the queue, on all its clocks.
    fn pass(&mut self, time: Duration);

    /// The queue's wall clock: milliseconds since the Unix epoch.
    fn wall_ms(&self) -> u64;
}

/// How a promise was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken(pub String);

impl From<WriteError> for Broken {
    fn from(error: WriteError) -> Self {
        Self(format!("a call failed: {error}"))
    }
}

impl From<ReadError> for Broken {
    fn from(error: ReadError) -> Self {
        Self(format!("a call failed: {error}"))
    }
}

type Checked = Result<(), Broken>;

/// Runs every check, each on a queue of its own; returns their names and how they ended.
pub async fn run<S: Subject>(mut make: impl FnMut() -> S) -> Vec<(&'static str, Result<(), Broken>)> {
    let mut outcomes = delivery::run(&mut make).await;
    outcomes.extend(leases::run(&mut make).await);
    outcomes.extend(ordered::run(&mut make).await);
    outcomes.extend(operators::run(&mut make).await);
    outcomes
}

/// # Panics
/// If a promise is broken.
pub async fn assert_kept<S: Subject>(make: impl FnMut() -> S) {
    let outcomes = run(make).await;
    let broken: Vec<_> = outcomes.iter().filter(|(_, outcome)| outcome.is_err()).collect();
    assert!(broken.is_empty(), "{} of {} promises are broken: {broken:#?}", broken.len(), outcomes.len());
}

/// Checks of one file, to be run by their names.
macro_rules! checks {
    ($($name:ident,)*) => {
        pub(super) async fn run<S: super::Subject>(
            make: &mut impl FnMut() -> S,
        ) -> Vec<(&'static str, super::Checked)> {
            vec![$((stringify!($name), $name(&mut super::Stage::new(make())).await)),*]
        }
    };
}
use checks;

/// A check says what it found otherwise.
fn same<T: PartialEq + fmt::Debug>(what: &str, found: T, expected: T) -> Checked {
    if found == expected { Ok(()) } else { Err(Broken(format!("{what}: {found:?} instead of {expected:?}"))) }
}

/// Most events that a check leases at once.
const MANY: usize = 100;
const LEASE: Duration = Duration::from_secs(60);

/// What every check plays on: an open queue with two functions, a shared partition and a lane.
struct Stage<S: Subject> {
    subject: S,
    queue: Option<S::Queue>,
}

impl<S: Subject> Stage<S> {
    fn new(mut subject: S) -> Self {
        let queue = Some(subject.open());
        Self { subject, queue }
    }

    fn queue(&self) -> &S::Queue {
        self.queue.as_ref().expect("it is open between crashes")
    }

    fn crash(&mut self) {
        if let Some(queue) = self.queue.take() {
            self.subject.crash(queue);
        }
        self.queue = Some(self.subject.open());
    }

    fn shared(&self) -> PartitionNumber {
        self.partition("shared", Order::None)
    }

    fn lane(&self) -> PartitionNumber {
        self.partition("lane", Order::Strict)
    }

    fn partition(&self, name: &str, order: Order) -> PartitionNumber {
        self.queue().partition(name, order).expect("a short name")
    }

    fn function(&self, name: &str) -> FunctionNumber {
        self.queue().function(name).expect("a short name")
    }

    /// Queues events of these numbers, for function `f`.
    async fn put(&self, partition: PartitionNumber, numbers: impl IntoIterator<Item = u8>) -> Checked {
        self.put_for(self.function("f"), partition, numbers).await
    }

    async fn put_for(
        &self,
        function: FunctionNumber,
        partition: PartitionNumber,
        numbers: impl IntoIterator<Item = u8>,
    ) -> Checked {
        let payloads: Vec<_> = numbers.into_iter().map(|number| (number, payload(number))).collect();
        let events: Vec<_> = payloads
            .iter()
            .map(|(number, payload)| Event {
                id: id(*number),
                function,
                partition,
                attributes: b"a",
                payload,
            })
            .collect();
        Ok(self.queue().enqueue(&events).await?)
    }

    /// Leases so many, which must be there; [`MANY`]: all there is.
    async fn lease(
        &self,
        partition: PartitionNumber,
        events: usize,
    ) -> Result<(LeaseEpoch, Vec<Leased>), Broken> {
        let leased = self.queue().lease(request(partition, events, &HashSet::new())).await?;
        if events != MANY {
            same("events that are leased", leased.1.len(), events)?;
        }
        Ok(leased)
    }

    /// Leases all there is, and says which they are.
    async fn all(&self, partition: PartitionNumber) -> Result<Vec<u8>, Broken> {
        Ok(numbers(&self.lease(partition, MANY).await?.1))
    }
}

fn request(partition: PartitionNumber, events: usize, exclude: &HashSet<FunctionNumber>) -> Request<'_> {
    Request { partition, events, bytes: u64::MAX, wait: Duration::ZERO, lease: LEASE, exclude }
}

fn id(number: u8) -> EventId {
    EventId([number; 16])
}

fn payload(number: u8) -> Vec<u8> {
    vec![number; 50 + usize::from(number)]
}

fn numbers(events: &[Leased]) -> Vec<u8> {
    events.iter().map(|event| event.id.0[0]).collect()
}

/// What an ack says of events.
fn named(events: &[Leased]) -> Vec<(Location, EventId)> {
    events.iter().map(|event| (event.token, event.id)).collect()
}

fn tokens(events: &[Leased]) -> Vec<Location> {
    events.iter().map(|event| event.token).collect()
}

/// In partitions without an order, any is right.
fn sorted(mut numbers: Vec<u8>) -> Vec<u8> {
    numbers.sort_unstable();
    numbers
}
