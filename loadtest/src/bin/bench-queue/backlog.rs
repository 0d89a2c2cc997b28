//! A queue that holds many events: its memory, its speed, and how soon it is back after its process was killed.
//!
//! ```text
//!   this program ──► child `backlog`: fill 10 million ─ memory ─ enqueue into an empty queue, into the full one, …  ──► one line
//!                └─► child `fill`:    fill a million ─ "filled" ─ goes on ─ SIGKILL       then this program opens what is left
//! ```
//! The memory is that of a process that has done nothing else.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use loadtest::{
    load::{KIB, payload},
    procfs,
};
use serde::{Deserialize, Serialize};

use crate::{
    ours::{Ours, Producers},
    rounds::{MOST_PRODUCERS, runtime},
};

/// Bytes of the events that are ten millions, so that this takes a minute.
pub(crate) const SMALL: usize = 100;
const ROUNDS: usize = 3;
const FILLED: &str = "filled";

/// What the child says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Backlog {
    pub(crate) events: usize,
    pub(crate) fill_seconds: f64,
    /// RSS above that of the empty queue, when everything is queued and the upkeep is done.
    pub(crate) at_rest_mib: f64,
    /// The most that was seen from the empty queue to there.
    pub(crate) most_mib: f64,
    /// Events per second, into an empty queue and into the full one, in turns.
    pub(crate) empty: Vec<f64>,
    pub(crate) full: Vec<f64>,
}

/// Kills the child if it has not ended.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It has ended already, unless something else has failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs this program's part `part` as a child.
fn child(part: &str, directory: &Path, arguments: &[String]) -> Result<(Ended, impl BufRead + use<>)> {
    let program = std::env::current_exe()?;
    // Should this program be killed, the kernel ends the child.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program).arg(part).arg(directory).args(arguments);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let output = BufReader::new(child.stdout.take().context("a child has no output")?);
    Ok((Ended(child), output))
}

pub(crate) fn run(data: &Path, events: usize, seconds: f64) -> Result<Backlog> {
    let directory = data.join("backlog");
    let (mut child, mut output) = child("backlog", &directory, &[events.to_string(), seconds.to_string()])?;
    let mut line = String::new();
    output.read_line(&mut line)?;
    let status = child.0.wait()?;
    ensure!(status.success(), "the child with many events failed: {status}");
    std::fs::remove_dir_all(directory)?;
    Ok(serde_json::from_str(&line)?)
}

/// Opens what a killed process has left, some times; seconds.
pub(crate) fn restarts(data: &Path, events: usize, times: usize) -> Result<Vec<f64>> {
    let directory = data.join("restart");
    let (child, mut output) = child("fill", &directory, &[events.to_string()])?;
    let mut line = String::new();
    output.read_line(&mut line)?;
    ensure!(line.trim() == FILLED, "the child that fills a queue has failed");
    // In the middle of its work.
    drop(child);
    let mut opened = Vec::new();
    for _ in 0..times {
        let begin = Instant::now();
        let ours = Ours::open_killed(&directory)?;
        opened.push(begin.elapsed().as_secs_f64());
        let one = *ours.partitions(1)?.first().context("no partition")?;
        let waiting = ours.waiting(one);
        ensure!(waiting >= events as u64, "{events} events were durable, {waiting} are there");
    }
    std::fs::remove_dir_all(directory)?;
    Ok(opened)
}

/// The child `backlog`.
pub(crate) fn backlog(directory: &Path, events: usize, span: Duration) -> Result<()> {
    let runtime = runtime()?;
    let payload = payload(SMALL)?;
    let mut full = Ours::open(&directory.join("full"))?;
    let one = full.partitions(1)?;
    let partition = *one.first().context("no partition")?;
    // An empty queue is one that has been used: its first segments are there.
    runtime.block_on(full.fill(partition, &payload, 1, || Ok(())))?;
    full.drain(&runtime, partition, 1, 1)?;
    full.settle(&runtime)?;
    let before = resident_mib()?;
    let (mut most, mut steps) = (before, 0_u32);
    let begin = Instant::now();
    runtime.block_on(full.fill(partition, &payload, events, || {
        steps += 1;
        // Looking takes a moment; a step is 1,000 events.
        if steps.is_multiple_of(100) {
            most = resident_mib()?.max(most);
        }
        Ok(())
    }))?;
    let fill_seconds = begin.elapsed().as_secs_f64();
    full.settle(&runtime)?;
    let at_rest = resident_mib()?;
    let mut backlog = Backlog {
        events,
        fill_seconds,
        at_rest_mib: at_rest - before,
        most_mib: most.max(at_rest) - before,
        empty: Vec::new(),
        full: Vec::new(),
    };
    let producers =
        Producers { count: MOST_PRODUCERS, together: 1, partitions: &one, payload: &payload, span };
    for round in 0..ROUNDS {
        let mut empty = Ours::open(&directory.join(format!("empty-{round}")))?;
        let own = empty.partitions(1)?;
        empty.settle(&runtime)?;
        let into_empty = Producers { partitions: &own, ..producers };
        backlog.empty.push(empty.enqueue(&runtime, into_empty)?.rate());
        drop(empty);
        backlog.full.push(full.enqueue(&runtime, producers)?.rate());
        full.settle(&runtime)?;
    }
    println!("{}", serde_json::to_string(&backlog)?);
    Ok(())
}

/// The child `fill`.
pub(crate) fn fill(directory: &Path, events: usize) -> Result<()> {
    let runtime = runtime()?;
    let payload = payload(KIB)?;
    let ours = Ours::open(directory)?;
    let partition = *ours.partitions(1)?.first().context("no partition")?;
    runtime.block_on(ours.fill(partition, &payload, events, || Ok(())))?;
    println!("{FILLED}");
    runtime.block_on(ours.fill(partition, &payload, events, || Ok(())))
}

#[expect(clippy::cast_precision_loss, reason = "bytes of memory, far below 2^52")]
fn resident_mib() -> Result<f64> {
    Ok(procfs::memory(std::process::id())?.rss as f64 / f64::from(1 << 20))
}
