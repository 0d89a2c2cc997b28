//! `waterwheel kernel`

use std::{path::Path, process::ExitCode};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use image::GuestKernel;

use crate::{
    cli::{Global, RuntimesDir},
    config::Config,
    data_dir::DataDir,
};

/// List and build guest kernels: the Linux that microVMs boot
#[derive(Debug, Args)]
#[command(after_help = "\
Kernels stand in the directory of the runtimes. Building needs Debian's package
linux-source-6.12 and a compiler, and takes some minutes once.

Examples:
  waterwheel kernel list
  waterwheel kernel build")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    dir: RuntimesDir,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show which kernels are installed, and which of them microVMs boot
    List,
    /// Build this version's kernel; one that is up to date already is left alone
    Build,
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut layers = global.layers()?;
    arguments.dir.add_to(&mut layers);
    let dir = DataDir::at(&global.data_dir).runtimes(&Config::read(&layers)?);
    match arguments.action {
        Action::List => print!("{}", list(&dir)),
        Action::Build => {
            GuestKernel::build(&dir, &mut |progress| println!("{progress}"))
                .context("cannot build the guest kernel")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(dir: &Path) -> String {
    let mut text =
        format!("{:<18} {:<24} {:<12} {:>8}  in {}\n", "KERNEL", "SOURCE", "STATE", "SIZE", dir.display());
    let booted = GuestKernel::find(dir);
    for kernel in GuestKernel::list(dir) {
        let state = match (booted.as_ref() == Some(&kernel), kernel.current) {
            (true, true) => "in use",
            // Of another version of this program, and the best there is.
            (true, false) => "outdated",
            (false, _) => "old",
        };
        let megabytes = kernel.bytes / 1_000_000;
        text.push_str(&format!("{:<18} {:<24} {state:<12} {megabytes:>5} MB\n", kernel.id, kernel.source));
    }
    if booted.is_none() {
        text.push_str("none; build one with: waterwheel kernel build\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_directory_without_kernels_says_how_to_get_one() {
        let dir = tempfile::tempdir().unwrap();
        assert!(list(dir.path()).ends_with("none; build one with: waterwheel kernel build\n"));
    }

    #[test]
    fn the_kernel_that_is_booted_is_told_from_older_ones() {
        let dir = tempfile::tempdir().unwrap();
        for (id, built) in [("0123456789abcdef", 1), ("fedcba9876543210", 2)] {
            let home = dir.path().join(format!("kernel-{id}"));
            fs::create_dir(&home).unwrap();
            fs::write(home.join("vmlinux"), vec![0; 2_000_000]).unwrap();
            let metadata = format!(r#"{{"configuration":"other","source":"6.12.1-1","built":{built}}}"#);
            fs::write(home.join("kernel.json"), metadata).unwrap();
        }
        let text = list(dir.path());
        let lines: Vec<_> = text.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "fedcba9876543210   6.12.1-1                 outdated         2 MB",
                "0123456789abcdef   6.12.1-1                 old              2 MB",
            ]
        );
    }
}
