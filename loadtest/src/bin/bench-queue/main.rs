//! How fast the queue is, against what its disk can do and against other durable queues.
//!
//! ```text
//!   round:  raw sync ─ ours, 1 ─ sealed ceiling ─ ours, 16, 256, 1,024 ─ drain ─ 10,000 partitions ─ NATS ─ Redis      × rounds
//!   once:   this program as a child, with 10 million events queued; another one, killed with a million
//! ```
//! Ours is driven as a library, the peers through their clients over loopback; each has the client settings that are best for
//! it, and of several the best counts. Everything lies in directories on the same disk. Nothing is pinned but what has one
//! thread on either side (one producer, raw sync), to the same core.
//!
//! A measurement of ours is a steady state: it begins with a queue that is empty and whose upkeep has nothing left to do, and the
//! upkeep runs beside it, so that making new segments and their indexes is part of what is measured.

#![forbid(unsafe_code)]

mod backlog;
mod figures;
mod nats;
mod ours;
mod plots;
mod redis_streams;
mod rounds;

use std::{io, path::PathBuf, time::Duration};

use anyhow::Result;
use clap::{Parser, Subcommand};
use loadtest::{
    machine::{Machine, commit},
    report::Report,
};

/// The directory that everything lies in meanwhile.
const DATA: &str = "queue.data";

/// Measures the queue against its disk, NATS JetStream and Redis Streams.
#[derive(Debug, Parser)]
struct Options {
    #[command(subcommand)]
    part: Option<Part>,
    /// Where the report goes; the plots lie beside it.
    #[arg(long, default_value = "target/bench/queue.json")]
    out: PathBuf,
    /// On the disk that is measured; directories are made in it and removed.
    #[arg(long, default_value = "target/bench")]
    data: PathBuf,
    /// The program of NATS.
    #[arg(long, default_value = "target/tools/peers/bin/nats-server")]
    nats: PathBuf,
    /// The program of Redis.
    #[arg(long, default_value = "target/tools/peers/bin/redis-server")]
    redis: PathBuf,
    /// Rounds that count, after one that does not.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Of one measurement of ours or of a floor.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Of one measurement of a peer; each is measured with several settings.
    #[arg(long, default_value_t = 1.5)]
    peer_seconds: f64,
    /// Events of 100 bytes that are queued while memory and speed are looked at.
    #[arg(long, default_value_t = 10_000_000)]
    backlog: usize,
    /// Events of 1 KiB that are queued when the process is killed.
    #[arg(long, default_value_t = 1_000_000)]
    restart: usize,
}

/// Our side alone. The first two are what this program runs as its own children; the last is for a profiler.
#[derive(Debug, Subcommand)]
enum Part {
    /// Fills a queue and says what its memory and its speed are then.
    Backlog { directory: PathBuf, events: usize, seconds: f64 },
    /// Fills a queue, says so, and goes on until it is killed.
    Fill { directory: PathBuf, events: usize },
    /// Enqueues, then drains.
    Work {
        directory: PathBuf,
        #[arg(long, default_value_t = 256)]
        producers: usize,
        #[arg(long, default_value_t = 1)]
        partitions: usize,
        #[arg(long, default_value_t = 5.0)]
        seconds: f64,
    },
}

fn main() -> Result<()> {
    let options = Options::parse();
    match &options.part {
        Some(Part::Backlog { directory, events, seconds }) => {
            return backlog::backlog(directory, *events, Duration::from_secs_f64(*seconds));
        }
        Some(Part::Fill { directory, events }) => return backlog::fill(directory, *events),
        Some(Part::Work { directory, producers, partitions, seconds }) => {
            let span = Duration::from_secs_f64(*seconds);
            return rounds::work(directory, *producers, *partitions, span);
        }
        None => {}
    }
    std::fs::create_dir_all(&options.data)?;
    // Of a run that was interrupted.
    match std::fs::remove_dir_all(options.data.join(DATA)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let data = tempfile::Builder::new().prefix(DATA).rand_bytes(0).tempdir_in(&options.data)?;
    let measured = rounds::all(&options, data.path())?;
    plots::write(&measured, &options.out)?;
    let report = Report {
        bench: "queue".to_owned(),
        commit: commit(),
        machine: Machine::describe(data.path()),
        quick: false,
        figures: figures::all(&measured),
    };
    report.publish(&options.out)
}
