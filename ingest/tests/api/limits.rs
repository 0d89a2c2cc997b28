//! Overload and slow clients.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use ingest::Config;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Connection, Edge, Gate, config, echo, send, unsigned};

const INVOKE: &str = "/2015-03-31/functions/echo/invocations";

/// Sends `text` and reads until the server closes.
async fn exchange(address: SocketAddr, text: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    reply
}

fn head_of(edge: &Edge, length: usize) -> String {
    let request = edge.request("POST", INVOKE, &[], Bytes::new());
    let mut head = format!("POST {INVOKE} HTTP/1.1\r\ncontent-length: {length}\r\n");
    for (name, value) in request.headers() {
        head += &format!("{name}: {}\r\n", value.to_str().unwrap());
    }
    head + "\r\n"
}

#[tokio::test]
async fn payloads_beyond_the_budget_are_throttled_until_others_are_done() {
    let gate = Gate::default();
    let edge = Edge::start(Config { max_inflight_bytes: 10_240, ..config() }, gate.invoker()).await;
    edge.create("echo").await;
    let payload = || Bytes::from(format!("\"{}\"", "x".repeat(6000)));
    let first = tokio::spawn(send(edge.address, edge.request("POST", INVOKE, &[], payload())));
    gate.called.notified().await;
    let reply = edge.invoke(&[], payload()).await;
    assert_eq!((reply.error().0, reply.error().1), (429, "TooManyRequestsException"));
    assert_eq!(reply.json()["Reason"], "CallerRateLimitExceeded");
    assert_eq!(reply.header("retry-after"), Some("1"));
    gate.answer.notify_one();
    assert_eq!(first.await.unwrap().status, 200);
    gate.answer.notify_one();
    assert_eq!(edge.invoke(&[], payload()).await.status, 200);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up() {
    let edge = Edge::start(Config { body_grace: Duration::from_millis(100), ..config() }, echo()).await;
    let reply = exchange(edge.address, &(head_of(&edge, 100) + "{")).await;
    assert!(reply.starts_with("HTTP/1.1 400 ") && reply.contains("the body came too slowly"), "{reply}");
    assert!(reply.contains("connection: close"), "{reply}");
}

#[tokio::test]
async fn a_body_without_a_length_is_cut_at_the_cap() {
    let edge = Edge::start(config(), echo()).await;
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    let head = head_of(&edge, 0).replace("content-length: 0", "transfer-encoding: chunked");
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = vec![b'x'; 1 << 20];
    for _ in 0..7 {
        stream.write_all(b"100000\r\n").await.unwrap();
        stream.write_all(&chunk).await.unwrap();
        stream.write_all(b"\r\n").await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 413 "), "{reply}");
}

#[tokio::test]
async fn a_head_that_does_not_end_closes_the_connection() {
    let edge = Edge::start(Config { head_timeout: Duration::from_millis(100), ..config() }, echo()).await;
    assert_eq!(exchange(edge.address, "GET /healthz HTTP/1.1\r\nhost: h\r\n").await, "");
}

#[tokio::test]
async fn a_head_beyond_its_limit_is_refused() {
    let edge = Edge::start(Config { max_head_bytes: 8192, ..config() }, echo()).await;
    let reply = exchange(edge.address, &format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(20_000))).await;
    assert!(reply.starts_with("HTTP/1.1 414 ") || reply.starts_with("HTTP/1.1 431 "), "{reply}");
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_a_place() {
    let edge = Edge::start(Config { max_connections: 1, ..config() }, echo()).await;
    let mut first = Connection::over(TcpStream::connect(edge.address).await.unwrap()).await;
    assert_eq!(first.send(unsigned("GET", "/healthz")).await.status, 200);
    let mut second = tokio::spawn(send(edge.address, unsigned("GET", "/healthz")));
    assert!(
        tokio::time::timeout(Duration::from_millis(200), &mut second).await.is_err(),
        "answered beyond the limit"
    );
    drop(first);
    assert_eq!(second.await.unwrap().status, 200);
}

#[tokio::test]
async fn metrics_are_on_loopback_or_on_their_own_address() {
    let edge = Edge::start(config(), echo()).await;
    for (path, body) in [("/metrics", "a_metric 1\n"), ("/healthz", "ok\n"), ("/readyz", "ready\n")] {
        let reply = send(edge.address, unsigned("GET", path)).await;
        assert_eq!((reply.status.as_u16(), reply.body.as_ref()), (200, body.as_bytes()));
    }
    let apart = Config { metrics_listen: Some("127.0.0.1:0".parse().unwrap()), ..config() };
    let edge = Edge::start(apart, echo()).await;
    assert_eq!(send(edge.address, unsigned("GET", "/metrics")).await.status, 404);
    let metrics = edge.metrics.unwrap();
    assert_eq!(send(metrics, unsigned("GET", "/metrics")).await.body, "a_metric 1\n");
    assert_eq!(
        send(metrics, unsigned("GET", "/2015-03-31/functions")).await.error().1,
        "UnknownOperationException"
    );
}
