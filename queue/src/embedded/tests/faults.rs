//! Storage that fails at one call of one kind, for every call that a history makes; and a disk that is full.
//!
//! What must hold whichever it is: whoever was told `Ok` was told the truth, whoever asked for what failed was told so, the log goes
//! on by itself, a file that failed is never written or synced again, and all that was accepted is there at the end.

use std::{collections::HashSet, io::ErrorKind, time::Duration};

use super::{
    history::{History, numbers},
    rig::{Rig, now, request},
};
use crate::{
    EmbeddedQueue, Event, EventId, FunctionNumber, LeaseEpoch, Leased, PartitionNumber, Queue, WriteError,
    partition::Order,
    storage::memory::{Call, Fault},
};

const STEPS: usize = 200;
/// Linux's EIO has no kind of its own.
const EIO: ErrorKind = ErrorKind::Other;

/// A history without faults of its own.
fn calm(seed: u64) -> History {
    let mut history = History::begin(seed);
    history.calm = true;
    history
}

/// Lets each call of this kind that a history makes fail, one at a time.
fn every(kind: Call, error: ErrorKind) {
    let mut whole = calm(1);
    let first = whole.rig.disk.calls_of(kind);
    (0..STEPS).for_each(|_| whole.step());
    let behind = whole.rig.disk.calls_of(kind);
    let recoveries = std::mem::take(&mut whole.recovery_syncs);
    whole.end();
    for call in first..behind {
        let mut history = calm(1);
        history.rig.disk.fail_nth(kind, call, error);
        (0..STEPS).for_each(|_| history.step());
        let disk = history.rig.disk.clone();
        assert_eq!(disk.faults_met(), 1, "{kind:?} {call}");
        let excused = match kind {
            // A recovery that cannot sync what the last process left goes by what the disk has.
            Call::Sync => recoveries.iter().any(|syncs| syncs.contains(&call)),
            // Room for the next LOG, which is set aside ahead of time if it can be.
            Call::Create => disk.not_made().as_deref() == Some("LOG.partial"),
            // What cannot be read together is read one by one, what cannot be opened is made again.
            Call::Open | Call::Read => true,
            _ => false,
        };
        // Without room upkeep does what makes some, and what takes some later.
        let excused = excused || error == ErrorKind::StorageFull;
        assert!(history.errors > 0 || excused, "{kind:?} {call} failed, and nobody was told");
        history.end();
        assert_eq!(disk.calls_after_failure(), 0, "{kind:?} {call}: a file that failed was used again");
    }
    let faults = behind - first;
    assert!(faults > 0);
    let error = if error == EIO { "EIO" } else { "ENOSPC" };
    println!(
        "queue: {faults} faults, {error} at each {kind:?} of a history: 0 false acknowledgements, 0 lost"
    );
}

macro_rules! faults {
    ($(fn $name:ident() { $kind:ident, $error:expr })*) => {
        $(#[test]
        fn $name() {
            every(Call::$kind, $error);
        })*
    };
}

faults! {
    fn a_create_or_preallocation_that_fails_loses_nothing() { Create, EIO }
    fn a_write_that_fails_loses_nothing() { Write, EIO }
    fn a_sync_that_fails_loses_nothing() { Sync, EIO }
    fn a_rename_that_fails_loses_nothing() { Rename, EIO }
    fn a_remove_that_fails_loses_nothing() { Remove, EIO }
    fn a_sync_of_the_directory_that_fails_loses_nothing() { SyncDirectory, EIO }
    fn an_open_that_fails_loses_nothing() { Open, EIO }
    fn a_read_that_fails_loses_nothing() { Read, EIO }
    fn a_create_or_preallocation_without_room_loses_nothing() { Create, ErrorKind::StorageFull }
    fn a_write_without_room_loses_nothing() { Write, ErrorKind::StorageFull }
    fn a_sync_without_room_loses_nothing() { Sync, ErrorKind::StorageFull }
    fn a_rename_without_room_loses_nothing() { Rename, ErrorKind::StorageFull }
}

const LEASE: Duration = Duration::from_secs(60);

struct Ready {
    rig: Rig,
    queue: EmbeddedQueue,
    function: FunctionNumber,
    shared: PartitionNumber,
}

fn ready(rig: Rig) -> Ready {
    let (queue, _) = rig.try_open().unwrap();
    let function = queue.function("arn:f").unwrap();
    let shared = queue.partition("shared/0", Order::None).unwrap();
    Ready { rig, queue, function, shared }
}

impl Ready {
    fn put(&self, id: u64, bytes: usize) -> Result<(), WriteError> {
        let (function, partition) = (self.function, self.shared);
        let payload = vec![7; bytes];
        let mut event_id = [0; 16];
        event_id[..8].copy_from_slice(&id.to_be_bytes());
        let id = EventId(event_id);
        now(self.queue.enqueue(&[Event { id, function, partition, attributes: &[], payload: &payload }]))
    }

    fn lease(&self, events: usize) -> (LeaseEpoch, Vec<Leased>) {
        let exclude = HashSet::new();
        now(self.queue.lease(request(self.shared, events, LEASE, &exclude))).unwrap()
    }

    /// All that can be leased, in the order of leases.
    fn all(&self) -> Vec<(LeaseEpoch, Vec<Leased>)> {
        let lease = || Some(self.lease(1000)).filter(|(_, leased)| !leased.is_empty());
        std::iter::from_fn(lease).collect()
    }

    fn ack(&self, epoch: LeaseEpoch, leased: &[Leased]) -> Result<(), WriteError> {
        let tokens: Vec<_> = leased.iter().map(|event| (event.token, event.id)).collect();
        now(self.queue.ack(epoch, &tokens))
    }
}

