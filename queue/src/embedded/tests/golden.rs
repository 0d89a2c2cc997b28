//! Files of every format that was ever released stay readable. `tests/golden/1/` was written by [`write`] when format 1 was made;
//! it is never written again.

use std::{collections::HashSet, fs, path::Path, sync::Arc, time::Duration};

use types::Keys;

use super::rig::{SEGMENT_BYTES, TestClock, TestKeys, now};
use crate::{
    Config, EmbeddedQueue, Event, EventId, LeaseEpoch, Leased, PartitionNumber, Queue, Request,
    SystemBootClock, embedded::Finding, partition::Order, verify,
};

const FUNCTIONS: [&str; 2] = ["arn:aws:lambda:us-east-1:000000000000:function:one", "two"];

/// The keys that the files were sealed with.
fn keys() -> TestKeys {
    let keys = TestKeys::default();
    for arn in FUNCTIONS {
        let context = types::KeyContext { arn: arn.to_owned(), purpose: "queue".to_owned() };
        keys.generate(&context).unwrap();
    }
    keys
}

fn open(directory: &Path, keys: TestKeys) -> (EmbeddedQueue, Vec<Finding>) {
    let keys = Arc::new(keys);
    let config = Config { segment_bytes: SEGMENT_BYTES, ..Config::new(directory.to_owned()) };
    EmbeddedQueue::open(config, keys, Arc::new(TestClock::new()), Arc::new(SystemBootClock)).unwrap()
}

fn lease(queue: &EmbeddedQueue, partition: PartitionNumber, events: usize) -> (LeaseEpoch, Vec<Leased>) {
    let exclude = HashSet::new();
    let request = Request {
        partition,
        events,
        bytes: u64::MAX,
        wait: Duration::ZERO,
        lease: Duration::from_secs(60),
        exclude: &exclude,
    };
    now(queue.lease(request)).unwrap()
}

fn payload(number: u8) -> Vec<u8> {
    vec![number; 20 * usize::from(number)]
}

/// A record of every kind: 20 events in two partitions, of which 1 is done, 2 has a note, 11 and 12 are behind a checkpoint; then enough that
/// is done to have the first segment emptied, so that events were moved; then 80 more.
fn write(directory: &Path) {
    let (queue, _) = open(directory, TestKeys::default());
    let shared = queue.partition("shared/0", Order::None).unwrap();
    let lane = queue.partition("lane/0", Order::Strict).unwrap();
    let noise = queue.partition("noise", Order::None).unwrap();
    let [one, two] = FUNCTIONS.map(|arn| queue.function(arn).unwrap());
    let put = |function, partition, id: [u8; 16], payload: &[u8]| {
        let event = Event { id: EventId(id), function, partition, attributes: b"attributes", payload };
        now(queue.enqueue(&[event])).unwrap();
    };
    for number in 1..=20 {
        let (function, partition) = if number <= 10 { (one, shared) } else { (two, lane) };
        put(function, partition, [number; 16], &payload(number));
    }
    let (epoch, leased) = lease(&queue, shared, 2);
    now(queue.ack(epoch, &[(leased[0].token, leased[0].id)])).unwrap();
    now(queue.note(epoch, (leased[1].token, leased[1].id), 3, 1)).unwrap();
    queue.release(epoch, &[leased[1].token]).unwrap();
    let (epoch, leased) = lease(&queue, lane, 2);
    now(queue.checkpoint(epoch, leased[1].token, b"position")).unwrap();
    now(queue.redirect(one, Some(noise))).unwrap();
    let upkeep = queue.upkeep();
    for round in 0..140 {
        put(two, noise, [100 + round; 16], &vec![round; if round < 60 { 10 } else { 1000 }]);
    }
    now(queue.purge(two)).unwrap();
    while now(upkeep.step()).unwrap() {}
    // So much that a segment is closed, and has an index.
    let more = queue.partition("more", Order::None).unwrap();
    for number in 0..80 {
        put(two, more, [number; 16], &[number; 1000]);
    }
    while now(upkeep.step()).unwrap() {}
}

#[test]
#[ignore = "writes what the other test reads; once for each format"]
fn write_the_golden_files() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/1");
    fs::create_dir_all(&directory).unwrap();
    write(&directory);
    for entry in fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "partial") {
            fs::remove_file(path).unwrap();
        }
    }
}

fn check(directory: &Path) {
    assert_eq!(verify(directory).unwrap().findings, []);
    let (queue, findings) = open(directory, keys());
    assert_eq!(findings, []);
    let shared = queue.partition("shared/0", Order::None).unwrap();
    let lane = queue.partition("lane/0", Order::Strict).unwrap();
    let noise = queue.partition("noise", Order::None).unwrap();
    let one = queue.function(FUNCTIONS[0]).unwrap();
    for (partition, numbers) in [(shared, 2..=10), (lane, 13..=20)] {
        let (_, mut leased) = lease(&queue, partition, 100);
        leased.sort_by_key(|event| event.id);
        assert_eq!(
            leased.iter().map(|event| event.id.0[0]).collect::<Vec<_>>(),
            numbers.collect::<Vec<u8>>()
        );
        for event in leased {
            assert_eq!((&event.attributes[..], event.payload), (&b"attributes"[..], payload(event.id.0[0])));
            assert_eq!(event.attempts, if event.id.0[0] == 2 { 3 } else { 0 });
        }
    }
    let more = queue.partition("more", Order::None).unwrap();
    let mut found = 0;
    while let (_, leased) = lease(&queue, more, 100)
        && !leased.is_empty()
    {
        found += leased.len();
    }
    assert_eq!(found, 80);
    assert_eq!(lease(&queue, noise, 1).1, [], "purged");
    assert_eq!(queue.position(lane).as_deref(), Some(&b"position"[..]));
    assert_eq!(queue.redirected(one), Some(noise));
}

#[test]
fn files_of_format_1_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/1");
    for entry in fs::read_dir(golden).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), directory.path().join(entry.file_name())).unwrap();
    }
    check(directory.path());
}

#[test]
fn what_is_written_now_is_read_too() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path());
    check(directory.path());
}

#[tokio::test]
async fn the_upkeep_runs_until_it_is_told_to_stop() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path());
    let (queue, _) = open(directory.path(), keys());
    let partitions = ["shared/0", "more"].map(|name| queue.partition(name, Order::None).unwrap());
    let before = queue.disk_use().0;
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let upkeep = queue.upkeep();
    let work = async {
        for partition in partitions {
            while let (epoch, leased) = lease(&queue, partition, 100)
                && !leased.is_empty()
            {
                let tokens: Vec<_> = leased.iter().map(|event| (event.token, event.id)).collect();
                queue.ack(epoch, &tokens).await.unwrap();
            }
        }
        // The few events of the lane are moved, and what held them goes.
        while queue.disk_use().0 >= before {
            tokio::task::yield_now().await;
        }
        stop.send(()).unwrap();
    };
    tokio::join!(upkeep.run(async { stopped.await.unwrap() }), work);
}
