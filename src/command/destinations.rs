//! `waterwheel destinations`: reads the files that outcomes were appended to, sealed or not, whether or not a server runs.

use std::{
    io::{self, BufWriter, ErrorKind, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use connectors::destinations::{ReadError, Records, list_files, read_file};
use control::LocalKeyring;
use types::Destination;

use super::text::{size, table};
use crate::{cli::Global, data_dir::DataDir};

/// List and read the files that are destinations (arn:aws:file:::NAME)
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  waterwheel destinations list
  waterwheel destinations read failed
  waterwheel destinations read failed | jq .requestContext.condition
  waterwheel destinations read failed --file /backup/failed.1    after it was moved there

A file may be moved away at any time, also while a server runs: the next record begins a new one.

Exit status of read: 0 where every record was printed, 1 where something is damaged.")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the files there are
    List,
    /// Print the records of a file, oldest first, each a line of JSON
    Read(Read),
}

#[derive(Debug, Args)]
struct Read {
    /// Name of the destination, or arn:aws:file:::NAME
    #[arg(value_parser = file_name)]
    name: String,
    /// Where its file is now, if it was moved
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
}

/// What a destination's ARN can name, and no path.
fn file_name(text: &str) -> Result<String, String> {
    let arn = if text.starts_with("arn:") { text.to_owned() } else { format!("arn:aws:file:::{text}") };
    match arn.parse::<Destination>() {
        Ok(Destination::File { name }) => Ok(name),
        _ => Err("expected the name of a file destination, or arn:aws:file:::NAME".to_owned()),
    }
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let data = DataDir::at(&global.data_dir);
    match &arguments.action {
        Action::List => list(&data.destinations()),
        Action::Read(arguments) => read(&data, arguments),
    }
}

fn list(directory: &Path) -> anyhow::Result<ExitCode> {
    let files =
        list_files(directory).with_context(|| format!("cannot read the files in {}", directory.display()))?;
    if files.is_empty() {
        eprintln!("waterwheel: there are no files in {} yet", directory.display());
        return Ok(ExitCode::SUCCESS);
    }
    let form = |sealed| if sealed { "sealed" } else { "plain" };
    let rows: Vec<_> = files
        .into_iter()
        .map(|file| vec![file.name, form(file.sealed).to_owned(), size(file.bytes)])
        .collect();
    print!("{}", table(&["NAME", "FORM", "SIZE"], 1, &rows));
    Ok(ExitCode::SUCCESS)
}

fn read(data: &DataDir, arguments: &Read) -> anyhow::Result<ExitCode> {
    let Read { name, file } = arguments;
    let directory = data.destinations();
    let path = file.clone().unwrap_or_else(|| directory.join(name));
    let keys = LocalKeyring::open(&data.keyring()).context("cannot read the keyring")?;
    let records = match read_file(&path, name, Arc::new(keys)) {
        Err(ReadError::Io { source, .. }) if source.kind() == ErrorKind::NotFound && file.is_none() => {
            anyhow::bail!("{}", no_such(name, &directory));
        }
        records => records?,
    };
    match print(records, BufWriter::new(io::stdout().lock())) {
        // Whoever read the output (`head`, a pager) has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        printed => Ok(if printed? { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
    }
}

/// Prints what can be read; `false` if something cannot.
fn print(records: Records, mut out: impl Write) -> io::Result<bool> {
    let mut whole = true;
    for record in records {
        match record {
            Ok(record) => {
                out.write_all(&record)?;
                out.write_all(b"\n")?;
            }
            Err(error) => {
                out.flush()?;
                eprintln!("waterwheel: {error}");
                whole &= matches!(error, ReadError::Unfinished { .. });
            }
        }
    }
    out.flush()?;
    Ok(whole)
}

fn no_such(name: &str, directory: &Path) -> String {
    let names: Vec<_> = list_files(directory).unwrap_or_default().into_iter().map(|file| file.name).collect();
    let directory = directory.display();
    match &names[..] {
        [] => format!("there is no file {name} in {directory}: no destination there has got a record yet"),
        names => format!("there is no file {name} in {directory}; there are: {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_as_its_destination_and_never_by_a_path() {
        assert_eq!(file_name("failed.jsonl"), Ok("failed.jsonl".to_owned()));
        assert_eq!(file_name("arn:aws:file:::failed"), Ok("failed".to_owned()));
        for wrong in ["", "../keyring", "/etc/passwd", ".hidden", "arn:aws:sqs:us-east-1:123456789012:q"] {
            assert!(file_name(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn who_asks_for_a_file_that_is_not_there_is_told_which_are() {
        let directory = tempfile::tempdir().unwrap();
        assert!(no_such("failed", directory.path()).ends_with("no destination there has got a record yet"));
        for name in ["b", "a"] {
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        assert!(no_such("failed", directory.path()).ends_with("; there are: a, b"));
    }
}
