//! Latencies, closed-loop and open-loop.
//!
//! *Closed loop*: the next operation starts when the one before has ended. It measures the operation, but a stall delays
//! the operations that would have suffered from it, and hides them ("coordinated omission"). *Open loop*: operations are
//! due at fixed moments and each one's latency counts from the moment it was **due**, so a stall shows in all of them.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// Recorded latencies, 1 ns to an hour, to three significant digits.
#[derive(Debug, Clone)]
pub struct Latencies {
    histogram: Histogram<u64>,
}

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

impl Latencies {
    #[must_use]
    pub fn new() -> Self {
        let histogram =
            Histogram::new_with_bounds(1, 3_600_000_000_000, 3).expect("constant bounds are valid");
        Self { histogram }
    }

    pub fn record(&mut self, latency: Duration) {
        self.histogram.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX).max(1));
    }

    /// Those of another recording are added.
    pub fn add(&mut self, other: &Self) {
        self.histogram.add(&other.histogram).expect("all recordings have the same bounds");
    }

    #[must_use]
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The latency that `quantile` (0 to 1) of the operations did not exceed.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Duration {
        Duration::from_nanos(self.histogram.value_at_quantile(quantile))
    }

    /// [`Latencies::quantile`] in microseconds, the unit of most figures.
    #[must_use]
    pub fn micros(&self, quantile: f64) -> f64 {
        self.quantile(quantile).as_secs_f64() * 1e6
    }
}

/// Runs `operation` `count` times, one after the other. The operation returns its own latency, so that what it prepares
/// (a signature, a payload) need not count.
pub fn closed_loop<E>(
    count: u64,
    mut operation: impl FnMut() -> Result<Duration, E>,
) -> Result<Latencies, E> {
    let mut latencies = Latencies::new();
    for _ in 0..count {
        latencies.record(operation()?);
    }
    Ok(latencies)
}

/// Runs `operation` `count` times, due every `interval` from now. One that is due while another still runs starts late,
/// and its wait is part of its latency. What it needs beforehand (a signature) is prepared before it is due.
pub fn open_loop<S, E>(
    count: u32,
    interval: Duration,
    side: &mut S,
    mut prepare: impl FnMut(&mut S) -> Result<(), E>,
    mut operation: impl FnMut(&mut S) -> Result<(), E>,
) -> Result<Latencies, E> {
    let mut latencies = Latencies::new();
    let begin = Instant::now();
    for number in 1..=count {
        let due = begin + interval * number;
        prepare(side)?;
        wait_until(due);
        operation(side)?;
        latencies.record(due.elapsed());
    }
    Ok(latencies)
}

/// Sleeps through most of the wait and spins through the rest: a timer alone is late by 50 µs and more.
pub fn wait_until(due: Instant) {
    const SPIN: Duration = Duration::from_micros(100);
    if let Some(sleep) = due.saturating_duration_since(Instant::now()).checked_sub(SPIN) {
        std::thread::sleep(sleep);
    }
    while Instant::now() < due {
        std::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_what_was_recorded() {
        let mut number = 0;
        let latencies = closed_loop(100, || {
            number += 1;
            Ok::<_, ()>(Duration::from_micros(number))
        })
        .unwrap();
        assert_eq!(latencies.count(), 100);
        assert!((latencies.micros(0.5) - 50.0).abs() < 0.1, "{}", latencies.micros(0.5));
        assert!((latencies.micros(0.99) - 99.0).abs() < 0.1, "{}", latencies.micros(0.99));
    }

    #[test]
    fn recordings_add_up() {
        let recording = |from: u64| {
            let mut number = from;
            closed_loop(50, || {
                number += 1;
                Ok::<_, ()>(Duration::from_micros(number))
            })
            .unwrap()
        };
        let mut sum = recording(0);
        sum.add(&recording(50));
        assert_eq!(sum.count(), 100);
        assert!((sum.micros(0.9) - 90.0).abs() < 0.1, "{}", sum.micros(0.9));
    }

    #[test]
    fn one_stall_shows_in_every_operation_that_was_due_meanwhile() {
        const STALL: Duration = Duration::from_millis(40);
        let mut first = true;
        let stall_once = |(): &mut ()| {
            if std::mem::take(&mut first) {
                std::thread::sleep(STALL);
            }
            Ok::<_, ()>(())
        };
        let latencies = open_loop(40, Duration::from_millis(1), &mut (), |()| Ok(()), stall_once).unwrap();
        // Due at 1, 2, 3, … ms, all but the first started after 40 ms: half of them waited 20 ms and more.
        assert!(
            latencies.quantile(0.5) >= STALL / 2 - Duration::from_millis(1),
            "{:?}",
            latencies.quantile(0.5)
        );
        assert!(latencies.quantile(1.0) >= STALL);
    }

    #[test]
    fn operations_start_when_they_are_due_and_not_before() {
        let begin = Instant::now();
        open_loop(6, Duration::from_millis(2), &mut (), |()| Ok::<_, ()>(()), |()| Ok(())).unwrap();
        assert!(begin.elapsed() >= Duration::from_millis(10));
    }

    #[test]
    fn what_is_prepared_in_time_is_not_measured() {
        let prepare = |(): &mut ()| {
            std::thread::sleep(Duration::from_millis(2));
            Ok::<_, ()>(())
        };
        let latencies = open_loop(20, Duration::from_millis(10), &mut (), prepare, |()| Ok(())).unwrap();
        assert!(latencies.quantile(0.5) < Duration::from_millis(1), "{:?}", latencies.quantile(0.5));
    }
}
