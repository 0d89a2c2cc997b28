//! `waterwheel completions`

use std::process::ExitCode;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::cli::Cli;

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  waterwheel completions bash > /etc/bash_completion.d/waterwheel")]
pub(crate) struct Arguments {
    /// Shell to complete for
    shell: Shell,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    clap_complete::generate(arguments.shell, &mut Cli::command(), "waterwheel", &mut std::io::stdout());
    ExitCode::SUCCESS
}
