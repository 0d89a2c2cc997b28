//! Redis Streams: every write synced before its answer. Redis has no encryption at rest, so it does less than the others.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use loadtest::{
    latency::Latencies,
    load::{Load, Stopwatch},
    peer::{Program, Server},
};
use redis::{Client, Connection, ConnectionLike, Value};

const STREAM: &str = "bench";
/// Connections, and commands that each sends at once: 1 to 1,024 outstanding.
pub(crate) const PIPELINES: [(usize, usize); 6] = [(1, 1), (1, 16), (1, 256), (1, 1024), (4, 64), (4, 256)];
/// What is said of its settings.
pub(crate) const CONFIG: &str = "appendonly yes, appendfsync always, no snapshots, no rewriting; nothing is encrypted; XADD over \
                                 loopback, encoded beforehand";

pub(crate) fn find(path: &Path) -> Result<Program, String> {
    // Redis server v=7.0.15 sha=…
    Program::find(path, |version| {
        Some(format!("redis-server {}", version.split_once("v=")?.1.split(' ').next()?))
    })
}

pub(crate) fn start(program: &Program, data: &Path) -> Result<Server> {
    Server::start(&program.path, data, |directory, address| {
        let directory = directory.to_str().context("a path is not UTF-8")?;
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        let arguments = [
            ["--bind", &host],
            ["--port", &port],
            ["--dir", directory],
            ["--appendonly", "yes"],
            ["--appendfsync", "always"],
            ["--save", ""],
            ["--auto-aof-rewrite-percentage", "0"],
        ];
        Ok(arguments.as_flattened().iter().map(|&argument| argument.to_owned()).collect())
    })
}

/// Appends to a new stream, `together` commands in each write of each connection. They are encoded once: the client costs
/// next to nothing. A latency is that of one event, from its pipeline's write to its answer.
pub(crate) fn append(
    server: &Server,
    connections: usize,
    together: usize,
    payload: &[u8],
    span: Duration,
) -> Result<Load> {
    let client = Client::open(format!("redis://{}/", server.address))?;
    let mut pipeline = redis::pipe();
    for _ in 0..together {
        pipeline.cmd("XADD").arg(STREAM).arg("*").arg("payload").arg(payload);
    }
    let packed = pipeline.get_packed_pipeline();
    let opened: Vec<Connection> =
        (0..connections).map(|_| client.get_connection()).collect::<Result<_, _>>()?;
    let watch = Stopwatch::start(span, Some(server.pid()))?;
    let end = watch.end;
    let latencies = thread::scope(|scope| {
        let packed = &packed;
        let threads: Vec<_> = opened
            .into_iter()
            .map(|connection| scope.spawn(move || pipelines(connection, packed, together, end)))
            .collect();
        threads.into_iter().try_fold(Latencies::new(), |mut sum, thread| {
            sum.add(&thread.join().map_err(|_| anyhow!("a client panicked"))??);
            anyhow::Ok(sum)
        })
    })?;
    let load = watch.stop(latencies.count(), latencies)?;
    let mut connection = client.get_connection()?;
    let stored: u64 = redis::cmd("XLEN").arg(STREAM).query(&mut connection)?;
    ensure!(stored == load.events, "{} answers, but {stored} entries", load.events);
    redis::cmd("FLUSHALL").exec(&mut connection)?;
    Ok(load)
}

fn pipelines(mut connection: Connection, packed: &[u8], together: usize, end: Instant) -> Result<Latencies> {
    let mut latencies = Latencies::new();
    loop {
        let begin = Instant::now();
        if begin >= end {
            return Ok(latencies);
        }
        let answers = connection.req_packed_commands(packed, 0, together)?;
        let latency = begin.elapsed();
        for answer in answers {
            ensure!(matches!(answer, Value::BulkString(_)), "an XADD was answered {answer:?}");
            latencies.record(latency);
        }
    }
}
