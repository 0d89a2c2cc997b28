//! NATS JetStream: a stream in files, every publish synced before its ack, sealed by its own encryption.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use async_nats::{
    Client, HeaderMap, header,
    jetstream::{self, context::ContextBuilder, stream},
};
pub(crate) use loadtest::nats::{CIPHERS, config, find, start};
use loadtest::{
    latency::Latencies,
    load::{Load, Stopwatch},
    nats,
    peer::Server,
};
use tokio::runtime::Runtime;

const SUBJECT: &str = "bench";
pub(crate) const OUTSTANDING: [usize; 4] = [1, 16, 256, 1024];
/// Messages of an atomic batch: the most that the server takes.
pub(crate) const TOGETHER: usize = 1000;

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
        nats::publish(&context, SUBJECT, outstanding, &payload, || Instant::now() < end).await
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
