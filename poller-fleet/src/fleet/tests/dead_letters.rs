//! Operators and the dead-letter store, on a running fleet.

use std::{collections::HashSet, num::NonZeroU32};

use futures::future::Either;
use queue::{
    Browse, Content, Depth, FunctionNumber, FunctionStat, LeaseEpoch, Leased, Location, Page as QueuePage,
    ReadError, Request, Scrubbed, partition::Order as PartitionOrder,
};

use super::*;
use crate::{
    DeadLetters as _,
    dead_letters::{
        DeadLetterReason, Entry, Error, Filter, Order, Page, Progress, Query, Stopped, UnderWay, Unreadable,
        WasOnce,
    },
};

fn of(name: &str) -> Filter {
    Filter { function: Some(arn(name).to_string().parse().unwrap()), ..Filter::default() }
}

fn order(filter: Filter) -> Order {
    let per_second = NonZeroU32::new(1_000).unwrap();
    Order { filter, from: None, limit: u64::MAX, per_second, within: Duration::from_secs(25) }
}

fn no_retries() -> EventInvokePolicy {
    EventInvokePolicy { maximum_retry_attempts: 0, ..EventInvokePolicy::default() }
}

/// A fleet with so many dead letters of each of these functions.
async fn with_dead_letters(stage: &Stage, counts: &[(&str, usize)]) -> (Running, Vec<RequestId>) {
    let fleet = stage.start().await;
    let mut ids = Vec::new();
    for (name, count) in counts {
        stage.with_policy(name, Does::Fails, no_retries());
        for _ in 0..*count {
            ids.push(fleet.accept(name).await);
            fleet.quiet().await;
        }
    }
    (fleet, ids)
}

impl Running {
    async fn list(&self, filter: Filter) -> Vec<Entry> {
        let query = Query { filter, limit: 1_000, ..Query::default() };
        self.fleet.handle().list(query).await.unwrap().entries
    }

    async fn redrive(&self, order: Order) -> Progress {
        self.fleet.handle().redrive(order).await.unwrap()
    }
}

