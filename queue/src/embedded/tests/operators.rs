//! What operators do: look, wait, drain, scrub.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Wake, Waker},
    time::Duration,
};

use super::rig::{Rig, now};
use crate::{
    Browse, Browsed, EmbeddedQueue, Event, EventId, EventState, Finding, FunctionNumber, LeaseEpoch, Leased,
    PartitionNumber, Queue, ReadError, Request, SegmentId,
    embedded::files::segment_name,
    format::record::{self, PREFIX_BYTES, Parsed, Seed},
    log::{Granted, LeaseRequest},
    partition::Order,
};

pub(super) const LEASE: Duration = Duration::from_secs(60);

pub(super) struct World {
    pub(super) rig: Rig,
    pub(super) queue: EmbeddedQueue,
    pub(super) shared: PartitionNumber,
    pub(super) lane: PartitionNumber,
    pub(super) functions: [FunctionNumber; 2],
}

fn world() -> World {
    on(Rig::new())
}

fn on(rig: Rig) -> World {
    let queue = rig.open();
    World::of(rig, queue)
}

impl World {
    pub(super) fn of(rig: Rig, queue: EmbeddedQueue) -> Self {
        let shared = queue.partition("shared/0", Order::None).unwrap();
        let lane = queue.partition("lane/0", Order::Strict).unwrap();
        let functions = ["arn:f", "arn:g"].map(|arn| queue.function(arn).unwrap());
        Self { rig, queue, shared, lane, functions }
    }

    pub(super) fn put(&self, partition: PartitionNumber, numbers: impl IntoIterator<Item = u32>) {
        for number in numbers {
            let payload = vec![number as u8; 500];
            let function = self.functions[number as usize % 2];
            let event = Event { id: id(number), function, partition, attributes: b"a", payload: &payload };
            now(self.queue.enqueue(&[event])).unwrap();
        }
    }

    pub(super) fn lease(&self, partition: PartitionNumber, events: usize) -> (LeaseEpoch, Vec<Leased>) {
        now(self.queue.lease(request(partition, events, Duration::ZERO, &HashSet::new()))).unwrap()
    }

    pub(super) fn finish(&self, partition: PartitionNumber, events: usize) {
        let mut left = events;
        while left > 0 {
            let (epoch, leased) = self.lease(partition, left);
            let done: Vec<_> = leased.iter().map(|event| (event.token, event.id)).collect();
            now(self.queue.ack(epoch, &done)).unwrap();
            left -= done.len();
        }
    }

    fn upkeep(&self) {
        while now(self.queue.upkeep().step()).unwrap() {}
    }

    fn browse(
        &self,
        partition: PartitionNumber,
        function: Option<FunctionNumber>,
        most: usize,
    ) -> Vec<Browsed> {
        let mut found = Vec::new();
        let mut from = None;
        loop {
            let page = now(self.queue.browse(Browse { partition, function, from, events: most })).unwrap();
            assert!(page.events.len() <= most);
            found.extend(page.events);
            from = page.next;
            if from.is_none() {
                return found;
            }
        }
    }
}

pub(super) fn request(
    partition: PartitionNumber,
    events: usize,
    wait: Duration,
    exclude: &HashSet<FunctionNumber>,
) -> Request<'_> {
    Request { partition, events, bytes: u64::MAX, wait, lease: LEASE, exclude }
}

fn id(number: u32) -> EventId {
    let mut id = [7; 16];
    id[..4].copy_from_slice(&number.to_be_bytes());
    EventId(id)
}

fn number(event: &Browsed) -> u32 {
    u32::from_be_bytes(event.id.0[..4].try_into().unwrap())
}

// === browse and peek ===

