//! Restate: durable one-way calls over its HTTP ingress, to a handler that its Rust SDK serves from this program.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use loadtest::{
    clients::Callers,
    http::Connection,
    peer::{Program, Server},
};
use restate_sdk::prelude::{Context, Endpoint, HandlerResult, HttpServer, TerminalError, service};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::pool::{PROCESSES, Pool};

/// What is said of its settings.
pub(crate) const CONFIG: &str = "single node, WAL with fsync (default), 1 partition instead of 24 (the quickest of 1, 4 and 24 on two cores), tracing and telemetry off; one-way \
                                 calls (POST /Echo/call/send) to a handler of its Rust SDK that calls the function and returns nothing";
const PARTITIONS: u32 = 1;
const PATIENCE: Duration = Duration::from_secs(30);
/// Until its admin API takes connections, which it tells nobody.
const GLANCE: Duration = Duration::from_millis(20);

pub(crate) fn find(path: &Path) -> Result<Program, String> {
    // restate-server 1.7.12 (…)
    Program::find(path, |version| {
        let number = version.strip_prefix("restate-server ")?.split(' ').next()?;
        Some(format!("restate-server {number}"))
    })
}

/// What the handler does with an event.
#[derive(Debug, Clone)]
pub(crate) enum Handler {
    /// Nothing, for ever; the server lets it have as many at once as there are processes of the function on our side.
    Hold,
    Call(Pool),
}

struct Echo {
    handler: Handler,
}

#[service]
impl Echo {
    #[handler]
    async fn call(&self, _context: Context<'_>, event: Bytes) -> HandlerResult<()> {
        let pool = match &self.handler {
            Handler::Hold => return std::future::pending().await,
            Handler::Call(pool) => pool,
        };
        pool.call(event).await.map_err(|error| TerminalError::new(error.to_string()))?;
        Ok(())
    }
}

/// A running server, and the handler that it calls, which ends with the runtime it was started on.
#[derive(Debug)]
pub(crate) struct Restate {
    server: Server,
}

impl Restate {
    pub(crate) fn start(runtime: &Runtime, program: &Program, data: &Path, handler: Handler) -> Result<Self> {
        let limit = if matches!(handler, Handler::Hold) { PROCESSES } else { 1000 };
        let served = serve(runtime, handler)?;
        let admin = free_address()?;
        let server = Server::start(&program.path, data, |directory, ingress| {
            let path = directory.join("restate.toml");
            std::fs::write(&path, configuration(directory, ingress, admin, free_address()?, limit))?;
            Ok(vec!["--config-file".to_owned(), path.to_str().context("a path is not UTF-8")?.to_owned()])
        })?;
        register(admin, served)?;
        let restate = Self { server };
        restate.wait_until_it_accepts()?;
        Ok(restate)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// A request that queues a call of the handler.
    pub(crate) fn event(&self, payload: &[u8]) -> Vec<u8> {
        let head = format!(
            "POST /Echo/call/send HTTP/1.1\r\nhost: {}\r\ncontent-type: application/octet-stream\r\ncontent-length: {}\r\n\r\n",
            self.server.address,
            payload.len()
        );
        [head.as_bytes(), payload].concat()
    }

    pub(crate) fn callers<'a>(&self, request: &'a [u8], connections: usize) -> Callers<'a> {
        Callers { address: self.server.address, request, status: 202, connections }
    }

    /// It has the handler's address before all of its partitions know it.
    fn wait_until_it_accepts(&self) -> Result<()> {
        let begin = Instant::now();
        let request = self.event(b"{}");
        loop {
            let once = std::cell::Cell::new(true);
            match self.callers(&request, 1).call(|| once.replace(false)) {
                Ok(_) => return Ok(()),
                Err(error) => ensure!(begin.elapsed() < PATIENCE, "restate-server accepts nothing: {error}"),
            }
            std::thread::sleep(GLANCE);
        }
    }
}

/// Serves the handler on a free port.
fn serve(runtime: &Runtime, handler: Handler) -> Result<SocketAddr> {
    let endpoint = Endpoint::builder().bind(Echo { handler }).build();
    let listener = runtime.block_on(tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    let address = listener.local_addr()?;
    runtime.spawn(HttpServer::new(endpoint).serve_with_cancel(listener, std::future::pending::<()>()));
    Ok(address)
}

fn register(admin: SocketAddr, served: SocketAddr) -> Result<()> {
    let begin = Instant::now();
    let body = serde_json::to_vec(&json!({"uri": format!("http://{served}")}))?;
    loop {
        let answer = Connection::open(&admin.to_string(), PATIENCE).and_then(|mut admin| {
            admin.send("POST", "/deployments", &[("content-type", "application/json")], &body)
        });
        match answer {
            Ok(answer) if (200..300).contains(&answer.status) => return Ok(()),
            Ok(answer) => ensure!(
                begin.elapsed() < PATIENCE,
                "the handler was not taken: {} {}",
                answer.status,
                String::from_utf8_lossy(&answer.body)
            ),
            Err(error) => ensure!(begin.elapsed() < PATIENCE, "the admin API of restate-server: {error}"),
        }
        std::thread::sleep(GLANCE);
    }
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn configuration(
    directory: &Path,
    ingress: SocketAddr,
    admin: SocketAddr,
    node: SocketAddr,
    limit: usize,
) -> String {
    format!(
        "roles = [\"http-ingress\", \"admin\", \"worker\", \"log-server\", \"metadata-server\"]\n\
         node-name = \"bench\"\ncluster-name = \"bench\"\nauto-provision = true\nbase-dir = {directory:?}\n\
         default-num-partitions = {PARTITIONS}\ndisable-telemetry = true\nlog-filter = \"warn\"\n\
         listen-mode = \"tcp\"\nbind-address = \"{node}\"\n\
         [ingress]\nbind-address = \"{ingress}\"\n\
         [admin]\nbind-address = \"{admin}\"\n\
         [worker.invoker]\nconcurrent-invocations-limit = {limit}\n"
    )
}
