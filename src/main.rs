//! The `waterwheel` binary: wiring and command line only.
//!
//! ```text
//!   cli ──► command/serve ──► config ─► keys, control plane, log store, runtimes, invoker ─► HTTP edge
//!       ├─► command/doctor, runtimes, kernel, logs, queue   (read the machine or the data directory; no server needed)
//!       ├─► command/dead_letters                         (asks the server that runs)
//!       └─► command/env, config, completions, demo
//! ```
//!
//! Each command is one file or folder under `command/`; nothing here knows how a part does its work.

#![forbid(unsafe_code)]

mod cli;
mod command;
mod config;
mod data_dir;
mod notify;
mod telemetry;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match command::run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("waterwheel: {}", explain(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes, each said once: some messages end with their cause already.
fn explain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.ends_with(&cause) {
            let separator = if text.is_empty() { "" } else { ": " };
            text.push_str(separator);
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let error = anyhow::anyhow!("no such file")
            .context("cannot read a.toml: no such file")
            .context("cannot start");
        assert_eq!(explain(&error), "cannot start: cannot read a.toml: no such file");
    }
}