#[test]
fn browsing_finds_what_is_not_done_in_indexes_and_in_memory_page_by_page() {
    let it = world();
    it.put(it.shared, 0..400);
    it.finish(it.shared, 150);
    it.upkeep();
    it.put(it.shared, 400..450);
    for most in [1, 7, 1000] {
        let found = it.browse(it.shared, None, most);
        assert_eq!(
            found.iter().map(number).collect::<Vec<_>>(),
            (150..450).collect::<Vec<_>>(),
            "pages of {most}"
        );
        let odd = it.browse(it.shared, Some(it.functions[1]), most);
        let expected: Vec<u32> = (150..450).filter(|number| number % 2 == 1).collect();
        assert_eq!(odd.iter().map(number).collect::<Vec<_>>(), expected);
    }
    let event = &it.browse(it.shared, None, 1)[0];
    assert_eq!((event.function, event.attempts, event.state), (it.functions[0], 0, EventState::Waiting));
    assert_eq!(event.accepted, Duration::from_millis(it.rig.clock.wall_ms()));
    assert!(event.bytes > 500);
    assert_eq!(it.browse(it.lane, None, 10), []);
}

#[test]
fn browsing_tells_what_waits_from_what_is_leased_and_held_also_after_a_restart() {
    let it = world();
    it.put(it.shared, 0..3);
    let (epoch, leased) = it.lease(it.shared, 2);
    let later = it.rig.clock.wall_ms() + 5000;
    now(it.queue.note(epoch, (leased[0].token, leased[0].id), 3, later)).unwrap();
    it.queue.release(epoch, &[leased[0].token]).unwrap();
    let states = |it: &World| -> Vec<(u32, EventState)> {
        it.browse(it.shared, None, 10).iter().map(|event| (event.attempts, event.state)).collect()
    };
    assert_eq!(states(&it), [(3, EventState::Held), (0, EventState::Leased), (0, EventState::Waiting)]);
    drop(it.queue);
    let it = on(it.rig);
    assert_eq!(states(&it), [(3, EventState::Held), (0, EventState::Waiting), (0, EventState::Waiting)]);
    it.rig.clock.advance(Duration::from_secs(5));
    assert_eq!(states(&it)[0], (3, EventState::Waiting));
}

#[test]
fn a_purged_event_is_not_seen_before_the_upkeep_has_marked_it() {
    let it = world();
    it.put(it.shared, 0..4);
    now(it.queue.purge(it.functions[0])).unwrap();
    assert_eq!(it.browse(it.shared, None, 10).iter().map(number).collect::<Vec<_>>(), [1, 3]);
    now(it.queue.purge_partition(it.shared)).unwrap();
    assert_eq!(it.browse(it.shared, None, 10), []);
    assert_eq!(it.lease(it.shared, 10).1, []);
}

#[test]
fn a_lane_is_browsed_by_function_and_keeps_its_states_when_its_events_move() {
    let it = world();
    it.put(it.lane, 0..3);
    for _ in 0..5 {
        it.put(it.shared, 100..200);
        it.finish(it.shared, 100);
        it.upkeep();
    }
    let found = it.browse(it.lane, None, 10);
    assert!(found[0].location.segment > SegmentId(1), "moved");
    assert_eq!(found.iter().map(number).collect::<Vec<_>>(), [0, 1, 2]);
    it.lease(it.lane, 1);
    let states: Vec<_> = it.browse(it.lane, None, 10).iter().map(|event| event.state).collect();
    assert_eq!(states, [EventState::Leased, EventState::Waiting, EventState::Waiting]);
    assert_eq!(it.browse(it.lane, Some(it.functions[1]), 10).iter().map(number).collect::<Vec<_>>(), [1]);
}

#[test]
fn peeking_opens_one_event_and_keeps_nobody_from_it() {
    let it = world();
    it.put(it.shared, 0..200);
    it.upkeep();
    let event = &it.browse(it.shared, None, 1000)[10];
    let content = now(it.queue.peek(it.shared, (event.location, event.id))).unwrap().unwrap();
    assert_eq!((&content.attributes[..], &content.payload[..]), (&b"a"[..], &[10; 500][..]));
    assert_eq!(now(it.queue.peek(it.shared, (event.location, id(11)))).unwrap(), None, "another's id");
    assert_eq!(now(it.queue.peek(it.lane, (event.location, event.id))).unwrap(), None, "another's partition");
    it.finish(it.shared, 200);
    assert_eq!(now(it.queue.peek(it.shared, (event.location, event.id))).unwrap(), None, "done");
}

