//! What is easier to show of the state machine alone than through a disk.

use std::collections::HashSet;

use types::{DataKey, KeyContext, WrappedDataKey};

use super::{Boot, Granted, LeaseRequest, Limits, LoadRequest, Log, NewEvent};
use crate::{
    EventId, FunctionNumber, Location, Ordinal, PartitionNumber, SegmentId,
    entry::Entry,
    format::{
        event::EventHeader,
        purge::Purge,
        segment::{LogId, Salt, SegmentHeader},
    },
    partition::Order,
};

const CAPACITY: u64 = 60 * 1024 - 16;

fn commit(log: &mut Log) {
    log.begin_commit().unwrap();
    log.committed();
}

/// A log with one segment, and a function.
fn log() -> (Log, FunctionNumber) {
    let mut log = Log::new(LogId([1; 16]), Limits { segment_bytes: 64 * 1024, ..Limits::default() });
    log.provide(header(1));
    let context = KeyContext { arn: "arn:f".to_owned(), purpose: "queue".to_owned() };
    let function = log.add_function(context, WrappedDataKey(vec![1]), DataKey::new([3; 32]));
    (log, function)
}

fn header(segment: u8) -> SegmentHeader {
    SegmentHeader {
        log: LogId([1; 16]),
        segment: SegmentId(segment.into()),
        capacity: CAPACITY,
        created_ms: 0,
        salt: Salt([segment; 32]),
        previous: [0; 32],
    }
}

/// The next segment is begun, and what is in the one before is found by its index.
fn go_on_in_the_second(log: &mut Log) {
    log.provide(header(2));
    log.indexed(SegmentId(1));
}

#[test]
fn an_old_redirect_is_not_carried_behind_a_new_one() {
    let (mut log, function) = log();
    let (first, second) = (log.add_partition("a", Order::None), log.add_partition("b", Order::None));
    log.redirect(function, Some(first)).unwrap();
    commit(&mut log);
    go_on_in_the_second(&mut log);
    log.redirect(function, Some(second)).unwrap();
    assert_eq!(log.carry().unwrap(), None, "the new one is pending");
    log.begin_commit().unwrap();
    assert_eq!(log.carry().unwrap(), None, "it is in flight");
    log.committed();
    assert_eq!((log.redirected(function), log.deletable()), (Some(second), Some(SegmentId(1))));
}

#[test]
fn an_old_checkpoint_is_not_carried_behind_a_new_one() {
    let (mut log, function) = log();
    let partition = log.add_partition("lane", Order::Strict);
    let checkpoint = |log: &mut Log, position: &[u8]| {
        let id = EventId([4; 16]);
        let event = NewEvent { id, partition, function, accepted_ms: 0, attributes: &[], payload: &[5] };
        log.enqueue(event).unwrap();
        commit(log);
        let (now, deadline, exclude) = (Boot::default(), Boot::MAX, HashSet::new());
        let request = LeaseRequest { partition, events: 1, bytes: 1, now, deadline, exclude: &exclude };
        let Granted::Events(epoch, grants) = log.lease(request) else { panic!("it is in memory") };
        log.checkpoint(epoch, grants[0].token, position).unwrap();
    };
    checkpoint(&mut log, b"first");
    commit(&mut log);
    go_on_in_the_second(&mut log);
    checkpoint(&mut log, b"second");
    assert_eq!(log.carry().unwrap(), None, "the new one is pending");
    commit(&mut log);
    assert_eq!(log.checkpoint_of(partition).unwrap().position, b"second");
    assert_eq!(log.deletable(), Some(SegmentId(1)));
}

#[test]
fn what_is_not_written_anew_is_carried() {
    let (mut log, function) = log();
    let partition = log.add_partition("a", Order::None);
    log.redirect(function, Some(partition)).unwrap();
    commit(&mut log);
    go_on_in_the_second(&mut log);
    assert!(log.carry().unwrap().is_some() && log.deletable().is_none());
    commit(&mut log);
    assert_eq!((log.redirected(function), log.deletable()), (Some(partition), Some(SegmentId(1))));
}

#[test]
fn a_purged_event_is_not_moved_before_it_is_marked() {
    let (mut log, function) = log();
    let segment = SegmentId(1);
    let partition = log.add_partition("shared/0", Order::None);
    let id = EventId([4; 16]);
    let event = NewEvent { id, partition, function, accepted_ms: 0, attributes: &[], payload: &[5] };
    log.enqueue(event).unwrap();
    commit(&mut log);
    let location = Location { segment, ordinal: Ordinal(0) };
    let entry = Entry { location, offset: 4096, length: 100, accepted_ms: 0, moved: false };
    let header = EventHeader { partition, function, ordinal: Ordinal(0), accepted_ms: 0, id, moved: None };
    log.purge(Purge::Function(function)).unwrap();
    assert_eq!(log.move_event(entry, header, &[]).unwrap(), None, "the purge is being written");
    commit(&mut log);
    assert_eq!(log.move_event(entry, header, &[]).unwrap(), None, "its events are not marked yet");
    log.swept(log.unswept().unwrap(), &[location]);
    assert!(log.is_done(location));
}

