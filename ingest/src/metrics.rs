//! Every metric of the edge.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

const REQUESTS: &str = "waterwheel_api_requests_total";
const DURATION: &str = "waterwheel_api_request_duration_seconds";
const REFUSED: &str = "waterwheel_api_refused_total";
const INFLIGHT_BYTES: &str = "waterwheel_api_inflight_payload_bytes";
const CONNECTIONS: &str = "waterwheel_api_connections";

/// Names units and meanings, once, after a recorder is installed.
pub(crate) fn describe() {
    describe_counter!(REQUESTS, Unit::Count, "Requests answered, by operation and HTTP status");
    describe_histogram!(
        DURATION,
        Unit::Seconds,
        "Time from a request's head to its answer's head, by operation"
    );
    describe_counter!(REFUSED, Unit::Count, "Requests refused before their operation ran, by reason");
    describe_gauge!(INFLIGHT_BYTES, Unit::Bytes, "Payload bytes reserved by running requests, by class");
    describe_gauge!(CONNECTIONS, Unit::Count, "Open connections");
}

pub(crate) fn answered(operation: &'static str, status: u16, took: Duration) {
    counter!(REQUESTS, "operation" => operation, "status" => status.to_string()).increment(1);
    histogram!(DURATION, "operation" => operation).record(took.as_secs_f64());
}

/// `reason` is one of a fixed few words.
pub(crate) fn refused(reason: &'static str) {
    counter!(REFUSED, "reason" => reason).increment(1);
}

/// Counts bytes while it lives.
#[derive(Debug)]
pub(crate) struct InflightBytes {
    class: &'static str,
    bytes: f64,
}

/// Counts one connection while it lives.
#[derive(Debug)]
pub(crate) struct OpenConnection(());

// === impl InflightBytes ===

impl InflightBytes {
    pub(crate) fn add(class: &'static str, bytes: usize) -> Self {
        let bytes = bytes as f64;
        gauge!(INFLIGHT_BYTES, "class" => class).increment(bytes);
        Self { class, bytes }
    }
}

impl Drop for InflightBytes {
    fn drop(&mut self) {
        gauge!(INFLIGHT_BYTES, "class" => self.class).decrement(self.bytes);
    }
}

// === impl OpenConnection ===

impl OpenConnection {
    pub(crate) fn new() -> Self {
        gauge!(CONNECTIONS).increment(1.0);
        Self(())
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        gauge!(CONNECTIONS).decrement(1.0);
    }
}
