//! `waterwheel demo`: the product's main jobs, shown with the real AWS CLI against a real server.
//!
//! ```text
//!   demo ──starts, kills, starts again──► waterwheel serve (this executable, a data directory of its own)
//!     │                                       ▲
//!     ├── functions ──► aws lambda create-function, wait, invoke, delete-function
//!     └── events ─────► aws lambda invoke --invocation-type Event; 10,000 of them; waterwheel dead-letters
//! ```
//!
//! Nothing is simulated: what it prints is what the server answered. Whatever happens, it ends with one line `demo: …`: what became
//! of the events, by evidence that no counter of the server is part of, or why the demo failed.

mod aws;
mod events;
mod evidence;
mod functions;
mod judge;
mod live;
mod report;
mod screen;
mod sender;
mod server;

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context as _, ensure};
use clap::Args;
use zip::{ZipWriter, write::SimpleFileOptions};

use self::{
    aws::Aws,
    judge::Verdict,
    screen::{one_line, part},
    server::Server,
};
use crate::{
    cli::{Global, RuntimesDir},
    config::Config,
    data_dir::DataDir,
};

/// Show it working, on a server of its own: functions invoked with the AWS CLI, and 10,000 events through a kill -9
#[derive(Debug, Args)]
#[command(after_help = "\
Needs root, the AWS CLI, the runtimes (`waterwheel runtimes build`) and a directory with
echo-rust.zip; `make demo` in the source tree sets all of that up.")]
pub(crate) struct Arguments {
    /// The AWS CLI
    #[arg(long, value_name = "PROGRAM", default_value = "aws")]
    aws: PathBuf,
    /// Directory with echo-rust.zip, a function for provided.al2023
    #[arg(long, value_name = "DIR", default_value = "target/functions")]
    functions: PathBuf,
    #[command(flatten)]
    runtimes_dir: RuntimesDir,
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let shown = show(global, arguments);
    match shown {
        Ok(verdict) => {
            if !verdict.is_nothing_lost() {
                println!("these have neither succeeded nor become dead letters: {}", verdict.missing());
            }
            println!("demo: {verdict}");
            Ok(if verdict.is_nothing_lost() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Err(error) => {
            println!("demo: failed: {}", one_line(&format!("{error:#}")));
            Ok(ExitCode::FAILURE)
        }
    }
}

fn show(global: &Global, arguments: &Arguments) -> anyhow::Result<Verdict> {
    let mut layers = global.layers()?;
    arguments.runtimes_dir.add_to(&mut layers);
    let runtimes = DataDir::at(&global.data_dir).runtimes(&Config::read(&layers)?);
    let scratch =
        tempfile::Builder::new().prefix("waterwheel-demo-").tempdir().context("no temporary directory")?;
    let rust_zip = arguments.functions.join("echo-rust.zip");
    ensure!(rust_zip.is_file(), "{} is missing: run tests/functions/build.sh", rust_zip.display());

    let mut server = part("Start a server", || {
        let server = Server::start(scratch.path(), &runtimes)?;
        println!("{} on {}", server.endpoint(), scratch.path().display());
        Ok(server)
    })?;
    let shown = show_on(&mut server, &arguments.aws, scratch.path(), &rust_zip);
    if !shown.as_ref().is_ok_and(Verdict::is_nothing_lost) {
        eprintln!("{}", server.last_words());
    }
    let verdict = shown?;
    server.stop()?;
    Ok(verdict)
}

fn show_on(server: &mut Server, program: &Path, scratch: &Path, rust_zip: &Path) -> anyhow::Result<Verdict> {
    let aws = Aws::new(program, server.client_variables()?, scratch);
    let began = Instant::now();
    let figures = functions::show(&aws, scratch, rust_zip)?;
    let verdict = events::show(&aws, server, scratch)?;
    println!("\n{figures}; all of it in {} s", began.elapsed().as_secs());
    Ok(verdict)
}

fn write_zip(path: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let mut zip = ZipWriter::new(fs::File::create(path)?);
    zip.start_file(name, SimpleFileOptions::default().unix_permissions(0o644))?;
    zip.write_all(text.as_bytes())?;
    zip.finish()?;
    Ok(())
}
