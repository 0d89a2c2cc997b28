//! Events that are due at fixed moments, and how long each took until the function was done: an open loop.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use loadtest::latency::{Latencies, wait_until};
use types::{Clock, SystemClock};

use crate::ours::{Ours, instructions};

/// Numbers events, so that each is found in the function's log.
#[derive(Debug, Default)]
pub(crate) struct Paced {
    sent: u64,
}

impl Paced {
    /// Sends `count` events, one every `interval`, and waits until all are done. Latencies count from when each was due.
    pub(crate) fn send(
        &mut self,
        ours: &Ours,
        name: &str,
        count: u32,
        interval: Duration,
    ) -> Result<Latencies> {
        let mut client = ours.client()?;
        let (begin, begin_wall) = (Instant::now(), SystemClock.now());
        let mut due = Vec::new();
        for number in 1..=count {
            self.sent += 1;
            client.prepare_event(name, &instructions(Duration::ZERO, Some(self.sent)))?;
            wait_until(begin + interval * number);
            client.run_event(name)?;
            due.push((self.sent, begin_wall + interval * number));
        }
        let stamps = ours.stamps(name, self.sent as usize)?;
        let mut latencies = Latencies::new();
        for (number, due) in due {
            let done = stamps
                .get(&number)
                .with_context(|| format!("event {number} did not tell when it was done"))?;
            latencies.record(done.saturating_sub(due));
        }
        Ok(latencies)
    }
}