fn ids(entries: &[Entry]) -> Vec<RequestId> {
    entries.iter().map(|entry| entry.id.unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn dead_letters_are_listed_by_function_and_oldest_first_in_pages() {
    let stage = Stage::new();
    let (fleet, accepted) = with_dead_letters(&stage, &[("a", 5), ("b", 4), ("c", 0)]).await;
    let (mut listed, mut marker) = (Vec::new(), None);
    loop {
        let query = Query { filter: Filter::default(), marker, limit: 2 };
        let Page { entries, marker: next } = fleet.fleet.handle().list(query).await.unwrap();
        assert!(entries.len() <= 2);
        listed.extend(entries);
        marker = next;
        if marker.is_none() {
            break;
        }
    }
    assert_eq!(ids(&listed), accepted);
    let letter = listed[0].letter.as_ref().unwrap();
    assert_eq!((letter.reason, letter.attempts), (DeadLetterReason::RetriesExhausted, 1));
    assert_eq!((letter.error.as_str(), letter.payload_bytes), ("boom", 7));
    assert!(letter.accepted <= letter.given_up);
    assert_eq!(ids(&fleet.list(of("b")).await), accepted[5..]);
    assert!(fleet.list(of("nobody")).await.is_empty());
    let query = Query { marker: Some("noise".into()), ..Query::default() };
    assert!(matches!(fleet.fleet.handle().list(query).await, Err(Error::Marker(_))));
}

#[tokio::test(start_paused = true)]
async fn one_dead_letter_is_shown_with_its_payload() {
    let stage = Stage::new();
    let (fleet, accepted) = with_dead_letters(&stage, &[("f", 2), ("g", 1)]).await;
    let handle = fleet.fleet.handle();
    let named = |name: &str| arn(name).to_string().parse::<FunctionRef>().unwrap();
    let shown = handle.show(named("f"), accepted[1]).await.unwrap();
    assert_eq!((shown.entry.id, shown.payload.as_slice()), (Some(accepted[1]), br#"{"n":1}"#.as_slice()));
    assert_eq!((shown.trace.as_deref(), shown.entry.function), (Some("x"), arn("f")));
    let Err(Error::NotFound { id, .. }) = handle.show(named("g"), accepted[1]).await else { panic!() };
    assert_eq!(id, accepted[1]);
}

#[tokio::test(start_paused = true)]
async fn redriven_events_are_new_again_with_the_same_ids() {
    let stage = Stage::new();
    let (fleet, accepted) = with_dead_letters(&stage, &[("f", 5), ("other", 1)]).await;
    tokio::time::sleep(Duration::from_secs(50_000)).await;
    stage.function("f", Does::Fails);
    let progress = fleet.redrive(order(of("f"))).await;
    assert_eq!((progress.done, progress.scanned, progress.stopped), (5, 5, None));
    fleet.quiet().await;
    let tried = stage.tried("f");
    assert_eq!(tried.len(), 5 + 15, "three attempts each: {tried:?}");
    assert_eq!(stage.tried("other").len(), 1);
    let entries = fleet.list(of("f")).await;
    assert_eq!(ids(&entries).into_iter().collect::<HashSet<_>>(), accepted[..5].iter().copied().collect());
    let age = entries[0].letter.as_ref().map(|letter| letter.given_up - letter.accepted).unwrap();
    assert!(age < Duration::from_secs(200), "accepted again when it was redriven: {age:?}");

    stage.function("f", Does::Succeeds);
    fleet.redrive(order(of("f"))).await;
    fleet.quiet().await;
    let fleet = fleet.restart().await;
    assert_eq!((fleet.depth("async/"), fleet.depth("dead-letters/")), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_record_is_delivered_again_and_its_function_does_not_run() {
    let mut stage = Stage::new();
    stage.config.schedule = Schedule::scaled(0.01);
    stage.with_policy("f", Does::Succeeds, EventInvokePolicy { on_success: file("good"), ..no_retries() });
    let fleet = stage.start().await;
    let path = stage.directory.path().join("destinations").join("good");
    std::fs::create_dir_all(&path).unwrap();
    let request_id = fleet.accept("f").await;
    fleet.quiet().await;
    let entries = fleet.list(of("f")).await;
    let letter = entries[0].letter.as_ref().unwrap();
    assert_eq!(letter.reason, DeadLetterReason::DestinationRefused);
    let WasOnce::Record { request_id: told_of, .. } = &letter.was else { panic!("{letter:?}") };
    assert_eq!(*told_of, request_id);
    std::fs::remove_dir(&path).unwrap();
    assert_eq!(fleet.redrive(order(of("f"))).await.done, 1);
    fleet.quiet().await;
    assert_eq!(stage.lines("good").len(), 1);
    assert_eq!((stage.tried("f").len(), fleet.depth("dead-letters/")), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn filters_choose_by_id_reason_and_time() {
    let stage = Stage::new();
    let (fleet, accepted) = with_dead_letters(&stage, &[("f", 3)]).await;
    let middle = fleet.list(of("f")).await[1].letter.as_ref().unwrap().given_up;
    stage.function("f", Does::Succeeds);
    let none = Filter { reason: Some(DeadLetterReason::EventAgeExceeded), ..of("f") };
    let progress = fleet.redrive(order(none)).await;
    assert_eq!((progress.done, progress.scanned), (0, 3));
    assert_eq!(
        fleet.redrive(order(Filter { after: Some(middle), before: Some(middle), ..of("f") })).await.done,
        0
    );

    let after = Filter { after: Some(middle), ..of("f") };
    assert_eq!(ids(&fleet.list(after).await), accepted[1..]);
    let before = Filter { before: Some(middle), ..of("f") };
    assert_eq!(fleet.redrive(order(before)).await.done, 1);
    assert_eq!(ids(&fleet.list(of("f")).await), accepted[1..]);
    let chosen = Filter { ids: HashSet::from([accepted[2], RequestId::random()]), ..Filter::default() };
    assert_eq!(fleet.redrive(order(chosen)).await.done, 1);
    assert_eq!(ids(&fleet.list(of("f")).await), accepted[1..2]);
    let exhausted = Filter { reason: Some(DeadLetterReason::RetriesExhausted), ..Filter::default() };
    assert_eq!(fleet.redrive(order(exhausted)).await.done, 1);
    fleet.quiet().await;
    assert_eq!((stage.tried("f").len(), fleet.depth("")), (6, 0));
}

#[tokio::test(start_paused = true)]
async fn a_redrive_keeps_its_limit_and_its_rate_and_ends_in_time() {
    let stage = Stage::new();
    let (fleet, accepted) = with_dead_letters(&stage, &[("f", 30)]).await;
    stage.function("f", Does::Succeeds);
    let progress = fleet.redrive(Order { limit: 4, ..order(of("f")) }).await;
    assert_eq!((progress.done, progress.stopped), (4, Some(Stopped::Limit)));
    assert_eq!(ids(&fleet.list(of("f")).await), accepted[4..]);

    let began = Instant::now();
    let slowly = Order { limit: 11, per_second: NonZeroU32::new(2).unwrap(), ..order(of("f")) };
    assert_eq!(fleet.redrive(slowly.clone()).await.done, 11);
    assert_eq!(began.elapsed().as_secs(), 5);

    let began = Instant::now();
    let within = Duration::from_millis(2_250);
    let progress = fleet.redrive(Order { within, ..slowly }).await;
    assert_eq!((progress.done, progress.stopped), (5, Some(Stopped::Time)));
    assert_eq!(progress.next, Some(arn("f").to_string()));
    assert_eq!(began.elapsed().as_secs(), 2);
    // What was leased and not redriven is free at once.
    let rest = Order { from: progress.next, ..order(Filter::default()) };
    assert_eq!(fleet.redrive(rest).await.done, 10);
}

#[tokio::test(start_paused = true)]
async fn events_of_a_deleted_function_come_back_and_are_not_redriven_for_ever() {
    let stage = Stage::new();
    let (fleet, accepted) = with_dead_letters(&stage, &[("f", 20)]).await;
    stage.world().functions.clear();
    // Slowly, so that the first are dead letters again long before the last is redriven.
    let progress = fleet.redrive(Order { per_second: NonZeroU32::new(2).unwrap(), ..order(of("f")) }).await;
    assert_eq!((progress.done, progress.stopped), (20, None));
    fleet.quiet().await;
    let entries = fleet.list(of("f")).await;
    assert_eq!(entries.len(), accepted.len());
    assert!(entries.iter().all(|entry| {
        entry.letter.as_ref().is_ok_and(|letter| letter.reason == DeadLetterReason::FunctionDeleted)
    }));
    // Whoever goes on with the same order does not begin again.
    let again = Filter { before: Some(progress.before), ..of("f") };
    assert_eq!(fleet.redrive(order(again)).await.done, 0);
}

#[tokio::test(start_paused = true)]
async fn a_purge_ends_what_is_meant_and_runs_nothing() {
    let stage = Stage::new();
    let (fleet, accepted) = with_dead_letters(&stage, &[("f", 3), ("g", 2), ("h", 2)]).await;
    let handle = fleet.fleet.handle();
    let chosen = Filter { ids: HashSet::from([accepted[0]]), ..of("f") };
    assert_eq!(handle.purge(order(chosen)).await.unwrap().done, 1);
    assert_eq!(handle.purge(Order { limit: 1, ..order(of("f")) }).await.unwrap().done, 1);
    assert_eq!(handle.purge(order(of("g"))).await.unwrap().done, 2);
    drop(handle);
    let fleet = fleet.restart().await;
    assert_eq!(ids(&fleet.list(Filter::default()).await), [accepted[2], accepted[5], accepted[6]]);
    assert_eq!(fleet.fleet.handle().purge(order(Filter::default())).await.unwrap().done, 3);
    fleet.quiet().await;
    assert_eq!((fleet.depth(""), stage.world().attempts.len()), (0, 7));
}

#[tokio::test(start_paused = true)]
async fn a_function_has_one_redrive_or_purge_at_once() {
    let stage = Stage::new();
    let (fleet, _) = with_dead_letters(&stage, &[("f", 3), ("g", 1)]).await;
    let handle = fleet.fleet.handle();
    let slow = Order { per_second: NonZeroU32::MIN, ..order(of("f")) };
    let first = tokio::spawn({
        let handle = handle.clone();
        async move { handle.redrive(slow).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    for second in [handle.redrive(order(of("f"))).await, handle.purge(order(of("f"))).await] {
        assert!(matches!(second, Err(Error::UnderWay(function)) if function == arn("f")));
    }
    assert_eq!(handle.redrive(order(of("g"))).await.unwrap().done, 1);
    // Whoever asked has gone: the next may, and finds everything.
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    assert_eq!(handle.purge(Order { limit: 2, ..order(of("f")) }).await.unwrap().done, 2);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_listed_and_only_ever_purged_whole() {
    let stage = Stage::new();
    let (fleet, accepted) = with_dead_letters(&stage, &[("f", 2)]).await;
    let Running { stage, queue, fleet } = fleet;
    fleet.stop(Duration::from_secs(1)).await;
    drop(queue);
    std::fs::remove_file(stage.directory.path().join("keyring")).unwrap();
    let fleet = stage.start().await;
    let handle = fleet.fleet.handle();
    let entries = fleet.list(of("f")).await;
    assert_eq!(ids(&entries), accepted);
    assert!(entries.iter().all(|entry| entry.letter == Err(Unreadable::KeyDestroyed)));
    let shown = handle.show(arn("f").to_string().parse().unwrap(), accepted[0]).await.unwrap();
    assert_eq!((shown.entry.letter, shown.payload), (Err(Unreadable::KeyDestroyed), Vec::new()));

    let chosen = Filter { ids: HashSet::from([accepted[0]]), ..of("f") };
    for refused in [
        handle.redrive(order(of("f"))).await,
        handle.redrive(order(chosen.clone())).await,
        handle.purge(order(chosen)).await,
    ] {
        assert!(matches!(refused, Err(Error::KeyDestroyed(function)) if function == arn("f")));
    }
    let all = handle.redrive(order(Filter::default())).await.unwrap();
    assert_eq!((all.done, all.unreadable), (0, 2));
    assert_eq!(fleet.depth("dead-letters/"), 2);
    assert_eq!(handle.purge(order(of("f"))).await.unwrap().done, 2);
    assert_eq!(fleet.depth("dead-letters/"), 0);
}

/// A queue that fails where a redrive can least afford it.
#[derive(Clone)]
struct Faulty {
    queue: EmbeddedQueue,
    fault: Fault,
}

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    DiskFull,
    /// The process dies before anything is acked.
    DiesBeforeAck,
}

fn faulty(fleet: &Running, fault: Fault) -> Handle<Faulty> {
    let queue = Faulty { queue: fleet.queue.clone(), fault };
    let router = Arc::new(Router::new(queue, 2).unwrap());
    Handle { router, clock: Arc::new(fleet.stage.clock.clone()), under_way: UnderWay::default() }
}

#[tokio::test(start_paused = true)]
async fn a_crash_between_queueing_and_ending_brings_a_duplicate_and_no_loss() {
    let stage = Stage::new();
    let (fleet, accepted) = with_dead_letters(&stage, &[("f", 3)]).await;
    stage.function("f", Does::Succeeds);
    let dies = faulty(&fleet, Fault::DiesBeforeAck);
    let within = Duration::from_secs(1);
    tokio::time::timeout(within, dies.redrive(order(of("f")))).await.unwrap_err();
    drop(dies);
    let fleet = fleet.restart().await;
    fleet.quiet().await;
    assert_eq!(stage.tried("f").len(), 6, "they ran");
    assert_eq!(ids(&fleet.list(of("f")).await), accepted, "and are not done");
    assert_eq!(fleet.redrive(order(of("f"))).await.done, 3);
    fleet.quiet().await;
    assert_eq!((stage.tried("f").len(), fleet.depth("")), (9, 0));
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_ends_a_redrive_and_no_dead_letter() {
    let stage = Stage::new();
    let (fleet, accepted) = with_dead_letters(&stage, &[("f", 3)]).await;
    let full = faulty(&fleet, Fault::DiskFull);
    let refused = full.redrive(order(of("f"))).await;
    assert!(matches!(refused, Err(Error::Write(WriteError::NoSpace))));
    assert_eq!(ids(&fleet.list(of("f")).await), accepted);
    // Room can be made.
    assert_eq!(full.purge(Order { limit: 0, ..order(of("f")) }).await.unwrap().done, 0);
    assert_eq!(full.purge(order(of("f"))).await.unwrap().done, 3);
}

impl Queue for Faulty {
    fn partition(&self, name: &str, order: PartitionOrder) -> Result<PartitionNumber, Refused> {
        self.queue.partition(name, order)
    }

    fn partitions(&self) -> Vec<(PartitionNumber, String)> {
        self.queue.partitions()
    }

    fn function(&self, arn: &str) -> Result<FunctionNumber, WriteError> {
        self.queue.function(arn)
    }

    fn functions(&self) -> Vec<(FunctionNumber, String)> {
        self.queue.functions()
    }

    async fn enqueue(&self, events: &[queue::Event<'_>]) -> Result<(), WriteError> {
        match self.fault {
            Fault::DiskFull => Err(WriteError::NoSpace),
            Fault::DiesBeforeAck => self.queue.enqueue(events).await,
        }
    }

    async fn lease(&self, request: Request<'_>) -> Result<(LeaseEpoch, Vec<Leased>), ReadError> {
        self.queue.lease(request).await
    }

    fn ack(
        &self,
        epoch: LeaseEpoch,
        events: &[(Location, EventId)],
    ) -> impl Future<Output = Result<(), WriteError>> + Send {
        match self.fault {
            Fault::DiskFull => Either::Left(self.queue.ack(epoch, events)),
            Fault::DiesBeforeAck => Either::Right(pending()),
        }
    }

    async fn note(
        &self,
        epoch: LeaseEpoch,
        event: (Location, EventId),
        attempts: u32,
        not_before_ms: u64,
    ) -> Result<(), WriteError> {
        self.queue.note(epoch, event, attempts, not_before_ms).await
    }

    fn release(&self, epoch: LeaseEpoch, events: &[Location]) -> Result<(), WriteError> {
        self.queue.release(epoch, events)
    }

    fn extend(&self, epoch: LeaseEpoch, lease: Duration) -> Result<(), WriteError> {
        self.queue.extend(epoch, lease)
    }

    async fn checkpoint(
        &self,
        epoch: LeaseEpoch,
        through: Location,
        position: &[u8],
    ) -> Result<(), WriteError> {
        self.queue.checkpoint(epoch, through, position).await
    }

    fn position(&self, partition: PartitionNumber) -> Option<Vec<u8>> {
        self.queue.position(partition)
    }

    async fn redirect(
        &self,
        function: FunctionNumber,
        partition: Option<PartitionNumber>,
    ) -> Result<(), WriteError> {
        self.queue.redirect(function, partition).await
    }

    fn redirected(&self, function: FunctionNumber) -> Option<PartitionNumber> {
        self.queue.redirected(function)
    }

    async fn purge(&self, function: FunctionNumber) -> Result<(), WriteError> {
        self.queue.purge(function).await
    }

    async fn purge_partition(&self, partition: PartitionNumber) -> Result<(), WriteError> {
        self.queue.purge_partition(partition).await
    }

    fn depth(&self, partition: PartitionNumber) -> Depth {
        self.queue.depth(partition)
    }

    async fn stat(&self, partition: PartitionNumber) -> Result<Vec<FunctionStat>, ReadError> {
        self.queue.stat(partition).await
    }

    async fn browse(&self, request: Browse) -> Result<QueuePage, ReadError> {
        self.queue.browse(request).await
    }

    async fn peek(
        &self,
        partition: PartitionNumber,
        event: (Location, EventId),
    ) -> Result<Option<Content>, ReadError> {
        self.queue.peek(partition, event).await
    }

    async fn drain(&self, within: Duration) -> usize {
        self.queue.drain(within).await
    }

    async fn scrub(&self, bytes_per_second: u64) -> Result<Scrubbed, ReadError> {
        self.queue.scrub(bytes_per_second).await
    }
}
