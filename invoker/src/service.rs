//! The one way to invoke: admission, then the pool of the function's deployment.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use control::{ControlPlane, Retired, Retirements};
use futures::future::BoxFuture;
use sandbox::Isolation;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::timeout,
};
use tower::Service;
use tracing::Instrument;
use types::{Clock, DeploymentId, FunctionRef, FunctionSpec, LogSink};

use crate::{
    InvokeError, InvokeOutcome, InvokeRequest,
    attempt::Job,
    capacity::{Capacity, Owner},
    config::Config,
    launcher::Launcher,
    metrics,
    pool::FINISHING_GRACE,
    pool_task::{PoolContext, PoolMessage, PoolTask},
};

/// How often an invocation follows a function that is updated under it before it gives up.
const FOLLOW_UPDATES: usize = 3;
/// When a throttled caller may ask again.
const THROTTLE_RETRY: Duration = Duration::from_secs(1);

/// Handle of the invoker; cheap to clone.
#[derive(Clone)]
pub struct Invoker {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Invoker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Invoker").finish_non_exhaustive()
    }
}

struct Shared {
    control: ControlPlane,
    context: Arc<PoolContext>,
    capacity: Capacity,
    slots: Arc<Semaphore>,
    next_ticket: AtomicU64,
    pools: Mutex<Pools>,
}

type PoolSender = mpsc::UnboundedSender<PoolMessage>;

struct Pool {
    function: Arc<FunctionSpec>,
    memory: Owner,
    sender: PoolSender,
}

/// Tells the pool that the caller of this ticket has gone, unless it was emptied before.
struct CancelOnDrop(Option<(PoolSender, u64)>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some((pool, ticket)) = self.0.take() {
            let _ = pool.send(PoolMessage::Cancelled(ticket));
        }
    }
}

/// The pools that exist, one for each deployment in use.
#[derive(Default)]
struct Pools {
    by_deployment: HashMap<DeploymentId, Pool>,
    /// No pool is made any more.
    stopping: bool,
}

