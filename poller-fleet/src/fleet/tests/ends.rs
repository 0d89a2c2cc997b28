//! How events end that go round in a loop, what of an answer is told at the end, and how the fleet itself ends.

use std::collections::HashSet;

use queue::Request;

use super::*;

fn once(on_failure: Option<Destination>) -> EventInvokePolicy {
    EventInvokePolicy { maximum_retry_attempts: 0, on_failure, ..EventInvokePolicy::default() }
}

#[tokio::test(start_paused = true)]
async fn two_functions_that_are_each_others_destination_come_to_an_end() {
    let stage = Stage::new();
    let of = |name| Some(Destination::from_str(&arn(name).to_string()).unwrap());
    stage.with_policy("f", Does::Fails, once(of("g")));
    stage.with_policy("g", Does::Fails, once(of("f")));
    let fleet = stage.start().await;
    fleet.accept("f").await;
    fleet.quiet().await;
    assert_eq!((stage.tried("f").len(), stage.tried("g").len()), (17, 16), "the first was begun by a caller");
    assert_eq!(fleet.depth("dead-letters/"), 1);
}

#[tokio::test(start_paused = true)]
async fn the_last_answer_is_told_whole_however_long_it_is() {
    let stage = Stage::new();
    let policy = EventInvokePolicy { maximum_retry_attempts: 1, ..once(file("failed")) };
    stage.with_policy("f", Does::FailsAtLength(300_000), policy);
    let fleet = stage.start().await;
    fleet.accept("f").await;
    fleet.quiet().await;
    let [record] = &stage.lines("failed")[..] else { panic!() };
    assert_eq!(record["responsePayload"].as_str().map(str::len), Some(300_000));
    assert_eq!(record["requestContext"]["approximateInvokeCount"], 2);
}

#[tokio::test(start_paused = true)]
async fn a_stop_gives_back_what_waits_and_what_waits_for_a_place() {
    let mut stage = Stage::new();
    stage.config.max_concurrency = 1;
    stage.function("f", Does::Fails);
    stage.function("stuck", Does::Hangs);
    stage.function("behind", Does::Succeeds);
    let fleet = stage.start().await;
    fleet.accept("f").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    fleet.accept("stuck").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    fleet.accept("behind").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let Running { stage, queue, fleet } = fleet;
    let began = Instant::now();
    fleet.stop(Duration::from_secs(5)).await;
    assert_eq!(began.elapsed().as_secs(), 5, "what runs has its time");
    assert_eq!((stage.tried("f").len(), stage.tried("behind").len()), (1, 0));
    // The one that failed is nobody's until its minute has passed; the one that runs is leased as long as this process lives.
    assert_eq!(leased(&queue).await, 1, "the one that never ran");
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(leased(&queue).await, 1, "the one that failed");
}

/// How many events whoever comes next gets at once.
async fn leased(queue: &EmbeddedQueue) -> usize {
    let mut events = 0;
    for (partition, _) in queue.partitions() {
        let exclude = &HashSet::new();
        let (wait, lease) = (Duration::ZERO, Duration::from_secs(3_600));
        let request = Request { partition, events: 100, bytes: 1 << 20, wait, lease, exclude };
        events += queue.lease(request).await.unwrap().1.len();
    }
    events
}

#[tokio::test(start_paused = true)]
async fn a_stop_settles_what_ends_in_time() {
    let stage = Stage::new();
    let policy = EventInvokePolicy { on_success: file("done"), ..EventInvokePolicy::default() };
    stage.with_policy("slow", Does::TakesSeconds(3), policy);
    let fleet = stage.start().await;
    fleet.accept("slow").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let fleet = fleet.restart().await;
    fleet.quiet().await;
    assert_eq!((stage.tried("slow").len(), stage.lines("done").len()), (1, 1));
}
