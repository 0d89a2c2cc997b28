//! `waterwheel demo`: the product's main job, shown with the real AWS CLI against a real server.
//!
//! ```text
//!   demo ──starts──► waterwheel serve (this executable, a data directory of its own)
//!     │                  ▲
//!     └──starts──► aws lambda create-function, wait, invoke, delete-function
//! ```
//!
//! Nothing is simulated: what it prints is what the server answered. Whatever happens, it ends with one line `demo: …`.

mod aws;
mod report;
mod server;

use std::{
    fs,
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, ensure};
use clap::Args;
use zip::{ZipWriter, write::SimpleFileOptions};

use self::{aws::Aws, report::Timings, server::Server};
use crate::{
    cli::{Global, RuntimesDir},
    config::Config,
    data_dir::DataDir,
};

const PYTHON: &str = include_str!("lambda_function.py");
const WARM_INVOCATIONS: usize = 5;

/// Show it working: two functions made and invoked with the AWS CLI, on a server of its own
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

/// A function that is shown.
struct Shown<'a> {
    name: &'static str,
    runtime: &'static str,
    handler: &'static str,
    zip: &'a Path,
    payload: &'static str,
    /// What its answer must contain, or the demo has failed.
    expected: &'static str,
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    match show(global, arguments) {
        Ok(figures) => {
            println!("demo: ok: {figures}");
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            println!("demo: failed: {}", one_line(&format!("{error:#}")));
            Ok(ExitCode::FAILURE)
        }
    }
}

fn show(global: &Global, arguments: &Arguments) -> anyhow::Result<String> {
    let mut layers = global.layers()?;
    arguments.runtimes_dir.add_to(&mut layers);
    let runtimes = DataDir::at(&global.data_dir).runtimes(&Config::read(&layers)?);
    let scratch =
        tempfile::Builder::new().prefix("waterwheel-demo-").tempdir().context("no temporary directory")?;
    let python_zip = scratch.path().join("demo-python.zip");
    write_zip(&python_zip, "lambda_function.py", PYTHON)?;
    let rust_zip = arguments.functions.join("echo-rust.zip");
    ensure!(rust_zip.is_file(), "{} is missing: run tests/functions/build.sh", rust_zip.display());

    heading("Start a server");
    let server = Server::start(scratch.path(), &runtimes)?;
    println!("{} on {}", server.endpoint(), scratch.path().display());
    let shown = show_on(&server, &arguments.aws, scratch.path(), &python_zip, &rust_zip);
    match shown {
        Ok(figures) => {
            server.stop()?;
            Ok(figures)
        }
        Err(error) => {
            eprintln!("{}", server.last_words());
            Err(error)
        }
    }
}

fn show_on(
    server: &Server,
    program: &Path,
    scratch: &Path,
    python_zip: &Path,
    rust_zip: &Path,
) -> anyhow::Result<String> {
    let aws = Aws::new(program, server.client_variables()?, scratch);
    let functions = [
        Shown {
            name: "demo-python",
            runtime: "python3.11",
            handler: "lambda_function.lambda_handler",
            zip: python_zip,
            payload: r#"{"name": "world"}"#,
            expected: "Hello, world!",
        },
        Shown {
            name: "demo-rust",
            runtime: "provided.al2023",
            handler: "bootstrap",
            zip: rust_zip,
            payload: r#"{"answer": 42}"#,
            expected: "42",
        },
    ];
    let mut figures = Vec::new();
    for function in &functions {
        figures.push(format!("{} {}", function.runtime, show_function(&aws, function)?));
    }
    heading("Wrong inputs, and what the tools say");
    let refused = show_wrong_inputs(&aws, functions[0].name)?;
    heading("Clean up");
    for function in &functions {
        aws.run(&["lambda", "delete-function", "--function-name", function.name])?;
        println!("deleted {}", function.name);
    }
    Ok(format!("{}; {refused} wrong inputs refused", figures.join("; ")))
}

fn show_function(aws: &Aws, function: &Shown<'_>) -> anyhow::Result<Timings> {
    let Shown { name, runtime, .. } = function;
    heading(&format!("Create {name} ({runtime})"));
    aws.create_function(name, runtime, function.handler, function.zip)?;
    aws.run(&["lambda", "wait", "function-active-v2", "--function-name", name])?;
    println!("active");

    heading(&format!("Invoke {name}: {}", function.payload));
    let cold = aws.invoke(name, function.payload)?;
    println!("answer: {}", cold.answer);
    ensure!(cold.answer.contains(function.expected), "{name} answered {:?}", cold.answer);
    cold.log.lines().for_each(|line| println!("  log │ {line}"));
    let first = report::parse(&cold.log)?;
    ensure!(first.init.is_some(), "the first invocation of {name} reports no init phase");

    let mut warm = Vec::new();
    for _ in 0..WARM_INVOCATIONS {
        let report = report::parse(&aws.invoke(name, function.payload)?.log)?;
        ensure!(report.init.is_none(), "{name} was not kept warm: a later invocation initialised again");
        warm.push(report.duration);
    }
    let timings = Timings::of(first, warm);
    println!("{timings}, as the REPORT lines say");
    Ok(timings)
}

/// Inputs that must be refused; returns how many were.
fn show_wrong_inputs(aws: &Aws, function: &str) -> anyhow::Result<usize> {
    let wrong_key = aws.with_variable("AWS_SECRET_ACCESS_KEY", "not-the-secret-of-this-server");
    let cases = [
        (
            "a payload that is not JSON",
            aws.try_invoke(function, "{\"name\": ")?,
            "InvalidRequestContentException",
        ),
        ("a function that does not exist", aws.try_invoke("nobody", "{}")?, "ResourceNotFoundException"),
        ("a wrong secret key", wrong_key.try_invoke(function, "{}")?, "InvalidSignatureException"),
    ];
    let count = cases.len();
    for (what, outcome, expected) in cases {
        let error = outcome.err().with_context(|| format!("{what} was accepted"))?;
        println!("{what}:\n  {}", one_line(&error));
        ensure!(error.contains(expected), "{what} should be answered {expected}, not: {}", one_line(&error));
    }
    Ok(count)
}

fn write_zip(path: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let mut zip = ZipWriter::new(fs::File::create(path)?);
    zip.start_file(name, SimpleFileOptions::default().unix_permissions(0o644))?;
    zip.write_all(text.as_bytes())?;
    zip.finish()?;
    Ok(())
}

fn heading(text: &str) {
    if std::io::stdout().is_terminal() {
        println!("\n\x1b[1m{text}\x1b[0m");
    } else {
        println!("\n{text}");
    }
}

/// Text of several lines as one, so that whoever reads the last line reads all of it.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
