//! The `waterwheel` binary: wiring and command line only.
//!
//! ```text
//!   cli ──► command/serve ──► config ─► keys, control plane, log store, runtimes, invoker ─► HTTP edge
//!       ├─► command/doctor, runtimes, logs      (read the machine or the data directory; no server needed)
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
            eprintln!("waterwheel: {error:#}");
            ExitCode::FAILURE
        }
    }
}
