//! Logs that are read beside whoever has them open.

use std::{
    collections::HashSet,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::rig::{SEGMENT_BYTES, TestClock, TestKeys, now};
use crate::{
    Config, EmbeddedQueue, Event, EventId, EventState, Finding, Location, OpenError, Ordinal,
    PartitionNumber, Queue, Request, SegmentId, Snapshot, partition::Order,
};

const LEASE: Duration = Duration::from_secs(60);

fn opened(directory: &Path) -> EmbeddedQueue {
    let config = Config { segment_bytes: SEGMENT_BYTES, ..Config::new(directory.to_owned()) };
    let clock = Arc::new(TestClock::new());
    EmbeddedQueue::open(config, Arc::new(TestKeys::default()), clock.clone(), clock).unwrap().0
}

fn snapshot(directory: &Path) -> Result<Snapshot, OpenError> {
    let clock = Arc::new(TestClock::new());
    Snapshot::read(directory, clock.clone(), clock)
}

fn put(queue: &EmbeddedQueue, partition: PartitionNumber, numbers: impl IntoIterator<Item = u8>) {
    let function = queue.function("arn:f").unwrap();
    for number in numbers {
        let event = Event {
            id: EventId([number; 16]),
            function,
            partition,
            attributes: b"a",
            payload: &[number; 500],
        };
        now(queue.enqueue(&[event])).unwrap();
    }
}

fn finish(queue: &EmbeddedQueue, partition: PartitionNumber, events: usize) {
    let exclude = HashSet::new();
    let request =
        Request { partition, events, bytes: u64::MAX, wait: Duration::ZERO, lease: LEASE, exclude: &exclude };
    let (epoch, leased) = now(queue.lease(request)).unwrap();
    let done: Vec<_> = leased.iter().map(|event| (event.token, event.id)).collect();
    now(queue.ack(epoch, &done)).unwrap();
}

#[test]
fn a_snapshot_says_what_the_open_queue_says() {
    let directory = tempfile::tempdir().unwrap();
    let queue = opened(directory.path());
    let shared = queue.partition("shared/0", Order::None).unwrap();
    put(&queue, shared, 0..=250);
    finish(&queue, shared, 3);
    while now(queue.upkeep().step()).unwrap() {}
    put(&queue, shared, [251]);
    let snapshot = snapshot(directory.path()).unwrap();
    assert_eq!(snapshot.findings(), []);
    let [partition] = &snapshot.partitions().unwrap()[..] else { panic!("one partition") };
    assert_eq!((&partition.name[..], partition.order), ("shared/0", Order::None));
    assert_eq!(partition.depth, queue.depth(shared));
    assert_eq!(partition.functions, now(queue.stat(shared)).unwrap());
    assert_eq!(snapshot.functions().into_values().collect::<Vec<_>>(), ["arn:f"]);
    let segments = snapshot.segments();
    assert_eq!(segments.iter().map(|segment| segment.live).sum::<u64>(), 249);
    for segment in &segments {
        let streams = snapshot.streams(segment.segment).unwrap().unwrap();
        assert_eq!(
            streams.iter().map(|stream| (stream.events, stream.live)).sum::<Pair>(),
            Pair(segment.events, segment.live)
        );
    }
    let state = |ordinal| {
        let location = Location { segment: SegmentId(1), ordinal: Ordinal(ordinal) };
        snapshot.record(location).unwrap().map(|record| (record.id.0[0], record.state))
    };
    assert_eq!(state(2), Some((2, None)), "done");
    assert_eq!(state(3), Some((3, Some(EventState::Waiting))));
    assert_eq!(state(1_000_000), None);
    assert_eq!(snapshot.streams(SegmentId(99)).unwrap(), None);
}

#[test]
fn a_snapshot_can_be_asked_when_what_it_read_is_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let queue = opened(directory.path());
    let shared = queue.partition("shared/0", Order::None).unwrap();
    put(&queue, shared, 0..=250);
    while now(queue.upkeep().step()).unwrap() {}
    let snapshot = snapshot(directory.path()).unwrap();
    now(queue.purge(queue.function("arn:f").unwrap())).unwrap();
    while now(queue.upkeep().step()).unwrap() {}
    assert!(!directory.path().join("0000000000000001.index").exists());
    assert_eq!(snapshot.partitions().unwrap()[0].depth.events, 251);
}

#[derive(Debug, PartialEq)]
struct Pair(u64, u64);

impl std::iter::Sum<(u64, u64)> for Pair {
    fn sum<I: Iterator<Item = (u64, u64)>>(pairs: I) -> Self {
        pairs.fold(Self(0, 0), |sum, pair| Self(sum.0 + pair.0, sum.1 + pair.1))
    }
}

/// Ends the work also when the test fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Segments begin, get their indexes and are deleted many times a second meanwhile.
#[test]
fn snapshots_are_taken_of_a_queue_that_is_worked_on() {
    const WAITING: usize = 50;
    let directory = tempfile::tempdir().unwrap();
    let queue = opened(directory.path());
    let shared = queue.partition("shared/0", Order::None).unwrap();
    put(&queue, shared, [0; WAITING]);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                put(&queue, shared, [0; 60]);
                finish(&queue, shared, 60);
                while now(queue.upkeep().step()).unwrap() {}
            }
        });
        let _end = End(&ended);
        let mut newest = HashSet::new();
        while newest.len() < 30 {
            let snapshot = snapshot(directory.path()).unwrap();
            let odd: Vec<_> =
                snapshot.findings().iter().filter(|it| !matches!(it, Finding::Torn { .. })).collect();
            assert!(odd.is_empty(), "{odd:?}");
            let waiting: u64 = snapshot.partitions().unwrap().iter().map(|it| it.depth.events).sum();
            // Acks are in the log behind the events, so that those of the last round may be seen without them.
            let plausible = (WAITING as u64..=WAITING as u64 + 60).contains(&waiting);
            assert!(plausible, "{waiting}: {:?} {:?}", snapshot.segments(), snapshot.findings());
            newest.extend(snapshot.segments().last().map(|segment| segment.segment));
        }
    });
}

#[test]
fn there_is_no_snapshot_of_nothing_and_none_is_left_behind() {
    let directory = tempfile::tempdir().unwrap();
    assert!(matches!(snapshot(directory.path()), Err(OpenError::NoQueue)));
    assert!(matches!(crate::verify(directory.path()), Err(OpenError::NoQueue)));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}
