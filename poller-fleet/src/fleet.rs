//! The fleet: takes events in, has as many pollers as there is work for, and ends in order.
//!
//! ```text
//!   accept ─► queue ─► pollers ─► lanes ─► invoker                      Invocations
//!                ▲                   └───► record for a destination ─┐
//!                ├───────────────────────────────────────────────────┘
//!                └───► pollers ─► lanes ─► destination, or a function    Deliveries
//!
//!   supervisor, twice a second: depth and age of each partition ─► pollers added and ended, functions moved
//! ```

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use connectors::destinations::Destinations;
use futures::future::{BoxFuture, join_all};
use invoker::{InvokeError, InvokeOutcome, InvokeRequest};
use queue::{EventId, Queue, Refused, WriteError};
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;
use tower::Service;
use types::{Clock, FunctionArn, RequestId, TraceContext};

use crate::{
    attributes::{Attributes, Invocation},
    backlog::Backlog,
    budget::Budget,
    config::Config,
    dead_letters::UnderWay,
    delivery::Deliveries,
    engine::{self, Engine, Running},
    invocation::{Functions, Invocations},
    load::Load,
    metrics,
    places::Places,
    router::Router,
    supervisor::Supervisor,
    window::Bounds,
};

/// Deliveries of one function at once.
const DELIVERIES_AT_ONCE: u32 = 32;

/// What a fleet is made from.
#[expect(missing_debug_implementations, reason = "made once, of parts that have no debug form")]
pub struct Parts<Q, S> {
    pub config: Config,
    /// Its wall clock must be `clock`.
    pub queue: Q,
    pub invoker: S,
    pub functions: Arc<dyn Functions>,
    pub destinations: Destinations,
    /// One that does not jump: [`SteadyClock`](crate::SteadyClock).
    pub clock: Arc<dyn Clock>,
}

/// An event to be queued.
#[derive(Debug)]
pub struct AsyncInvocation {
    pub function: FunctionArn,
    /// As the caller named it, with its qualifier if it gave one.
    pub invoked_arn: String,
    pub request_id: RequestId,
    /// JSON, at most [`types::limits::ASYNC_REQUEST_BYTES`]; checked at the edge.
    pub payload: Bytes,
    pub client_context: Option<String>,
    pub trace: TraceContext,
}

/// A running fleet.
pub struct Fleet<Q> {
    router: Arc<Router<Q>>,
    clock: Arc<dyn Clock>,
    under_way: UnderWay,
    engines: [Arc<dyn Running>; 2],
    /// Whoever waits for one is given back when the fleet stops.
    slots: Arc<Semaphore>,
    /// The supervisor, and who tells how much is queued.
    watchers: [AbortOnDropHandle<()>; 2],
}

/// Takes events in, whatever queue is behind it.
pub trait AcceptEvents: Send + Sync {
    /// Queues an event. When this returns `Ok`, it is durable, and will end in its function, a destination or the dead-letter store.
    /// After an error it may be queued or not.
    fn accept(&self, event: AsyncInvocation) -> BoxFuture<'_, Result<(), WriteError>>;
}

/// What others ask of the fleet. Cheap to clone.
pub struct Handle<Q> {
    pub(crate) router: Arc<Router<Q>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) under_way: UnderWay,
}

impl<Q> Clone for Handle<Q> {
    fn clone(&self) -> Self {
        Self { router: self.router.clone(), clock: self.clock.clone(), under_way: self.under_way.clone() }
    }
}

impl<Q> std::fmt::Debug for Handle<Q> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

impl<Q: Queue> Fleet<Q> {
    /// Starts polling. Call within a tokio runtime.
    pub fn start<S>(parts: Parts<Q, S>) -> Result<Self, Refused>
    where
        S: Service<InvokeRequest, Response = InvokeOutcome, Error = InvokeError>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send,
    {
        Self::start_under(Load::new(), parts)
    }

