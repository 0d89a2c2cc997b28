//! One thing at a time.

use std::{collections::HashSet, time::Duration};

use super::rig::{Rig, now};
use crate::{
    EmbeddedQueue, Event, EventId, FunctionNumber, LeaseEpoch, Leased, OpenError, PartitionNumber, Queue,
    Refused, Request, WriteError, partition::Order,
};

const LEASE: Duration = Duration::from_secs(60);

struct Ready {
    rig: Rig,
    queue: EmbeddedQueue,
    function: FunctionNumber,
    shared: PartitionNumber,
    lane: PartitionNumber,
}

fn ready() -> Ready {
    let rig = Rig::new();
    reopened(rig)
}

fn reopened(rig: Rig) -> Ready {
    let queue = rig.open();
    let function = queue.function("arn:f").unwrap();
    let shared = queue.partition("shared/0", Order::None).unwrap();
    let lane = queue.partition("lane/0", Order::Strict).unwrap();
    Ready { rig, queue, function, shared, lane }
}

impl Ready {
    fn put(&self, partition: PartitionNumber, ids: impl IntoIterator<Item = u8>) {
        for id in ids {
            let payload = [id; 100];
            let event = Event {
                id: EventId([id; 16]),
                function: self.function,
                partition,
                attributes: b"attributes",
                payload: &payload,
            };
            now(self.queue.enqueue(&[event])).unwrap();
        }
    }

    fn lease(&self, partition: PartitionNumber, events: usize) -> (LeaseEpoch, Vec<Leased>) {
        let exclude = HashSet::new();
        now(self.queue.lease(Request {
            partition,
            events,
            bytes: u64::MAX,
            wait: Duration::ZERO,
            lease: LEASE,
            exclude: &exclude,
        }))
        .unwrap()
    }

    /// Everything that can be leased now, in as many leases as it takes.
    fn lease_all(&self, partition: PartitionNumber) -> Vec<(LeaseEpoch, Vec<Leased>)> {
        let leases = std::iter::repeat_with(|| self.lease(partition, 1000));
        leases.take_while(|(_, leased)| !leased.is_empty()).collect()
    }

    fn upkeep(&self) {
        let upkeep = self.queue.upkeep();
        while now(upkeep.step()).unwrap() {}
    }

    fn crash(self) -> Self {
        drop(self.queue);
        // Nothing that was not synced survives.
        self.rig.disk.crash(&mut |bound| bound - 1);
        reopened(self.rig)
    }
}

fn ids(leased: &[Leased]) -> Vec<u8> {
    leased.iter().map(|event| event.id.0[0]).collect()
}

fn done(leased: &[Leased]) -> Vec<(crate::Location, EventId)> {
    leased.iter().map(|event| (event.token, event.id)).collect()
}

#[test]
fn an_event_comes_back_as_it_was_once() {
    let it = ready();
    it.put(it.shared, [1]);
    let (epoch, leased) = it.lease(it.shared, 10);
    assert_eq!(leased.len(), 1);
    let event = &leased[0];
    assert_eq!((event.function, event.partition, event.attempts), (it.function, it.shared, 0));
    assert_eq!((&event.attributes[..], &event.payload[..]), (&b"attributes"[..], &[1; 100][..]));
    assert_eq!(event.accepted, Duration::from_millis(it.rig.clock.wall_ms()));
    assert_eq!(it.lease(it.shared, 10).1, [], "leased");
    assert_eq!(it.queue.depth(it.shared).events, 1);
    now(it.queue.ack(epoch, &done(&leased))).unwrap();
    assert_eq!(it.queue.depth(it.shared), Default::default());
    let it = it.crash();
    assert_eq!(it.lease(it.shared, 10).1, [], "done for good");
}

#[test]
fn what_is_not_acked_comes_back_after_a_crash() {
    let it = ready();
    it.put(it.shared, [1, 2, 3]);
    let (epoch, leased) = it.lease(it.shared, 2);
    now(it.queue.ack(epoch, &done(&leased[..1]))).unwrap();
    let it = it.crash();
    assert_eq!(ids(&it.lease(it.shared, 10).1), [2, 3]);
}

#[test]
fn a_lost_lease_gives_its_events_back_and_cannot_ack_them() {
    let it = ready();
    it.put(it.shared, [1, 2]);
    let (lost, leased) = it.lease(it.shared, 1);
    it.rig.clock.advance(LEASE);
    let (epoch, again) = it.lease(it.shared, 10);
    assert_eq!(ids(&again), [1, 2]);
    let refused = now(it.queue.ack(lost, &done(&leased)));
    assert!(matches!(refused, Err(WriteError::Refused(Refused::LeaseLost))), "{refused:?}");
    now(it.queue.ack(epoch, &done(&again))).unwrap();
}

