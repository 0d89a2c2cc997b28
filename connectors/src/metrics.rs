//! Every metric of this crate, with its unit. Names follow Prometheus: base units, `_total` on counters.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_histogram, histogram};

const DELIVERIES: &str = "waterwheel_destination_deliveries_total";
const DELIVERY_DURATION: &str = "waterwheel_destination_delivery_duration_seconds";

/// Registers unit and description of each metric with the installed recorder. Call once, after the recorder is installed.
pub fn describe() {
    describe_counter!(
        DELIVERIES,
        Unit::Count,
        "Attempts to deliver an outcome to a destination, by service and result: delivered, unavailable, refused"
    );
    describe_histogram!(
        DELIVERY_DURATION,
        Unit::Seconds,
        "Time of one attempt to deliver, whatever its result, by service"
    );
}

pub(crate) fn attempted(service: &'static str, result: &'static str, took: Duration) {
    counter!(DELIVERIES, "service" => service, "result" => result).increment(1);
    histogram!(DELIVERY_DURATION, "service" => service).record(took.as_secs_f64());
}
