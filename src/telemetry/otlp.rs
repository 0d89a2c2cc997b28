//! Export of spans over OTLP/HTTP, in the trace that the API's caller named.

use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::{
    Context,
    trace::{
        SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState, TracerProvider as _,
    },
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracerProvider, TracerProviderBuilder},
};
use tracing::{Span, Subscriber, level_filters::LevelFilter};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{Layer, registry::LookupSpan};
use types::{Lineage, TraceContext};

use super::BoxedLayer;

/// Path of traces below a collector's base URL (OTLP specification).
const TRACES_PATH: &str = "/v1/traces";
/// How long the end of the program waits for a collector.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// The pipeline to the collector.
#[derive(Debug)]
pub(super) struct Traces(SdkTracerProvider);

/// Starts the export to `endpoint`, a base URL or one that ends in the path of traces.
pub(super) fn start(endpoint: &str, service_name: &str) -> anyhow::Result<(Traces, BoxedLayer)> {
    let exporter = SpanExporter::builder()
        .with_http()
        .with_endpoint(traces_url(endpoint))
        .build()
        .with_context(|| format!("cannot export traces to {endpoint}"))?;
    let resource = Resource::builder().with_service_name(service_name.to_owned()).build();
    let provider = provider().with_batch_exporter(exporter).with_resource(resource).build();
    let layer = layer(&provider);
    Ok((Traces(provider), layer))
}

/// Whoever sets an endpoint wants to see what runs here. The caller's flag says whether *its* spans are recorded; a trace
/// that the edge has to begin itself carries "not sampled", as on AWS.
fn provider() -> TracerProviderBuilder {
    SdkTracerProvider::builder().with_sampler(Sampler::AlwaysOn)
}

fn layer<S>(provider: &SdkTracerProvider) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("waterwheel"))
        .with_location(false)
        .with_threads(false)
        // A span gets its trace when its first child or its end needs it: [`adopt`] comes after the span was entered.
        .with_context_activation(false)
        // Levels below INFO are for those who read the log.
        .with_filter(LevelFilter::INFO)
        .boxed()
}

/// Makes `span` part of `trace`, and itself the parent of what the function does in that trace. Without export it
/// changes nothing.
pub(super) fn adopt(span: &Span, trace: &mut TraceContext) {
    let Some(parent) = parse(&trace.traceparent) else {
        return;
    };
    let flags = parent.trace_flags();
    if span.set_parent(Context::new().with_remote_span_context(parent)).is_err() {
        return;
    }
    let context = span.context();
    let own = context.span().span_context().clone();
    if own.is_valid() {
        let lineage = std::mem::take(&mut trace.lineage);
        *trace = TraceContext { lineage, ..render(own.trace_id(), own.span_id(), flags) };
    }
}

/// Reads a `traceparent` that is known to be well formed.
fn parse(traceparent: &str) -> Option<SpanContext> {
    let mut parts = traceparent.split('-').skip(1);
    let trace = TraceId::from_hex(parts.next()?).ok()?;
    let span = SpanId::from_hex(parts.next()?).ok()?;
    let flags = u8::from_str_radix(parts.next()?, 16).ok()?;
    Some(SpanContext::new(trace, span, TraceFlags::new(flags), true, TraceState::default()))
}

fn render(trace: TraceId, span: SpanId, flags: TraceFlags) -> TraceContext {
    let id = trace.to_string();
    let (seconds, rest) = id.split_at(8);
    let sampled = u8::from(flags.is_sampled());
    TraceContext {
        xray: format!("Root=1-{seconds}-{rest};Parent={span};Sampled={sampled}"),
        traceparent: format!("00-{id}-{span}-{sampled:02x}"),
        lineage: Lineage::default(),
    }
}

fn traces_url(endpoint: &str) -> String {
    let base = endpoint.trim_end_matches('/');
    if base.ends_with(TRACES_PATH) { base.to_owned() } else { format!("{base}{TRACES_PATH}") }
}

impl Traces {
    /// Sends what is gathered.
    pub(super) fn stop(self) {
        if let Err(error) = self.0.shutdown_with_timeout(STOP_TIMEOUT) {
            tracing::warn!(%error, "the last spans were not exported");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use opentelemetry_sdk::trace::InMemorySpanExporter;
    use tracing_subscriber::{Registry, layer::SubscriberExt as _};

    const TRACE: &str = "67891233abcdef012345678912345678";

    fn caller() -> TraceContext {
        render(
            TraceId::from_hex(TRACE).unwrap(),
            SpanId::from_hex("463ac35c9f6413ad").unwrap(),
            TraceFlags::default(),
        )
    }

    #[test]
    fn an_entered_span_and_its_children_join_the_callers_trace() {
        let exporter = InMemorySpanExporter::default();
        let provider = provider().with_simple_exporter(exporter.clone()).build();
        let handed_on = tracing::subscriber::with_default(Registry::default().with(layer(&provider)), || {
            let request = tracing::info_span!("request").entered();
            let mut trace = caller();
            adopt(&request, &mut trace);
            tracing::info_span!("invoke").in_scope(|| {});
            trace
        });
        let spans = exporter.get_finished_spans().unwrap();
        let find = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
        let (request, invoke) = (find("request"), find("invoke"));
        assert_eq!(request.span_context.trace_id().to_string(), TRACE);
        assert_eq!(request.parent_span_id.to_string(), "463ac35c9f6413ad");
        assert_eq!(invoke.span_context.trace_id().to_string(), TRACE);
        assert_eq!(invoke.parent_span_id, request.span_context.span_id());

        let own = request.span_context.span_id();
        assert_eq!(handed_on.traceparent, format!("00-{TRACE}-{own}-00"));
        assert_eq!(
            handed_on.xray,
            format!("Root=1-67891233-abcdef012345678912345678;Parent={own};Sampled=0")
        );
    }

    #[test]
    fn without_export_the_callers_trace_is_handed_on_as_it_came() {
        let trace = tracing::subscriber::with_default(Registry::default(), || {
            let mut trace = caller();
            adopt(&tracing::info_span!("request"), &mut trace);
            trace
        });
        assert_eq!(trace, caller());
    }

    #[test]
    fn a_base_url_gets_the_path_of_traces_once() {
        assert_eq!(traces_url("http://c:4318"), "http://c:4318/v1/traces");
        assert_eq!(traces_url("http://c:4318/"), "http://c:4318/v1/traces");
        assert_eq!(traces_url("http://c/otel/v1/traces"), "http://c/otel/v1/traces");
    }
}
