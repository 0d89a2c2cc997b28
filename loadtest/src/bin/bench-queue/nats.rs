//! NATS JetStream: a stream in files, every publish synced before its ack, sealed by its own encryption.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use async_nats::{
    Client, HeaderMap, header,
    jetstream::{self, context::ContextBuilder, stream},
};
use futures::{StreamExt, stream::FuturesUnordered};
use loadtest::latency::Latencies;
use tokio::runtime::Runtime;

use crate::{
    load::{Load, Stopwatch},
    peer::{Program, Server},
};

const SUBJECT: &str = "bench";
/// The ciphers that it seals its files with.
pub(crate) const CIPHERS: [&str; 2] = ["aes", "chachapoly"];
pub(crate) const OUTSTANDING: [usize; 4] = [1, 16, 256, 1024];
/// Messages of an atomic batch: the most that the server takes.
pub(crate) const TOGETHER: usize = 1000;

pub(crate) fn find(path: &Path) -> Result<Program, String> {
    // nats-server: v2.15.1
    Program::find(path, |version| Some(format!("nats-server {}", version.split_once(": v")?.1)))
}

/// What is said of its settings.
pub(crate) fn config(cipher: &str) -> String {
    format!(
        "sync_interval: always, cipher: {cipher} (the quicker here), a stream in files, one replica; async-nats over loopback"
    )
}

pub(crate) fn start(program: &Program, data: &Path, cipher: &str) -> Result<Server> {
    Server::start(&program.path, data, |directory, address| {
        let config = directory.join("nats.conf");
        let store = directory.join("store");
        std::fs::write(
            &config,
            format!(
                "listen: \"{address}\"\njetstream {{\n  store_dir: {store:?}\n  sync_interval: always\n  cipher: {cipher}\n  \
                 key: \"a key of this bench\"\n  max_file_store: 64GB\n}}\n"
            ),
        )?;
        Ok(vec!["--config".to_owned(), config.to_str().context("a path is not UTF-8")?.to_owned()])
    })
}

/// Publishes to a new stream, with so many publishes whose acks are outstanding. One client.
pub(crate) fn publish(
    runtime: &Runtime,
    server: &Server,
    outstanding: usize,
    payload: &[u8],
    span: Duration,
) -> Result<Load> {
    let payload = bytes::Bytes::copy_from_slice(payload);
    with_stream(runtime, server, span, async |client: &Client, end| {
        let context = ContextBuilder::new().max_ack_inflight(2 * outstanding).build(client.clone());
        keep_outstanding(&context, outstanding, &payload, end).await
    })
}

/// Publishes atomic batches of [`TOGETHER`], one after the other: one ack for all of a batch, and all of it or nothing.
pub(crate) fn publish_together(
    runtime: &Runtime,
    server: &Server,
    payload: &[u8],
    span: Duration,
) -> Result<Load> {
    let payload = bytes::Bytes::copy_from_slice(payload);
    with_stream(runtime, server, span, async |client: &Client, end| {
        let context = jetstream::new(client.clone());
        let mut latencies = Latencies::new();
        for batch in 0_u64.. {
            let begin = Instant::now();
            if begin >= end {
                break;
            }
            for sequence in 1..=TOGETHER {
                let mut headers = HeaderMap::new();
                headers.insert(header::NATS_BATCH_ID, batch.to_string());
                headers.insert(header::NATS_BATCH_SEQUENCE, sequence.to_string());
                if sequence < TOGETHER {
                    client.publish_with_headers(SUBJECT, headers, payload.clone()).await?;
                } else {
                    headers.insert(header::NATS_BATCH_COMMIT, header::NATS_BATCH_COMMIT_FINAL);
                    context.publish_with_headers(SUBJECT, headers, payload.clone()).await?.await?;
                }
            }
            let latency = begin.elapsed();
            (0..TOGETHER).for_each(|_| latencies.record(latency));
        }
        Ok(latencies)
    })
}

/// Has `work` publish until its end to a stream that is made for it; every ack is a message of the stream then.
fn with_stream(
    runtime: &Runtime,
    server: &Server,
    span: Duration,
    work: impl AsyncFnOnce(&Client, Instant) -> Result<Latencies>,
) -> Result<Load> {
    runtime.block_on(async {
        let client = async_nats::connect(server.address.to_string()).await?;
        let context = jetstream::new(client.clone());
        let config = stream::Config {
            name: SUBJECT.to_owned(),
            subjects: vec![SUBJECT.to_owned()],
            storage: stream::StorageType::File,
            num_replicas: 1,
            allow_atomic_publish: true,
            ..stream::Config::default()
        };
        let stream = context.create_stream(config).await?;
        let watch = Stopwatch::start(span, Some(server.pid()))?;
        let latencies = work(&client, watch.end).await?;
        let load = watch.stop(latencies.count(), latencies)?;
        let stored = stream.get_info().await?.state.messages;
        ensure!(stored == load.events, "{} acks, but {stored} messages", load.events);
        context.delete_stream(SUBJECT).await?;
        Ok(load)
    })
}

async fn keep_outstanding(
    context: &jetstream::Context,
    outstanding: usize,
    payload: &bytes::Bytes,
    end: Instant,
) -> Result<Latencies> {
    let mut latencies = Latencies::new();
    let mut acks = FuturesUnordered::new();
    loop {
        while acks.len() < outstanding && Instant::now() < end {
            let begin = Instant::now();
            let ack = context.publish(SUBJECT, payload.clone()).await?;
            acks.push(async move { ack.await.map(|_| begin.elapsed()) });
        }
        match acks.next().await {
            Some(latency) => latencies.record(latency?),
            None => return Ok(latencies),
        }
    }
}