#[test]
fn peeking_tells_damage_from_a_destroyed_key() {
    let it = world();
    it.put(it.shared, 0..2);
    it.rig.keys.destroy("arn:f");
    drop(it.queue);
    let it = World { queue: it.rig.open(), ..it };
    let events = it.browse(it.shared, None, 10);
    let peek = |event: &Browsed| now(it.queue.peek(it.shared, (event.location, event.id)));
    assert!(matches!(peek(&events[0]), Err(ReadError::Shredded)));
    it.rig.disk.damage(&segment_name(SegmentId(1)), |bytes| flip_last_event(bytes));
    assert!(matches!(peek(&events[1]), Err(ReadError::Damaged { segment: SegmentId(1) })));
    assert_eq!(it.browse(it.shared, None, 10)[1].state, EventState::Damaged);
}

/// Flips a bit of the last event.
fn flip_last_event(bytes: &mut [u8]) {
    let end = bytes.len() - 4096;
    let last = bytes[..end].iter().rposition(|byte| *byte != 0).unwrap();
    bytes[last - 20] ^= 1;
}

// === waiting ===

#[tokio::test(start_paused = true)]
async fn a_lease_waits_for_the_first_event_and_no_longer_than_it_says() {
    let it = world();
    let exclude = HashSet::new();
    let began = tokio::time::Instant::now();
    let wait = Duration::from_secs(10);
    let (_, none) = it.queue.lease(request(it.shared, 5, wait, &exclude)).await.unwrap();
    assert_eq!((none, began.elapsed()), (vec![], wait));
    let enqueued_after = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        it.put(it.shared, [1]);
    };
    let began = tokio::time::Instant::now();
    let (leased, ()) = tokio::join!(it.queue.lease(request(it.shared, 5, wait, &exclude)), enqueued_after);
    assert_eq!((leased.unwrap().1.len(), began.elapsed()), (1, Duration::from_secs(3)));
}

#[tokio::test(start_paused = true)]
async fn a_lease_waits_for_what_another_lease_gives_back() {
    let it = world();
    let exclude = HashSet::new();
    it.put(it.shared, [1]);
    let (epoch, leased) = it.lease(it.shared, 1);
    let released_after = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        it.queue.release(epoch, &[leased[0].token]).unwrap();
    };
    let (again, ()) = tokio::join!(it.queue.lease(request(it.shared, 5, LEASE, &exclude)), released_after);
    assert_eq!(again.unwrap().1.len(), 1);
    // A time that never comes disturbs nobody.
    let (lane, held) = {
        it.put(it.lane, [9]);
        it.lease(it.lane, 1)
    };
    now(it.queue.note(lane, (held[0].token, held[0].id), 1, u64::MAX)).unwrap();
    it.queue.release(lane, &[held[0].token]).unwrap();
    assert_eq!(it.lease(it.lane, 1).1, []);
    // It runs out and nobody says so: whoever waits looks for himself.
    let began = tokio::time::Instant::now();
    let time_passes = async {
        tokio::time::sleep(LEASE - Duration::from_secs(1)).await;
        it.rig.clock.advance(LEASE);
    };
    let (again, ()) = tokio::join!(it.queue.lease(request(it.shared, 5, LEASE * 2, &exclude)), time_passes);
    assert_eq!((again.unwrap().1.len(), began.elapsed()), (1, LEASE));
}