/// The right to run one invocation now, counted in the concurrency metric.
#[derive(Debug)]
pub(crate) struct ConcurrencySlot(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl ConcurrencySlot {
    fn new(permit: OwnedSemaphorePermit) -> Self {
        metrics::concurrent(1.0);
        Self(permit)
    }
}

impl Drop for ConcurrencySlot {
    fn drop(&mut self) {
        metrics::concurrent(-1.0);
    }
}

/// What an invoker is made from.
#[expect(missing_debug_implementations, reason = "made once, of parts that have no debug form")]
pub struct Parts {
    pub config: Config,
    pub control: ControlPlane,
    pub isolation: Arc<dyn Isolation>,
    pub logs: Arc<dyn LogSink>,
    pub clock: Arc<dyn Clock>,
    /// Where unsealed code may lie: memory, private to this process.
    pub code_directory: PathBuf,
}

impl Invoker {
    /// Makes an invoker. Call within a tokio runtime; [`Invoker::stop`] ends it.
    #[must_use]
    pub fn start(parts: Parts) -> Self {
        let Parts { config, control, isolation, logs, clock, code_directory } = parts;
        let capacity = Capacity::new(config.max_memory_mb, config.capacity_wait);
        let launcher = Launcher::new(control.clone(), isolation, code_directory, capacity.clone());
        let slots =
            Arc::new(Semaphore::new(usize::try_from(config.concurrency_limit).unwrap_or(usize::MAX >> 3)));
        let retired = control.retired();
        let context = Arc::new(PoolContext { config, launcher: Arc::new(launcher), logs, clock });
        let invoker = Self {
            shared: Arc::new(Shared {
                control,
                context,
                capacity,
                slots,
                next_ticket: AtomicU64::new(0),
                pools: Mutex::default(),
            }),
        };
        tokio::spawn(watch(Arc::downgrade(&invoker.shared), retired));
        invoker
    }

    /// Stops taking requests, lets those accepted finish, stops every environment. Returns when all are gone.
    pub async fn stop(&self) {
        let senders: Vec<_> = {
            let mut pools = self.shared.pools();
            pools.stopping = true;
            pools.by_deployment.drain().map(|(_, pool)| pool.sender).collect()
        };
        for pool in &senders {
            let _ = pool.send(PoolMessage::Retire);
        }
        for pool in senders {
            pool.closed().await;
        }
        self.shared.context.launcher.close().await;
    }

    async fn invoke(self, mut request: InvokeRequest) -> Result<InvokeOutcome, InvokeError> {
        for _ in 0..FOLLOW_UPDATES {
            match self.clone().attempt(request.clone()).await {
                // The artefacts of a deployment go when it is replaced: follow the function to its new one.
                Err(error @ InvokeError::ArtefactUnreadable { .. }) => {
                    let reference = FunctionRef {
                        region: None,
                        account: None,
                        name: request.function.arn.name.clone(),
                        qualifier: None,
                    };
                    match self.shared.control.resolve(&reference) {
                        Ok(current) if current.deployment != request.function.deployment => {
                            request.function = current;
                        }
                        _ => return Err(error),
                    }
                }
                done => return done,
            }
        }
        Err(InvokeError::unavailable("the function is being updated"))
    }

    async fn attempt(self, request: InvokeRequest) -> Result<InvokeOutcome, InvokeError> {
        let Some(slot) = self.shared.slot().await else {
            metrics::throttle(request.function.arn.name.as_str());
            let limit = self.shared.context.config.concurrency_limit;
            return Err(InvokeError::Throttled { limit, retry_after: THROTTLE_RETRY });
        };
        let (reply, outcome) = oneshot::channel();
        let span = tracing::Span::current();
        let ticket = self.shared.next_ticket.fetch_add(1, Ordering::Relaxed);
        let job = Job { ticket, request, reply, slot, span };
        let Some(pool) = self.shared.clone().submit(job) else {
            return Err(InvokeError::unavailable("shutting down"));
        };
        // If this future is dropped while the job still waits, it waits no longer.
        let mut cancel = CancelOnDrop(Some((pool, ticket)));
        let outcome = outcome.await;
        cancel.0 = None;
        outcome.unwrap_or_else(|_| Err(InvokeError::unavailable("shutting down")))
    }
}

impl Shared {
    /// A slot, if one is free or becomes free in a moment. A caller that asks again as soon as it has its answer is not
    /// throttled for the call before, whose environment is about to ask for its next event.
    async fn slot(&self) -> Option<ConcurrencySlot> {
        let permit = match self.slots.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => timeout(FINISHING_GRACE, self.slots.clone().acquire_owned()).await.ok()?.ok()?,
        };
        Some(ConcurrencySlot::new(permit))
    }

    /// Hands the job to its deployment's pool, which is made if there is none; `None` if the invoker is stopping.
    fn submit(self: Arc<Self>, job: Job) -> Option<PoolSender> {
        let deployment = job.request.function.deployment;
        let mut pools = self.pools();
        if pools.stopping {
            return None;
        }
        let pool =
            pools.by_deployment.entry(deployment).or_insert_with(|| self.start_pool(&job.request.function));
        // It cannot be closed while it stands in the map.
        let _ = pool.sender.send(PoolMessage::Request(job));
        Some(pool.sender.clone())
    }

    fn start_pool(self: &Arc<Self>, function: &Arc<FunctionSpec>) -> Pool {
        let (sender, messages) = mpsc::unbounded_channel();
        let memory = Owner::default();
        let task = PoolTask::new(self.context.clone(), function.clone(), memory.clone(), sender.clone());
        let (shared, deployment) = (Arc::downgrade(self), function.deployment);
        let may_end = move |messages: &mpsc::UnboundedReceiver<PoolMessage>| {
            let Some(shared) = shared.upgrade() else {
                return true;
            };
            // Requests are sent under this lock: none can come between the look and the removal.
            let mut pools = shared.pools();
            let ends = messages.is_empty();
            if ends {
                pools.by_deployment.remove(&deployment);
            }
            ends
        };
        tokio::spawn(task.run(messages, may_end));
        // The notice of its retirement may have come before the pool was there to hear it.
        if !self.control.is_live(function) {
            let _ = sender.send(PoolMessage::Retire);
        }
        Pool { function: function.clone(), memory, sender }
    }

    fn retire(&self, notice: Retired) {
        let is_meant = |pool: &Pool| match notice {
            Retired::Deployment(deployment) => pool.function.deployment == deployment,
            Retired::Unknown => !self.control.is_live(&pool.function),
        };
        for pool in self.pools().by_deployment.values().filter(|pool| is_meant(pool)) {
            let _ = pool.sender.send(PoolMessage::Retire);
        }
    }

    /// Somebody waits for memory: idle environments are given back, and one by whoever has most, if that is `level` MB without it.
    fn shed(&self, level: u32) {
        let pools = self.pools();
        for pool in pools.by_deployment.values() {
            let _ = pool.sender.send(PoolMessage::ShedOne);
        }
        // Where requests wait all the time nothing is ever idle.
        if let Some(pool) = pools.by_deployment.values().max_by_key(|pool| pool.memory.holds()) {
            let takes = self.context.launcher.takes(&pool.function).0;
            if pool.memory.holds() >= level.saturating_add(takes) {
                let _ = pool.sender.send(PoolMessage::Surplus);
            }
        }
    }

    fn pools(&self) -> MutexGuard<'_, Pools> {
        // A panic while it was held left the map as it was: every change is one call.
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Retires pools whose deployment was replaced, and has idle environments given back when memory is short.
async fn watch(shared: std::sync::Weak<Shared>, mut retired: Retirements) {
    let Some(capacity) = shared.upgrade().map(|shared| shared.capacity.clone()) else {
        return;
    };
    loop {
        tokio::select! {
            notice = retired.next() => {
                let (Some(notice), Some(shared)) = (notice, shared.upgrade()) else { return };
                shared.retire(notice);
            }
            level = capacity.short() => {
                let Some(shared) = shared.upgrade() else { return };
                if let Some(level) = level {
                    tracing::debug!(free_mb = capacity.free(), "memory is short, environments are given back");
                    shared.shed(level);
                }
            }
        }
    }
}

// === impl Service ===

impl Service<InvokeRequest> for Invoker {
    type Response = InvokeOutcome;
    type Error = InvokeError;
    type Future = BoxFuture<'static, Result<InvokeOutcome, InvokeError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), InvokeError>> {
        // Requests are refused one by one, with a reason, rather than held back.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: InvokeRequest) -> Self::Future {
        let span =
            tracing::info_span!("invoke", function = %request.function.arn, request_id = %request.request_id);
        Box::pin(self.clone().invoke(request).instrument(span))
    }
}
