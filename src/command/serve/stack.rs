//! The parts of a server, connected.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use control::{AccessKeys, ControlConfig, ControlPlane, LocalKeyring, LogConfig, LogStore};
use image::RuntimeCatalog;
use ingest::{Authentication, Probes, Server, Services, TlsFiles};
use invoker::Invoker;
use jail::cgroup::Hierarchy;
use metrics_exporter_prometheus::PrometheusHandle;
use sandbox::WorkerDirectory;
use tokio_util::sync::CancellationToken;
use types::{Clock, Keys, RuntimeName, SystemClock};

use super::{events::Events, isolation, process};
use crate::{
    config::{Auth, Config},
    data_dir::DataDir,
    telemetry::Traced,
};

/// How long environments may take to end once the edge has drained, beyond the two seconds that each is given.
const ENVIRONMENTS_MARGIN: Duration = Duration::from_secs(3);

/// A started server whose edge does not accept yet.
pub(super) struct Stack {
    control: ControlPlane,
    logs: LogStore,
    invoker: Invoker,
    /// What holds every environment's own cgroup.
    cgroup: String,
    events: Events,
    drain_timeout: Duration,
    edge: Server<Traced<Invoker>>,
    /// Cancelled when the server begins to stop: it is not ready any more.
    stopping: CancellationToken,
}

impl Stack {
    pub(super) async fn start(
        config: &Config,
        data: &DataDir,
        code: &WorkerDirectory,
        metrics: PrometheusHandle,
    ) -> anyhow::Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let keyring: Arc<dyn Keys> = Arc::new(LocalKeyring::open_or_create(&data.keyring())?);
        let access_keys = Arc::new(AccessKeys::open_or_create(&data.credentials())?);
        let runtimes = RuntimeCatalog::open(&data.runtimes(config));
        warn_without_runtimes(&runtimes);

        let control = open_control(config, data, &runtimes, keyring.clone(), clock.clone())?;
        // The lock is ours from here.
        data.forget_endpoint().context("cannot remove the endpoint of a server that was killed")?;
        let logs = open_logs(config, data, keyring.clone())?;
        // What is found in the group at start is taken for leftovers: two servers must never share one.
        let cgroup = format!("{}-{}", config.environments.cgroup, data.tag());
        let isolation = isolation::open(config, &cgroup, runtimes).await?;
        invoker::metrics::describe();
        let invoker = Invoker::start(invoker::Parts {
            config: invoker_config(config),
            control: control.clone(),
            isolation,
            logs: Arc::new(logs.clone()),
            clock: clock.clone(),
            code_directory: code.path().to_owned(),
        });
        let stopping = CancellationToken::new();
        let is_ready = stopping.clone();
        let traced = Traced::new(invoker.clone());
        let events = Events::start(config, data, keyring, control.clone(), traced.clone()).await?;
        let services = Services {
            control: control.clone(),
            keys: access_keys,
            invoker: traced,
            events: Arc::new(Traced::new(events.handle())),
            dead_letters: Arc::new(events.handle()),
            clock,
            probes: Probes {
                metrics: Arc::new(move || metrics.render()),
                ready: Arc::new(move || !is_ready.is_cancelled()),
            },
        };
        let edge = Server::bind(edge_config(config), services).await?;
        let drain_timeout = config.server.drain_timeout;
        Ok(Self { control, logs, invoker, cgroup, events, drain_timeout, edge, stopping })
    }

    /// Where the API is.
    pub(super) fn address(&self) -> SocketAddr {
        self.edge.addresses()[0]
    }

    /// Serves until `stop`, then takes everything down in order.
    pub(super) async fn serve(self, stop: CancellationToken) {
        let Self { control, logs, invoker, cgroup, events, drain_timeout, edge, stopping } = self;
        let begin = async {
            stop.cancelled().await;
            stopping.cancel();
        };
        let finish = async {
            stopping.cancelled().await;
            events.stop(drain_timeout).await;
        };
        let serve = async {
            edge.serve(begin).await;
            stopping.cancel();
        };
        tokio::join!(serve, finish);
        let limit = types::limits::SHUTDOWN_TIMEOUT + ENVIRONMENTS_MARGIN;
        if tokio::time::timeout(limit, invoker.stop()).await.is_err() {
            tracing::warn!(?limit, "environments still ran and were killed");
        }
        remove_cgroups(cgroup).await;
        control.settled().await;
        if let Err(error) = logs.flush().await {
            tracing::error!(%error, "the last lines of function logs could not be written");
        }
    }
}

/// Kills what still runs in the environments' cgroups, and removes those.
async fn remove_cgroups(group: String) {
    let swept = tokio::task::spawn_blocking(move || Hierarchy::detect()?.sweep(&group)).await;
    if let Err(error) = swept.map_err(io::Error::from).and_then(|swept| swept) {
        tracing::warn!(%error, "the environments' cgroups could not be removed; the next start does it");
    }
}

fn open_control(
    config: &Config,
    data: &DataDir,
    runtimes: &RuntimeCatalog,
    keys: Arc<dyn Keys>,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<ControlPlane> {
    let runtimes = runtimes.clone();
    let installed =
        move || runtimes.list().into_iter().map(|runtime| RuntimeName::new(runtime.name)).collect();
    let config = ControlConfig::new(
        data.path().to_owned(),
        config.account.region.clone(),
        config.account.id.clone(),
        Arc::new(installed),
    );
    Ok(ControlPlane::open(config, keys, clock)?)
}

fn open_logs(config: &Config, data: &DataDir, keys: Arc<dyn Keys>) -> anyhow::Result<LogStore> {
    let bounds = LogConfig { retention_bytes: config.logs.bytes_per_function, ..LogConfig::new(data.logs()) };
    LogStore::open(bounds, keys).context("cannot open the function logs")
}

fn invoker_config(config: &Config) -> invoker::Config {
    let environments = &config.environments;
    invoker::Config {
        concurrency_limit: environments.concurrency_limit,
        max_memory_mb: process::memory_for_functions_mb(environments.max_memory_mb),
        idle_timeout: environments.idle_timeout,
        init_timeout: environments.init_timeout,
        capacity_wait: environments.capacity_wait,
    }
}

fn edge_config(config: &Config) -> ingest::Config {
    let server = &config.server;
    ingest::Config {
        listen: vec![server.listen],
        metrics_listen: server.metrics_listen,
        tls: server.tls.clone().map(|(certificate, key)| TlsFiles { certificate, key }),
        authentication: match server.auth {
            Auth::Required => Authentication::Required,
            Auth::Disabled => Authentication::Disabled,
        },
        region: config.account.region.to_string(),
        account_concurrency: config.environments.concurrency_limit,
        max_connections: server.max_connections,
        max_inflight_bytes: usize::try_from(server.max_inflight_bytes).unwrap_or(usize::MAX),
        drain_timeout: server.drain_timeout,
        ..ingest::Config::default()
    }
}

fn warn_without_runtimes(runtimes: &RuntimeCatalog) {
    if runtimes.list().is_empty() {
        let directory = runtimes.dir().display();
        tracing::warn!(%directory, "no runtime is installed, so no function can be created: waterwheel runtimes build");
    }
}
