//! Invoking a function for an event that was queued, and what follows from how that ended.
//!
//! ```text
//!   too old, deleted ─────────────────────────────────────────────────────────────────────┐
//!   invoke ─┬─ the function succeeded ─► record for OnSuccess, if there is one            │
//!           ├─ the function failed ────► again, or RetriesExhausted ──────────────────────┤
//!           └─ it did not run ─────────► again, or EventAgeExceeded ──────────────────────┤
//!                                 OnFailure, dead-letter queue; else the dead-letter store ◄┘
//! ```
//! Nothing is sent from here: a record for a destination is an event of its own, durable before this one is done, so that a slow
//! destination keeps no function from anything, and no function runs again because a destination failed.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use connectors::destinations::SNS_DEFAULT_BYTES;
use futures::StreamExt as _;
use invoker::{InvokeError, InvokeOutcome, InvokeRequest};
use queue::{EventId, Queue, WriteError};
use tokio::sync::Semaphore;
use tower::{Service, ServiceExt as _};
use tracing::Instrument as _;
use types::{
    ApiError, Clock, Destination, EventInvokePolicy, FunctionRef, FunctionSpec, Qualifier, RecursiveLoop,
    RequestId, Version, limits,
};

use crate::{
    attributes::{Attributes, DeadLetter, Invocation, Outgoing, OutgoingForm, Reason, Was, millis},
    engine::Work,
    envelope::{Outcome as EnvelopeOutcome, Response},
    event::{Again, Draft, Event, Failure, Tried},
    metrics,
    router::Router,
    schedule::{Condition, Next, Outcome, Progress, Schedule, Wait},
};

/// Most bytes of a failed answer that are kept in memory until the next attempt, for the record if there is none.
const KEPT_RESPONSE_BYTES: usize = 4 * 1024;
/// `requestContext.condition` of an event that succeeded.
const SUCCESS: &str = "Success";
/// Most bytes of a record: what the largest request and the largest response need. With its attributes, and what its dead letter has
/// of them, it must be no larger than the queue takes.
const RECORD_BYTES: usize = 8 * 1024 * 1024 - 64 * 1024;
/// When something of the queue's that should work does not.
const AFTER_TROUBLE: Duration = Duration::from_secs(1);

/// What the fleet must know of functions. From memory: it is asked for each attempt.
pub trait Functions: Send + Sync + 'static {
    /// The function as it is to be run now.
    fn resolve(&self, function: &FunctionRef) -> Result<Arc<FunctionSpec>, ApiError>;

    /// What is to become of its asynchronous invocations; `None`: there is no such function.
    fn policy(&self, function: &FunctionRef) -> Option<EventInvokePolicy>;
}

impl Functions for control::ControlPlane {
    fn resolve(&self, function: &FunctionRef) -> Result<Arc<FunctionSpec>, ApiError> {
        Self::resolve(self, function)
    }

    fn policy(&self, function: &FunctionRef) -> Option<EventInvokePolicy> {
        self.event_invoke_policy(function)
    }
}

pub(crate) struct Invocations<Q, S> {
    pub(crate) router: Arc<Router<Q>>,
    pub(crate) invoker: S,
    pub(crate) functions: Arc<dyn Functions>,
    pub(crate) schedule: Schedule,
    pub(crate) clock: Arc<dyn Clock>,
    /// A permit for each invocation at once, of all functions; closed when the fleet stops.
    pub(crate) slots: Arc<Semaphore>,
}

/// How a try ended.
enum Ended {
    Succeeded(Response),
    Failed(Response),
    /// Whether there was no room for it.
    NotTried {
        refused: bool,
        code: u16,
        message: String,
    },
}

