//! How much may be leased or held, and who gets something while that is full.

use std::{collections::HashSet, time::Duration};

use super::{
    operators::{LEASE, World, request},
    rig::{Rig, now},
};
use crate::{EmbeddedQueue, Queue, clock::Clocks, embedded::Config};

/// At most so many events are leased, and so many held.
fn limited(outstanding: usize, held: usize) -> World {
    let rig = Rig::new();
    let segment_bytes = rig.segment_bytes;
    let config = Config { segment_bytes, outstanding, held, ..Config::new("/nowhere".into()) };
    let clocks = Clocks { wall: rig.clock.clone(), boot: rig.clock.clone() };
    let opened = EmbeddedQueue::open_on(config, Box::new(rig.disk.clone()), rig.keys.clone(), clocks);
    World::of(rig, opened.unwrap().0)
}

#[test]
fn events_that_are_held_keep_no_other_function_from_a_lease_however_many_they_are() {
    let it = limited(2, 2);
    let later = it.rig.clock.wall_ms() + 5000;
    // All of one function fail, two at a time, and are given back until their time.
    it.put(it.shared, (0..10).step_by(2));
    for _ in 0..2 {
        let (epoch, leased) = it.lease(it.shared, 2);
        assert_eq!(leased.len(), 2);
        for event in leased {
            now(it.queue.note(epoch, (event.token, event.id), 1, later)).unwrap();
            it.queue.release(epoch, &[event.token]).unwrap();
        }
    }
    assert!(it.lease(it.shared, 4).1.is_empty());
    it.put(it.shared, [1, 3]);
    let (epoch, others) = it.lease(it.shared, 4);
    assert_eq!(others.iter().map(|event| event.function).collect::<Vec<_>>(), [it.functions[1]; 2]);
    now(it.queue.ack(epoch, &others.iter().map(|event| (event.token, event.id)).collect::<Vec<_>>()))
        .unwrap();
    it.rig.clock.advance(Duration::from_secs(5));
    it.finish(it.shared, 5);
}

#[tokio::test(start_paused = true)]
async fn who_waits_because_too_much_is_leased_is_woken_when_there_is_room() {
    let it = limited(2, 2);
    it.put(it.shared, 0..4);
    it.put(it.lane, [9]);
    let (epoch, leased) = it.lease(it.shared, 4);
    assert_eq!(leased.len(), 2);
    let exclude = HashSet::new();
    let began = tokio::time::Instant::now();
    let acked_after = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        it.queue.ack(epoch, &[(leased[0].token, leased[0].id)]).await.unwrap();
    };
    let (of_lane, ()) = tokio::join!(it.queue.lease(request(it.lane, 1, LEASE, &exclude)), acked_after);
    assert_eq!((of_lane.unwrap().1.len(), began.elapsed()), (1, Duration::from_secs(3)));
}