#[test]
fn a_write_ends_with_its_page_and_never_behind_the_segments_records() {
    let (mut log, function) = log();
    let partition = log.add_partition("shared/0", Order::None);
    let id = EventId([4; 16]);
    let event = |payload| NewEvent { id, partition, function, accepted_ms: 0, attributes: &[], payload };
    log.enqueue(event(&[5; 100])).unwrap();
    let first = log.begin_commit().unwrap();
    assert_eq!((first.offset, first.bytes.len()), (4096, 4096));
    log.committed();
    // The capacity is no multiple of a page here: the rest of the segment, and no more.
    let rest = (0..).take_while(|_| log.enqueue(event(&[5; 1000])).is_ok()).count();
    let last = log.begin_commit().unwrap();
    assert!(rest > 50 && last.offset < 8192, "it goes on where the records before ended: {}", last.offset);
    assert_eq!(last.offset + last.bytes.len() as u64, CAPACITY);
}

/// Queues an event for each of these functions, in this order, and makes them durable.
fn enqueue(log: &mut Log, partition: PartitionNumber, functions: &[FunctionNumber]) {
    for &function in functions {
        let id = EventId([4; 16]);
        let event = NewEvent { id, partition, function, accepted_ms: 0, attributes: &[], payload: &[5] };
        log.enqueue(event).unwrap();
    }
    commit(log);
}

fn lease(log: &mut Log, partition: PartitionNumber, events: usize, bytes: u64) -> Granted {
    let (now, deadline, exclude) = (Boot::default(), Boot::MAX, HashSet::new());
    log.lease(LeaseRequest { partition, events, bytes, now, deadline, exclude: &exclude })
}

/// The ordinals of what is granted.
fn granted(granted: Granted) -> Vec<u32> {
    let Granted::Events(_, grants) = granted else { panic!("{granted:?}") };
    grants.iter().map(|grant| grant.token.ordinal.0).collect()
}

/// What the index of the first segment says of a stream.
fn indexed(load: LoadRequest, ordinals: impl Iterator<Item = u32>) -> Vec<Entry> {
    let entry = |ordinal| {
        let location = Location { segment: SegmentId(1), ordinal: Ordinal(ordinal) };
        Entry { location, offset: 4096, length: 100, accepted_ms: 0, moved: false }
    };
    ordinals.map(entry).filter(|entry| entry.location >= load.from).take(load.events).collect()
}

#[test]
fn streams_of_a_partition_take_turns_by_the_places_of_their_events() {
    let (mut log, f) = log();
    let context = KeyContext { arn: "arn:g".to_owned(), purpose: "queue".to_owned() };
    let g = log.add_function(context, WrappedDataKey(vec![1]), DataKey::new([3; 32]));
    let partition = log.add_partition("shared/0", Order::None);
    enqueue(&mut log, partition, &[f, f, g, f, g, g, f]);
    assert_eq!(granted(lease(&mut log, partition, 5, u64::MAX)), [0, 1, 2, 3, 4]);
    assert_eq!(granted(lease(&mut log, partition, 5, u64::MAX)), [5, 6]);
}

#[test]
fn a_lease_reads_as_much_of_an_index_at_once_as_it_takes() {
    let (mut log, function) = log();
    let partition = log.add_partition("shared/0", Order::None);
    enqueue(&mut log, partition, &[function; 400]);
    go_on_in_the_second(&mut log);
    let window = granted(lease(&mut log, partition, 300, u64::MAX));
    assert_eq!(window.len(), 64, "a disk is not waited for once there is something");
    let Granted::Load(load) = lease(&mut log, partition, 300, u64::MAX) else { panic!("more is to be had") };
    assert_eq!((load.from.ordinal, load.events), (Ordinal(64), 300));
    let entries = indexed(load, 0..400);
    log.loaded(load, &entries, entries.last().unwrap().location.next());
    assert_eq!(granted(lease(&mut log, partition, 300, u64::MAX)), (64..364).collect::<Vec<_>>());
}

#[test]
fn what_is_read_of_an_index_and_not_taken_is_no_more_than_a_window() {
    let (mut log, f) = log();
    let context = KeyContext { arn: "arn:g".to_owned(), purpose: "queue".to_owned() };
    let g = log.add_function(context, WrappedDataKey(vec![1]), DataKey::new([3; 32]));
    let (alone, both) =
        (log.add_partition("shared/0", Order::None), log.add_partition("shared/1", Order::None));
    enqueue(&mut log, alone, &[f; 200]);
    enqueue(&mut log, both, &[f, g].repeat(100));
    go_on_in_the_second(&mut log);
    // What has been in memory since it was queued.
    for partition in [alone, both] {
        assert!(granted(lease(&mut log, partition, 128, u64::MAX)).len() >= 64);
    }
    // By what their records take.
    let Granted::Load(load) = lease(&mut log, alone, 100, 1000) else { panic!("more is to be had") };
    let entries = indexed(load, 0..200);
    assert_eq!(entries.len(), 100);
    log.loaded(load, &entries, entries.last().unwrap().location.next());
    assert_eq!(granted(lease(&mut log, alone, 100, 1000)).len(), 10);
    let Granted::Events(..) = lease(&mut log, alone, 54, u64::MAX) else { panic!("the window has them") };
    let Granted::Load(load) = lease(&mut log, alone, 1, u64::MAX) else { panic!("more is to be had") };
    assert_eq!(load.from.ordinal, Ordinal(128));
    // By whose turn it is.
    let Granted::Load(load) = lease(&mut log, both, 100, u64::MAX) else { panic!("more is to be had") };
    assert_eq!(load.events, 64);
}
