//! The commands, one file or folder each: `Arguments` says what can be said, `run` does it.

mod client;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod dead_letters;
pub(crate) mod demo;
pub(crate) mod destinations;
pub(crate) mod doctor;
pub(crate) mod env;
pub(crate) mod kernel;
pub(crate) mod logs;
pub(crate) mod queue;
pub(crate) mod runtimes;
pub(crate) mod serve;
mod text;

use std::process::ExitCode;

use crate::{
    cli::{Cli, Command},
    telemetry,
};

/// Does what the command line says.
pub(crate) fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let global = cli.global;
    if let Command::Serve(arguments) = cli.command {
        return serve::run(&global, &arguments);
    }
    telemetry::log_only(&global);
    match cli.command {
        Command::Serve(_) => unreachable!("handled above"),
        Command::Doctor(arguments) => doctor::run(&global, &arguments),
        Command::Env(arguments) => env::run(&global, &arguments),
        Command::Runtimes(arguments) => runtimes::run(&global, &arguments),
        Command::Kernel(arguments) => kernel::run(&global, &arguments),
        Command::Logs(arguments) => logs::run(&global, &arguments),
        Command::Queue(arguments) => queue::run(&global, &arguments),
        Command::DeadLetters(arguments) => dead_letters::run(&global, &arguments),
        Command::Destinations(arguments) => destinations::run(&global, &arguments),
        Command::Config(arguments) => config::run(&global, &arguments),
        Command::Completions(arguments) => Ok(completions::run(&arguments)),
        Command::Demo(arguments) => demo::run(&global, &arguments),
    }
}
