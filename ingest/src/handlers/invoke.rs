//! Invoke: the one path that must be fast.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use control::ControlPlane;
use futures::{FutureExt as _, StreamExt as _, stream};
use http::{HeaderValue, Response, StatusCode, header::CONTENT_TYPE};
use invoker::{FunctionError, InvokeError, InvokeOutcome, InvokeRequest, OutcomeBody};
use poller_fleet::{AcceptEvents, AsyncInvocation, WriteError};
use serde::de::IgnoredAny;
use tower::{Service, ServiceExt as _};
use types::{ApiError, ErrorCode, FunctionRef, FunctionSpec, RecursiveLoop, RequestId, limits};

use super::function_ref;
use crate::{
    answer::{self, Answer, Body, BodyError},
    model::Members,
    trace,
};

pub(crate) const INVOCATION_TYPE: &str = "x-amz-invocation-type";
/// The invocation type of an event that is queued.
pub(crate) const EVENT: &str = "Event";
/// When a caller may ask again whose event found the disk full.
const FULL_RETRY: Duration = Duration::from_secs(5);
const LOG_TYPE: &str = "x-amz-log-type";
const CLIENT_CONTEXT: &str = "x-amz-client-context";
const EXECUTED_VERSION: &str = "x-amz-executed-version";
const FUNCTION_ERROR: &str = "x-amz-function-error";
const LOG_RESULT: &str = "x-amz-log-result";

/// One Invoke, validated against the model.
pub(crate) struct InvokeCall<'a> {
    pub(crate) members: &'a Members<'a>,
    pub(crate) payload: Bytes,
    pub(crate) request_id: RequestId,
    /// Time since the Unix epoch.
    pub(crate) now: Duration,
}

/// Runs the function and gives its answer, or queues the event, or says why neither could be done.
pub(crate) async fn invoke<S>(
    control: &ControlPlane,
    invoker: S,
    events: &dyn AcceptEvents,
    call: InvokeCall<'_>,
) -> Result<Answer, ApiError>
where
    S: Service<InvokeRequest, Response = InvokeOutcome, Error = InvokeError>,
{
    let request = prepare(control, &call)?;
    let xray = request.trace.xray.clone();
    let mut answer = match call.members.header(INVOCATION_TYPE) {
        Some(EVENT) => {
            accept(events, request).await?;
            answer::empty(StatusCode::ACCEPTED)
        }
        Some("DryRun") => answer::empty(StatusCode::NO_CONTENT),
        _ => {
            refuse_loop(control, &request)?;
            respond(invoker.oneshot(request).await.map_err(|error| api_error(&error))?).await?
        }
    };
    if let Ok(value) = HeaderValue::try_from(xray) {
        answer.headers_mut().insert(trace::XRAY, value);
    }
    Ok(answer)
}

/// `InvokeAsync`, the older form of an Event.
pub(crate) async fn invoke_async(
    control: &ControlPlane,
    events: &dyn AcceptEvents,
    call: InvokeCall<'_>,
) -> Result<Answer, ApiError> {
    accept(events, prepare(control, &call)?).await?;
    Ok(answer::empty(StatusCode::ACCEPTED))
}

/// Queues the event; it is durable when this returns.
async fn accept(events: &dyn AcceptEvents, request: InvokeRequest) -> Result<(), ApiError> {
    let event = AsyncInvocation {
        function: request.function.arn.clone(),
        invoked_arn: request.invoked_arn,
        request_id: request.request_id,
        payload: request.payload,
        client_context: request.client_context,
        trace: request.trace,
    };
    events.accept(event).await.map_err(|error| {
        tracing::error!(%error, "an event could not be queued");
        match error {
            WriteError::NoSpace => ApiError::new(
                ErrorCode::ServiceUnavailable,
                "The queue's disk is full: the event was not accepted.",
            )
            .retry_after(FULL_RETRY),
            _ => {
                ApiError::new(ErrorCode::Service, "The event could not be queued: it may be invoked or not.")
            }
        }
    })
}

