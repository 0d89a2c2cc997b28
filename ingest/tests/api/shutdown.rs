//! Stopping in order.

use std::time::Duration;

use bytes::Bytes;
use ingest::Config;
use tokio::net::TcpStream;

use crate::support::{Connection, Edge, Gate, config, send, unsigned};

const INVOKE: &str = "/2015-03-31/functions/echo/invocations";

#[tokio::test]
async fn what_runs_ends_and_what_is_new_is_sent_away() {
    let gate = Gate::default();
    let mut edge = Edge::start(config(), gate.invoker()).await;
    edge.create("echo").await;
    let mut kept = Connection::over(TcpStream::connect(edge.address).await.unwrap()).await;
    assert_eq!(kept.send(unsigned("GET", "/readyz")).await.status, 200);
    let running =
        tokio::spawn(send(edge.address, edge.request("POST", INVOKE, &[], Bytes::from_static(b"{}"))));
    gate.called.notified().await;

    edge.stop();
    // The listener goes first: once nobody can connect, draining has begun.
    while TcpStream::connect(edge.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let refused = kept.send(edge.request("POST", INVOKE, &[], Bytes::from_static(b"{}"))).await;
    assert_eq!((refused.error().0, refused.error().1), (503, "ServiceUnavailableException"));
    assert_eq!((refused.header("retry-after"), refused.header("connection")), (Some("1"), Some("close")));

    gate.answer.notify_one();
    assert_eq!(running.await.unwrap().status, 200);
    edge.stopped().await;
}

#[tokio::test]
async fn what_never_ends_is_cut() {
    let gate = Gate::default();
    let mut edge =
        Edge::start(Config { drain_timeout: Duration::from_millis(100), ..config() }, gate.invoker()).await;
    edge.create("echo").await;
    let request = edge.request("POST", INVOKE, &[], Bytes::from_static(b"{}"));
    let address = edge.address;
    let running = tokio::spawn(async move { send(address, request).await });
    gate.called.notified().await;
    edge.stop();
    edge.stopped().await;
    assert!(running.await.is_err(), "the client sees its connection end");
}

#[tokio::test]
async fn idle_connections_do_not_hold_a_shutdown_up() {
    let mut edge = Edge::start(config(), Gate::default().invoker()).await;
    let mut kept = Connection::over(TcpStream::connect(edge.address).await.unwrap()).await;
    assert_eq!(kept.send(unsigned("GET", "/healthz")).await.status, 200);
    edge.stop();
    edge.stopped().await;
}
