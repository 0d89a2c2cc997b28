//! Every metric of the invoker. Names follow Prometheus, meanings follow Lambda's CloudWatch metrics.

use std::time::Duration;

use ::metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

const INVOCATIONS: &str = "waterwheel_invocations_total";
const ERRORS: &str = "waterwheel_errors_total";
const THROTTLES: &str = "waterwheel_throttles_total";
const DURATION: &str = "waterwheel_duration_seconds";
const INIT_DURATION: &str = "waterwheel_init_duration_seconds";
const COLD_STARTS: &str = "waterwheel_cold_starts_total";
const CONCURRENT: &str = "waterwheel_concurrent_executions";
const ENVIRONMENTS: &str = "waterwheel_environments";

/// Describes them to the recorder. Call once, after the recorder is installed.
pub fn describe() {
    describe_counter!(INVOCATIONS, Unit::Count, "Times a function's code was run, failures included");
    describe_counter!(ERRORS, Unit::Count, "Invocations that ended in a function error, by cause");
    describe_counter!(THROTTLES, Unit::Count, "Requests refused because a concurrency limit was reached");
    describe_histogram!(DURATION, Unit::Seconds, "Time a function ran, without its init phase");
    describe_histogram!(INIT_DURATION, Unit::Seconds, "Time of an environment's init phase");
    describe_counter!(COLD_STARTS, Unit::Count, "Environments started, by cause");
    describe_gauge!(CONCURRENT, Unit::Count, "Invocations under way");
    describe_gauge!(ENVIRONMENTS, Unit::Count, "Environments of a function, by state");
}

pub(crate) fn invocation(function: &str, duration: Duration, failure: Option<&'static str>) {
    counter!(INVOCATIONS, "function" => function.to_owned()).increment(1);
    histogram!(DURATION, "function" => function.to_owned()).record(duration);
    if let Some(cause) = failure {
        counter!(ERRORS, "function" => function.to_owned(), "cause" => cause).increment(1);
    }
}

pub(crate) fn throttle(function: &str) {
    counter!(THROTTLES, "function" => function.to_owned()).increment(1);
}

/// An environment was started: the first of its deployment, because all others were busy, or in place of a broken one.
pub(crate) fn cold_start(function: &str, cause: &'static str) {
    counter!(COLD_STARTS, "function" => function.to_owned(), "cause" => cause).increment(1);
}

pub(crate) fn init(function: &str, duration: Duration) {
    histogram!(INIT_DURATION, "function" => function.to_owned()).record(duration);
}

pub(crate) fn concurrent(change: f64) {
    gauge!(CONCURRENT).increment(change);
}

pub(crate) fn environments(function: &str, (starting, busy, idle): (usize, usize, usize)) {
    for (state, count) in [("starting", starting), ("busy", busy), ("idle", idle)] {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        gauge!(ENVIRONMENTS, "function" => function.to_owned(), "state" => state).set(f64::from(count));
    }
}
