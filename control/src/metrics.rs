//! Every metric of this crate, with its unit. Names follow Prometheus: base units, `_total` on counters.

use std::time::{Duration, Instant};

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

const CHANGES: &str = "waterwheel_control_changes_total";
const CHANGE_DURATION: &str = "waterwheel_control_change_duration_seconds";
const FUNCTIONS: &str = "waterwheel_control_functions";
const CODE_BYTES: &str = "waterwheel_control_code_bytes";
const KEY_USES: &str = "waterwheel_control_key_uses_total";
const LOG_BYTES: &str = "waterwheel_logs_written_bytes_total";
const LOG_DROPPED: &str = "waterwheel_logs_dropped_lines_total";
const LOG_BUFFERED: &str = "waterwheel_logs_buffered_bytes";

/// Registers unit and description of each metric with the installed recorder.
pub(crate) fn describe() {
    describe_counter!(CHANGES, Unit::Count, "Changes to functions, by operation and outcome");
    describe_histogram!(
        CHANGE_DURATION,
        Unit::Seconds,
        "Time from a change's arrival to its answer, by operation"
    );
    describe_gauge!(FUNCTIONS, Unit::Count, "Functions that exist");
    describe_gauge!(
        CODE_BYTES,
        Unit::Bytes,
        "Uploaded size of all deployment packages, against the account's limit"
    );
    describe_counter!(KEY_USES, Unit::Count, "Uses of the local keyring, by operation and outcome");
    describe_counter!(LOG_BYTES, Unit::Bytes, "Sealed bytes written to function logs");
    describe_counter!(LOG_DROPPED, Unit::Count, "Lines of functions that were dropped, by reason");
    describe_gauge!(LOG_BUFFERED, Unit::Bytes, "Bytes of lines waiting to be written");
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum KeyOperation {
    Generate,
    Unwrap,
    Rewrap,
}

impl KeyOperation {
    fn name(self) -> &'static str {
        match self {
            Self::Generate => "generate",
            Self::Unwrap => "unwrap",
            Self::Rewrap => "rewrap",
        }
    }
}

/// Counts one use of a key by its outcome.
pub(crate) fn key_used<T, E>(operation: KeyOperation, using: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let result = using();
    counter!(KEY_USES, "operation" => operation.name(), "outcome" => outcome(&result)).increment(1);
    result
}

/// Counts and times one change.
pub(crate) fn changed<T, E>(operation: &'static str, since: Instant, result: &Result<T, E>) {
    counter!(CHANGES, "operation" => operation, "outcome" => outcome(result)).increment(1);
    let elapsed: Duration = since.elapsed();
    histogram!(CHANGE_DURATION, "operation" => operation).record(elapsed.as_secs_f64());
}

#[expect(
    clippy::cast_precision_loss,
    reason = "gauges are floating point; a loss beyond 2^53 bytes is no loss"
)]
pub(crate) fn holdings(functions: u64, code_bytes: u64) {
    gauge!(FUNCTIONS).set(functions as f64);
    gauge!(CODE_BYTES).set(code_bytes as f64);
}

pub(crate) fn log_written(bytes: u64) {
    counter!(LOG_BYTES).increment(bytes);
}

pub(crate) fn log_dropped(reason: &'static str, lines: u64) {
    counter!(LOG_DROPPED, "reason" => reason).increment(lines);
}

#[expect(
    clippy::cast_precision_loss,
    reason = "gauges are floating point; a loss beyond 2^53 bytes is no loss"
)]
pub(crate) fn log_buffered(bytes: usize) {
    gauge!(LOG_BUFFERED).set(bytes as f64);
}

fn outcome<T, E>(result: &Result<T, E>) -> &'static str {
    if result.is_ok() { "ok" } else { "error" }
}
