//! One request from its head to its answer.
//!
//! ```text
//!   head ──route──► operation ──head of signature──► size ──► budget ──► body ──► signature, hash ──► members ──► handler
//!           404 │          403 │                 413 │     429 │    400 │           403 │           400 │
//!               └──────────────┴─────────────────────┴─────────┴────────┴───────────────┴───────────────┴──► error answer
//! ```
//!
//! Each step costs more than the one before it, and none is reached by a request that an earlier one refuses. The rest of
//! a refused body is read and thrown away (bounded), because a client that is still sending would otherwise see a
//! reset connection instead of the reason.

use std::{sync::Arc, time::Duration};

use control::{AccessKeys, ControlPlane};
use http::{HeaderValue, Request, StatusCode, header::EXPECT, request::Parts};
use hyper::body::{Body as _, Incoming};
use invoker::{InvokeError, InvokeOutcome, InvokeRequest};
use poller_fleet::{AcceptEvents, DeadLetters};
use tokio::time::Instant;
use tower::Service;
use tracing::{Instrument as _, Span, field::Empty, info_span};
use types::{ApiError, Clock, ErrorCode, RequestId};

use crate::{
    answer::{self, Answer},
    body::{self, Budget, Pace, ReadError, Received, Reservation},
    config::{Authentication, Config},
    drain::Drain,
    handlers::{self, Built, Call, CodeLink, InvokeCall},
    metrics,
    model::{Json, Members, Model, Operation, Params},
    operations,
    signature::{self, Declared, Pending, Scope, Verified},
};

/// Most of a refused body that is read and thrown away, bytes: a little more than the largest upload.
const DISCARD_BYTES: usize = 80 * 1024 * 1024;
/// When to ask again after a refusal for want of room.
const RETRY: Duration = Duration::from_secs(1);

/// What the edge works with.
pub struct Services<S> {
    pub control: ControlPlane,
    pub keys: Arc<AccessKeys>,
    /// Runs functions.
    pub invoker: S,
    /// Queues events.
    pub events: Arc<dyn AcceptEvents>,
    /// What could not be processed, for operators.
    pub dead_letters: Arc<dyn DeadLetters>,
    pub clock: Arc<dyn Clock>,
    pub probes: Probes,
}

impl<S> std::fmt::Debug for Services<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Services").finish_non_exhaustive()
    }
}

/// What `/metrics` and `/readyz` say.
#[derive(Clone)]
pub struct Probes {
    /// All metrics in the Prometheus text format.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Whether functions can be run now.
    pub ready: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl std::fmt::Debug for Probes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probes").finish_non_exhaustive()
    }
}

/// Which address a connection came in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    Api {
        tls: bool,
    },
    /// Metrics and probes only.
    Operations,
}

pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) drain: Drain,
    pub(crate) control: ControlPlane,
    pub(crate) keys: Arc<AccessKeys>,
    pub(crate) events: Arc<dyn AcceptEvents>,
    pub(crate) dead_letters: Arc<dyn DeadLetters>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) scope: Scope,
    probes: Probes,
    pub(crate) payloads: Budget,
    uploads: Budget,
}

#[derive(Clone)]
pub(crate) struct Edge<S> {
    shared: Arc<Shared>,
    invoker: S,
}

/// A body that may be acted on.
struct Admitted {
    received: Received,
    access_key_id: Option<String>,
    reservation: Option<Reservation>,
}

// === impl Shared ===

impl Shared {
    pub(crate) fn new(
        config: Config,
        control: ControlPlane,
        keys: Arc<AccessKeys>,
        events: Arc<dyn AcceptEvents>,
        dead_letters: Arc<dyn DeadLetters>,
        clock: Arc<dyn Clock>,
        probes: Probes,
    ) -> Arc<Self> {
        Arc::new(Self {
            scope: Scope::new(config.region.clone(), "lambda"),
            payloads: Budget::new("payload", config.max_inflight_bytes),
            uploads: Budget::new("upload", config.max_inflight_upload_bytes),
            drain: Drain::default(),
            config,
            control,
            keys,
            events,
            dead_letters,
            clock,
            probes,
        })
    }

    /// Checks what the head says of the caller.
    pub(crate) fn authenticate(&self, parts: &Parts) -> Result<Option<Pending>, ApiError> {
        match self.config.authentication {
            Authentication::Disabled => Ok(None),
            Authentication::Required => {
                let secret_of = |id: &str| self.keys.get(id).map(control::AccessKey::secret);
                Pending::begin(parts, &self.scope, self.clock.now(), secret_of).map(Some)
            }
        }
    }

