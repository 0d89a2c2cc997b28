//! Many functions that fill the memory of the fleet, and others that must get through.

use super::*;

/// As many events as may be in memory, from each of these; then one of another function, which must be done within two seconds.
async fn gets_through(neighbours: Does) {
    let mut stage = Stage::new();
    stage.config.memory = Amount { events: 200, bytes: 1 << 20 };
    stage.config.function_memory = Amount { events: 50, bytes: 1 << 18 };
    let names: Vec<_> = (0..10).map(|n| format!("neighbour-{n}")).collect();
    names.iter().for_each(|name| stage.function(name, neighbours));
    stage.function("calm", Does::Succeeds);
    let fleet = stage.start().await;
    for _ in 0..40 {
        for name in &names {
            fleet.accept(name).await;
        }
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    fleet.accept("calm").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(stage.tried("calm").len(), 1);
    assert!(names.iter().all(|name| !stage.tried(name).is_empty()), "nobody is kept out");
}

#[tokio::test(start_paused = true)]
async fn functions_that_are_throttled_leave_room_for_another() {
    gets_through(Does::Throttled).await;
}

#[tokio::test(start_paused = true)]
async fn functions_that_stand_still_leave_room_for_another() {
    gets_through(Does::Hangs).await;
}

/// A window grows to what the machine has room for, and attempts that wait leave it idle.
#[tokio::test(start_paused = true)]
async fn a_function_that_stands_still_leaves_places_for_another() {
    let mut stage = Stage::new();
    stage.config.max_concurrency = 50;
    stage.function("stuck", Does::Hangs);
    stage.function("calm", Does::Succeeds);
    let fleet = stage.start().await;
    for _ in 0..200 {
        fleet.accept("stuck").await;
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(stage.tried("stuck").len(), 45, "eight ninths, and the last looked when six were free");
    fleet.accept("calm").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(stage.tried("calm").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn functions_that_fail_leave_room_for_another() {
    gets_through(Does::Fails).await;
}

/// The destination of many, and that of one.
#[tokio::test(start_paused = true)]
async fn a_destination_that_is_down_holds_up_no_other() {
    let mut stage = Stage::new();
    stage.config.memory = Amount { events: 100, bytes: 1 << 20 };
    stage.config.function_memory = Amount { events: 50, bytes: 1 << 18 };
    let policy = |name| EventInvokePolicy { on_success: file(name), ..EventInvokePolicy::default() };
    // A directory where the file should be.
    std::fs::create_dir_all(stage.directory.path().join("destinations").join("down")).unwrap();
    for n in 0..10 {
        stage.with_policy(&format!("f{n}"), Does::Succeeds, policy("down"));
    }
    stage.with_policy("calm", Does::Succeeds, policy("up"));
    let fleet = stage.start().await;
    for n in 0..200 {
        fleet.accept(&format!("f{}", n % 10)).await;
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(fleet.depth("deliveries"), 200);
    fleet.accept("calm").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(stage.lines("up").len(), 1);
    std::fs::remove_dir(stage.directory.path().join("destinations").join("down")).unwrap();
    fleet.quiet().await;
    assert_eq!(stage.lines("down").len(), 200);
}

#[tokio::test(start_paused = true)]
async fn many_that_wait_are_given_back_and_new_events_are_tried_all_the_same() {
    let mut stage = Stage::new();
    stage.config.function_memory = Amount { events: 20, bytes: 1 << 20 };
    stage.function("f", Does::Fails);
    let fleet = stage.start().await;
    for _ in 0..200 {
        fleet.accept("f").await;
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(stage.tried("f").len(), 200, "each once, in the first half minute");
    fleet.quiet().await;
    assert_eq!(stage.tried("f").len(), 600);
    assert_eq!(fleet.depth("dead-letters/"), 200);
}

/// More are tried at once than may run: nobody waits for a second when there is a place sooner.
#[tokio::test(start_paused = true)]
async fn what_is_refused_is_tried_when_another_of_its_function_ends() {
    let stage = Stage::new();
    stage.function("f", Does::AtOnce(1));
    let fleet = stage.start().await;
    let began = Instant::now();
    for _ in 0..4 {
        fleet.accept("f").await;
    }
    fleet.quiet().await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(1), "4 events, one at once, a tenth of a second each, took {took:?}");
}
