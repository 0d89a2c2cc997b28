//! Every metric of the invoker. Names follow Prometheus, meanings follow Lambda's CloudWatch metrics.

use std::time::Duration;

use ::metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};

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

/// The metrics of one function, found once: looking one up by its labels costs more than changing it.
#[derive(Clone)]
pub(crate) struct FunctionMetrics {
    function: String,
    invocations: Counter,
    duration: Histogram,
    init_duration: Histogram,
    /// Starting, busy, idle.
    environments: [Gauge; 3],
}

impl FunctionMetrics {
    pub(crate) fn new(function: &str) -> Self {
        let function = function.to_owned();
        let environments = ["starting", "busy", "idle"]
            .map(|state| gauge!(ENVIRONMENTS, "function" => function.clone(), "state" => state));
        Self {
            invocations: counter!(INVOCATIONS, "function" => function.clone()),
            duration: histogram!(DURATION, "function" => function.clone()),
            init_duration: histogram!(INIT_DURATION, "function" => function.clone()),
            environments,
            function,
        }
    }

    pub(crate) fn invocation(&self, duration: Duration, failure: Option<&'static str>) {
        self.invocations.increment(1);
        self.duration.record(duration);
        if let Some(cause) = failure {
            counter!(ERRORS, "function" => self.function.clone(), "cause" => cause).increment(1);
        }
    }

    /// An environment was started: the first of its deployment, because all others were busy, or in place of a broken one.
    pub(crate) fn cold_start(&self, cause: &'static str) {
        counter!(COLD_STARTS, "function" => self.function.clone(), "cause" => cause).increment(1);
    }

    pub(crate) fn init(&self, duration: Duration) {
        self.init_duration.record(duration);
    }

    pub(crate) fn environments(&self, (starting, busy, idle): (usize, usize, usize)) {
        for (gauge, count) in self.environments.iter().zip([starting, busy, idle]) {
            gauge.set(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
        }
    }
}

/// A request was refused. By name: throttled requests reach no pool.
pub(crate) fn throttle(function: &str) {
    counter!(THROTTLES, "function" => function.to_owned()).increment(1);
}

pub(crate) fn concurrent(change: f64) {
    gauge!(CONCURRENT).increment(change);
}
