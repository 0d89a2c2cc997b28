//! Pollers, and the lanes they feed, for one kind of event.
//!
//! ```text
//!   partitions          pollers                        lanes, one for each function with events in memory
//!   ──────────┐                                      ┌─► LaneTask(f)
//!   ──────────┼─► lease ─► decode ─► hold (budget) ──┼─► LaneTask(g)
//!   ──────────┘     ▲                                └─► …
//!                   └── without functions whose share is full
//! ```
//! What is to be done with an event is the [`Work`]'s; when, how often and how many at once is decided here.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use queue::{FunctionNumber, LeaseEpoch, Leased, PartitionNumber, Queue, ReadError, Request};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use types::Clock;

use crate::{
    attributes::{Attributes, millis},
    budget::{Budget, Room},
    event::{Event, Tried},
    lane_task::LaneTask,
    leases::Leases,
    load::Load,
    places::Places,
    signals::Signals,
    window::Bounds,
};

/// Most events of one lease.
const LEASE_EVENTS: usize = 256;
/// Most bytes of one lease.
const LEASE_BYTES: u64 = 8 * 1024 * 1024;
/// How long a poller waits for an event before it looks whether anything else has changed.
const POLL_WAIT: Duration = Duration::from_secs(20);
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// An event that this version cannot read is left alone for so long: a newer one may be started.
const UNREADABLE_REST: Duration = Duration::from_secs(3600);

/// What is done with one kind of event.
pub(crate) trait Work: Send + Sync + 'static {
    /// What its attributes say.
    type Kind: Send + Sync + 'static;

    /// `None`: this is another kind of event.
    fn kind(attributes: Attributes) -> Option<Self::Kind>;

    /// Tries an event once. What it counts, it counts in the event.
    fn attempt(&self, event: &mut Event<Self::Kind>) -> impl Future<Output = Tried> + Send;
}

/// An engine of whatever kind, for who stops it.
pub(crate) trait Running: Send + Sync {
    /// Begins nothing new, gives back what waits, and returns when what runs has ended.
    fn finish(&self) -> BoxFuture<'_, ()>;

    /// Events in memory.
    fn held(&self) -> usize;
}

pub(crate) struct Engine<Q: Queue, W: Work> {
    parts: Parts<Q, W>,
    leases: Leases,
    lanes: Mutex<HashMap<FunctionNumber, mpsc::UnboundedSender<Event<W::Kind>>>>,
    /// Nothing new is begun.
    stop: CancellationToken,
    tasks: TaskTracker,
    /// Keeps leases until all those have ended.
    keeper: TaskTracker,
}

pub(crate) struct Parts<Q: Queue, W: Work> {
    pub(crate) queue: Q,
    pub(crate) work: W,
    pub(crate) budget: Budget,
    /// How many events of one function are tried at once.
    pub(crate) bounds: Bounds,
    /// And of all functions.
    pub(crate) places: Places,
    pub(crate) lease: Duration,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) load: Arc<Load>,
}

impl<Q: Queue, W: Work> Engine<Q, W> {
    pub(crate) fn start(parts: Parts<Q, W>) -> Arc<Self> {
        let engine = Arc::new(Self {
            leases: Leases::new(parts.lease),
            parts,
            lanes: Mutex::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            keeper: TaskTracker::new(),
        });
        let keeper = engine.clone();
        engine.keeper.spawn(async move {
            tokio::select! {
                () = keeper.leases.keep(&keeper.parts.queue) => {}
                () = keeper.tasks.wait() => {}
            }
        });
        engine.keeper.close();
        engine
    }

    pub(crate) fn queue(&self) -> &Q {
        &self.parts.queue
    }

    pub(crate) fn work(&self) -> &W {
        &self.parts.work
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.parts.clock
    }

    pub(crate) fn bounds(&self) -> Bounds {
        self.parts.bounds
    }

    pub(crate) fn places(&self) -> &Places {
        &self.parts.places
    }

    pub(crate) fn budget(&self) -> &Budget {
        &self.parts.budget
    }

    pub(crate) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    pub(crate) fn has_room(&self) -> bool {
        self.parts.load.has_room()
    }

    // === pollers ===