impl<Q, S> Work for Invocations<Q, S>
where
    Q: Queue,
    S: Service<InvokeRequest, Response = InvokeOutcome, Error = InvokeError> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    type Kind = Invocation;

    fn kind(attributes: Attributes) -> Option<Invocation> {
        match attributes {
            Attributes::Invoke(invocation) => Some(invocation),
            Attributes::Deliver(_) | Attributes::DeadLetter(_) => None,
        }
    }

    async fn attempt(&self, event: &mut Event<Invocation>) -> Tried {
        let Some(reference) = event.kind.function() else {
            // Written by nobody but us, so this is a fault of ours: kept, and looked at by a person.
            tracing::error!(request_id = %event.request_id(), arn = event.kind.invoked_arn, "an event names no function");
            return again(AFTER_TROUBLE, false);
        };
        let Some(policy) = self.functions.policy(&reference) else {
            event.failure.get_or_insert(Failure {
                response: None,
                code: 404,
                message: format!("Function not found: {}", event.kind.invoked_arn),
            });
            return self.give_up(
                event,
                &reference,
                &EventInvokePolicy::default(),
                Condition::FunctionDeleted,
            );
        };
        if policy.recursive_loop == RecursiveLoop::Terminate && self.is_loop(event, &reference) {
            return self.give_up(event, &reference, &policy, Condition::RecursiveInvocation);
        }
        if self.schedule.is_too_old(self.age(event), &policy) {
            return self.give_up(event, &reference, &policy, Condition::EventAgeExceeded);
        }
        let name = reference.name.as_str();
        metrics::age(name, self.age(event));
        match self.invoke(event, &reference, policy.on_success.is_some()).await {
            Ended::Succeeded(response) => {
                metrics::finished(name, "success");
                self.success(event, &reference, &policy, &response)
            }
            Ended::Failed(response) => {
                event.attempts += 1;
                event.deferrals = 0;
                event.failure = Some(failure(response));
                metrics::retried(name, "function_error");
                let tried = self.next(event, &reference, &policy, Outcome::Failed, false);
                if matches!(tried, Tried::Again(_)) {
                    event.forget_long_response(KEPT_RESPONSE_BYTES);
                }
                tried
            }
            Ended::NotTried { refused, code, message } => {
                event.deferrals = event.deferrals.saturating_add(1);
                let response = event.failure.take().and_then(|failure| failure.response);
                event.failure = Some(Failure { response, code, message });
                metrics::retried(name, if refused { "throttled" } else { "platform" });
                self.next(event, &reference, &policy, Outcome::NotTried, refused)
            }
        }
    }
}