fn sorted(leases: &[(LeaseEpoch, Vec<Leased>)]) -> Vec<u64> {
    let ids: Vec<EventId> =
        leases.iter().flat_map(|(_, leased)| leased.iter().map(|event| event.id)).collect();
    let mut numbers = numbers(&ids);
    numbers.sort_unstable();
    numbers
}

#[test]
fn after_a_failed_write_or_sync_the_log_goes_on_in_a_new_segment() {
    for kind in [Call::Write, Call::Sync] {
        let it = ready(Rig::new());
        it.put(1, 100).unwrap();
        it.rig.disk.fail_nth(kind, it.rig.disk.calls_of(kind), EIO);
        let failed = it.put(2, 100);
        assert!(matches!(failed, Err(WriteError::Io(_))), "{failed:?}");
        assert_eq!(it.queue.failures(), 1);
        it.put(3, 100).unwrap();
        let leases = it.all();
        assert_eq!(sorted(&leases), [1, 3], "{kind:?}");
        let segments: Vec<u64> = leases[0].1.iter().map(|event| event.token.segment.0).collect();
        assert_eq!(segments, [1, 2], "{kind:?}");
        assert_eq!(it.rig.disk.calls_after_failure(), 0);
    }
}

/// Everything up to the last byte is in use: what can still be written has its place already. Small events leave hardly any room
/// in the segment that is written.
fn fill_up(it: &Ready) -> Vec<u64> {
    while now(it.queue.upkeep().step()).unwrap() {}
    it.rig.disk.set_full(true);
    let mut accepted = Vec::new();
    for id in 0.. {
        match it.put(id, 100) {
            Ok(()) => accepted.push(id),
            Err(WriteError::NoSpace) => break,
            other => panic!("{other:?}"),
        }
        // It does what it can.
        let _ = now(it.queue.upkeep().step());
    }
    accepted
}

#[test]
fn on_a_full_disk_events_are_refused_and_acks_and_notes_go_on() {
    let it = ready(Rig::new());
    it.put(u64::MAX, 100).unwrap();
    let mut accepted = fill_up(&it);
    accepted.push(u64::MAX);
    let leases = it.all();
    assert_eq!(sorted(&leases), accepted, "refused is refused");
    let event = &leases[0].1[0];
    now(it.queue.note(leases[0].0, (event.token, event.id), 1, 0)).unwrap();
    for (epoch, leased) in &leases {
        for some in leased[1..].chunks(20) {
            it.ack(*epoch, some).unwrap();
        }
    }
    let refused = it.put(0, 3000);
    assert!(matches!(refused, Err(WriteError::NoSpace)), "{refused:?}");
    assert_eq!(it.queue.failures(), 0);
    drop(it.queue);
    it.rig.disk.crash(&mut |bound| bound - 1);
    let it = ready(it.rig);
    let kept: Vec<_> = leases.iter().map(|(epoch, leased)| (*epoch, leased[..1].to_vec())).collect();
    let again = it.all();
    assert_eq!(sorted(&again), sorted(&kept));
    assert_eq!(again[0].1[0].attempts, 1);
}

#[test]
fn a_full_disk_becomes_free_by_acks_alone() {
    let it = ready(Rig::new());
    for id in 0..300 {
        it.put(id, 1000).unwrap();
    }
    fill_up(&it);
    for (epoch, leased) in it.all() {
        it.ack(epoch, &leased).unwrap();
    }
    // Nobody else makes room, but what is done can go.
    while now(it.queue.upkeep().step()).is_ok_and(|did| did) {}
    for id in 0..100 {
        it.put(id, 1000).unwrap();
        let _ = now(it.queue.upkeep().step());
    }
    assert_eq!(it.queue.failures(), 0);
}

#[test]
fn when_there_is_room_again_events_are_accepted_without_a_restart() {
    let it = ready(Rig::new());
    let accepted = fill_up(&it);
    it.rig.disk.set_full(false);
    while now(it.queue.upkeep().step()).unwrap() {}
    it.put(u64::MAX, 3000).unwrap();
    assert_eq!(sorted(&it.all()), [accepted, vec![u64::MAX]].concat());
}

#[test]
fn a_disk_that_keeps_failing_does_not_fill_up() {
    for kind in [Call::Write, Call::Sync, Call::Rename, Call::SyncDirectory] {
        let it = ready(Rig::new());
        it.put(0, 100).unwrap();
        let next = it.rig.disk.calls_of(kind);
        (next..next + 100).for_each(|call| it.rig.disk.fail_nth(kind, call, EIO));
        for id in 1.. {
            if it.put(id, 100).is_ok() && it.rig.disk.faults_met() == 100 {
                break;
            }
            let _ = now(it.queue.upkeep().step());
        }
        let files = it.rig.disk.contents().len();
        assert!(files < 12, "{kind:?}: {files} files");
        assert_eq!(it.rig.disk.calls_after_failure(), 0);
    }
}

#[test]
fn a_machine_that_stops_promises_nothing_any_more() {
    let it = ready(Rig::new());
    it.put(1, 100).unwrap();
    let (epoch, leased) = it.lease(1);
    it.rig.disk.fail_at(it.rig.disk.calls(), Fault::Stop);
    assert!(it.put(2, 100).is_err());
    assert!(it.ack(epoch, &leased).is_err());
    assert!(now(it.queue.note(epoch, (leased[0].token, leased[0].id), 1, 0)).is_err());
    assert!(now(it.queue.purge(it.function)).is_err());
    assert!(now(it.queue.redirect(it.function, Some(it.shared))).is_err());
}
