//! Every metric of the fleet. Names follow Prometheus, meanings follow Lambda's CloudWatch metrics where there is one.

use std::time::Duration;

use ::metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::{attributes::OutgoingForm, budget::Amount};

const RECEIVED: &str = "waterwheel_async_events_received_total";
const AGE: &str = "waterwheel_async_event_age_seconds";
const ENDED: &str = "waterwheel_async_events_ended_total";
const DROPPED: &str = "waterwheel_async_events_dropped_total";
const RETRIES: &str = "waterwheel_async_retries_total";
const DEAD_LETTER_ERRORS: &str = "waterwheel_dead_letter_errors_total";
const DEAD_LETTERS_ENDED: &str = "waterwheel_dead_letters_ended_total";
const DELIVERY_FAILURES: &str = "waterwheel_destination_delivery_failures_total";
const HELD_EVENTS: &str = "waterwheel_async_held_events";
const HELD_BYTES: &str = "waterwheel_async_held_bytes";
const DEPTH: &str = "waterwheel_async_depth";
const FUNCTION_DEPTH: &str = "waterwheel_async_function_depth";
const FUNCTION_OLDEST: &str = "waterwheel_async_function_oldest_age_seconds";
const POLLERS: &str = "waterwheel_pollers";
const OWN_PARTITIONS: &str = "waterwheel_dedicated_partitions";

/// Describes them to the recorder. Call once, after the recorder is installed.
pub fn describe() {
    describe_counter!(
        RECEIVED,
        Unit::Count,
        "AsyncEventsReceived: events that were queued durably, by function"
    );
    describe_histogram!(AGE, Unit::Seconds, "AsyncEventAge: from acceptance to an attempt, by function");
    describe_counter!(ENDED, Unit::Count, "Asynchronous events that ended, by function and how");
    describe_counter!(
        DROPPED,
        Unit::Count,
        "AsyncEventsDropped: events that ended nowhere, by function and reason"
    );
    describe_counter!(RETRIES, Unit::Count, "Attempts that did not succeed, by function and cause");
    describe_counter!(
        DEAD_LETTER_ERRORS,
        Unit::Count,
        "DeadLetterErrors: events a dead-letter queue did not take"
    );
    describe_counter!(
        DELIVERY_FAILURES,
        Unit::Count,
        "DestinationDeliveryFailures: records a destination did not take"
    );
    describe_counter!(
        DEAD_LETTERS_ENDED,
        Unit::Count,
        "Dead letters that operators ended, by function and how"
    );
    describe_gauge!(HELD_EVENTS, Unit::Count, "Events in the pollers' memory, by kind");
    describe_gauge!(HELD_BYTES, Unit::Bytes, "Bytes of events in the pollers' memory, by kind");
    describe_gauge!(DEPTH, Unit::Count, "Events of a partition that are not done");
    describe_gauge!(
        FUNCTION_DEPTH,
        Unit::Count,
        "Events of a function that are not done, by kind: invocations, deliveries, dead_letters"
    );
    describe_gauge!(
        FUNCTION_OLDEST,
        Unit::Seconds,
        "Since when the oldest of these was accepted; 0 if there is none"
    );
    describe_gauge!(POLLERS, Unit::Count, "Pollers of a partition");
    describe_gauge!(OWN_PARTITIONS, Unit::Count, "Functions whose events have a partition of their own");
    // Nothing is ever dropped; who looks for the metric finds it, and it says so.
    counter!(DROPPED).absolute(0);
}

pub(crate) fn received(function: &str) {
    counter!(RECEIVED, "function" => function.to_owned()).increment(1);
}

pub(crate) fn age(function: &str, age: Duration) {
    histogram!(AGE, "function" => function.to_owned()).record(age);
}

/// `how`: `success`, or a condition.
pub(crate) fn finished(function: &str, how: &'static str) {
    counter!(ENDED, "function" => function.to_owned(), "how" => how).increment(1);
}

/// `cause`: `function_error`, `throttled` or `platform`.
pub(crate) fn retried(function: &str, cause: &'static str) {
    counter!(RETRIES, "function" => function.to_owned(), "cause" => cause).increment(1);
}

pub(crate) fn delivery_failed(function: &str, form: &OutgoingForm) {
    let name = match form {
        OutgoingForm::Result { .. } => DELIVERY_FAILURES,
        OutgoingForm::DeadLetter { .. } => DEAD_LETTER_ERRORS,
    };
    counter!(name, "function" => function.to_owned()).increment(1);
}

/// `how`: `redriven` or `purged`.
pub(crate) fn dead_letters_ended(function: &str, how: &'static str, events: u64) {
    counter!(DEAD_LETTERS_ENDED, "function" => function.to_owned(), "how" => how).increment(events);
}

pub(crate) fn held(kind: &'static str, held: Amount) {
    gauge!(HELD_EVENTS, "kind" => kind).set(held.events as f64);
    gauge!(HELD_BYTES, "kind" => kind).set(held.bytes as f64);
}

pub(crate) fn partition(name: &str, pollers: usize, depth: u64) {
    gauge!(POLLERS, "partition" => name.to_owned()).set(pollers as f64);
    gauge!(DEPTH, "partition" => name.to_owned()).set(depth as f64);
}

/// `kind`: `invocations`, `deliveries` or `dead_letters`.
pub(crate) fn backlog(function: &str, kind: &'static str, events: u64, oldest: Duration) {
    gauge!(FUNCTION_DEPTH, "function" => function.to_owned(), "kind" => kind).set(events as f64);
    gauge!(FUNCTION_OLDEST, "function" => function.to_owned(), "kind" => kind).set(oldest);
}

pub(crate) fn own_partitions(count: usize) {
    gauge!(OWN_PARTITIONS).set(count as f64);
}
