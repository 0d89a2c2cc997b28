//! What a microVM costs: our monitor against QEMU's microvm machine, with the same guest.
//!
//! ```text
//!   this program ── starts ──► tests/nested/bench_microvm.py ──► where KVM boots kernels: sandbox/benches/microvm
//!        │                                                          │  ours, peer, ours, peer, …
//!        ▼  report  ◄── figures ◄── a JSON document for each VM ────┘
//! ```
//!
//! Where this machine's KVM boots no kernels, all of it runs in an emulated machine. Times mean nothing there but as ratios;
//! counts of exits are as on hardware, but for what the host's own interrupts add, which is more the slower the machine.

#![forbid(unsafe_code)]

mod figures;

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use loadtest::{
    machine::{Machine, commit},
    microvm::{Boot, Line, Setting},
    report::Report,
};

/// Measures booting and invoking in microVMs against QEMU.
#[derive(Debug, Parser)]
struct Options {
    /// The waterwheel binary, which knows the guest kernel.
    #[arg(long, default_value = "target/release/waterwheel")]
    server: PathBuf,
    /// Directory of built runtimes and guest kernels.
    #[arg(long, default_value = "target/runtimes")]
    runtimes: PathBuf,
    /// Directory of the zips that tests/functions/build.sh makes.
    #[arg(long, default_value = "target/functions")]
    functions: PathBuf,
    /// Where the report goes.
    #[arg(long, default_value = "target/bench/microvm.json")]
    out: PathBuf,
    /// What fills a root directory with the other half and runs it.
    #[arg(long, default_value = "tests/nested/bench_microvm.py")]
    harness: PathBuf,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let (setting, boots) = measure(&options)?;
    let report = Report {
        bench: "microvm".to_owned(),
        commit: commit(),
        machine: Machine::describe(Path::new(".")),
        quick: false,
        figures: figures::all(&setting, &boots)?,
    };
    report.publish(&options.out)
}

/// Runs the other half and takes what it says; what is for people is passed on.
fn measure(options: &Options) -> Result<(Setting, Vec<Boot>)> {
    let mut child = Command::new("python3")
        .arg(&options.harness)
        .arg("run")
        .args([Path::new("--binary"), &options.server])
        .args([Path::new("--runtimes-dir"), &options.runtimes])
        .args([Path::new("--functions"), &options.functions])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start python3")?;
    let output = child.stdout.take().context("the harness has no output")?;
    let (mut setting, mut boots) = (None, Vec::new());
    for line in BufReader::new(output).lines() {
        let line = line?;
        match Line::parse(&line) {
            Some(Line::Setting(said)) => setting = Some(said),
            Some(Line::Boot(boot)) => {
                println!("round {}: {} under {:?}", boot.round + 1, boot.function, boot.side);
                boots.push(boot);
            }
            None => println!("{line}"),
        }
    }
    let status = child.wait()?;
    ensure!(status.success(), "{} failed: {status}", options.harness.display());
    Ok((setting.context("the other half did not say where it runs")?, boots))
}
