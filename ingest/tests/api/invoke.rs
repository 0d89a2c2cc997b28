//! Invoke through HTTP.

use std::{sync::Arc, time::Duration};

use crate::support::{Edge, Invoker, config, echo, failing, outcome};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures::StreamExt as _;
use invoker::{FunctionError, InvokeError, InvokeRequest};
use poller_fleet::WriteError;
use tokio::sync::Mutex;
use tower::util::BoxCloneSyncService;
use types::limits;

async fn with(invoker: Invoker) -> Edge {
    let edge = Edge::start(config(), invoker).await;
    assert_eq!(edge.create("echo").await.status, 201);
    edge
}

#[tokio::test]
async fn an_answer_comes_back_whole_with_its_headers() {
    let edge = with(echo()).await;
    let reply = edge.invoke(&[], r#"{"key":"value"}"#).await;
    assert_eq!((reply.status.as_u16(), reply.body.as_ref()), (200, br#"{"key":"value"}"#.as_slice()));
    assert_eq!(reply.header("content-length"), Some("15"));
    assert_eq!(reply.header("x-amz-executed-version"), Some("$LATEST"));
    assert_eq!(reply.header("x-amz-function-error"), None);
    assert!(reply.header("x-amzn-trace-id").unwrap().starts_with("Root=1-"));
    assert!(reply.header("x-amzn-requestid").is_some() && reply.header("date").is_some());
}

#[tokio::test]
async fn an_event_is_answered_when_it_is_queued_and_not_before() {
    let edge = with(echo()).await;
    let event = [("X-Amz-Invocation-Type", "Event")];
    let reply = edge.invoke(&event, r#"{"n":1}"#).await;
    assert_eq!((reply.status.as_u16(), reply.body.len()), (202, 0));
    assert_eq!(reply.header("x-amz-executed-version"), None);
    {
        let events = edge.accepted.events.lock().unwrap();
        let [accepted] = &events[..] else { panic!("{events:?}") };
        assert_eq!(reply.header("x-amzn-requestid"), Some(accepted.request_id.to_string().as_str()));
        assert_eq!(accepted.payload, r#"{"n":1}"#);
        assert_eq!(accepted.trace.lineage.times(&accepted.function), 1);
    }
    for (error, status, exception) in [
        (WriteError::NoSpace, 503, "ServiceUnavailableException"),
        (WriteError::Key("gone".into()), 500, "ServiceException"),
    ] {
        *edge.accepted.error.lock().unwrap() = Some(error);
        let reply = edge.invoke(&event, "{}").await;
        assert_eq!((reply.error().0, reply.error().1), (status, exception));
        assert_eq!(reply.header("retry-after").is_some(), status == 503);
    }
}

#[tokio::test]
async fn an_event_of_a_megabyte_fits_and_a_byte_more_is_refused() {
    let edge = with(echo()).await;
    let json = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
    let event = [("X-Amz-Invocation-Type", "Event")];
    assert_eq!(edge.invoke(&event, json(limits::ASYNC_REQUEST_BYTES)).await.status, 202);
    let reply = edge.invoke(&event, json(limits::ASYNC_REQUEST_BYTES + 1)).await;
    let (status, exception, message) = reply.error();
    assert_eq!((status, exception), (413, "RequestEntityTooLargeException"));
    assert!(message.contains("1048576 bytes for the InvokeFunction operation"), "{message}");
    assert_eq!(edge.invoke(&event, "{").await.error().1, "InvalidRequestContentException");
    assert_eq!(edge.accepted.events.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn invoke_async_is_the_older_form_of_an_event() {
    let edge = with(echo()).await;
    let target = "/2014-11-13/functions/echo/invoke-async/";
    let reply = edge.send("POST", target, &[], r#"{"n":1}"#).await;
    assert_eq!((reply.status.as_u16(), reply.body.len()), (202, 0));
    assert_eq!(edge.accepted.events.lock().unwrap()[0].payload, r#"{"n":1}"#);
    assert_eq!(edge.send("POST", target, &[], "{").await.error().1, "InvalidRequestContentException");
}

#[tokio::test]
async fn a_function_invoked_too_often_in_one_chain_is_stopped_unless_it_may_be() {
    let edge = with(echo()).await;
    edge.invoke(&[("X-Amz-Invocation-Type", "Event")], "{}").await;
    let lineage = edge.accepted.events.lock().unwrap()[0].trace.lineage.to_string();
    let header = |times: u32| {
        let lineage = lineage.replace(":1", &format!(":{times}"));
        format!("Root=1-67891233-abcdef012345678912345678;Lineage={lineage}")
    };
    assert_eq!(edge.invoke(&[("X-Amzn-Trace-Id", &header(15))], "{}").await.status, 200);
    let reply = edge.invoke(&[("X-Amzn-Trace-Id", &header(16))], "{}").await;
    assert_eq!((reply.error().0, reply.error().1), (400, "RecursiveInvocationException"));
    // An event is accepted, and ends where the function's failed events go.
    let event = [("X-Amz-Invocation-Type", "Event"), ("X-Amzn-Trace-Id", &header(16))];
    assert_eq!(edge.invoke(&event, "{}").await.status, 202);
    let allow = r#"{"RecursiveLoop":"Allow"}"#;
    assert_eq!(edge.send("PUT", "/2024-08-31/functions/echo/recursion-config", &[], allow).await.status, 200);
    assert_eq!(edge.invoke(&[("X-Amzn-Trace-Id", &header(16))], "{}").await.status, 200);
}

#[tokio::test]
async fn the_invoker_gets_what_the_caller_said() {
    let seen: Arc<Mutex<Vec<InvokeRequest>>> = Arc::default();
    let invoker = BoxCloneSyncService::new(tower::service_fn({
        let seen = Arc::clone(&seen);
        move |request: InvokeRequest| {
            let seen = Arc::clone(&seen);
            async move {
                seen.lock().await.push(request);
                let mut outcome = outcome(vec![Bytes::from_static(b"null")]);
                outcome.log_tail = Some(Bytes::from_static(b"START"));
                outcome.function_error = Some(FunctionError::Unhandled);
                Ok(outcome)
            }
        }
    }));
    let edge = with(invoker).await;
    let context = BASE64_STANDARD.encode(r#"{"custom":{}}"#);
    let trace = "Root=1-67891233-abcdef012345678912345678;Parent=463ac35c9f6413ad;Sampled=1";
    let reply = edge
        .send(
            "POST",
            "/2015-03-31/functions/echo/invocations?Qualifier=%24LATEST",
            &[("X-Amz-Log-Type", "Tail"), ("X-Amz-Client-Context", &context), ("X-Amzn-Trace-Id", trace)],
            "",
        )
        .await;
    assert_eq!(reply.status, 200, "a failed function is a success of the API");
    assert_eq!(reply.header("x-amz-function-error"), Some("Unhandled"));
    assert_eq!(reply.header("x-amz-log-result"), Some(BASE64_STANDARD.encode("START").as_str()));
    assert_eq!(reply.header("x-amzn-trace-id"), Some(trace));
    let seen = seen.lock().await;
    assert_eq!(seen[0].payload, "{}", "no payload reaches the function as an empty object");
    assert!(seen[0].log_tail);
    assert_eq!(seen[0].client_context.as_deref(), Some(r#"{"custom":{}}"#));
    assert_eq!(seen[0].invoked_arn, "arn:aws:lambda:us-east-1:123456789012:function:echo:$LATEST");
    assert_eq!(seen[0].trace.traceparent, "00-67891233abcdef012345678912345678-463ac35c9f6413ad-01");
    assert_eq!(reply.header("x-amzn-requestid"), Some(seen[0].request_id.to_string().as_str()));
}

#[tokio::test]
async fn dry_run_checks_and_runs_nothing() {
    let edge = with(failing(InvokeError::ArtefactUnreadable { reason: String::from("it ran") })).await;
    let reply = edge.invoke(&[("X-Amz-Invocation-Type", "DryRun")], "{}").await;
    assert_eq!((reply.status.as_u16(), reply.body.len()), (204, 0));
    let missing = edge
        .send("POST", "/2015-03-31/functions/none/invocations", &[("x-amz-invocation-type", "DryRun")], "")
        .await;
    assert_eq!(missing.error().1, "ResourceNotFoundException");
}

#[tokio::test]
async fn payloads_that_are_no_json_never_reach_the_function() {
    let edge = with(failing(InvokeError::ArtefactUnreadable { reason: String::from("it ran") })).await;
    let reply = edge.invoke(&[], "{'key': 1}").await;
    assert_eq!((reply.error().0, reply.error().1), (400, "InvalidRequestContentException"));
    assert!(
        reply
            .error()
            .2
            .starts_with("Could not parse request body into json: Could not parse payload into json: ")
    );
    assert!(!reply.error().2.contains("'key'"), "the payload is not repeated");
}

#[tokio::test]
async fn six_megabytes_pass_and_one_byte_more_does_not() {
    let edge = with(echo()).await;
    let payload = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
    let reply = edge.invoke(&[], payload(limits::SYNC_REQUEST_BYTES)).await;
    assert_eq!((reply.status.as_u16(), reply.body.len()), (200, limits::SYNC_REQUEST_BYTES));
    let reply = edge.invoke(&[], payload(limits::SYNC_REQUEST_BYTES + 1)).await;
    let text = "Request must be smaller than 6291456 bytes for the InvokeFunction operation";
    assert_eq!(reply.error(), (413, "RequestEntityTooLargeException", text.to_owned()));
}

#[tokio::test]
async fn two_qualifiers_must_agree() {
    let edge = with(echo()).await;
    let reply = edge.send("POST", "/2015-03-31/functions/echo%3A1/invocations?Qualifier=2", &[], "").await;
    let text = "The derived qualifier from the function name does not match the specified qualifier.";
    assert_eq!(reply.error(), (400, "InvalidParameterValueException", text.to_owned()));
}

#[tokio::test]
async fn a_streamed_answer_goes_out_in_chunks() {
    let invoker = BoxCloneSyncService::new(tower::service_fn(async |_: InvokeRequest| {
        Ok(outcome(vec![Bytes::from_static(b"[1,"), Bytes::from_static(b"2]")]))
    }));
    let reply = with(invoker).await.invoke(&[], "").await;
    assert_eq!(
        (reply.header("transfer-encoding"), reply.body.as_ref()),
        (Some("chunked"), b"[1,2]".as_slice())
    );
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_never_taken_for_whole() {
    use http_body_util::BodyExt as _;
    let invoker = BoxCloneSyncService::new(tower::service_fn(async |_: InvokeRequest| {
        let mut outcome = outcome(Vec::new());
        let broken = InvokeError::Unavailable { reason: String::from("gone"), retry_after: Duration::ZERO };
        outcome.body = futures::stream::iter([Ok(Bytes::from_static(b"[1,")), Err(broken)]).boxed();
        Ok(outcome)
    }));
    let edge = with(invoker).await;
    let request = edge.request("POST", "/2015-03-31/functions/echo/invocations", &[], Bytes::new());
    let stream = tokio::net::TcpStream::connect(edge.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    // The cut may come with the head or in the body; what must not come is an end.
    if let Ok(reply) = sender.send_request(request).await {
        assert!(reply.into_body().collect().await.is_err());
    }
}

#[tokio::test]
async fn failures_of_the_platform_tell_when_to_ask_again() {
    let wait = Duration::from_millis(1500);
    let table = [
        (InvokeError::Throttled { limit: 1, retry_after: wait }, 429, "TooManyRequestsException", Some("2")),
        (
            InvokeError::Unavailable { reason: String::from("stopping"), retry_after: wait },
            503,
            "ServiceUnavailableException",
            Some("2"),
        ),
        (
            InvokeError::RuntimeNotInstalled {
                runtime: String::from("java21"),
                installed: String::from("python3.11"),
            },
            502,
            "InvalidRuntimeException",
            None,
        ),
        (
            InvokeError::ArtefactUnreadable { reason: String::from("key destroyed") },
            502,
            "InvalidZipFileException",
            None,
        ),
    ];
    for (error, status, name, retry) in table {
        let reply = with(failing(error)).await.invoke(&[], "").await;
        assert_eq!((reply.error().0, reply.error().1, reply.header("retry-after")), (status, name, retry));
        if status == 429 {
            let body =
                r#"{"Reason":"ConcurrentInvocationLimitExceeded","Type":"User","message":"Rate Exceeded."}"#;
            assert_eq!(reply.body, body);
        }
    }
}
