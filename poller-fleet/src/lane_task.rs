//! Drives one function's lane: tries events, settles what came of them, and ends when nothing is left.
//!
//! ```text
//!   mailbox ─► lane ─► attempt (a task) ─► Done ──► queue its drafts ──► acked together with others
//!                ▲                    └──► Again ─► note ─┬─► wait in memory
//!                └──── due ◄──────────────────────────────┘
//!                                                         └─► given back, when many wait: the queue holds it until then
//! ```
//! An event is acked only when everything that follows from it is durable. Should the queue refuse to write, that is tried until it
//! does; the function is not run again for it.

use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::{FutureExt as _, future::join_all};
use queue::{EventId, FunctionNumber, LeaseEpoch, Location, Queue};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use crate::{
    attributes::millis,
    engine::{Engine, Work},
    event::{Again, Draft, Event, Tried},
    lane::Lane,
    persist::persist,
    places::Place,
    schedule::Wait,
    window::TICK,
};

/// How long a lane without events stays before it is forgotten, with what it has learnt.
const LINGER: Duration = Duration::from_secs(10);
/// An attempt that ended in a panic of ours is made again after this.
const AFTER_PANIC: Duration = Duration::from_secs(1);

pub(crate) struct LaneTask<Q: Queue, W: Work> {
    engine: Arc<Engine<Q, W>>,
    function: FunctionNumber,
    mailbox: mpsc::UnboundedReceiver<Event<W::Kind>>,
    lane: Lane<Event<W::Kind>>,
    attempts: JoinSet<Attempted<W::Kind>>,
    settling: JoinSet<Settled<W::Kind>>,
    /// Done, and acked as soon as those before them are.
    done: Vec<Event<W::Kind>>,
    acking: bool,
    stopping: bool,
}

struct Attempted<K> {
    event: Event<K>,
    tried: Tried,
    begun: Instant,
    _place: Place,
}

enum Settled<K> {
    /// What follows from it is durable.
    Queued(Event<K>),
    Noted(Event<K>, Again),
    Acked,
    /// The queue refuses what follows from it, or the fleet stops and the queue does not write: it comes again.
    Dropped(Event<K>),
}

impl<Q: Queue, W: Work> LaneTask<Q, W> {
    pub(crate) fn new(
        engine: Arc<Engine<Q, W>>,
        function: FunctionNumber,
        mailbox: mpsc::UnboundedReceiver<Event<W::Kind>>,
    ) -> Self {
        Self {
            lane: Lane::new(engine.bounds()),
            engine,
            function,
            mailbox,
            attempts: JoinSet::new(),
            settling: JoinSet::new(),
            done: Vec::new(),
            acking: false,
            stopping: false,
        }
    }