    /// Adds a poller of a partition, which ends with `until`.
    pub(crate) fn poll(
        self: &Arc<Self>,
        partition: PartitionNumber,
        signals: Arc<Signals>,
        until: CancellationToken,
    ) {
        let engine = self.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = engine.poll_for_ever(partition, &signals) => {}
                () = until.cancelled() => {}
                () = engine.stop.cancelled() => {}
            }
        });
    }

    async fn poll_for_ever(self: &Arc<Self>, partition: PartitionNumber, signals: &Signals) {
        loop {
            let Room { most, exclude, mut freed } = self.parts.budget.room();
            if most.events == 0 {
                // The sender lives as long as the budget.
                let _ = freed.changed().await;
                continue;
            }
            let request = Request {
                partition,
                events: most.events.min(LEASE_EVENTS),
                bytes: LEASE_BYTES.min(most.bytes as u64),
                wait: POLL_WAIT,
                lease: self.leases.duration(),
                exclude: &exclude,
            };
            let leased = tokio::select! {
                leased = self.parts.queue.lease(request) => leased,
                // Somebody who was passed over need not be any more.
                Ok(()) = freed.changed() => continue,
            };
            match leased {
                Ok((_, events)) if events.is_empty() => {}
                Ok((epoch, events)) => {
                    signals.leased(&events, self.clock().now());
                    self.dispatch(epoch, events).await;
                }
                Err(ReadError::Draining) => return,
                Err(error) => {
                    tracing::error!(%error, retry_in = ?AFTER_FAILURE, "events could not be leased");
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            }
        }
    }

    /// Hands what was leased to the lanes.
    async fn dispatch(self: &Arc<Self>, epoch: LeaseEpoch, leased: Vec<Leased>) {
        let lease = self.leases.opened(epoch);
        let mut unreadable = Vec::new();
        {
            let mut lanes = self.lanes();
            for leased in leased {
                let bytes = leased.payload.len() + leased.attributes.len();
                let kind = match Attributes::decode(&leased.attributes) {
                    Ok(attributes) => W::kind(attributes),
                    Err(error) => {
                        tracing::error!(event = %leased.id, %error, "an event cannot be read by this version; it is kept");
                        None
                    }
                };
                let Some(kind) = kind else {
                    unreadable.push(leased);
                    continue;
                };
                let event = Event {
                    token: leased.token,
                    id: leased.id,
                    function: leased.function,
                    lease: lease.clone(),
                    kind,
                    payload: leased.payload.into(),
                    accepted: leased.accepted,
                    attempts: leased.attempts,
                    deferrals: 0,
                    failure: None,
                    _holding: self.parts.budget.hold(leased.function, bytes),
                };
                let lane = lanes.entry(leased.function).or_insert_with(|| self.start_lane(leased.function));
                // It cannot be closed while it stands in the map.
                let _ = lane.send(event);
            }
        }
        for leased in unreadable {
            let not_before = millis(self.clock().now() + UNREADABLE_REST);
            let queue = &self.parts.queue;
            let noted = queue.note(epoch, (leased.token, leased.id), leased.attempts, not_before).await;
            // Given back without a time it would come at once; so it comes when its lease is over.
            if noted.is_ok() {
                let _ = queue.release(epoch, &[leased.token]);
            }
        }
    }

    // === lanes ===

    fn start_lane(self: &Arc<Self>, function: FunctionNumber) -> mpsc::UnboundedSender<Event<W::Kind>> {
        let (sender, mailbox) = mpsc::unbounded_channel();
        self.tasks.spawn(LaneTask::new(self.clone(), function, mailbox).run());
        sender
    }

    /// Forgets a lane that is about to end, unless something has just come for it.
    pub(crate) fn forget(
        &self,
        function: FunctionNumber,
        mailbox: &mpsc::UnboundedReceiver<Event<W::Kind>>,
    ) -> bool {
        // Events are sent under this lock: none can come between the look and the removal.
        let mut lanes = self.lanes();
        let ends = mailbox.is_empty();
        if ends {
            lanes.remove(&function);
        }
        ends
    }

    fn lanes(&self) -> MutexGuard<'_, HashMap<FunctionNumber, mpsc::UnboundedSender<Event<W::Kind>>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<Q: Queue, W: Work> Running for Engine<Q, W> {
    fn finish(&self) -> BoxFuture<'_, ()> {
        self.stop.cancel();
        self.tasks.close();
        Box::pin(async {
            self.tasks.wait().await;
            self.keeper.wait().await;
        })
    }

    fn held(&self) -> usize {
        self.parts.budget.held().events
    }
}
