//! `waterwheel queue`: what is in the queue of a data directory, read from its files. Headers and counts, never a payload: no key
//! is needed, and none is asked for.
//!
//! ```text
//!   stat, inspect    read only, also beside a running server        verify    reads everything, alone
//! ```

mod inspect;
mod stat;
mod verify;

use std::{path::Path, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use queue::{OpenError, Snapshot, SystemBootClock};
use types::SystemClock;

use crate::{cli::Global, data_dir::DataDir};

/// Look into the queue of a data directory: headers and counts, never payloads
#[derive(Debug, Args)]
#[command(after_help = "\
stat and inspect read beside a running server; verify needs it stopped.

Examples:
  waterwheel queue stat
  waterwheel queue stat --json | jq '.partitions[] | select(.oldest_age_ms > 60000)'
  waterwheel queue inspect               every segment
  waterwheel queue inspect 12            what segment 12 holds, by partition and function
  waterwheel queue inspect 12/345        the header of event 345 of segment 12
  waterwheel queue verify

Exit status of verify: 0 where all is sound, 1 where something is damaged.")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show how much waits in each partition, and since when
    Stat(stat::Arguments),
    /// Show segments, what one of them holds, or the header of one event
    Inspect(inspect::Arguments),
    /// Read everything and say what is damaged; nothing is changed
    Verify,
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let directory = DataDir::at(&global.data_dir).queue();
    match &arguments.action {
        Action::Stat(stat) => stat::run(&snapshot(&directory)?, stat, arguments.json)?,
        Action::Inspect(inspect) => inspect::run(&snapshot(&directory)?, inspect, arguments.json)?,
        Action::Verify => return verify::run(&directory, arguments.json),
    }
    Ok(ExitCode::SUCCESS)
}

fn snapshot(directory: &Path) -> anyhow::Result<Snapshot> {
    Snapshot::read(directory, Arc::new(SystemClock), Arc::new(SystemBootClock))
        .map_err(|error| explain(error, directory))
}

/// What cannot be read, and what to do about it.
fn explain(error: OpenError, directory: &Path) -> anyhow::Error {
    let nothing = match &error {
        OpenError::NoQueue => true,
        OpenError::Io(error) => error.kind() == std::io::ErrorKind::NotFound && !directory.exists(),
        _ => false,
    };
    if nothing {
        return anyhow::anyhow!(
            "there is no queue in {} yet: a server makes it when it queues its first event; --data-dir names another directory",
            directory.display()
        );
    }
    Err::<(), _>(error)
        .with_context(|| format!("cannot read the queue in {}", directory.display()))
        .unwrap_err()
}