#[test]
fn an_extended_lease_is_not_lost() {
    let it = ready();
    it.put(it.shared, [1]);
    let (epoch, _) = it.lease(it.shared, 1);
    it.rig.clock.advance(LEASE / 2);
    it.queue.extend(epoch, LEASE).unwrap();
    it.rig.clock.advance(LEASE / 2);
    assert_eq!(it.lease(it.shared, 1).1, []);
    it.rig.clock.advance(LEASE / 2);
    assert_eq!(it.lease(it.shared, 1).1.len(), 1);
}

#[test]
fn the_wall_clock_may_jump_without_losing_a_lease() {
    let it = ready();
    it.put(it.shared, [1]);
    it.lease(it.shared, 1);
    for jump in [3_600_000, -7_200_000] {
        it.rig.clock.jump(jump);
        assert_eq!(it.lease(it.shared, 1).1, []);
    }
}

#[test]
fn a_noted_event_waits_for_its_time_and_knows_its_attempts_even_after_a_crash() {
    let it = ready();
    it.put(it.shared, [1, 2]);
    let (epoch, leased) = it.lease(it.shared, 1);
    let not_before = it.rig.clock.wall_ms() + 5_000;
    now(it.queue.note(epoch, (leased[0].token, leased[0].id), 3, not_before)).unwrap();
    it.queue.release(epoch, &[leased[0].token]).unwrap();
    assert_eq!(ids(&it.lease(it.shared, 10).1), [2]);
    let it = it.crash();
    assert_eq!(ids(&it.lease(it.shared, 10).1), [2]);
    it.rig.clock.advance(Duration::from_secs(5));
    let (_, again) = it.lease(it.shared, 10);
    assert_eq!((ids(&again), again[0].attempts), (vec![1], 3));
}

#[test]
fn excluded_functions_are_passed_over() {
    let it = ready();
    it.put(it.shared, [1]);
    let other = it.queue.function("arn:other").unwrap();
    let event =
        Event { id: EventId([2; 16]), function: other, partition: it.shared, attributes: &[], payload: &[2] };
    now(it.queue.enqueue(&[event])).unwrap();
    let exclude = HashSet::from([it.function]);
    let request = Request {
        partition: it.shared,
        events: 9,
        bytes: u64::MAX,
        wait: Duration::ZERO,
        lease: LEASE,
        exclude: &exclude,
    };
    assert_eq!(ids(&now(it.queue.lease(request)).unwrap().1), [2]);
}

#[test]
fn a_lease_is_bounded_by_bytes_but_never_empty_for_it() {
    let it = ready();
    it.put(it.shared, [1, 2, 3]);
    let exclude = HashSet::new();
    let mut request = Request {
        partition: it.shared,
        events: 9,
        bytes: 1,
        wait: Duration::ZERO,
        lease: LEASE,
        exclude: &exclude,
    };
    assert_eq!(ids(&now(it.queue.lease(request.clone())).unwrap().1), [1]);
    request.bytes = 500;
    assert_eq!(ids(&now(it.queue.lease(request)).unwrap().1), [2, 3]);
}

#[test]
fn a_lane_keeps_its_order_and_is_done_by_checkpoints() {
    let it = ready();
    it.put(it.lane, 1..=6);
    let (epoch, leased) = it.lease(it.lane, 4);
    assert_eq!(ids(&leased), [1, 2, 3, 4]);
    let refused = now(it.queue.ack(epoch, &done(&leased[..1])));
    assert!(matches!(refused, Err(WriteError::Refused(Refused::WrongOrder))), "{refused:?}");
    now(it.queue.checkpoint(epoch, leased[1].token, b"offset 2")).unwrap();
    it.queue.release(epoch, &[leased[2].token]).unwrap();
    assert_eq!(ids(&it.lease(it.lane, 10).1), [3, 4, 5, 6], "all that follow come back too");
    let it = it.crash();
    assert_eq!(it.queue.position(it.lane).as_deref(), Some(&b"offset 2"[..]));
    assert_eq!(ids(&it.lease(it.lane, 10).1), [3, 4, 5, 6]);
}

