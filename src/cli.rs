//! The command line: what can be said. What is done about it is in `command/`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    command::{
        completions, config, dead_letters, demo, destinations, doctor, env, kernel, logs, queue, runtimes,
        serve,
    },
    config::Layers,
};

/// Read where `--config` is not given, if it is there.
const SYSTEM_CONFIG: &str = "/etc/waterwheel/waterwheel.toml";

/// Self-hosted event-streaming invocation engine with the AWS Lambda API.
#[derive(Debug, Parser)]
#[command(name = "waterwheel", version, arg_required_else_help = true, max_term_width = 100)]
#[command(after_help = "\
First steps:
  waterwheel doctor                    what this machine can do
  waterwheel runtimes build            make the runtimes' root file systems
  waterwheel kernel build              make the kernel that microVMs boot
  waterwheel serve &                   start the server
  eval \"$(waterwheel env)\"             point the AWS CLI and SDKs of this shell here
  aws lambda list-functions

Values come from flags, then WATERWHEEL_SECTION__KEY in the environment, then the
configuration file, then the defaults; `waterwheel config print` shows them all.")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command understands.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Configuration file [default: /etc/waterwheel/waterwheel.toml, if it is there]
    #[arg(long, global = true, env = "WATERWHEEL_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Directory of keys, functions and logs
    #[arg(
        long,
        global = true,
        env = "WATERWHEEL_DATA_DIR",
        value_name = "DIR",
        default_value = "/var/lib/waterwheel"
    )]
    pub(crate) data_dir: PathBuf,
    /// Form of the program's own log, on standard error
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    /// Log more: -v debug, -vv trace (RUST_LOG, where set, decides instead)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// Form of the program's own log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Serve(serve::Arguments),
    Doctor(doctor::Arguments),
    Env(env::Arguments),
    Runtimes(runtimes::Arguments),
    Kernel(kernel::Arguments),
    Logs(logs::Arguments),
    Queue(queue::Arguments),
    DeadLetters(dead_letters::Arguments),
    Destinations(destinations::Arguments),
    Config(config::Arguments),
    Completions(completions::Arguments),
    Demo(demo::Arguments),
}

/// The flag of every command that looks for runtimes or kernels.
#[derive(Debug, Args)]
pub(crate) struct RuntimesDir {
    /// Directory of runtime root file systems and guest kernels [default: runtimes.dir, or `runtimes` in the data directory]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) runtimes_dir: Option<PathBuf>,
}

// === impl Global ===

impl Global {
    /// The layers below this command's own flags.
    pub(crate) fn layers(&self) -> anyhow::Result<Layers> {
        let system = Path::new(SYSTEM_CONFIG);
        let file = match &self.config {
            Some(file) => Some(file.as_path()),
            None => system.exists().then_some(system),
        };
        Layers::load(file).context("cannot use the configuration")
    }
}

// === impl RuntimesDir ===

impl RuntimesDir {
    /// Adds the flag, where given, on top of `layers`.
    pub(crate) fn add_to(&self, layers: &mut Layers) {
        if let Some(dir) = &self.runtimes_dir {
            layers.add_flag("runtimes", "dir", "--runtimes-dir".into(), dir.display().to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_are_understood_behind_a_command() {
        let cli = Cli::try_parse_from(["waterwheel", "env", "--data-dir", "/d", "-vv"]).unwrap();
        assert_eq!((cli.global.data_dir, cli.global.verbose), ("/d".into(), 2));
    }
}