/// The end of a chain in which the function was invoked too often, unless it may be.
fn refuse_loop(control: &ControlPlane, request: &InvokeRequest) -> Result<(), ApiError> {
    let arn = &request.function.arn;
    if request.trace.lineage.times(arn) <= limits::RECURSION_HOPS {
        return Ok(());
    }
    let reference = FunctionRef { region: None, account: None, name: arn.name.clone(), qualifier: None };
    match control.event_invoke_policy(&reference).map(|policy| policy.recursive_loop) {
        Some(RecursiveLoop::Allow) => Ok(()),
        _ => Err(ApiError::new(
            ErrorCode::RecursiveInvocation,
            format!(
                "The function was invoked more than {} times in one chain of invocations, which looks like a loop. \
                 Where it is meant, set its RecursiveLoop to Allow.",
                limits::RECURSION_HOPS
            ),
        )),
    }
}

fn prepare(control: &ControlPlane, call: &InvokeCall<'_>) -> Result<InvokeRequest, ApiError> {
    let mut trace = trace::context(call.members.headers, call.now);
    let name = call.members.params.get("FunctionName").unwrap_or_default();
    let named = function_ref(name, call.members.query("Qualifier"))?;
    let client_context = call.members.header(CLIENT_CONTEXT).map(client_context).transpose()?;
    let payload = payload(&call.payload)?;
    let function: Arc<FunctionSpec> = control.resolve(&named).map_err(|mut error| {
        // Here, and only here, AWS names the version that an unqualified name stands for.
        if error.code == ErrorCode::ResourceNotFound && named.qualifier.is_none() {
            error.message.push_str(":$LATEST");
        }
        error
    })?;
    tracing::Span::current().record("function", tracing::field::display(&function.arn));
    trace.lineage.add(&function.arn);
    let invoked_arn =
        named.qualifier.map_or_else(|| function.arn.to_string(), |q| function.arn.qualified(&q));
    Ok(InvokeRequest {
        function,
        invoked_arn,
        request_id: call.request_id,
        payload,
        client_context,
        trace,
        log_tail: call.members.header(LOG_TYPE) == Some("Tail"),
    })
}

/// The payload, which must be one JSON document in UTF-8. None at all reaches the function as `{}`, as on AWS.
fn payload(bytes: &Bytes) -> Result<Bytes, ApiError> {
    if bytes.is_empty() {
        return Ok(Bytes::from_static(b"{}"));
    }
    let refuse = |why: String| {
        let text =
            format!("Could not parse request body into json: Could not parse payload into json: {why}");
        ApiError::new(ErrorCode::InvalidRequestContent, text)
    };
    let text = std::str::from_utf8(bytes).map_err(|error| refuse(error.to_string()))?;
    // Checks the syntax without recursion and without building anything.
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| refuse(error.to_string()))?;
    Ok(bytes.clone())
}

/// The JSON of a client context.
fn client_context(header: &str) -> Result<String, ApiError> {
    let refuse = |text: &str| ApiError::new(ErrorCode::InvalidRequestContent, text);
    if header.len() > limits::CLIENT_CONTEXT_BYTES {
        return Err(refuse("Client context must be no more than 3583 bytes of base64."));
    }
    let invalid = || refuse("Client context must be a valid Base64-encoded JSON object.");
    let decoded = BASE64_STANDARD.decode(header).map_err(|_| invalid())?;
    let text = String::from_utf8(decoded).map_err(|_| invalid())?;
    let object = text.trim_start().starts_with('{') && serde_json::from_str::<IgnoredAny>(&text).is_ok();
    if object { Ok(text) } else { Err(invalid()) }
}

