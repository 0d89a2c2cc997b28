//! What an invocation costs beyond the runtime itself.
//!
//! ```text
//!  ours    client ──HTTP, signed──► waterwheel ──► agent ──Runtime API──► runtime process
//!  floor                            this bench ───────────Runtime API──► the same runtime process
//! ```
//!
//! Both sides run the same function on the same runtime root, on the same core, in alternating rounds. Warm latency is, for
//! ours, from the request's first byte to the answer's last; for the floor, from handing an event out to having read the
//! function's answer. Cold latency is, for ours, the first invocation after an update (which makes a fresh environment);
//! for the floor, from starting the process to its first answer.
//!
//! The client signs before its clock starts: what is compared is the server's work, not the client's.

#![forbid(unsafe_code)]

mod figures;
mod warm;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use loadtest::{
    floor,
    machine::{Machine, commit},
    report::Report,
};

/// Measures invocations through the API against the bare runtime process.
#[derive(Debug, Parser)]
pub(crate) struct Options {
    /// The waterwheel binary; without it only the floor is measured, and no report is written.
    #[arg(long)]
    server: Option<PathBuf>,
    /// Directory of built runtimes.
    #[arg(long, default_value = "target/runtimes")]
    runtimes: PathBuf,
    /// Directory of the zips that tests/functions/build.sh makes.
    #[arg(long, default_value = "target/functions")]
    functions: PathBuf,
    /// Where the report goes.
    #[arg(long, default_value = "target/bench/invoke.json")]
    out: PathBuf,
    /// Rounds that count, after one that does not.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Warm invocations in each round.
    #[arg(long, default_value_t = 500)]
    invocations: u32,
    /// Cold starts in each round.
    #[arg(long, default_value_t = 3)]
    cold_starts: usize,
    /// Environments held at once to weigh an idle one.
    #[arg(long, default_value_t = 10)]
    environments: usize,
    /// Region that requests are signed for.
    #[arg(long, default_value = "us-east-1")]
    region: String,
}

fn main() -> Result<()> {
    floor::enter_own_mounts()?;
    let options = Options::parse();
    let Some(server) = &options.server else {
        print!("{}", figures::floor_only(&options)?);
        return Ok(());
    };
    let server =
        server.canonicalize().with_context(|| format!("no server binary at {}", server.display()))?;
    let report = Report {
        bench: "invoke".to_owned(),
        commit: commit(),
        machine: Machine::describe(&std::env::temp_dir()),
        quick: false,
        figures: figures::all(&options, &server)?,
    };
    report.publish(&options.out)
}
