//! The asynchronous half of a server: queue, destinations and poller fleet, connected.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use connectors::destinations::{self, Destinations};
use control::ControlPlane;
use invoker::Invoker;
use poller_fleet::{Fleet, Handle, Schedule, SteadyClock};
use queue::{EmbeddedQueue, SystemBootClock};
use tokio::{runtime, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use types::{Clock, Keys, SystemClock};

use crate::{config::Config, data_dir::DataDir, telemetry::Traced};

/// Running, until it is stopped.
pub(super) struct Events {
    fleet: Fleet<EmbeddedQueue>,
    upkeep: JoinHandle<()>,
    stop_upkeep: CancellationToken,
}

impl Events {
    pub(super) async fn start(
        config: &Config,
        data: &DataDir,
        keys: Arc<dyn Keys>,
        control: ControlPlane,
        invoker: Traced<Invoker>,
    ) -> anyhow::Result<Self> {
        let boot = Arc::new(SystemBootClock);
        let clock: Arc<dyn Clock> = Arc::new(SteadyClock::new(&SystemClock, boot.clone()));
        let layout =
            queue::Config { segment_bytes: config.queue.segment_size, ..queue::Config::new(data.queue()) };
        let (queue, findings) = EmbeddedQueue::open(layout, keys.clone(), clock.clone(), boot)
            .with_context(|| format!("cannot open the queue in {}", data.queue().display()))?;
        for finding in findings {
            tracing::warn!(?finding, "the queue was not as it should be");
        }
        let destinations = Destinations::new(destination_config(config, data, keys))
            .await
            .context("cannot set up the destinations")?;
        let stop_upkeep = CancellationToken::new();
        // It blocks its thread for as long as a segment takes to be written.
        let (upkeep, stopped) = (queue.upkeep(), stop_upkeep.clone());
        let upkeep = tokio::task::spawn_blocking(move || {
            runtime::Handle::current().block_on(upkeep.run(stopped.cancelled()));
        });
        poller_fleet::metrics::describe();
        connectors::describe_metrics();
        queue::describe_metrics();
        let fleet = Fleet::start(poller_fleet::Parts {
            config: fleet_config(config),
            queue,
            invoker,
            functions: Arc::new(control),
            destinations,
            clock,
        })?;
        Ok(Self { fleet, upkeep, stop_upkeep })
    }

    pub(super) fn handle(&self) -> Handle<EmbeddedQueue> {
        self.fleet.handle()
    }

    /// What runs may finish within this time; the rest is there at the next start.
    pub(super) async fn stop(self, within: Duration) {
        self.fleet.stop(within).await;
        self.stop_upkeep.cancel();
        if let Err(error) = self.upkeep.await {
            tracing::error!(%error, "the queue's upkeep had ended before");
        }
    }
}

fn fleet_config(config: &Config) -> poller_fleet::Config {
    let (events, concurrency) = (&config.events, config.environments.concurrency_limit);
    poller_fleet::Config {
        shared_partitions: events.shared_partitions,
        max_pollers: events.max_pollers,
        memory: events.memory,
        function_memory: events.function_memory,
        // A tenth of the account's concurrency is always left for callers who wait, if there is more than one of it.
        max_concurrency: (concurrency - concurrency.div_ceil(10)).max(1),
        schedule: Schedule::scaled(1.0 / f64::from(events.test_speed_up)),
        ..poller_fleet::Config::default()
    }
}

fn destination_config(config: &Config, data: &DataDir, keys: Arc<dyn Keys>) -> destinations::Config {
    let destinations = &config.destinations;
    destinations::Config {
        region: config.account.region.clone(),
        endpoint: destinations.endpoint.clone(),
        timeout: destinations.timeout,
        sealed_files: destinations.sealed_files,
        ..destinations::Config::new(data.destinations(), keys)
    }
}