#[test]
fn a_stale_owner_of_a_lane_cannot_checkpoint() {
    let it = ready();
    it.put(it.lane, 1..=2);
    let (stale, leased) = it.lease(it.lane, 2);
    it.rig.clock.advance(LEASE);
    assert_eq!(ids(&it.lease(it.lane, 2).1), [1, 2]);
    let refused = now(it.queue.checkpoint(stale, leased[1].token, b""));
    assert!(matches!(refused, Err(WriteError::Refused(Refused::LeaseLost))), "{refused:?}");
}

#[test]
fn a_purge_ends_what_was_queued_and_nothing_later() {
    let it = ready();
    it.put(it.shared, 1..=3);
    it.lease(it.shared, 1);
    now(it.queue.purge(it.function)).unwrap();
    it.put(it.shared, [4]);
    it.upkeep();
    let it = it.crash();
    assert_eq!(ids(&it.lease(it.shared, 10).1), [4]);
}

#[test]
fn a_redirect_is_remembered() {
    let it = ready();
    let own = it.queue.partition("own", Order::None).unwrap();
    now(it.queue.redirect(it.function, Some(own))).unwrap();
    let it = it.crash();
    assert_eq!(it.queue.redirected(it.function), Some(it.queue.partition("own", Order::None).unwrap()));
    now(it.queue.redirect(it.function, None)).unwrap();
    let it = it.crash();
    assert_eq!(it.queue.redirected(it.function), None);
}

#[test]
fn many_segments_come_and_go_and_names_redirects_and_checkpoints_stay() {
    let mut it = ready();
    let own = it.queue.partition("own", Order::None).unwrap();
    now(it.queue.redirect(it.function, Some(own))).unwrap();
    it.put(it.lane, [1]);
    let (epoch, leased) = it.lease(it.lane, 1);
    now(it.queue.checkpoint(epoch, leased[0].token, b"here")).unwrap();
    for _ in 0..3 {
        for _ in 0..10 {
            it.put(it.shared, 0..200);
            let (epoch, leased) = it.lease(it.shared, 1000);
            assert_eq!(ids(&leased), (0..200).collect::<Vec<u8>>());
            now(it.queue.ack(epoch, &done(&leased))).unwrap();
            it.upkeep();
        }
        let files = it.rig.disk.contents().len();
        assert!(files < 12, "{files} files");
        it = it.crash();
        assert_eq!(it.queue.position(it.lane).as_deref(), Some(&b"here"[..]));
        assert_eq!(it.queue.redirected(it.function), Some(own));
    }
}

#[test]
fn one_slow_event_pins_nothing() {
    let it = ready();
    it.put(it.shared, [255]);
    it.put(it.lane, [254]);
    let (slow, held) = it.lease(it.shared, 1);
    for _ in 0..10 {
        it.put(it.shared, 0..200);
        let (epoch, leased) = it.lease(it.shared, 1000);
        now(it.queue.ack(epoch, &done(&leased))).unwrap();
        it.upkeep();
    }
    let files = it.rig.disk.contents().len();
    assert!(files < 12, "{files} files");
    let it = it.crash();
    assert_eq!(ids(&it.lease(it.lane, 1).1), [254]);
    let (epoch, again) = it.lease(it.shared, 1);
    assert_eq!(ids(&again), [255]);
    assert_eq!(again[0].payload, held[0].payload);
    now(it.queue.ack(epoch, &done(&again))).unwrap();
    let _ = slow;
}

#[test]
fn a_leased_event_that_was_moved_is_acked_by_the_same_token() {
    let it = ready();
    it.put(it.shared, [255]);
    let (slow, held) = it.lease(it.shared, 1);
    for _ in 0..5 {
        it.put(it.shared, 0..200);
        let (epoch, leased) = it.lease(it.shared, 1000);
        now(it.queue.ack(epoch, &done(&leased))).unwrap();
        it.upkeep();
    }
    now(it.queue.ack(slow, &done(&held))).unwrap();
    let it = it.crash();
    assert_eq!(it.lease(it.shared, 10).1, []);
}

/// 801 events, the first of them leased, of which most of the first segment is done, so that the first will be moved. Its copy
/// then lies behind events that nobody has read yet.
fn one_about_to_move() -> (Ready, (LeaseEpoch, Vec<Leased>), u64) {
    let it = ready();
    it.put(it.shared, [255]);
    let slow = it.lease(it.shared, 1);
    for _ in 0..4 {
        it.put(it.shared, 0..200);
    }
    let mut left = 800;
    while left > 400 {
        let (epoch, leased) = it.lease(it.shared, 50);
        now(it.queue.ack(epoch, &done(&leased))).unwrap();
        left -= leased.len() as u64;
    }
    (it, slow, left)
}