    /// Lets a request's body in, or says why not.
    async fn admit(
        &self,
        operation: &Operation,
        built: Option<Built>,
        parts: &Parts,
        incoming: &mut Incoming,
    ) -> Result<Admitted, ApiError> {
        let mut pending = self.authenticate(parts)?;
        let cap = built.map_or(Built::OTHER_BYTES, |built| built.body_bytes(&parts.headers));
        let length = body::declared_len(incoming, cap);
        if length > cap {
            return Err(too_large(operation, cap));
        }
        let mut verified: Option<Verified> = None;
        if let Some(declares) = pending.take_if(|pending| pending.declared() != Declared::Nothing) {
            verified = Some(declares.verify(None)?);
        }
        let budget = if built.is_some_and(Built::is_upload) { &self.uploads } else { &self.payloads };
        let reservation = match length {
            0 => None,
            length => Some(budget.reserve(length).ok_or_else(overloaded)?),
        };
        let declared = verified.as_ref().and_then(|verified| verified.payload);
        let hash = pending.is_some() || declared.is_some();
        let pace = Pace { grace: self.config.body_grace, rate: self.config.min_body_rate };
        let received =
            body::read(incoming, cap, pace, hash).await.map_err(|error| unread(operation, error))?;
        if declared.is_some() && declared != received.hash {
            return Err(ApiError::new(ErrorCode::InvalidSignature, signature::MISMATCH));
        }
        if let Some(pending) = pending {
            verified = Some(pending.verify(received.hash)?);
        }
        Ok(Admitted { received, access_key_id: verified.map(|verified| verified.access_key_id), reservation })
    }

    fn operations(&self, path: &str, door: Door) -> Option<Answer> {
        let metrics_here = match door {
            Door::Operations => true,
            Door::Api { .. } => self.config.metrics_listen.is_none() && self.config.only_loopback(),
        };
        let plain = "text/plain; charset=utf-8";
        match path {
            "/healthz" => Some(answer::text(StatusCode::OK, plain, "ok\n")),
            "/readyz" if self.drain.is_draining() => {
                Some(answer::text(StatusCode::SERVICE_UNAVAILABLE, plain, "stopping\n"))
            }
            "/readyz" if (self.probes.ready)() => Some(answer::text(StatusCode::OK, plain, "ready\n")),
            "/readyz" => Some(answer::text(StatusCode::SERVICE_UNAVAILABLE, plain, "not ready\n")),
            "/metrics" if metrics_here => Some(answer::text(
                StatusCode::OK,
                "text/plain; version=0.0.4; charset=utf-8",
                (self.probes.metrics)(),
            )),
            _ => None,
        }
    }
}

// === impl Edge ===

impl<S> Edge<S> {
    pub(crate) fn new(shared: Arc<Shared>, invoker: S) -> Self {
        Self { shared, invoker }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }
}