impl<Q, S> Invocations<Q, S>
where
    Q: Queue,
    S: Service<InvokeRequest, Response = InvokeOutcome, Error = InvokeError> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    fn age(&self, event: &Event<Invocation>) -> Duration {
        self.clock.now().saturating_sub(event.accepted)
    }

    fn is_loop(&self, event: &Event<Invocation>, reference: &FunctionRef) -> bool {
        let arn = reference.clone().into_arn();
        arn.is_some_and(|arn| event.kind.trace().lineage.times(&arn) > limits::RECURSION_HOPS)
    }

    /// Whoever needs no answer of a success gets an empty one.
    async fn invoke(&self, event: &Event<Invocation>, reference: &FunctionRef, answer_needed: bool) -> Ended {
        let function = match self.functions.resolve(reference) {
            Ok(function) => function,
            Err(error) => {
                return Ended::NotTried { refused: false, code: error.code.status(), message: error.message };
            }
        };
        let Ok(_slot) = self.slots.acquire().await else {
            return Ended::NotTried { refused: true, code: 503, message: "the server is stopping".into() };
        };
        let request = InvokeRequest {
            function,
            invoked_arn: event.kind.invoked_arn.clone(),
            request_id: event.request_id(),
            payload: event.payload.clone(),
            client_context: event.kind.client_context.clone(),
            trace: event.kind.trace(),
            log_tail: false,
        };
        let arn = &request.function.arn;
        let span = tracing::info_span!("attempt", function = %arn, request_id = %request.request_id, attempt = event.attempts + 1);
        match self.invoker.clone().oneshot(request).instrument(span).await {
            Ok(outcome) => match read(outcome, answer_needed).await {
                Ok(response) if response.failed => Ended::Failed(response),
                Ok(response) => Ended::Succeeded(response),
                Err(error) => not_tried(&error),
            },
            Err(error) => not_tried(&error),
        }
    }

    fn next(
        &self,
        event: &Event<Invocation>,
        reference: &FunctionRef,
        policy: &EventInvokePolicy,
        outcome: Outcome,
        refused: bool,
    ) -> Tried {
        let progress =
            Progress { age: self.age(event), attempts: event.attempts, deferrals: event.deferrals };
        match self.schedule.next(outcome, progress, policy) {
            Next::RetryAfter(wait) => {
                Tried::Again(Again { wait, noted: outcome == Outcome::Failed, refused })
            }
            Next::GiveUp(condition) => self.give_up(event, reference, policy, condition),
        }
    }

    fn success(
        &self,
        event: &Event<Invocation>,
        reference: &FunctionRef,
        policy: &EventInvokePolicy,
        response: &Response,
    ) -> Tried {
        let record = |destination| self.record(event, reference, destination, Ok(response));
        Tried::Done(policy.on_success.iter().map(record).collect())
    }

    /// The event ends without success, and somebody is told.
    fn give_up(
        &self,
        event: &Event<Invocation>,
        reference: &FunctionRef,
        policy: &EventInvokePolicy,
        condition: Condition,
    ) -> Tried {
        metrics::finished(reference.name.as_str(), condition.as_str());
        // The end of a loop goes on to no function: two that are each other's destination would never come to theirs.
        let ends_there = |destination: &&Destination| {
            condition != Condition::RecursiveInvocation
                || !matches!(destination, Destination::Function { .. })
        };
        let on_failure = policy.on_failure.iter().filter(ends_there);
        let mut drafts: Vec<_> = on_failure
            .map(|destination| self.record(event, reference, destination, Err(condition)))
            .collect();
        if let Some(destination) = &policy.dead_letter_queue {
            let (error_code, error_message) =
                event.failure.as_ref().map_or((200, condition.as_str().to_owned()), |failure| {
                    (failure.code, failure.message.clone())
                });
            let form = OutgoingForm::DeadLetter { error_code, error_message };
            let body = event.payload.clone();
            drafts.push(self.outgoing(event, reference, destination.to_string(), form, body));
        }
        if drafts.is_empty() {
            match self.dead_letter(event, reference, condition) {
                Ok(draft) => drafts.push(draft),
                Err(error) => {
                    tracing::error!(request_id = %event.request_id(), %error, "the dead-letter store cannot be used; the event is kept");
                    return again(AFTER_TROUBLE, false);
                }
            }
        }
        Tried::Done(drafts)
    }

    fn record(
        &self,
        event: &Event<Invocation>,
        reference: &FunctionRef,
        destination: &Destination,
        ended: Result<&Response, Condition>,
    ) -> Draft {
        let most = match destination {
            Destination::Sns { .. } => SNS_DEFAULT_BYTES,
            Destination::Function { .. } => limits::ASYNC_REQUEST_BYTES,
            _ => RECORD_BYTES,
        };
        let envelope = EnvelopeOutcome {
            request_id: event.request_id(),
            function_arn: &qualified(event, reference),
            condition: ended.map_or_else(Condition::as_str, |_| SUCCESS),
            invoke_count: event.attempts + u32::from(ended.is_ok()),
            request: &event.payload,
            response: ended.ok().or_else(|| event.response()),
            at: timestamp(self.clock.now()),
        };
        let form = OutgoingForm::Result { success: ended.is_ok() };
        self.outgoing(event, reference, destination.to_string(), form, envelope.envelope(most))
    }

    fn outgoing(
        &self,
        event: &Event<Invocation>,
        reference: &FunctionRef,
        destination: String,
        form: OutgoingForm,
        body: Bytes,
    ) -> Draft {
        let outgoing = Outgoing {
            destination,
            request_id: event.id.0,
            function_arn: qualified(event, reference),
            at_ms: millis(self.clock.now()),
            form,
            xray: event.kind.xray.clone(),
            traceparent: event.kind.traceparent.clone(),
            lineage: event.kind.lineage.clone(),
        };
        Draft {
            id: EventId(RequestId::random().to_bytes()),
            function: event.function,
            partition: self.router.deliveries(),
            attributes: Attributes::Deliver(outgoing),
            payload: body,
        }
    }

    fn dead_letter(
        &self,
        event: &Event<Invocation>,
        reference: &FunctionRef,
        condition: Condition,
    ) -> Result<Draft, WriteError> {
        let dead = DeadLetter {
            reason: Reason::Invocation(condition),
            at_ms: millis(self.clock.now()),
            accepted_ms: millis(event.accepted),
            attempts: event.attempts,
            error: event.failure.as_ref().map_or_else(String::new, |failure| failure.message.clone()),
            was: Was::Invoke(event.kind.clone()),
        };
        let partition = match reference.clone().into_arn() {
            Some(arn) => self.router.dead_letters(&arn)?,
            None => return Err(WriteError::Refused(queue::Refused::NoSuchFunction)),
        };
        Ok(Draft {
            id: event.id,
            function: event.function,
            partition,
            attributes: Attributes::DeadLetter(dead),
            payload: event.payload.clone(),
        })
    }
}