fn all_ids(leases: &[(LeaseEpoch, Vec<Leased>)]) -> Vec<u8> {
    leases.iter().flat_map(|(_, leased)| ids(leased)).collect()
}

#[test]
fn a_leased_event_that_was_moved_is_not_leased_again() {
    let (it, (slow, held), left) = one_about_to_move();
    it.upkeep();
    let rest = all_ids(&it.lease_all(it.shared));
    assert_eq!((rest.len() as u64, rest.contains(&255)), (left, false));
    it.queue.release(slow, &[held[0].token]).unwrap();
    let (epoch, again) = it.lease(it.shared, 1000);
    assert_eq!(ids(&again), [255]);
    now(it.queue.ack(epoch, &done(&again))).unwrap();
    assert_eq!(it.lease(it.shared, 1000).1, []);
}

#[test]
fn a_released_event_that_was_moved_is_leased_once() {
    let (it, (slow, held), left) = one_about_to_move();
    it.queue.release(slow, &[held[0].token]).unwrap();
    it.upkeep();
    let leases = it.lease_all(it.shared);
    let rest = all_ids(&leases);
    assert_eq!((rest.len() as u64, rest.iter().filter(|id| **id == 255).count()), (left + 1, 1));
    for (epoch, leased) in leases {
        now(it.queue.ack(epoch, &done(&leased))).unwrap();
    }
    assert_eq!(it.queue.depth(it.shared), Default::default());
}

#[test]
fn a_destroyed_key_is_told_apart_from_damage() {
    let it = ready();
    it.put(it.shared, [1]);
    it.rig.keys.destroy("arn:f");
    let rig = it.rig.clone();
    drop(it);
    let queue = rig.open();
    let shared = queue.partition("shared/0", Order::None).unwrap();
    let exclude = HashSet::new();
    let request = Request {
        partition: shared,
        events: 9,
        bytes: u64::MAX,
        wait: Duration::ZERO,
        lease: LEASE,
        exclude: &exclude,
    };
    assert_eq!(now(queue.lease(request)).unwrap().1, []);
    assert_eq!((queue.unreadable().shredded, queue.unreadable().corrupt), (1, 0));
}

#[test]
fn the_largest_event_fits_and_a_larger_one_is_refused_at_once() {
    let it = ready();
    let put = |bytes: usize| {
        let payload = vec![1; bytes];
        let event = Event {
            id: EventId([1; 16]),
            function: it.function,
            partition: it.shared,
            attributes: &[],
            payload: &payload,
        };
        now(it.queue.enqueue(&[event]))
    };
    let Err(WriteError::Refused(Refused::TooLarge { bytes, limit })) = put(1 << 20) else {
        panic!("it fits")
    };
    let overhead = bytes - (1 << 20);
    for _ in 0..3 {
        put(limit - overhead).unwrap();
    }
    assert!(matches!(put(limit - overhead + 1), Err(WriteError::Refused(Refused::TooLarge { .. }))));
    assert_eq!(it.lease(it.shared, 10).1.len(), 3);
}

#[test]
fn thousands_are_acked_at_once() {
    let it = ready();
    for _ in 0..30 {
        it.put(it.shared, 0..=250);
    }
    let mut all = Vec::new();
    let exclude = HashSet::new();
    let request = Request {
        partition: it.shared,
        events: 10_000,
        bytes: u64::MAX,
        wait: Duration::ZERO,
        lease: LEASE,
        exclude: &exclude,
    };
    let (epoch, leased) = now(it.queue.lease(request)).unwrap();
    all.extend(done(&leased));
    assert!(all.len() > 5000, "{}", all.len());
    now(it.queue.ack(epoch, &all)).unwrap();
    assert_eq!(it.queue.depth(it.shared).events, 7530 - all.len() as u64);
}

#[test]
fn sizes_and_names_that_cannot_be_are_refused() {
    let it = ready();
    let long = "x".repeat(1025);
    assert_eq!(it.queue.partition(&long, Order::None), Err(Refused::NameTooLong(1025)));
    assert!(matches!(it.queue.function(&long), Err(WriteError::Refused(Refused::NameTooLong(1025)))));
    for segment_bytes in [0, 1000, u64::MAX] {
        let rig = Rig { segment_bytes, ..Rig::new() };
        assert!(matches!(rig.try_open(), Err(OpenError::SegmentBytes(bytes)) if bytes == segment_bytes));
    }
}
