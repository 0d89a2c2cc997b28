//! Wall clocks that are set by an hour, under a running fleet and between two lives of it.

use super::*;

const HOUR: i64 = 3600;

impl Stage {
    fn set_wall_clock(&self, by: i64) {
        self.clock.set.fetch_add(by, Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_by_an_hour_under_way_changes_no_wait_and_no_age() {
    let stage = Stage::new();
    let young =
        EventInvokePolicy { maximum_event_age: Duration::from_secs(600), ..EventInvokePolicy::default() };
    stage.with_policy("f", Does::Fails, young);
    stage.function("slow", Does::Hangs);
    let fleet = stage.start().await;
    fleet.accept("f").await;
    fleet.accept("slow").await;
    for by in [HOUR, -2 * HOUR, HOUR] {
        tokio::time::sleep(Duration::from_secs(50)).await;
        stage.set_wall_clock(by);
        // Accepted by a clock that was set, and as old as it is.
        fleet.accept("f").await;
    }
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(stage.tried("slow"), [0], "no lease ran out");
    let tried = stage.tried("f");
    assert_eq!(tried, [0, 50, 60, 100, 110, 150, 160, 180, 210, 230, 280, 330]);
    let letters = fleet.dead_letters("f").await;
    assert_eq!(letters.len(), 4);
    for letter in letters {
        assert_eq!(letter.reason, Reason::Invocation(Condition::RetriesExhausted));
        assert_eq!((letter.attempts, letter.at_ms - letter.accepted_ms), (3, 180_000));
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_set_forward_between_two_lives_ends_waits_and_ages_and_loses_nothing() {
    let stage = Stage::new();
    let young =
        EventInvokePolicy { maximum_event_age: Duration::from_secs(600), ..EventInvokePolicy::default() };
    stage.function("patient", Does::Fails);
    stage.with_policy("young", Does::Fails, young);
    let fleet = stage.start().await;
    fleet.accept("patient").await;
    fleet.accept("young").await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    stage.set_wall_clock(HOUR);
    let fleet = fleet.restart().await;
    fleet.quiet().await;
    assert_eq!(stage.tried("patient"), [0, 10, 130], "its wait was over");
    let [letter] = &fleet.dead_letters("patient").await[..] else { panic!() };
    assert_eq!((&letter.reason, letter.attempts), (&Reason::Invocation(Condition::RetriesExhausted), 3));
    let [letter] = &fleet.dead_letters("young").await[..] else { panic!() };
    assert_eq!((&letter.reason, letter.attempts), (&Reason::Invocation(Condition::EventAgeExceeded), 1));
}

#[tokio::test(start_paused = true)]
async fn a_clock_set_back_between_two_lives_makes_a_retry_late_by_as_much_and_loses_nothing() {
    let stage = Stage::new();
    stage.function("f", Does::Fails);
    stage.function("new", Does::Succeeds);
    let fleet = stage.start().await;
    fleet.accept("f").await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    stage.set_wall_clock(-HOUR);
    let fleet = fleet.restart().await;
    fleet.accept("new").await;
    tokio::time::sleep(Duration::from_secs(HOUR as u64)).await;
    assert_eq!((stage.tried("f"), stage.tried("new")), (vec![0], vec![0]), "nobody else waits");
    fleet.quiet().await;
    assert_eq!(stage.tried("f"), [0, 3660, 3780]);
    let [letter] = &fleet.dead_letters("f").await[..] else { panic!() };
    assert_eq!(letter.attempts, 3);
}
