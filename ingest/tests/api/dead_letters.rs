//! Operations beside the Lambda API: who may call them, and what is refused before anything is done.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::support::{Edge, Reply, config, echo, send, unsigned};

const LIST: &str = "/waterwheel/2026-11-23/dead-letters";
const REDRIVE: &str = "/waterwheel/2026-11-23/dead-letters/redrive";
const PURGE: &str = "/waterwheel/2026-11-23/dead-letters/purge";

async fn post(edge: &Edge, path: &str, body: Value) -> Reply {
    edge.send("POST", path, &[], body.to_string()).await
}

#[tokio::test]
async fn only_who_signs_may_and_only_what_was_signed() {
    let edge = Edge::start(config(), echo()).await;
    for (method, path) in [("GET", LIST), ("POST", REDRIVE), ("POST", PURGE)] {
        let reply = send(edge.address, unsigned(method, path)).await;
        assert_eq!((reply.error().0, reply.error().1), (403, "MissingAuthenticationTokenException"));
    }
    let mut other = edge.request("POST", PURGE, &[], Bytes::from(r#"{"FunctionName":"one"}"#));
    *other.body_mut() = Bytes::from(r#"{"FunctionName":"two"}"#).into();
    let reply = send(edge.address, other).await;
    assert_eq!((reply.error().0, reply.error().1), (403, "InvalidSignatureException"));
}

#[tokio::test]
async fn bad_values_are_refused_by_name() {
    let edge = Edge::start(config(), echo()).await;
    for path in [REDRIVE, PURGE] {
        let reply = post(&edge, path, json!({"AllFunctions": true, "Reason": "Tired"})).await;
        let (status, code, message) = reply.error();
        assert_eq!((status, code), (400, "InvalidParameterValueException"));
        assert!(message.contains("Tired") && message.contains("RetriesExhausted"), "{message}");
        let reply = edge.send("POST", path, &[], "x".repeat(64 * 1024 + 1)).await;
        assert_eq!((reply.error().0, reply.error().1), (413, "RequestEntityTooLargeException"));
    }
    let reply = edge.send("GET", &format!("{LIST}?MaxItems=many"), &[], "").await;
    assert!(reply.error().2.contains("many"), "{:?}", reply.error());
    let reply = edge.send("POST", &format!("{LIST}/sell"), &[], "{}").await;
    assert_eq!((reply.error().0, reply.error().1), (404, "UnknownOperationException"));
}

#[tokio::test]
async fn what_is_not_there_is_said_to_be_so() {
    let edge = Edge::start(config(), echo()).await;
    edge.create("echo").await;
    for (name, status) in [("echo", 200), ("nobody", 404)] {
        let reply = edge.send("GET", &format!("{LIST}?FunctionName={name}"), &[], "").await;
        assert_eq!(reply.status.as_u16(), status, "{name}");
        assert_eq!(post(&edge, PURGE, json!({"FunctionName": name})).await.status.as_u16(), status, "{name}");
    }
    let id = "00000000-0000-0000-0000-000000000007";
    let path = format!("/waterwheel/2026-11-23/functions/echo/dead-letters/{id}");
    let reply = edge.send("GET", &path, &[], "").await;
    let (status, code, message) = reply.error();
    assert_eq!((status, code), (404, "ResourceNotFoundException"));
    assert!(message.contains(id), "{message}");
}

#[tokio::test]
async fn a_second_redrive_at_once_is_a_conflict() {
    let edge = Edge::start(config(), echo()).await;
    let arn = "arn:aws:lambda:us-east-1:123456789012:function:echo";
    let reply = post(&edge, REDRIVE, json!({"FunctionName": arn})).await;
    let (status, code, message) = reply.error();
    assert_eq!((status, code), (409, "ResourceConflictException"));
    assert!(message.contains(arn), "{message}");
}