/// How often a task was woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_one_partition_is_not_woken_for_another() {
    let it = world();
    let exclude = HashSet::new();
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut context = Context::from_waker(&waker);
    let mut lease = Box::pin(it.queue.lease(request(it.lane, 1, LEASE, &exclude)));
    assert!(lease.as_mut().poll(&mut context).is_pending());
    it.put(it.shared, 0..20);
    it.finish(it.shared, 20);
    assert_eq!(woken.0.load(Ordering::SeqCst), 0);
    it.put(it.lane, [1]);
    assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    assert!(lease.as_mut().poll(&mut context).is_ready());
}

#[test]
fn a_lease_that_is_dropped_while_it_reads_gives_its_events_back() {
    let it = world();
    it.put(it.shared, 0..3);
    it.rig.disk.damage(&segment_name(SegmentId(1)), |bytes| flip_last_event(bytes));
    // The first two are read, the third is given up: meanwhile another caller commits, and this one is dropped.
    let exclude = HashSet::new();
    let mut lease = Box::pin(it.queue.lease(request(it.shared, 5, Duration::ZERO, &exclude)));
    let mut context = Context::from_waker(Waker::noop());
    let busy = {
        let mut state = it.queue.shared.state();
        let new = crate::log::NewEvent {
            id: id(9),
            partition: it.lane,
            function: it.functions[0],
            accepted_ms: 0,
            attributes: &[],
            payload: &[],
        };
        state.log.enqueue(new).unwrap();
        state.log.begin_commit().unwrap()
    };
    assert!(lease.as_mut().poll(&mut context).is_pending(), "another leads the commit that it waits for");
    drop(lease);
    drop(busy);
    it.queue.shared.state().log.committed();
    assert_eq!(it.lease(it.shared, 5).1.len(), 2);
}

// === drain ===

#[tokio::test(start_paused = true)]
async fn a_drain_ends_when_what_is_leased_is_finished() {
    let it = world();
    let exclude = HashSet::new();
    it.put(it.shared, 0..4);
    let (epoch, leased) = it.lease(it.shared, 2);
    let wait = Duration::from_secs(1000);
    let work = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        it.put(it.shared, [9]);
        it.queue.extend(epoch, LEASE).unwrap();
        it.queue.ack(epoch, &[(leased[0].token, leased[0].id)]).await.unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
        it.queue.release(epoch, &[leased[1].token]).unwrap();
    };
    let began = tokio::time::Instant::now();
    let (left, waiting, ()) =
        tokio::join!(it.queue.drain(wait), it.queue.lease(request(it.lane, 1, wait, &exclude)), work);
    assert_eq!((left, began.elapsed()), (0, Duration::from_secs(6)));
    assert!(matches!(waiting, Err(ReadError::Draining)), "{waiting:?}");
    assert_eq!(it.queue.depth(it.shared).events, 4);
    let again = it.queue.lease(request(it.shared, 1, Duration::ZERO, &exclude)).await;
    assert!(matches!(again, Err(ReadError::Draining)), "{again:?}");
}

#[tokio::test(start_paused = true)]
async fn a_drain_says_how_much_is_left_when_its_time_is_up() {
    let it = world();
    it.put(it.shared, 0..4);
    it.lease(it.shared, 3);
    let began = tokio::time::Instant::now();
    assert_eq!(it.queue.drain(Duration::from_secs(2)).await, 3);
    assert_eq!(began.elapsed(), Duration::from_secs(2));
}

// === scrub ===

