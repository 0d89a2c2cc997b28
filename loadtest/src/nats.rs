//! NATS JetStream as a peer: every publish synced before its ack, sealed by its own encryption.

use std::{path::Path, time::Instant};

use anyhow::{Context, Result};
use async_nats::jetstream;
use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};

use crate::{
    latency::Latencies,
    peer::{Program, Server},
};

/// The ciphers that it seals its files with.
pub const CIPHERS: [&str; 2] = ["aes", "chachapoly"];

pub fn find(path: &Path) -> Result<Program, String> {
    // nats-server: v2.15.1
    Program::find(path, |version| Some(format!("nats-server {}", version.split_once(": v")?.1)))
}

/// What is said of its settings.
#[must_use]
pub fn config(cipher: &str) -> String {
    format!(
        "sync_interval: always, cipher: {cipher} (the quicker here), a stream in files, one replica; async-nats over loopback"
    )
}

pub fn start(program: &Program, data: &Path, cipher: &str) -> Result<Server> {
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

/// Publishes as long as `more` says so, with at most so many publishes whose acks are outstanding; returns when all are acked, with how
/// long each ack took.
pub async fn publish(
    context: &jetstream::Context,
    subject: &'static str,
    outstanding: usize,
    payload: &Bytes,
    more: impl Fn() -> bool,
) -> Result<Latencies> {
    let mut latencies = Latencies::new();
    let mut acks = FuturesUnordered::new();
    loop {
        while acks.len() < outstanding && more() {
            let begin = Instant::now();
            let ack = context.publish(subject, payload.clone()).await?;
            acks.push(async move { ack.await.map(|_| begin.elapsed()) });
        }
        match acks.next().await {
            Some(latency) => latencies.record(latency?),
            None => return Ok(latencies),
        }
    }
}
