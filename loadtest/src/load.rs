//! What one measurement found, whoever was measured: events, time, processor time, latencies; and of several settings the one that
//! did best.

use std::{
    io,
    time::{Duration, Instant},
};

use crate::{latency::Latencies, procfs, rounds::median};

/// Payload of an event.
pub const KIB: usize = 1024;

#[derive(Debug, Clone)]
pub struct Load {
    pub events: u64,
    pub elapsed: Duration,
    /// Of client and server, where they are two.
    pub cpu: Duration,
    pub latencies: Latencies,
}

impl Load {
    /// Events per second.
    #[expect(clippy::cast_precision_loss, reason = "events of a few seconds, far below 2^52")]
    pub fn rate(&self) -> f64 {
        self.events as f64 / self.elapsed.as_secs_f64()
    }

    /// Processor time per event, µs.
    #[expect(clippy::cast_precision_loss, reason = "events of a few seconds, far below 2^52")]
    pub fn cpu_micros(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.events as f64
    }
}

/// Runs from `start` to `stop`, over this process and, where there is one, the server.
#[derive(Debug)]
pub struct Stopwatch {
    processes: Vec<u32>,
    cpu: Duration,
    begin: Instant,
    /// When no further operation is begun.
    pub end: Instant,
}

impl Stopwatch {
    pub fn start(span: Duration, server: Option<u32>) -> io::Result<Self> {
        let processes: Vec<u32> = server.into_iter().chain([std::process::id()]).collect();
        let cpu = cpu_time(&processes)?;
        let begin = Instant::now();
        Ok(Self { processes, cpu, begin, end: begin + span })
    }

    pub fn stop(self, events: u64, latencies: Latencies) -> io::Result<Load> {
        let elapsed = self.begin.elapsed();
        let cpu = cpu_time(&self.processes)?.saturating_sub(self.cpu);
        Ok(Load { events, elapsed, cpu, latencies })
    }
}

fn cpu_time(processes: &[u32]) -> io::Result<Duration> {
    processes.iter().map(|&pid| procfs::cpu_time(pid)).sum()
}

/// Random, so that nothing gains by compressing it; the same for everybody.
pub fn payload(bytes: usize) -> io::Result<Vec<u8>> {
    let mut payload = vec![0; bytes];
    aws_lc_rs::rand::fill(&mut payload).map_err(|_| io::Error::other("randomness is not available"))?;
    Ok(payload)
}

/// The measurement, of several with different settings, whose median is best; and its setting.
#[derive(Debug)]
pub struct Best<'a, S> {
    pub setting: S,
    pub loads: Vec<&'a Load>,
}

/// Of the settings that count the one with the highest median rate. `of` are a round's measurements in the order of `settings`.
pub fn best<'a, R, S: Copy>(
    rounds: &'a [R],
    settings: &[S],
    counts: impl Fn(&S) -> bool,
    of: impl Fn(&'a R) -> &'a [Load],
) -> Option<Best<'a, S>> {
    let of = &of;
    let each = settings.iter().enumerate().filter(|(_, setting)| counts(setting)).map(|(at, &setting)| {
        let loads: Vec<&Load> = rounds.iter().filter_map(|round| of(round).get(at)).collect();
        Best { setting, loads }
    });
    each.filter(|best| !best.loads.is_empty())
        .max_by(|a, b| median(&a.values(Load::rate)).total_cmp(&median(&b.values(Load::rate))))
}

impl<S> Best<'_, S> {
    pub fn values(&self, of: impl Fn(&Load) -> f64) -> Vec<f64> {
        self.loads.iter().map(|load| of(load)).collect()
    }
}
