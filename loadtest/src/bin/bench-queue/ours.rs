//! Our side. Every call of the queue that this bench makes is in this file.
//!
//! ```text
//!   producers: tokio tasks, each waits for its enqueue ──► EmbeddedQueue ──► pollers: tokio tasks, lease and ack in batches
//!                                                               ▲
//!                                         upkeep: a thread of its own, always beside
//! ```

use std::{
    collections::HashSet,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use loadtest::{
    latency::Latencies,
    load::{Load, Stopwatch},
};
use queue::{
    Config, EmbeddedQueue, Event, EventId, Finding, FunctionNumber, PartitionNumber, Queue as _, Request,
    SystemBootClock, partition::Order,
};
use tokio::{runtime::Runtime, sync::oneshot, task::JoinSet};
use types::{DataKey, KeyContext, KeyError, Keys, SystemClock, WrappedDataKey};

const FUNCTION: &str = "arn:aws:lambda:us-east-1:000000000000:function:bench";
/// Bytes that one lease may bring.
const LEASE_BYTES: u64 = 16 * 1024 * 1024;
/// Longer than any measurement.
const LEASE: Duration = Duration::from_secs(600);

/// A key service whose wrap is the key: what is measured is the queue.
#[derive(Debug)]
struct PlainKeys;

impl Keys for PlainKeys {
    fn generate(&self, _: &KeyContext) -> Result<(DataKey, WrappedDataKey), KeyError> {
        let mut key = [0; DataKey::LEN];
        aws_lc_rs::rand::fill(&mut key).map_err(|_| KeyError::Unavailable("no randomness".to_owned()))?;
        Ok((DataKey::new(key), WrappedDataKey(key.to_vec())))
    }

    fn unwrap(&self, wrapped: &WrappedDataKey, _: &KeyContext) -> Result<DataKey, KeyError> {
        let key = wrapped.0.as_slice().try_into().map_err(|_| KeyError::UnknownFormat)?;
        Ok(DataKey::new(key))
    }

    fn rewrap(&self, wrapped: &WrappedDataKey, _: &KeyContext) -> Result<WrappedDataKey, KeyError> {
        Ok(wrapped.clone())
    }
}

/// An open queue with its upkeep beside it.
pub(crate) struct Ours {
    queue: EmbeddedQueue,
    function: FunctionNumber,
    upkeep: Option<(oneshot::Sender<()>, thread::JoinHandle<()>)>,
}

/// How producers go about it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Producers<'a> {
    pub(crate) count: usize,
    /// Events that each queues in one call.
    pub(crate) together: usize,
    /// Those of each call go to the next of these.
    pub(crate) partitions: &'a [PartitionNumber],
    pub(crate) payload: &'a [u8],
    pub(crate) span: Duration,
}

impl Ours {
    pub(crate) fn open(directory: &Path) -> Result<Self> {
        let (mut ours, findings) = Self::open_without_upkeep(directory)?;
        ensure!(findings.is_empty(), "an undamaged log is opened with findings: {findings:?}");
        ours.start_upkeep()?;
        Ok(ours)
    }

    /// Opens what a killed process has left, and changes nothing: the next who opens it has as much to do.
    pub(crate) fn open_killed(directory: &Path) -> Result<Self> {
        let (ours, findings) = Self::open_without_upkeep(directory)?;
        let torn = findings.iter().all(|finding| matches!(finding, Finding::Torn { .. }));
        ensure!(torn, "a killed process has left more than a torn end: {findings:?}");
        Ok(ours)
    }

    fn open_without_upkeep(directory: &Path) -> Result<(Self, Vec<Finding>)> {
        let (queue, findings) = EmbeddedQueue::open(
            Config::new(directory.to_owned()),
            Arc::new(PlainKeys),
            Arc::new(SystemClock),
            Arc::new(SystemBootClock),
        )?;
        let function = queue.function(FUNCTION)?;
        Ok((Self { queue, function, upkeep: None }, findings))
    }

    fn start_upkeep(&mut self) -> Result<()> {
        let upkeep = self.queue.upkeep();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new().name("upkeep".to_owned()).spawn(move || {
            runtime.block_on(upkeep.run(async move { drop(stopped.await) }));
        })?;
        self.upkeep = Some((stop, thread));
        Ok(())
    }

    fn stop_upkeep(&mut self) -> Result<()> {
        let Some((stop, thread)) = self.upkeep.take() else { return Ok(()) };
        drop(stop);
        thread.join().map_err(|_| anyhow!("the upkeep panicked"))
    }

    /// Returns when the upkeep has nothing left to do, so that no measurement pays for the one before.
    pub(crate) fn settle(&mut self, runtime: &Runtime) -> Result<()> {
        self.stop_upkeep()?;
        let upkeep = self.queue.upkeep();
        while runtime.block_on(upkeep.step())? {}
        self.start_upkeep()
    }

    /// Partitions of no order, made if they are not there.
    pub(crate) fn partitions(&self, count: usize) -> Result<Vec<PartitionNumber>> {
        (0..count).map(|number| Ok(self.queue.partition(&format!("bench-{number}"), Order::None)?)).collect()
    }

    /// Events that are not done.
    pub(crate) fn waiting(&self, partition: PartitionNumber) -> u64 {
        self.queue.depth(partition).events
    }

    /// Everything that is queued is done, unmeasured.
    pub(crate) fn empty(&mut self, runtime: &Runtime) -> Result<()> {
        runtime.block_on(self.queue.purge(self.function))?;
        self.settle(runtime)
    }