impl<S> Edge<S>
where
    S: Service<InvokeRequest, Response = InvokeOutcome, Error = InvokeError> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    /// Answers one request, whatever it is.
    pub(crate) async fn answer(&self, request: Request<Incoming>, door: Door) -> Answer {
        if let Some(answer) = self.shared.operations(request.uri().path(), door) {
            return answer;
        }
        let started = Instant::now();
        let request_id = RequestId::random();
        let span = info_span!("request", operation = Empty, function = Empty, %request_id, status = Empty);
        let (parts, mut incoming) = request.into_parts();
        let route = Model::get().route(parts.method.as_str(), parts.uri.path(), parts.uri.query());
        let operation = route.as_ref().map_or("unknown", |(operation, _)| operation.name.as_str());
        span.record("operation", operation);

        let mut answer = async {
            let Some(running) = self.shared.drain.enter() else {
                return self.refuse(&parts, &mut incoming, &stopping()).await;
            };
            let outcome = match (door, route) {
                (Door::Api { .. }, Some((operation, params))) => {
                    self.operation(operation, &params, &parts, &mut incoming, request_id, door).await
                }
                (Door::Api { .. }, None) => self.other(&parts, &mut incoming).await,
                (Door::Operations, _) => Err(unknown(&parts)),
            };
            match outcome {
                Ok(answer) => answer.map(|body| body.holding(running)),
                Err(error) => {
                    self.refuse(&parts, &mut incoming, &error).await.map(|body| body.holding(running))
                }
            }
        }
        .instrument(span.clone())
        .await;

        span.record("status", answer.status().as_u16());
        metrics::answered(operation, answer.status().as_u16(), started.elapsed());
        if let Ok(value) = HeaderValue::try_from(request_id.to_string()) {
            answer.headers_mut().insert(answer::REQUEST_ID, value);
        }
        answer
    }

    async fn operation(
        &self,
        operation: &Operation,
        params: &Params<'_>,
        parts: &Parts,
        incoming: &mut Incoming,
        request_id: RequestId,
        door: Door,
    ) -> Result<Answer, ApiError> {
        let shared = &*self.shared;
        let built = Built::of(operation);
        let Admitted { received, access_key_id, reservation } =
            shared.admit(operation, built, parts, incoming).await?;
        let Some(built) = built else {
            return Err(not_built(operation));
        };
        let query = signature::decode_query(parts.uri.query());
        let json = if built.takes_payload() { Json::Null } else { document(&received)? };
        let members = Members { params, query: &query, headers: &parts.headers, body: &json };
        Model::get().validate(operation, &members)?;
        handlers::refuse_unavailable(built, operation, &members)?;
        let call = Call { members: &members, access_key_id: access_key_id.as_deref() };
        let control = &shared.control;
        if !built.takes_payload()
            && let Ok(function) = call.function()
        {
            Span::current().record("function", tracing::field::display(&function.name));
        }
        let invocation = || InvokeCall {
            members: &members,
            payload: received.bytes.clone(),
            request_id,
            now: shared.clock.now(),
        };
        let answer = match built {
            Built::Invoke => {
                handlers::invoke(control, self.invoker.clone(), &*shared.events, invocation()).await?
            }
            Built::InvokeAsync => handlers::invoke_async(control, &*shared.events, invocation()).await?,
            Built::CreateFunction => handlers::create(control, &call).await?,
            Built::UpdateFunctionCode => handlers::update_code(control, &call).await?,
            Built::UpdateFunctionConfiguration => handlers::update_configuration(control, &call).await?,
            Built::DeleteFunction => handlers::delete(control, &call).await?,
            Built::GetFunction => {
                handlers::get(control, &call, |function| CodeLink::to(function).url(shared, &call, door))?
            }
            Built::GetFunctionConfiguration => handlers::get_configuration(control, &call)?,
            Built::ListFunctions => handlers::list(control, &call, &shared.config.region)?,
            Built::GetAccountSettings => {
                handlers::account_settings(control, shared.config.account_concurrency)?
            }
            Built::EventInvoke(operation) => handlers::event_invoke(control, operation, &call).await?,
            Built::Recursion(operation) => handlers::recursion(control, operation, &call).await?,
        };
        Ok(answer.map(|body| body.holding(reservation)))
    }

    /// Paths that are not of the Lambda API.
    async fn other(&self, parts: &Parts, incoming: &mut Incoming) -> Result<Answer, ApiError> {
        if let Some(operation) = operations::Operation::parse(parts) {
            return operation.answer(&self.shared, parts, incoming).await;
        }
        match CodeLink::parse(parts) {
            Some(link) => {
                if let Some(pending) = self.shared.authenticate(parts)? {
                    pending.verify(None)?;
                }
                link.follow(&self.shared.control, &self.shared.uploads).await
            }
            None => Err(unknown(parts)),
        }
    }

    /// An error answer, after the rest of the body is out of the way.
    async fn refuse(&self, parts: &Parts, incoming: &mut Incoming, error: &ApiError) -> Answer {
        let answer = answer::error(error);
        if incoming.is_end_stream() {
            return if self.shared.drain.is_draining() { answer::closing(answer) } else { answer };
        }
        // A client that asked first has sent nothing yet, and reading would tell it to.
        if !parts.headers.contains_key(EXPECT) {
            body::discard(incoming, DISCARD_BYTES, self.shared.config.body_grace).await;
        }
        answer::closing(answer)
    }
}

/// A body as JSON; none at all is an object without members.
fn document(received: &Received) -> Result<Json<'_>, ApiError> {
    if received.bytes.is_empty() {
        return Ok(Json::Null);
    }
    let refuse = |why: String| {
        ApiError::new(ErrorCode::Serialization, format!("Could not parse request body into json: {why}"))
    };
    match Json::parse(&received.bytes).map_err(|error| refuse(error.to_string()))? {
        object @ (Json::Object(_) | Json::Null) => Ok(object),
        _ => Err(ApiError::new(ErrorCode::Serialization, "Expected map or structure or null")),
    }
}

fn too_large(operation: &Operation, cap: usize) -> ApiError {
    metrics::refused("too_large");
    let name = if operation.name == "Invoke" { "InvokeFunction" } else { &operation.name };
    ApiError::new(
        ErrorCode::RequestTooLarge,
        format!("Request must be smaller than {cap} bytes for the {name} operation"),
    )
}

fn unread(operation: &Operation, error: ReadError) -> ApiError {
    match error {
        ReadError::TooLarge(cap) => too_large(operation, cap),
        ReadError::TooSlow | ReadError::Broken => {
            metrics::refused("body_incomplete");
            ApiError::new(ErrorCode::InvalidRequestContent, format!("Could not read the request: {error}"))
        }
    }
}

/// No room for a payload now.
pub(crate) fn overloaded() -> ApiError {
    metrics::refused("no_payload_memory");
    ApiError::new(ErrorCode::TooManyRequests, "Rate Exceeded.")
        .reason("CallerRateLimitExceeded")
        .retry_after(RETRY)
}

fn stopping() -> ApiError {
    metrics::refused("stopping");
    ApiError::new(ErrorCode::ServiceUnavailable, "The server is stopping.").retry_after(RETRY)
}

fn not_built(operation: &Operation) -> ApiError {
    ApiError::new(ErrorCode::NotImplemented, format!("{} is not available yet.", operation.name))
}

fn unknown(parts: &Parts) -> ApiError {
    let path: String = parts.uri.path().chars().take(256).collect();
    ApiError::new(ErrorCode::UnknownOperation, format!("The API has no operation {} {path}.", parts.method))
}