    pub(crate) async fn run(mut self) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = self.engine.stop().clone();
        loop {
            self.begin_what_can();
            if self.is_idle() {
                let ends = self.stopping || self.linger().await;
                if stop.is_cancelled() {
                    self.stop();
                }
                if ends && self.engine.forget(self.function, &self.mailbox) {
                    return;
                }
                continue;
            }
            let due = self.lane.due().unwrap_or_else(Instant::now);
            tokio::select! {
                Some(event) = self.mailbox.recv() => self.arrive(event),
                Some(attempted) = self.attempts.join_next() => self.attempted(attempted),
                Some(settled) = self.settling.join_next() => self.settled(settled),
                () = sleep_until(due), if self.lane.due().is_some() => {}
                _ = ticks.tick(), if !self.attempts.is_empty() => self.lane.tick(self.engine.has_room()),
                () = stop.cancelled(), if !self.stopping => self.stop(),
            }
        }
    }

    /// Waits for mail as long as it is worth keeping the lane; `true` if none came.
    async fn linger(&mut self) -> bool {
        let stop = self.engine.stop().clone();
        tokio::select! {
            event = self.mailbox.recv() => event.map(|event| self.arrive(event)).is_none(),
            () = tokio::time::sleep(LINGER) => true,
            () = stop.cancelled() => true,
        }
    }

    fn is_idle(&self) -> bool {
        self.lane.is_empty() && self.attempts.is_empty() && self.settling.is_empty() && self.done.is_empty()
    }

    fn arrive(&mut self, event: Event<W::Kind>) {
        if self.stopping { self.engine.release(&[event]) } else { self.lane.arrive(event) }
    }

    fn stop(&mut self) {
        self.stopping = true;
        let mut left = self.lane.clear();
        left.extend(std::iter::from_fn(|| self.mailbox.try_recv().ok()));
        self.engine.release(&left);
    }

    fn begin_what_can(&mut self) {
        let now = Instant::now();
        while self.may_begin()
            && let Some(mut event) = self.lane.begin(now)
        {
            if event.lease.is_lost() {
                self.lane.end();
                continue;
            }
            let engine = self.engine.clone();
            let place = engine.places().take();
            self.attempts.spawn(async move {
                let attempt = AssertUnwindSafe(engine.work().attempt(&mut event)).catch_unwind().await;
                let tried = attempt.unwrap_or_else(|_| {
                    tracing::error!(request_id = %event.request_id(), "an attempt ended in a panic; it is made again");
                    Tried::Again(Again { wait: Wait::anywhere(AFTER_PANIC), noted: false, refused: false })
                });
                Attempted { event, tried, begun: now, _place: place }
            });
        }
    }

    /// Asked again when an attempt ends, and each tick: others may have ended.
    fn may_begin(&self) -> bool {
        let running = self.lane.running();
        running < self.engine.bounds().least || self.engine.places().leaves_room(running)
    }

    fn attempted(&mut self, attempted: Result<Attempted<W::Kind>, tokio::task::JoinError>) {
        self.lane.end();
        let Ok(Attempted { mut event, tried, begun, _place }) = attempted else { return };
        match tried {
            Tried::Done(drafts) if drafts.is_empty() => self.finish(event),
            Tried::Done(drafts) => {
                let engine = self.engine.clone();
                self.settling.spawn(async move {
                    if engine.enqueue(&drafts).await {
                        Settled::Queued(event)
                    } else {
                        Settled::Dropped(event)
                    }
                });
            }
            Tried::Again(again) => {
                if again.refused {
                    self.lane.refused(begun, Instant::now());
                    if self.lane.is_running() && !self.stopping {
                        // The window was too wide, and is not any more: it has a place when one of the others ends, and was not deferred.
                        event.deferrals = event.deferrals.saturating_sub(1);
                        self.lane.next(event);
                        return;
                    }
                }
                // What stays in memory need not be noted for having waited.
                if again.noted || self.gives_back() {
                    self.note(event, again);
                } else {
                    self.wait(event, again);
                }
            }
        }
    }

    fn note(&mut self, event: Event<W::Kind>, again: Again) {
        let engine = self.engine.clone();
        let wait = if self.gives_back() { again.wait.in_queue } else { again.wait.in_memory };
        self.settling.spawn(async move {
            let not_before = millis(engine.clock().now() + wait);
            if engine.note(&event, not_before).await {
                Settled::Noted(event, again)
            } else {
                Settled::Dropped(event)
            }
        });
    }

    fn settled(&mut self, settled: Result<Settled<W::Kind>, tokio::task::JoinError>) {
        match settled {
            Ok(Settled::Queued(event)) => self.finish(event),
            Ok(Settled::Noted(event, _)) if self.gives_back() => self.engine.release(&[event]),
            Ok(Settled::Noted(event, again)) => self.wait(event, again),
            Ok(Settled::Acked) => {
                self.acking = false;
                self.ack();
            }
            Ok(Settled::Dropped(event)) => self.engine.release(&[event]),
            Err(error) => {
                tracing::error!(%error, "events could not be settled; they come again");
                // It may have been the ack.
                self.acking = false;
                self.ack();
            }
        }
    }

    /// Whether what has to wait waits in the queue: the fleet stops, or what waits here already would keep new events out.
    fn gives_back(&self) -> bool {
        self.stopping || self.engine.budget().is_crowded(self.function, self.lane.waiting())
    }

    fn wait(&mut self, event: Event<W::Kind>, again: Again) {
        self.lane.wait(event, Instant::now() + again.wait.in_memory);
    }

    fn finish(&mut self, event: Event<W::Kind>) {
        self.done.push(event);
        if !self.acking {
            self.ack();
        }
    }

    fn ack(&mut self) {
        if self.done.is_empty() {
            return;
        }
        self.acking = true;
        let (engine, done) = (self.engine.clone(), std::mem::take(&mut self.done));
        self.settling.spawn(async move {
            engine.ack(&done).await;
            Settled::Acked
        });
    }
}

// === impl Engine: what a lane asks of the queue ===

impl<Q: Queue, W: Work> Engine<Q, W> {
    /// `false`: they are not queued for sure, and the event comes again.
    async fn enqueue(&self, drafts: &[Draft]) -> bool {
        let encoded: Vec<_> = drafts.iter().map(|draft| draft.attributes.encode()).collect();
        let events: Vec<_> = drafts
            .iter()
            .zip(&encoded)
            .map(|(draft, attributes)| queue::Event {
                id: draft.id,
                function: draft.function,
                partition: draft.partition,
                attributes,
                payload: &draft.payload,
            })
            .collect();
        persist("an outcome", self.stop(), || self.queue().enqueue(&events)).await
    }

    async fn note(&self, event: &Event<W::Kind>, not_before_ms: u64) -> bool {
        let (epoch, named) = (event.lease.epoch(), (event.token, event.id));
        persist("a failed attempt", self.stop(), || {
            self.queue().note(epoch, named, event.attempts, not_before_ms)
        })
        .await
    }

    async fn ack(&self, events: &[Event<W::Kind>]) {
        let mut leases: HashMap<LeaseEpoch, Vec<(Location, EventId)>> = HashMap::new();
        for event in events {
            leases.entry(event.lease.epoch()).or_default().push((event.token, event.id));
        }
        join_all(leases.iter().map(async |(epoch, events)| {
            if persist("an ack", self.stop(), || self.queue().ack(*epoch, events)).await || events.len() == 1
            {
                return;
            }
            // The lease has lost one of them, which keeps the others from being done in one go.
            for event in events {
                persist("an ack", self.stop(), || self.queue().ack(*epoch, std::slice::from_ref(event)))
                    .await;
            }
        }))
        .await;
    }

    /// Gives events back, to be leased again.
    pub(crate) fn release(&self, events: &[Event<W::Kind>]) {
        for event in events {
            // Who has lost it has nothing to give back.
            let _ = self.queue().release(event.lease.epoch(), &[event.token]);
        }
    }
}
