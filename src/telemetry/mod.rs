//! What the program says about itself: its log on standard error, Prometheus metrics, and spans over OTLP.
//!
//! Payloads, variables and printed lines of functions are in none of them: no crate records such a field, and the
//! black-box tests look for planted strings in all three.

#[cfg(feature = "otlp")]
mod otlp;
mod traced;

use std::time::Duration;

use anyhow::Context as _;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt as _, filter_fn},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::{
    cli::{Global, LogFormat},
    config,
};

pub(crate) use traced::Traced;

/// Upper bounds of histogram buckets, seconds: a warm invocation here takes about a millisecond, a function at most 900 s.
const BUCKETS: [f64; 18] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
    900.0,
];

/// How often the recorder moves what it has gathered into its buckets, so that memory does not grow between scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

/// The layer that a boxed one has to fit on.
type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// Ends telemetry when dropped: what is gathered goes out.
#[derive(Debug)]
pub(crate) struct Telemetry {
    metrics: PrometheusHandle,
    #[cfg(feature = "otlp")]
    traces: Option<otlp::Traces>,
}

/// Starts the log alone, for commands other than `serve`: warnings, unless asked for more.
pub(crate) fn log_only(global: &Global) {
    Registry::default().with(log_layer(global, "warn")).init();
}

impl Telemetry {
    /// Starts log, metrics and, where configured, traces.
    ///
    /// Call it once, and outside any async runtime: the exporter of traces has threads of its own.
    pub(crate) fn start(global: &Global, config: &config::Telemetry) -> anyhow::Result<Self> {
        let metrics = PrometheusBuilder::new()
            .set_buckets(&BUCKETS)
            .and_then(PrometheusBuilder::install_recorder)
            .context("cannot start metrics")?;
        #[cfg_attr(not(feature = "otlp"), expect(unused_mut, reason = "only traces come on top"))]
        let mut layers = vec![log_layer(global, "info")];
        #[cfg(feature = "otlp")]
        let traces = match &config.otlp_endpoint {
            Some(endpoint) => {
                let (traces, layer) = otlp::start(endpoint, &config.service_name)?;
                layers.push(layer);
                Some(traces)
            }
            None => None,
        };
        #[cfg(not(feature = "otlp"))]
        if config.otlp_endpoint.is_some() {
            anyhow::bail!(
                "telemetry.otlp_endpoint is set, but this build has no OTLP export (feature `otlp`)"
            );
        }
        Registry::default().with(layers).init();
        Ok(Self {
            metrics,
            #[cfg(feature = "otlp")]
            traces,
        })
    }

    /// What `/metrics` answers.
    pub(crate) fn metrics(&self) -> PrometheusHandle {
        self.metrics.clone()
    }

    /// Keeps the recorder's memory bounded; runs until dropped.
    pub(crate) async fn upkeep(metrics: PrometheusHandle) {
        let mut ticks = tokio::time::interval(UPKEEP);
        loop {
            ticks.tick().await;
            metrics.run_upkeep();
        }
    }

    /// Sends what is gathered. Blocks for a few seconds at most, where the collector does not answer.
    pub(crate) fn stop(self) {
        #[cfg(feature = "otlp")]
        if let Some(traces) = self.traces {
            traces.stop();
        }
    }
}

fn log_layer(global: &Global, default: &str) -> BoxedLayer {
    let level = match global.verbose {
        0 => default,
        1 => "debug",
        _ => "trace",
    };
    // The HTTP and TLS libraries below the exporters say much that helps nobody at these levels.
    let quiet =
        format!("{level},hyper=warn,hyper_util=warn,reqwest=warn,rustls=warn,h2=warn,opentelemetry=warn");
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(quiet));
    // A line's spans repeat what its own fields say; making them for the log alone costs each invocation several microseconds.
    let spans = global.verbose > 0;
    let filter = filter.and(filter_fn(move |about| spans || about.is_event()));
    let to_stderr = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match global.log_format {
        LogFormat::Json => to_stderr.json().with_filter(filter).boxed(),
        LogFormat::Text => {
            let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
            to_stderr.with_ansi(colour).with_filter(filter).boxed()
        }
    }
}
