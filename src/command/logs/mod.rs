//! `waterwheel logs`: reads the sealed logs directly, whether or not a server runs.

mod follow;

use std::{
    fs,
    io::{self, ErrorKind, StdoutLock, Write as _},
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::Args;
use control::{LocalKeyring, LogBatch, LogPosition, LogReadError, LogReader, LogRecord};
use types::{Clock as _, FunctionArn, FunctionName, FunctionRef, SystemClock};

use self::follow::Changes;
use crate::{
    cli::Global,
    config::{Config, EXPECTED_DURATION, parse_duration},
    data_dir::DataDir,
};

/// Print what a function printed
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  waterwheel logs my-function
  waterwheel logs -f --since 10m my-function

Each line has the time it arrived, the log stream (one for each environment) and the text.")]
pub(crate) struct Arguments {
    /// Go on printing as lines arrive, until interrupted
    #[arg(short, long)]
    follow: bool,
    /// Only lines of the last 10s, 5m, 2h, 1d …
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    since: Option<Duration>,
    /// Name or ARN of the function
    function: String,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| format!("expected {EXPECTED_DURATION}"))
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let config = Config::read(&global.layers()?)?;
    let data = DataDir::at(&global.data_dir);
    let name = arguments.function.parse::<FunctionRef>()?.name;
    let directory = data.logs();
    let own = directory.join(name.as_str());
    if !own.is_dir() {
        let nothing = no_logs(&name, &directory);
        if !arguments.follow || !directory.is_dir() {
            bail!("{nothing}");
        }
        // Who follows from the beginning is here before the first line.
        eprintln!("waterwheel: {nothing}; waiting for the first line");
    }
    let arn = FunctionArn { region: config.account.region, account: config.account.id, name };
    let keys = LocalKeyring::open(&data.keyring()).context("cannot read the keyring")?;
    let reader = LogReader::open(&directory, Arc::new(keys), &arn);
    let since = arguments.since.map_or(Duration::ZERO, |since| SystemClock.now().saturating_sub(since));
    let mut printer = Printer { out: io::stdout().lock(), since };
    let printed =
        if arguments.follow { follow(&reader, &own, &mut printer) } else { print_all(&reader, &mut printer) };
    match printed {
        // Whoever read the output (`head`, a pager) has seen enough.
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        printed => printed.map(|()| ExitCode::SUCCESS),
    }
}

fn print_all(reader: &LogReader, printer: &mut Printer<'_>) -> anyhow::Result<()> {
    print_from(reader, LogPosition::default(), printer).map(drop)
}

/// Prints what there is from a position on; returns where to read on.
fn print_from(
    reader: &LogReader,
    mut from: LogPosition,
    printer: &mut Printer<'_>,
) -> anyhow::Result<LogPosition> {
    loop {
        let LogBatch { records, next, at_end, damaged } = reader.read(from).map_err(explain)?;
        printer.print(&records)?;
        if damaged > 0 {
            eprintln!(
                "waterwheel: a part of these logs cannot be read: altered, sealed with a key that is not in the \
                 keyring, or of another account or region than the configuration says"
            );
        }
        from = next;
        if at_end {
            return Ok(from);
        }
    }
}

fn follow(reader: &LogReader, directory: &Path, printer: &mut Printer<'_>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let interrupted = tokio::signal::ctrl_c();
        tokio::pin!(interrupted);
        tokio::select! {
            appeared = appears(directory) => appeared.context("cannot watch the logs")?,
            interrupted = &mut interrupted => return Ok(interrupted?),
        }
        // Watch first: what is written while the rest is printed is seen as a change.
        let mut changes = Changes::watch(directory).context("cannot watch the logs")?;
        let mut position = LogPosition::default();
        loop {
            position = print_from(reader, position, printer)?;
            tokio::select! {
                changed = changes.next() => changed.context("cannot watch the logs")?,
                interrupted = &mut interrupted => return Ok(interrupted?),
            }
        }
    })
}

/// Waits until the function has a directory: it gets one with its first line.
async fn appears(directory: &Path) -> io::Result<()> {
    let Some(parent) = directory.parent() else { return Ok(()) };
    let mut changes = Changes::watch(parent)?;
    while !directory.is_dir() {
        changes.next().await?;
    }
    Ok(())
}

fn explain(error: LogReadError) -> anyhow::Error {
    anyhow::Error::new(error).context("cannot read the logs")
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

fn no_logs(name: &FunctionName, directory: &Path) -> String {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    if names.is_empty() {
        return format!("no function has logs in {} yet", directory.display());
    }
    format!("{name} has no logs in {}; these have: {}", directory.display(), names.join(", "))
}

/// Writes lines for people.
struct Printer<'a> {
    out: StdoutLock<'a>,
    /// Time since the Unix epoch before which lines are left out.
    since: Duration,
}

impl Printer<'_> {
    fn print(&mut self, records: &[LogRecord]) -> io::Result<()> {
        for record in records.iter().filter(|record| record.event.at >= self.since) {
            write_line(&mut self.out, record)?;
        }
        self.out.flush()
    }
}

fn write_line(out: &mut impl io::Write, record: &LogRecord) -> io::Result<()> {
    write!(out, "{} {} ", timestamp(record.event.at), record.stream)?;
    // As the function printed it, text or not.
    out.write_all(&record.event.line)?;
    out.write_all(b"\n")
}

/// `2026-11-22T14:03:05.123Z`
fn timestamp(since_epoch: Duration) -> String {
    let milliseconds = i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_millisecond(milliseconds) {
        Ok(time) => format!("{time:.3}"),
        // A clock that far off prints as what it is.
        Err(_) => format!("{milliseconds}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::LogEvent;

    #[test]
    fn a_line_has_time_stream_and_the_bytes_as_printed() {
        let event = LogEvent { at: Duration::from_millis(1_763_820_185_123), line: b"a\xff\tb".to_vec() };
        let record = LogRecord { stream: "2025/11/22/[$LATEST]0123".into(), event };
        let mut out = Vec::new();
        write_line(&mut out, &record).unwrap();
        assert_eq!(out, b"2025-11-22T14:03:05.123Z 2025/11/22/[$LATEST]0123 a\xff\tb\n");
    }

    #[test]
    fn a_function_without_logs_is_told_which_have_some() {
        let dir = tempfile::tempdir().unwrap();
        let name = "nobody".parse().unwrap();
        assert!(no_logs(&name, dir.path()).starts_with("no function has logs in "));
        for function in ["b", "a"] {
            fs::create_dir(dir.path().join(function)).unwrap();
        }
        assert!(no_logs(&name, dir.path()).ends_with("; these have: a, b"));
    }

    #[test]
    fn since_needs_a_unit() {
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert!(duration("10").unwrap_err().starts_with("expected a duration such as "));
    }
}
