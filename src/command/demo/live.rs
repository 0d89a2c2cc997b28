//! What goes on in the server, as its metrics say. For people to look at, and for nothing else: the judge does not know it.

use std::time::Instant;

use bytes::Bytes;
use http::{Method, StatusCode};

use super::screen::{LiveLine, grouped};
use crate::command::client::Client;

/// What the server has counted since it was started.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Sample {
    succeeded: f64,
    given_up: f64,
    redriven: f64,
    failed: f64,
    depth: f64,
}

/// Counts over all servers of this demo: one that is started again counts from zero.
pub(super) struct Live {
    function: &'static str,
    line: LiveLine,
    /// What servers that are gone had counted.
    before: Sample,
    latest: Sample,
    shown: Shown,
}

/// What the rates are reckoned from.
struct Shown {
    at: Instant,
    accepted: u64,
    succeeded: f64,
}

// === impl Live ===

impl Live {
    pub(super) fn new(function: &'static str) -> Self {
        let shown = Shown { at: Instant::now(), accepted: 0, succeeded: 0.0 };
        Self { function, line: LiveLine::new(), before: Sample::default(), latest: Sample::default(), shown }
    }

    /// A part of the demo begins: rates are of this part.
    pub(super) fn begin(&mut self, accepted: usize) {
        self.line.begin();
        let succeeded = self.before.succeeded + self.latest.succeeded;
        self.shown = Shown { at: Instant::now(), accepted: accepted as u64, succeeded };
    }

    /// Shows where things stand, when it is time to.
    pub(super) async fn show(&mut self, client: &Client, accepted: usize) -> anyhow::Result<()> {
        if self.line.is_due() {
            let text = self.text(client, accepted).await;
            self.line.write(&text)?;
        }
        Ok(())
    }

    /// Shows where things stand at the end of a part.
    pub(super) async fn end(&mut self, client: &Client, accepted: usize) -> anyhow::Result<()> {
        let text = self.text(client, accepted).await;
        Ok(self.line.end(&text)?)
    }

    /// The server is gone, and what it counted with it.
    pub(super) fn server_ended(&mut self) {
        self.before = self.before.plus(self.latest);
        self.latest = Sample::default();
    }

    async fn text(&mut self, client: &Client, accepted: usize) -> String {
        // Without an answer, the line says what is known.
        if let Some(sample) = sample(client, self.function).await {
            self.latest = sample;
        }
        let all = self.before.plus(self.latest);
        let (now, accepted) = (Instant::now(), accepted as u64);
        let seconds = now.duration_since(self.shown.at).as_secs_f64().max(0.001);
        let rate = |more: f64| grouped((more.max(0.0) / seconds).round() as u64);
        let count = |number: f64| grouped(number.max(0.0) as u64);
        let text = format!(
            "accepted {} ({}/s)  done {} ({}/s)  retries {}  dead letters {}  queued {}",
            grouped(accepted),
            rate(accepted.saturating_sub(self.shown.accepted) as f64),
            count(all.succeeded),
            rate(all.succeeded - self.shown.succeeded),
            // Each event that was given up failed once more than it was tried again.
            count(all.failed - all.given_up),
            count(all.given_up - all.redriven),
            count(self.latest.depth),
        );
        self.shown = Shown { at: now, accepted, succeeded: all.succeeded };
        text
    }
}

async fn sample(client: &Client, function: &str) -> Option<Sample> {
    let request = client.signed(Method::GET, "/metrics", &[], Bytes::new()).ok()?;
    let answer = client.connect().await.ok()?.exchange(request).await.ok()?;
    if answer.status() != StatusCode::OK {
        return None;
    }
    Some(Sample::read(std::str::from_utf8(answer.body()).ok()?, function))
}

// === impl Sample ===

impl Sample {
    /// Out of the Prometheus text format.
    fn read(text: &str, function: &str) -> Self {
        let mut sample = Self::default();
        let ours = format!("function=\"{function}\"");
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let value = value.parse().unwrap_or(0.0);
            match name {
                // Records on their way to the file are events too, of another kind.
                "waterwheel_async_depth" if !labels.contains("\"deliveries\"") => sample.depth += value,
                _ if !labels.contains(&ours) => {}
                "waterwheel_async_retries_total" => sample.failed += value,
                "waterwheel_async_events_ended_total" if labels.contains("how=\"success\"") => {
                    sample.succeeded += value;
                }
                "waterwheel_async_events_ended_total" => sample.given_up += value,
                "waterwheel_dead_letters_ended_total" => sample.redriven += value,
                _ => {}
            }
        }
        sample
    }

    fn plus(self, other: Self) -> Self {
        Self {
            succeeded: self.succeeded + other.succeeded,
            given_up: self.given_up + other.given_up,
            redriven: self.redriven + other.redriven,
            failed: self.failed + other.failed,
            depth: other.depth,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_of_one_function_are_read() {
        let text = "# TYPE waterwheel_async_depth gauge\n\
            waterwheel_async_depth{partition=\"shared/1\"} 3\n\
            waterwheel_async_depth{partition=\"function/arn:x:f\"} 4\n\
            waterwheel_async_depth{partition=\"deliveries\"} 50\n\
            waterwheel_async_events_ended_total{function=\"f\",how=\"success\"} 7\n\
            waterwheel_async_events_ended_total{function=\"g\",how=\"success\"} 9\n\
            waterwheel_async_events_ended_total{function=\"f\",how=\"RetriesExhausted\"} 2\n\
            waterwheel_async_retries_total{function=\"f\",cause=\"function_error\"} 5\n\
            waterwheel_dead_letters_ended_total{function=\"f\",how=\"redriven\"} 1\n";
        let expected = Sample { succeeded: 7.0, given_up: 2.0, redriven: 1.0, failed: 5.0, depth: 7.0 };
        assert_eq!(Sample::read(text, "f"), expected);
    }
}
