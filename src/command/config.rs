//! `waterwheel config`

use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::{
    cli::Global,
    config::{Config, Layers, print},
};

/// Show the configuration
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print every key with its documentation and the value in force, as a configuration file
    #[command(after_help = "\
Examples:
  waterwheel config print --defaults > waterwheel.toml
  WATERWHEEL_SERVER__LISTEN=127.0.0.1:8000 waterwheel config print")]
    Print {
        /// Print the defaults, whatever file and environment say
        #[arg(long)]
        defaults: bool,
    },
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Action::Print { defaults } = arguments.action;
    let layers = if defaults { Layers::defaults() } else { global.layers()? };
    // What is printed is also what `serve` would accept.
    Config::read(&layers)?;
    print!("{}", print(&layers));
    Ok(ExitCode::SUCCESS)
}
