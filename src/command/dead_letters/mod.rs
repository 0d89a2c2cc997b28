//! `waterwheel dead-letters`: what could not be processed, for whoever runs the server. The running server does it all, because it has
//! the queue open; this signs requests to it, as any client does, and prints the answers.
//!
//! ```text
//!   list, show ──► client ──signed──► server        redrive, purge ──► client ──signed──► server, until nothing is left to do:
//!                                                                        └── it answers at the latest after 25 s, with what it did
//! ```

mod filter;
mod list;
mod settle;
mod show;

use std::{process::ExitCode, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use types::{Clock as _, SystemClock};

use super::client::Client;
use crate::{
    cli::Global,
    config::{EXPECTED_DURATION, parse_duration},
};

/// List, show, redrive and purge events that could not be processed
#[derive(Debug, Args)]
#[command(after_help = "\
An event that failed for good, or that nobody could run in time, is kept here if its function has
neither an OnFailure destination nor a dead-letter queue; so is a record that a destination refused.

Examples:
  waterwheel dead-letters list
  waterwheel dead-letters list --function my-function --after 2h --output json
  waterwheel dead-letters show my-function 4f0c6f1e-… --payload
  waterwheel dead-letters redrive --function my-function --reason RetriesExhausted --per-second 50
  waterwheel dead-letters purge --all --before 2026-11-01T00:00:00Z --yes

Reasons: RetriesExhausted, EventAgeExceeded, RecursiveInvocation, FunctionDeleted, DestinationRefused.
A TIME is that of giving up: 2026-11-23T04:05:06Z, or how long ago, such as 90s, 10m, 2h.")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List them by function, the oldest of each first
    List(list::Arguments),
    /// Show one of them
    Show(show::Arguments),
    /// Queue them again, as new events with the same request ids
    #[command(after_help = "\
Each is queued durably before its dead letter is removed: if the server dies between the two, its
function runs twice, and nothing is lost. Only what was given up before the command began is redriven.
Events of a function that was deleted become dead letters again (FunctionDeleted); create the
function first. Interrupted, the command stops where it is; the rest stays.")]
    Redrive(settle::Redrive),
    /// Throw them away
    Purge(settle::Purge),
}

/// How answers are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = Client::of(global)?;
        match &arguments.action {
            Action::List(arguments) => list::run(&client, arguments).await,
            Action::Show(arguments) => show::run(&client, arguments).await,
            Action::Redrive(arguments) => settle::redrive(&client, arguments).await,
            Action::Purge(arguments) => settle::purge(&client, arguments).await,
        }
    })
}

/// A moment, or how long ago it was, as the server takes it.
fn moment(text: &str) -> Result<String, String> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(format!("{time:.3}"));
    }
    let ago = parse_duration(text)
        .ok_or_else(|| format!("expected a time such as 2026-11-23T04:05:06Z, or {EXPECTED_DURATION}"))?;
    let then: Duration = SystemClock.now().saturating_sub(ago);
    let millis = i64::try_from(then.as_millis()).map_err(|error| error.to_string())?;
    let time = jiff::Timestamp::from_millisecond(millis).map_err(|error| error.to_string())?;
    Ok(format!("{time:.3}"))
}

/// What a function said of its failure, without what a terminal would act on.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_or_so_long_ago() {
        assert_eq!(moment("2026-11-23T04:05:06Z").unwrap(), "2026-11-23T04:05:06.000Z");
        assert_eq!(moment("2026-11-23T05:05:06.7+01:00").unwrap(), "2026-11-23T04:05:06.700Z");
        let ago: jiff::Timestamp = moment("2h").unwrap().parse().unwrap();
        let hours = (SystemClock.now().as_secs() as i64 - ago.as_second()) as f64 / 3600.0;
        assert!((1.99..2.01).contains(&hours), "{hours}");
        assert!(moment("yesterday").unwrap_err().starts_with("expected a time such as "));
    }

    #[test]
    fn a_terminal_is_told_nothing_by_a_function() {
        assert_eq!(printable("a\u{1b}[2Jb\nc\u{9b}d"), "a [2Jb c d");
    }
}
