//! The suite itself, tested: it holds for what is obviously right, and not for what is wrong on purpose.

use super::{
    assert_kept,
    reference::{Fault, Machine},
    run,
};

#[tokio::test(start_paused = true)]
async fn the_reference_keeps_every_promise() {
    assert_kept(|| Machine::new(None)).await;
}

/// Which promise each fault breaks, among others.
#[tokio::test(start_paused = true)]
async fn every_fault_breaks_the_promise_that_it_is_about() {
    for fault in Fault::ALL {
        let promise = match fault {
            Fault::ForgetsTheLastEventInACrash => "an_accepted_event_survives_a_crash",
            Fault::BringsAckedEventsAgainAfterACrash => "an_acked_event_never_comes_again",
            Fault::BringsTheNewestFirst => "an_ordered_partition_keeps_its_order",
            Fault::LetsALostLeaseAck => "a_lost_lease_gives_its_events_back_and_decides_nothing",
            Fault::ForgetsAttemptsInACrash => "a_noted_event_is_held_and_its_attempts_are_known",
            Fault::PurgesWhatComesLater => "a_purge_of_a_function_ends_what_is_queued_and_nothing_later",
            Fault::SleepsWhileItWaits => "a_lease_waits_for_the_first_event",
            Fault::GoesOnLeasingInADrain => "a_drain_leases_nothing_more_and_waits_for_what_is_leased",
        };
        let outcomes = run(|| Machine::new(Some(fault))).await;
        let broken: Vec<_> = outcomes.iter().filter(|(_, it)| it.is_err()).map(|(name, _)| *name).collect();
        assert!(broken.contains(&promise), "{fault:?} broke only {broken:?}");
    }
}
