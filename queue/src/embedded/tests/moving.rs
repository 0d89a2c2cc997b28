//! While an event is written again at the tail: between the appending of its copy and the copy's commit.

use std::{collections::HashSet, time::Duration};

use super::rig::{Rig, now};
use crate::{
    EmbeddedQueue, Event, EventId, LeaseEpoch, Leased, PartitionNumber, Queue, Request, SegmentId,
    partition::Order,
};

/// A lane with events 1, 2 and 3, each in a segment of its own. The last has room for a copy of the first.
fn lane() -> (EmbeddedQueue, PartitionNumber) {
    let queue = Rig::new().open();
    let function = queue.function("arn:f").unwrap();
    let partition = queue.partition("lane/0", Order::Strict).unwrap();
    for (id, bytes) in [(1, 20_000), (2, 40_000), (3, 30_000)] {
        let payload = vec![id; bytes];
        let event = Event { id: EventId([id; 16]), function, partition, attributes: &[], payload: &payload };
        now(queue.enqueue(&[event])).unwrap();
    }
    let upkeep = queue.upkeep();
    while now(upkeep.step()).unwrap() {}
    (queue, partition)
}

fn lease(queue: &EmbeddedQueue, partition: PartitionNumber) -> (LeaseEpoch, Vec<Leased>) {
    let exclude = HashSet::new();
    let (wait, lease) = (Duration::ZERO, Duration::from_secs(60));
    now(queue.lease(Request { partition, events: 9, bytes: u64::MAX, wait, lease, exclude: &exclude }))
        .unwrap()
}

fn ids(leased: &[Leased]) -> Vec<u8> {
    leased.iter().map(|event| event.id.0[0]).collect()
}

/// Appends the copies of the first segment's events, and commits nothing.
fn begin_to_move(queue: &EmbeddedQueue) {
    let mut entries = Vec::new();
    queue.shared.each_posting(SegmentId(1), None, |entry| entries.push(entry)).unwrap();
    assert!(!entries.is_empty());
    for entry in entries {
        let (header, content) = queue.shared.copy_event(entry).unwrap().unwrap();
        let moved = queue.shared.state().log.move_event(entry, header, &content).unwrap();
        assert!(moved.is_some());
    }
}

#[test]
fn a_lane_stands_still_while_its_next_event_moves() {
    let (queue, partition) = lane();
    begin_to_move(&queue);
    assert_eq!(ids(&lease(&queue, partition).1), [], "what comes next is on its way");
    assert!(queue.shared.lead());
    assert_eq!(ids(&lease(&queue, partition).1), [1, 2, 3]);
}

#[test]
fn a_lane_stands_still_while_an_event_moves_that_was_given_back() {
    let (queue, partition) = lane();
    let (epoch, leased) = lease(&queue, partition);
    begin_to_move(&queue);
    queue.release(epoch, &[leased[0].token]).unwrap();
    assert_eq!(ids(&lease(&queue, partition).1), []);
    assert!(queue.shared.lead());
    assert_eq!(ids(&lease(&queue, partition).1), [1, 2, 3]);
}
