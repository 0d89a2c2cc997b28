//! What is easier to show of the state machine alone than through a disk.

use types::{DataKey, KeyContext, WrappedDataKey};

use super::{Limits, Log, NewEvent};
use crate::{
    EventId, Location, Ordinal, SegmentId,
    entry::Entry,
    format::{
        event::EventHeader,
        purge::Purge,
        segment::{LogId, Salt, SegmentHeader},
    },
    partition::Order,
};

const CAPACITY: u64 = 60 * 1024;

fn commit(log: &mut Log) {
    log.begin_commit().unwrap();
    log.committed();
}

#[test]
fn a_purged_event_is_not_moved_before_it_is_marked() {
    let mut log = Log::new(LogId([1; 16]), Limits { segment_bytes: 64 * 1024, ..Limits::default() });
    let segment = SegmentId(1);
    let header = SegmentHeader {
        log: LogId([1; 16]),
        segment,
        capacity: CAPACITY,
        created_ms: 0,
        salt: Salt([2; 32]),
        previous: [0; 32],
    };
    log.provide(header);
    let context = KeyContext { arn: "arn:f".to_owned(), purpose: "queue".to_owned() };
    let function = log.add_function(context, WrappedDataKey(vec![1]), DataKey::new([3; 32]));
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
