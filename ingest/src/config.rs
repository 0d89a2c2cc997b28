//! What an operator decides about the edge.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use types::limits;

/// Configuration of the HTTP API. Every bound has a default that suits one machine.
#[derive(Debug, Clone)]
pub struct Config {
    /// Addresses of the API; port 0 picks a free one.
    pub listen: Vec<SocketAddr>,
    /// Address of `/metrics`, `/healthz` and `/readyz` alone, in plain HTTP without authentication. Where it is absent,
    /// `/metrics` is on the API's addresses if all of them are loopback, and nowhere otherwise.
    pub metrics_listen: Option<SocketAddr>,
    /// Certificate of the API; plain HTTP without it.
    pub tls: Option<TlsFiles>,
    pub authentication: Authentication,
    /// Region that signatures must be scoped to, such as `us-east-1`.
    pub region: String,
    /// `ConcurrentExecutions` of GetAccountSettings.
    pub account_concurrency: u32,
    /// Connections open at once; further ones wait in the kernel's queue.
    pub max_connections: usize,
    /// Most bytes of a request line with its headers.
    pub max_head_bytes: usize,
    /// Time for a whole head to arrive, and for a kept-alive connection to stay idle.
    pub head_timeout: Duration,
    /// Time a body may arrive slower than `min_body_rate` before the request is given up.
    pub body_grace: Duration,
    /// Least mean rate of a body's arrival, bytes per second.
    pub min_body_rate: u32,
    /// Time a client may take nothing of an answer before its connection is closed.
    pub write_stall: Duration,
    /// Bytes of payload in flight over all requests but uploads: from before a body is read until its answer is sent.
    pub max_inflight_bytes: usize,
    /// Bytes of upload requests in flight (base64 inside JSON; while one is decoded it costs about twice that).
    pub max_inflight_upload_bytes: usize,
    /// Time that running requests have to end after shutdown began.
    pub drain_timeout: Duration,
}

/// PEM files.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The certificate chain, the server's own certificate first.
    pub certificate: PathBuf,
    /// The private key: PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
}

/// Whether callers must sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authentication {
    /// Signature Version 4 on every operation.
    Required,
    /// None. Refused unless every address is loopback.
    Disabled,
}

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 9000))],
            metrics_listen: None,
            tls: None,
            authentication: Authentication::Required,
            region: String::from("us-east-1"),
            account_concurrency: limits::ACCOUNT_CONCURRENCY,
            max_connections: 4096,
            max_head_bytes: 64 * 1024,
            head_timeout: Duration::from_secs(30),
            body_grace: Duration::from_secs(10),
            min_body_rate: 64 * 1024,
            write_stall: Duration::from_secs(30),
            max_inflight_bytes: 256 * 1024 * 1024,
            max_inflight_upload_bytes: 160 * 1024 * 1024,
            drain_timeout: Duration::from_secs(30),
        }
    }
}

impl Config {
    pub(crate) fn only_loopback(&self) -> bool {
        self.listen.iter().all(|address| address.ip().is_loopback())
    }
}