/// A failed function is a success of the API: 200, with a header that says so.
async fn respond(outcome: InvokeOutcome) -> Result<Answer, ApiError> {
    let mut answer = Response::new(body(outcome.body).await?);
    let headers = answer.headers_mut();
    let content_type = HeaderValue::try_from(outcome.content_type);
    headers
        .insert(CONTENT_TYPE, content_type.unwrap_or(HeaderValue::from_static("application/octet-stream")));
    if let Ok(version) = HeaderValue::try_from(outcome.executed_version.to_string()) {
        headers.insert(EXECUTED_VERSION, version);
    }
    if let Some(FunctionError::Unhandled) = outcome.function_error {
        headers.insert(FUNCTION_ERROR, HeaderValue::from_static("Unhandled"));
    }
    if let Some(tail) = outcome.log_tail
        && let Ok(value) = HeaderValue::try_from(BASE64_STANDARD.encode(tail))
    {
        headers.insert(LOG_RESULT, value);
    }
    Ok(answer)
}

/// An answer that is already whole goes out with its length, any other in chunks as they come.
async fn body(mut chunks: OutcomeBody) -> Result<Body, ApiError> {
    let Some(first) = chunks.next().await else {
        return Ok(Body::whole(Bytes::new()));
    };
    let first = first.map_err(|error| api_error(&error))?;
    match chunks.next().now_or_never() {
        Some(None) => Ok(Body::whole(first)),
        Some(Some(second)) => Ok(streamed(stream::iter([Ok(first), second]).chain(chunks))),
        None => Ok(streamed(stream::iter([Ok(first)]).chain(chunks))),
    }
}

fn streamed(chunks: impl futures::Stream<Item = Result<Bytes, InvokeError>> + Send + 'static) -> Body {
    Body::stream(chunks.map(|chunk| chunk.map_err(BodyError::from)).boxed())
}

/// What a caller reads of an invocation that did not happen.
fn api_error(error: &InvokeError) -> ApiError {
    match error {
        InvokeError::Throttled { retry_after, .. } => {
            ApiError::new(ErrorCode::TooManyRequests, "Rate Exceeded.")
                .reason("ConcurrentInvocationLimitExceeded")
                .retry_after(*retry_after)
        }
        InvokeError::Unavailable { retry_after, .. } => {
            ApiError::new(ErrorCode::ServiceUnavailable, error.to_string()).retry_after(*retry_after)
        }
        InvokeError::RuntimeNotInstalled { .. } => {
            ApiError::new(ErrorCode::InvalidRuntime, error.to_string())
        }
        InvokeError::ArtefactUnreadable { .. } => ApiError::new(ErrorCode::InvalidZipFile, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_one_json_document_and_nothing_becomes_an_object() {
        assert_eq!(payload(&Bytes::new()).unwrap(), "{}");
        for good in [
            "{}",
            "null",
            " \"text\" ",
            "[1,2]",
            "1e5",
            &format!("{}{}", "[".repeat(5_000), "]".repeat(5_000)),
        ] {
            assert_eq!(payload(&Bytes::copy_from_slice(good.as_bytes())).unwrap(), good);
        }
        for bad in [b"{".as_slice(), b"foo", b"{} {}", b"\xff", b"\"\xff\"", b" ", b"'a'"] {
            let error = payload(&Bytes::copy_from_slice(bad)).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidRequestContent);
            assert!(
                error.message.starts_with(
                    "Could not parse request body into json: Could not parse payload into json: "
                )
            );
        }
    }

    #[test]
    fn a_client_context_is_base64_of_a_json_object() {
        let context = |text: &str| client_context(&BASE64_STANDARD.encode(text));
        assert_eq!(context(r#"{"client":{}}"#).unwrap(), r#"{"client":{}}"#);
        assert!(context("[]").is_err() && context("{").is_err() && client_context("***").is_err());
        assert!(
            context(&format!("{{\"a\":\"{}\"}}", "x".repeat(3000))).unwrap_err().message.contains("3583")
        );
    }

    #[tokio::test]
    async fn only_a_whole_answer_has_a_length() {
        use hyper::body::Body as _;
        let chunks = |n: usize| stream::iter(vec![Ok(Bytes::from_static(b"abc")); n]).boxed();
        assert_eq!(body(chunks(0)).await.unwrap().size_hint().exact(), Some(0));
        assert_eq!(body(chunks(1)).await.unwrap().size_hint().exact(), Some(3));
        assert_eq!(body(chunks(2)).await.unwrap().size_hint().exact(), None);
    }
}