fn again(wait: Duration, noted: bool) -> Tried {
    Tried::Again(Again { wait: Wait::anywhere(wait), noted, refused: false })
}

/// The whole of an answer. An error in the middle means that nobody knows what the function did.
async fn read(mut outcome: InvokeOutcome, needed: bool) -> Result<Response, InvokeError> {
    let failed = outcome.function_error.is_some();
    if !failed && !needed {
        while let Some(chunk) = outcome.body.next().await {
            chunk?;
        }
        return Ok(Response { executed_version: outcome.executed_version, failed, body: Bytes::new() });
    }
    let mut body = match outcome.body.next().await {
        Some(first) => first?,
        None => Bytes::new(),
    };
    while let Some(chunk) = outcome.body.next().await {
        let mut longer = BytesMut::from(body);
        longer.extend_from_slice(&chunk?);
        body = longer.freeze();
    }
    Ok(Response { executed_version: outcome.executed_version, failed, body })
}

fn not_tried(error: &InvokeError) -> Ended {
    let (refused, code) = match error {
        InvokeError::Throttled { .. } => (true, 429),
        InvokeError::Unavailable { .. } => (true, 503),
        InvokeError::RuntimeNotInstalled { .. } | InvokeError::ArtefactUnreadable { .. } => (false, 502),
    };
    Ended::NotTried { refused, code, message: error.to_string() }
}

/// What a failed answer says of the failure.
fn failure(response: Response) -> Failure {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Described {
        error_message: String,
    }
    let described = serde_json::from_slice::<Described>(&response.body);
    let mut message = described.map_or_else(
        |_| String::from_utf8_lossy(&response.body).into_owned(),
        |described| described.error_message,
    );
    message.truncate(message.floor_char_boundary(limits::ERROR_MESSAGE_BYTES));
    Failure { response: Some(response), code: 200, message }
}

/// The ARN with its qualifier, `$LATEST` if it was named without one.
fn qualified(event: &Event<Invocation>, reference: &FunctionRef) -> String {
    match &reference.qualifier {
        Some(_) => event.kind.invoked_arn.clone(),
        None => format!("{}:{}", event.kind.invoked_arn, Qualifier::Version(Version::Latest)),
    }
}

pub(crate) fn timestamp(unix: Duration) -> jiff::Timestamp {
    let millis = i64::try_from(unix.as_millis()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX)
}