async fn scrubbed(it: &World) -> crate::Scrubbed {
    it.queue.scrub(u64::MAX).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_scrub_finds_damage_wherever_it_is_and_changes_nothing() {
    let it = world();
    it.put(it.shared, 0..200);
    let sound = scrubbed(&it).await;
    assert_eq!((sound.segments, &sound.findings[..]), (2, &[][..]), "closed, without an index");
    it.upkeep();
    let again = scrubbed(&it).await;
    assert_eq!(again, sound, "with an index");
    assert_eq!(sound.opened, events_in(&it, 1) + events_in(&it, 2));
    let before = it.rig.disk.contents();
    it.rig.disk.damage(&segment_name(SegmentId(1)), |bytes| flip_last_event(bytes));
    it.rig.disk.damage(&segment_name(SegmentId(2)), |bytes| bytes[3] ^= 1);
    let damaged = it.rig.disk.contents();
    let findings = scrubbed(&it).await.findings;
    assert!(matches!(findings[0], Finding::Damaged { segment: SegmentId(1), .. }), "{findings:?}");
    assert_eq!(findings[1..], [Finding::HeaderDamaged { segment: SegmentId(2) }]);
    assert_eq!(it.rig.disk.contents(), damaged);
    assert_ne!(before, damaged);
}

fn events_in(it: &World, segment: u64) -> u64 {
    let all = it.browse(it.shared, None, 1000);
    all.iter().filter(|event| event.location.segment == SegmentId(segment)).count() as u64
}

#[tokio::test(start_paused = true)]
async fn a_scrub_finds_what_was_changed_on_purpose() {
    let it = world();
    it.put(it.shared, 0..200);
    it.upkeep();
    let header = it.queue.shared.state().log.segment_header(SegmentId(1)).unwrap().clone();
    let seed = Seed::of(header.salt);
    it.rig.disk.damage(&segment_name(SegmentId(1)), |bytes| {
        // An event that is made sound again after a change of what is sealed.
        let at = (4096..bytes.len())
            .step_by(16)
            .find(|at| matches!(record::parse(&bytes[*at..], seed, *at as u64), Parsed::Sound(it) if it.kind == 1))
            .unwrap();
        let Parsed::Sound(event) = record::parse(&bytes[at..], seed, at as u64) else { unreachable!() };
        let mut body = event.body.to_vec();
        *body.last_mut().unwrap() ^= 1;
        let mut forged = Vec::new();
        let start = record::begin(&mut forged, at as u64, record::Kind::Event, event.first);
        forged.extend_from_slice(&body);
        record::finish(&mut forged, seed, start);
        let length = PREFIX_BYTES + body.len();
        bytes[at..at + length].copy_from_slice(&forged[..length]);
    });
    let findings = scrubbed(&it).await.findings;
    assert!(matches!(findings[..], [Finding::Altered { segment: SegmentId(1), .. }]), "{findings:?}");
}

#[tokio::test(start_paused = true)]
async fn a_scrub_keeps_to_its_rate() {
    let it = world();
    it.put(it.shared, 0..200);
    it.upkeep();
    let began = tokio::time::Instant::now();
    it.queue.scrub(10_000).await.unwrap();
    // Two segments of 64 KiB, full of records.
    let seconds = began.elapsed().as_secs();
    assert!((10..14).contains(&seconds), "{seconds} s");
}

// === what they found ===

/// A lease reads without the lock: what it reads may have moved to the tail, and its segment be gone, before it comes to it.
#[test]
fn an_event_that_moves_while_it_is_read_is_not_lost() {
    let it = world();
    it.put(it.shared, [1]);
    let exclude = HashSet::new();
    let (epoch, grants) = {
        let mut state = it.queue.shared.state();
        let at = Duration::from_secs(1_000);
        let request = LeaseRequest {
            partition: it.shared,
            events: 1,
            bytes: u64::MAX,
            now: at,
            deadline: at + LEASE,
            exclude: &exclude,
        };
        let Granted::Events(epoch, grants) = state.log.lease(request) else { panic!("it is in memory") };
        (epoch, grants)
    };
    for _ in 0..5 {
        it.put(it.lane, 100..200);
        let (lane, leased) = it.lease(it.lane, 100);
        now(it.queue.checkpoint(lane, leased[99].token, b"")).unwrap();
        it.upkeep();
    }
    assert!(it.queue.shared.is_gone(SegmentId(1)));
    let events = now(it.queue.shared.read(epoch, &grants)).unwrap();
    assert_eq!(events.iter().map(|event| event.id).collect::<Vec<_>>(), [id(1)]);
    assert_eq!(it.queue.unreadable().corrupt, 0);
}