    /// One call after the other from each producer. A single producer runs on the calling thread, others on the runtime's.
    pub(crate) fn enqueue(&self, runtime: &Runtime, producers: Producers<'_>) -> Result<Load> {
        let Producers { count, together, partitions, payload, span } = producers;
        let (partitions, payload) = (Arc::<[_]>::from(partitions), Arc::<[u8]>::from(payload));
        let next = Arc::new(AtomicU64::new(0));
        let watch = Stopwatch::start(span, None)?;
        let end = watch.end;
        let produce = || {
            let (partitions, payload) = (partitions.clone(), payload.clone());
            produce(self.queue.clone(), self.function, together, partitions, payload, next.clone(), end)
        };
        let latencies = if count == 1 {
            runtime.block_on(produce())?
        } else {
            runtime.block_on(gather((0..count).map(|_| produce())))?
        };
        Ok(watch.stop(latencies.count(), latencies)?)
    }

    /// Queues so many events in one call.
    async fn enqueue_some(&self, partition: PartitionNumber, payload: &[u8], events: usize) -> Result<()> {
        let event =
            |_| Event { id: event_id(), function: self.function, partition, attributes: &[], payload };
        let events: Vec<Event<'_>> = (0..events).map(event).collect();
        Ok(self.queue.enqueue(&events).await?)
    }

    /// One producer that queues `together` events in each call.
    pub(crate) fn enqueue_together(
        &self,
        runtime: &Runtime,
        partition: PartitionNumber,
        payload: &[u8],
        together: usize,
        span: Duration,
    ) -> Result<Load> {
        let watch = Stopwatch::start(span, None)?;
        let mut latencies = Latencies::new();
        runtime.block_on(async {
            loop {
                let begin = Instant::now();
                if begin >= watch.end {
                    return anyhow::Ok(());
                }
                self.enqueue_some(partition, payload, together).await?;
                let latency = begin.elapsed();
                (0..together).for_each(|_| latencies.record(latency));
            }
        })?;
        Ok(watch.stop(latencies.count(), latencies)?)
    }

    /// Queues `events` events as fast as it goes, many in a call, and calls `each_step` after each.
    pub(crate) async fn fill(
        &self,
        partition: PartitionNumber,
        payload: &[u8],
        events: usize,
        mut each_step: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        const TOGETHER: usize = 1000;
        for from in (0..events).step_by(TOGETHER) {
            self.enqueue_some(partition, payload, TOGETHER.min(events - from)).await?;
            each_step()?;
        }
        Ok(())
    }

    /// Leases and acks all that a partition holds. A latency is that of a batch, from asking for it to its ack.
    pub(crate) fn drain(
        &self,
        runtime: &Runtime,
        partition: PartitionNumber,
        pollers: usize,
        batch: usize,
    ) -> Result<Load> {
        let expected = self.waiting(partition);
        let done = Arc::new(AtomicU64::new(0));
        let watch = Stopwatch::start(Duration::ZERO, None)?;
        let poll = || poll(self.queue.clone(), partition, batch, done.clone());
        let latencies = runtime.block_on(gather((0..pollers).map(|_| poll())))?;
        let events = done.load(Ordering::Relaxed);
        ensure!(events == expected, "{expected} events were queued, {events} came out");
        Ok(watch.stop(events, latencies)?)
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        // Whoever drops this has a result, or an error, of its own.
        let _ = self.stop_upkeep();
    }
}

fn event_id() -> EventId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    EventId(u128::from(NEXT.fetch_add(1, Ordering::Relaxed)).to_be_bytes())
}

/// Runs tasks to their ends.
async fn gather(
    tasks: impl Iterator<Item = impl Future<Output = Result<Latencies>> + Send + 'static>,
) -> Result<Latencies> {
    let mut tasks: JoinSet<_> = tasks.collect();
    let mut latencies = Latencies::new();
    while let Some(ended) = tasks.join_next().await {
        latencies.add(&ended.context("a task panicked")??);
    }
    Ok(latencies)
}

async fn produce(
    queue: EmbeddedQueue,
    function: FunctionNumber,
    together: usize,
    partitions: Arc<[PartitionNumber]>,
    payload: Arc<[u8]>,
    next: Arc<AtomicU64>,
    end: Instant,
) -> Result<Latencies> {
    let mut latencies = Latencies::new();
    loop {
        let begin = Instant::now();
        if begin >= end {
            return Ok(latencies);
        }
        let turn = usize::try_from(next.fetch_add(1, Ordering::Relaxed))? % partitions.len();
        let partition = *partitions.get(turn).context("no partition")?;
        let event = |_| Event { id: event_id(), function, partition, attributes: &[], payload: &payload };
        if together == 1 {
            queue.enqueue(&[event(0)]).await?;
        } else {
            queue.enqueue(&(0..together).map(event).collect::<Vec<_>>()).await?;
        }
        let latency = begin.elapsed();
        (0..together).for_each(|_| latencies.record(latency));
    }
}

async fn poll(
    queue: EmbeddedQueue,
    partition: PartitionNumber,
    batch: usize,
    done: Arc<AtomicU64>,
) -> Result<Latencies> {
    let exclude = HashSet::new();
    let mut latencies = Latencies::new();
    loop {
        let begin = Instant::now();
        let request = Request {
            partition,
            events: batch,
            bytes: LEASE_BYTES,
            wait: Duration::ZERO,
            lease: LEASE,
            exclude: &exclude,
        };
        let (epoch, leased) = queue.lease(request).await?;
        // Nothing is queued any more meanwhile, so what is left is leased by another poller.
        if leased.is_empty() {
            return Ok(latencies);
        }
        let events: Vec<_> = leased.iter().map(|event| (event.token, event.id)).collect();
        queue.ack(epoch, &events).await?;
        done.fetch_add(events.len() as u64, Ordering::Relaxed);
        latencies.record(begin.elapsed());
    }
}
