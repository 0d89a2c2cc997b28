//! Every metric of this crate, with its unit. Names follow Prometheus: base units, `_total` on counters.

use metrics::{Unit, counter, describe_counter};

const UNREADABLE: &str = "waterwheel_queue_unreadable_events_total";

/// Registers unit and description of each metric with the installed recorder. Call once, after the recorder is installed.
pub fn describe() {
    describe_counter!(
        UNREADABLE,
        Unit::Count,
        "Queued events that were given up because nobody can read them, by reason: damaged, key_destroyed"
    );
}

pub(crate) fn unreadable(damaged: u64, key_destroyed: u64) {
    counter!(UNREADABLE, "reason" => "damaged").increment(damaged);
    counter!(UNREADABLE, "reason" => "key_destroyed").increment(key_destroyed);
}
