//! What one measurement found, whoever was measured: events, time, processor time, latencies.

use std::{
    io,
    time::{Duration, Instant},
};

use loadtest::{latency::Latencies, procfs};

/// Payload of an event.
pub(crate) const KIB: usize = 1024;

#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) events: u64,
    pub(crate) elapsed: Duration,
    /// Of client and server, where they are two.
    pub(crate) cpu: Duration,
    pub(crate) latencies: Latencies,
}

impl Load {
    /// Events per second.
    #[expect(clippy::cast_precision_loss, reason = "events of a few seconds, far below 2^52")]
    pub(crate) fn rate(&self) -> f64 {
        self.events as f64 / self.elapsed.as_secs_f64()
    }

    /// Processor time per event, µs.
    #[expect(clippy::cast_precision_loss, reason = "events of a few seconds, far below 2^52")]
    pub(crate) fn cpu_micros(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.events as f64
    }
}

/// Runs from `start` to `stop`, over this process and, where there is one, the server.
#[derive(Debug)]
pub(crate) struct Stopwatch {
    processes: Vec<u32>,
    cpu: Duration,
    begin: Instant,
    /// When no further operation is begun.
    pub(crate) end: Instant,
}

impl Stopwatch {
    pub(crate) fn start(span: Duration, server: Option<u32>) -> io::Result<Self> {
        let processes: Vec<u32> = server.into_iter().chain([std::process::id()]).collect();
        let cpu = cpu_time(&processes)?;
        let begin = Instant::now();
        Ok(Self { processes, cpu, begin, end: begin + span })
    }

    pub(crate) fn stop(self, events: u64, latencies: Latencies) -> io::Result<Load> {
        let elapsed = self.begin.elapsed();
        let cpu = cpu_time(&self.processes)?.saturating_sub(self.cpu);
        Ok(Load { events, elapsed, cpu, latencies })
    }
}

fn cpu_time(processes: &[u32]) -> io::Result<Duration> {
    processes.iter().map(|&pid| procfs::cpu_time(pid)).sum()
}

/// Random, so that nothing gains by compressing it; the same for everybody.
pub(crate) fn payload(bytes: usize) -> io::Result<Vec<u8>> {
    let mut payload = vec![0; bytes];
    aws_lc_rs::rand::fill(&mut payload).map_err(|_| io::Error::other("randomness is not available"))?;
    Ok(payload)
}
