//! NATS JetStream: events published with sync before their ack, a pull consumer that calls the function for each and acks it then.

use std::path::Path;

use anyhow::Result;
use async_nats::jetstream::{self, consumer::pull, context::ContextBuilder, stream};
use bytes::Bytes;
use futures::TryStreamExt;
use loadtest::{
    latency::Latencies,
    nats,
    peer::{Program, Server},
};
use tokio::runtime::Runtime;

use crate::pool::Pool;

const SUBJECT: &str = "async";
/// Publishes whose acks are outstanding.
const PUBLISHING: usize = 256;
/// Messages that the consumer asks for at once, and that wait for the function.
const FETCHED: usize = 256;
const CIPHER: &str = "aes";

pub(crate) fn config() -> String {
    format!(
        "{}; {PUBLISHING} publishes outstanding; a durable pull consumer, {FETCHED} messages at once, acks explicit",
        nats::config(CIPHER)
    )
}

#[derive(Debug)]
pub(crate) struct JetStream {
    server: Server,
    consuming: tokio::task::JoinHandle<()>,
}

impl JetStream {
    /// Starts a server, and a consumer that has the pool handle what is published.
    pub(crate) fn start(runtime: &Runtime, program: &Program, data: &Path, pool: &Pool) -> Result<Self> {
        let server = nats::start(program, data, CIPHER)?;
        let consumer = runtime.block_on(consumer(&server))?;
        let pool = pool.clone();
        let consuming = runtime.spawn(async move {
            if let Err(error) = consume(consumer, &pool).await {
                // Whoever waits for the pool's count finds out.
                eprintln!("the consumer has ended: {error:#}");
            }
        });
        Ok(Self { server, consuming })
    }

    /// Publishes so many; returns when all of them are acked, with how long each ack took.
    pub(crate) fn publish(&self, runtime: &Runtime, payload: &Bytes, events: u64) -> Result<Latencies> {
        runtime.block_on(async {
            let client = async_nats::connect(self.server.address.to_string()).await?;
            let context = ContextBuilder::new().max_ack_inflight(2 * PUBLISHING).build(client);
            let left = std::cell::Cell::new(events);
            nats::publish(&context, SUBJECT, PUBLISHING, payload, || {
                let more = left.get() > 0;
                left.set(left.get().saturating_sub(1));
                more
            })
            .await
        })
    }
}

impl Drop for JetStream {
    fn drop(&mut self) {
        self.consuming.abort();
    }
}

async fn consumer(server: &Server) -> Result<jetstream::consumer::Consumer<pull::Config>> {
    let client = async_nats::connect(server.address.to_string()).await?;
    let config = stream::Config {
        name: SUBJECT.to_owned(),
        subjects: vec![SUBJECT.to_owned()],
        // An event that is done is of no further use, as with us.
        retention: stream::RetentionPolicy::WorkQueue,
        storage: stream::StorageType::File,
        num_replicas: 1,
        ..stream::Config::default()
    };
    let stream = jetstream::new(client).create_stream(config).await?;
    let config = pull::Config {
        durable_name: Some(SUBJECT.to_owned()),
        max_ack_pending: 4 * FETCHED as i64,
        ..pull::Config::default()
    };
    Ok(stream.create_consumer(config).await?)
}

async fn consume(consumer: jetstream::consumer::Consumer<pull::Config>, pool: &Pool) -> Result<()> {
    let messages = consumer.stream().max_messages_per_batch(FETCHED).messages().await?;
    messages
        .map_err(anyhow::Error::from)
        .try_for_each_concurrent(FETCHED, async |message| {
            pool.call(message.payload.clone()).await?;
            message.ack().await.map_err(anyhow::Error::from_boxed)
        })
        .await
}
