//! Asynchronous invocations end to end: accepted durably, and done by the function.
//!
//! ```text
//!   accept     callers ─► server ─► 202                      against Restate's one-way calls; no function ends meanwhile
//!   complete   callers ─► server ─► queue ─► 4 functions     against the same functions called and waited for, Restate, JetStream
//!   idle       one event now and then ─► done                against one disk sync and one and a half warm invocations
//!   noise      the same, beside a function with 100 × its events
//!   backlog    a million events, then nothing but draining
//! ```
//! All sides of a comparison alternate, round by round, on the same cores and the same disk; nothing is pinned, since server, functions
//! and callers are several processes on either side. Peers run the same function: its process, driven by the barest Runtime API server.
//!
//! When a function is done is counted by who invoked it. How long an event took is told by the function itself: it prints the time, and
//! its log is read afterwards, which costs the server the same whether there is noise or not.

#![forbid(unsafe_code)]

mod accept;
mod backlog;
mod complete;
mod idle;
mod jetstream;
mod noise;
mod ours;
mod paced;
mod pool;
mod restate;

use std::{io, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use loadtest::{
    floor,
    machine::{Machine, commit},
    report::{Better, Figure, Peer, Report},
    server::Launch,
};

/// The directory that everything lies in meanwhile.
const DATA: &str = "async.data";
const WARM_UP_ROUNDS: usize = 1;
/// Payload of an event.
pub(crate) const KIB: usize = 1024;

/// Measures asynchronous invocations against synchronous ones, Restate and NATS JetStream.
#[derive(Debug, Parser)]
pub(crate) struct Options {
    /// The waterwheel binary.
    #[arg(long, default_value = "target/release/waterwheel")]
    server: PathBuf,
    /// Directory of built runtimes.
    #[arg(long, default_value = "target/runtimes")]
    runtimes: PathBuf,
    /// Directory of the zips that tests/functions/build.sh makes.
    #[arg(long, default_value = "target/functions")]
    functions: PathBuf,
    /// Where the report goes.
    #[arg(long, default_value = "target/bench/async.json")]
    out: PathBuf,
    /// On the disk that is measured; a directory is made in it and removed.
    #[arg(long, default_value = "target/bench")]
    data: PathBuf,
    /// The program of Restate.
    #[arg(long, default_value = "target/tools/peers/bin/restate-server")]
    restate: PathBuf,
    /// The program of NATS.
    #[arg(long, default_value = "target/tools/peers/bin/nats-server")]
    nats: PathBuf,
    /// Rounds that count, after one that does not.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Events that are queued before the backlog is drained.
    #[arg(long, default_value_t = 1_000_000)]
    backlog: u64,
    /// To try the bench itself: one short round of everything and a small backlog. The report says so.
    #[arg(long)]
    quick: bool,
    /// Measure only these.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// Region that requests are signed for.
    #[arg(long, default_value = "us-east-1")]
    region: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Accept,
    Complete,
    Idle,
    Noise,
    Backlog,
}

/// What is measured with: the options in their final form.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) launch: Launch,
    pub(crate) functions: PathBuf,
    pub(crate) runtimes: PathBuf,
    pub(crate) data: PathBuf,
    pub(crate) restate: PathBuf,
    pub(crate) nats: PathBuf,
    pub(crate) rounds: usize,
    pub(crate) warm_up: usize,
    pub(crate) backlog: u64,
    pub(crate) quick: bool,
}

impl Bench {
    /// A measurement's length, a quarter of it when it is quick.
    pub(crate) fn span(&self, seconds: f64) -> Duration {
        Duration::from_secs_f64(if self.quick { seconds / 4.0 } else { seconds })
    }

    /// A measurement's number of events, likewise.
    pub(crate) fn events(&self, events: u64) -> u64 {
        if self.quick { events / 4 } else { events }
    }
}

fn main() -> Result<()> {
    floor::enter_own_mounts()?;
    let options = Options::parse();
    std::fs::create_dir_all(&options.data)?;
    // Of a run that was interrupted.
    match std::fs::remove_dir_all(options.data.join(DATA)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let data = tempfile::Builder::new().prefix(DATA).rand_bytes(0).tempdir_in(&options.data)?;
    let bench = bench(&options, data.path().canonicalize()?)?;
    let wants = |part| options.only.is_empty() || options.only.contains(&part);
    let mut figures = Vec::new();
    for (part, measure) in [
        (Part::Accept, accept::figures as fn(&Bench) -> Result<Vec<Figure>>),
        (Part::Complete, complete::figures),
        (Part::Noise, noise::figures),
        (Part::Idle, idle::figures),
        (Part::Backlog, backlog::figures),
    ] {
        if wants(part) {
            figures.extend(measure(&bench).with_context(|| format!("while {part:?} was measured"))?);
        }
    }
    // Those with a target first: they are what the bench is for.
    figures.sort_by_key(|figure| figure.target.is_none());
    let report = Report {
        bench: "async".to_owned(),
        commit: commit(),
        machine: Machine::describe(&bench.data),
        quick: options.quick,
        figures,
    };
    report.publish(&options.out)
}

fn bench(options: &Options, data: PathBuf) -> Result<Bench> {
    let server = &options.server;
    let server =
        server.canonicalize().with_context(|| format!("no server binary at {}", server.display()))?;
    Ok(Bench {
        launch: Launch::new(&server, &options.runtimes, &options.region).below(&data),
        functions: options.functions.clone(),
        runtimes: options.runtimes.clone(),
        data,
        restate: options.restate.clone(),
        nats: options.nats.clone(),
        rounds: if options.quick { 1 } else { options.rounds },
        warm_up: if options.quick { 0 } else { WARM_UP_ROUNDS },
        backlog: if options.quick { options.backlog.min(20_000) } else { options.backlog },
        quick: options.quick,
    })
}

/// A figure whose loop is closed and that has no target.
pub(crate) fn figure(
    id: &str,
    what: String,
    unit: &str,
    ours: Vec<f64>,
    peer: Peer,
    better: Better,
) -> Figure {
    Figure {
        id: id.to_owned(),
        what,
        unit: unit.to_owned(),
        ours,
        peer,
        better,
        target: None,
        closed_loop: true,
    }
}