    fn start_under<S>(load: Load, parts: Parts<Q, S>) -> Result<Self, Refused>
    where
        S: Service<InvokeRequest, Response = InvokeOutcome, Error = InvokeError>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send,
    {
        let Parts { config, queue, invoker, functions, destinations, clock } = parts;
        let router = Arc::new(Router::new(queue.clone(), config.shared_partitions)?);
        let load = Arc::new(load);
        let slots = Arc::new(Semaphore::new(config.max_concurrency.max(1) as usize));
        let least = 2 * std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
        let schedule = config.schedule;
        let invocations = Engine::start(engine::Parts {
            queue: queue.clone(),
            work: Invocations {
                router: router.clone(),
                invoker,
                functions,
                schedule,
                clock: clock.clone(),
                slots: slots.clone(),
            },
            budget: Budget::new(config.memory, config.function_memory),
            bounds: Bounds { least, most: config.max_concurrency },
            places: Places::new(config.max_concurrency),
            lease: config.lease,
            clock: clock.clone(),
            load: load.clone(),
        });
        let deliveries = Engine::start(engine::Parts {
            queue,
            work: Deliveries { router: router.clone(), destinations, schedule, clock: clock.clone() },
            budget: Budget::new(config.memory, config.function_memory),
            bounds: Bounds { least: DELIVERIES_AT_ONCE, most: DELIVERIES_AT_ONCE },
            places: Places::new(u32::MAX),
            lease: config.lease,
            clock: clock.clone(),
            load,
        });
        let supervisor =
            Supervisor::new(config, router.clone(), invocations.clone(), deliveries.clone()).run();
        let engines: [Arc<dyn Running>; 2] = [invocations, deliveries];
        let backlog = Backlog::new(router.clone(), clock.clone());
        let watchers = [tokio::spawn(supervisor), tokio::spawn(backlog.run())].map(AbortOnDropHandle::new);
        Ok(Self { router, clock, under_way: UnderWay::default(), engines, slots, watchers })
    }

    #[must_use]
    pub fn handle(&self) -> Handle<Q> {
        let (clock, under_way) = (self.clock.clone(), self.under_way.clone());
        Handle { router: self.router.clone(), clock, under_way }
    }

    /// Leases nothing more, gives back what waits, and returns when what runs has ended and is settled, or when `within` is over:
    /// what still runs then comes again after the next start.
    pub async fn stop(self, within: Duration) {
        for watcher in self.watchers {
            watcher.abort();
            // It was ended on purpose.
            let _ = watcher.await;
        }
        self.slots.close();
        // What invocations leave behind for destinations is taken up at the next start.
        let finished = join_all(self.engines.iter().map(|engine| engine.finish()));
        if tokio::time::timeout(within, finished).await.is_err() {
            let running: usize = self.engines.iter().map(|engine| engine.held()).sum();
            tracing::warn!(
                running,
                "events were still being tried; they are tried again after the next start"
            );
        }
    }
}

impl<Q> std::fmt::Debug for Fleet<Q> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet").finish_non_exhaustive()
    }
}

impl<Q: Queue> AcceptEvents for Handle<Q> {
    fn accept(&self, event: AsyncInvocation) -> BoxFuture<'_, Result<(), WriteError>> {
        Box::pin(self.enqueue(event))
    }
}

impl<Q: Queue> Handle<Q> {
    async fn enqueue(&self, event: AsyncInvocation) -> Result<(), WriteError> {
        let AsyncInvocation { function: arn, invoked_arn, request_id, payload, client_context, trace } =
            event;
        let TraceContext { xray, traceparent, lineage } = trace;
        let lineage = lineage.to_string();
        let (function, partition) = self.router.invocations(&arn)?;
        let attributes =
            Attributes::Invoke(Invocation { invoked_arn, client_context, xray, traceparent, lineage });
        let event = queue::Event {
            id: EventId(request_id.to_bytes()),
            function,
            partition,
            attributes: &attributes.encode(),
            payload: &payload,
        };
        self.router.queue().enqueue(&[event]).await?;
        metrics::received(arn.name.as_str());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
