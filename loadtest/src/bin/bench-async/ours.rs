//! Our side: a server with a function whose events are counted and timed.

use std::{
    collections::BTreeMap,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use loadtest::{
    clients::Callers,
    function::{Function, RUST},
    server::{Client, Launch, MEMORY_MB, Server},
};

use crate::{Bench, pool::PROCESSES};

/// Echoes; sleeps first if it is told to, and prints when it was done if it is told to.
pub(crate) const STAMPING: Function = Function { zip: "stamp-rust.zip", ..RUST };
/// Far longer than anything here takes on a machine that works.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often counters are looked at: they tell nobody when they change.
const GLANCE: Duration = Duration::from_millis(20);
/// Lines reach a function's log within 200 ms.
const LOG_GLANCE: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(crate) struct Ours {
    server: Server,
    launch: Launch,
}

impl Ours {
    /// Starts a server, with these settings beside the defaults.
    pub(crate) fn start(bench: &Bench, settings: &[(&str, &str)]) -> Result<Self> {
        Self::launch(bench.launch.clone().with(settings))
    }

    /// One that has room for as many environments as peers have processes.
    pub(crate) fn start_like_peers(bench: &Bench) -> Result<Self> {
        Self::launch(like_peers(&bench.launch))
    }

    pub(crate) fn launch(launch: Launch) -> Result<Self> {
        Ok(Self { server: launch.start()?, launch })
    }

    pub(crate) fn create(&self, bench: &Bench, name: &str, function: Function) -> Result<()> {
        self.server.client()?.create(name, function, &bench.functions)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.server.pid()
    }

    pub(crate) fn client(&self) -> Result<Client> {
        self.server.client()
    }

    /// A signed request that queues an event.
    pub(crate) fn event(&self, name: &str, payload: &[u8]) -> Result<Vec<u8>> {
        self.server.client()?.event_request(name, payload)
    }

    /// A signed request that waits for the function.
    pub(crate) fn invocation(&self, name: &str, payload: &[u8]) -> Result<Vec<u8>> {
        self.server.client()?.invocation_request(name, payload)
    }

    /// Callers whose requests are accepted.
    pub(crate) fn callers<'a>(&self, request: &'a [u8], connections: usize) -> Result<Callers<'a>> {
        Ok(Callers { address: self.server.address()?, request, status: 202, connections })
    }

    /// How many events of the function have succeeded since the start.
    pub(crate) fn succeeded(&self, name: &str) -> Result<u64> {
        self.counter("waterwheel_async_events_ended_total", &[("function", name), ("how", "success")])
    }

    /// Waits until so many events have succeeded; when each look was, and what it found.
    pub(crate) fn wait_for(&self, name: &str, events: u64) -> Result<Vec<(Instant, u64)>> {
        let begin = Instant::now();
        let mut looks = Vec::new();
        loop {
            let succeeded = self.succeeded(name)?;
            looks.push((Instant::now(), succeeded));
            if succeeded >= events {
                ensure!(succeeded == events, "{succeeded} events succeeded where {events} were accepted");
                return Ok(looks);
            }
            ensure!(begin.elapsed() < PATIENCE, "{succeeded} of {events} events were done in {PATIENCE:?}");
            thread::sleep(GLANCE);
        }
    }

    /// The sum of a counter over all lines that have these labels; 0 if there is none yet.
    pub(crate) fn counter(&self, name: &str, labels: &[(&str, &str)]) -> Result<u64> {
        let text = self.server.client()?.metrics()?;
        let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        let values = text.lines().filter_map(|line| {
            let (of, rest) = line.strip_prefix(name)?.rsplit_once(' ')?;
            labels.iter().all(|label| of.contains(label)).then(|| rest.parse::<f64>())
        });
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a counter")]
        let sum = values.sum::<Result<f64, _>>().with_context(|| format!("{name} is no number"))? as u64;
        Ok(sum)
    }

    /// When the events with these numbers were done, by the function's own words; waits until all have been told.
    pub(crate) fn stamps(&self, name: &str, events: usize) -> Result<BTreeMap<u64, Duration>> {
        let begin = Instant::now();
        loop {
            let output = Command::new(self.launch.binary())
                .args(["logs", name, "--data-dir"])
                .arg(self.server.data())
                .output()
                .context("waterwheel logs does not start")?;
            let stamps = stamps(&String::from_utf8_lossy(&output.stdout));
            if stamps.len() >= events {
                return Ok(stamps);
            }
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(
                begin.elapsed() < PATIENCE,
                "{} of {events} events told when they were done: {said}",
                stamps.len()
            );
            thread::sleep(LOG_GLANCE);
        }
    }
}

/// Room for as many environments as peers have processes. Not by a limit of concurrency: a place is free a moment later than the caller
/// has its answer, so that whoever then asks for it at once would be refused.
pub(crate) fn like_peers(launch: &Launch) -> Launch {
    let memory = (PROCESSES * MEMORY_MB as usize).to_string();
    launch.clone().with(&[("ENVIRONMENTS__MAX_MEMORY_MB", &memory)])
}

/// Of lines that end in `stamp NUMBER NANOSECONDS`.
fn stamps(log: &str) -> BTreeMap<u64, Duration> {
    let stamps = log.lines().filter_map(|line| {
        let (_, stamp) = line.rsplit_once(" stamp ")?;
        let (number, nanoseconds) = stamp.split_once(' ')?;
        Some((number.parse().ok()?, Duration::from_nanos(nanoseconds.parse().ok()?)))
    });
    stamps.collect()
}

/// JSON of [`KIB`](crate::KIB) bytes that tells [`STAMPING`] what to do.
pub(crate) fn instructions(sleep: Duration, stamp: Option<u64>) -> Vec<u8> {
    let told = |data: &str| {
        let stamp = stamp.map_or(String::new(), |number| format!(r#""stamp":{number},"#));
        format!(r#"{{"sleep_ms":{},{stamp}"data":"{data}"}}"#, sleep.as_millis())
    };
    let room = crate::KIB.saturating_sub(told("").len());
    told(&"x".repeat(room)).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_found_between_the_platforms_lines() {
        let log = "2026-11-22T14:03:05.123Z 2026/11/22/[$LATEST]01 START RequestId: 7 Version: $LATEST\n\
                   2026-11-22T14:03:05.124Z 2026/11/22/[$LATEST]01 stamp 12 1763820185123456789\n\
                   2026-11-22T14:03:05.124Z 2026/11/22/[$LATEST]01 stamp 13 half\n";
        assert_eq!(stamps(log), BTreeMap::from([(12, Duration::from_nanos(1_763_820_185_123_456_789))]));
    }

    #[test]
    fn instructions_are_json_of_a_kibibyte() {
        let payload = instructions(Duration::from_secs(1), Some(7));
        let value: serde_json::Value = serde_json::from_slice(&payload).unwrap();
        assert_eq!((payload.len(), &value["sleep_ms"], &value["stamp"]), (1024, &1000.into(), &7.into()));
        assert_eq!(instructions(Duration::ZERO, None).len(), 1024);
    }
}
