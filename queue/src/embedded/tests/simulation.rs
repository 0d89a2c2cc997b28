//! Everybody at once, deterministically: enqueuers, pollers, an upkeep, one who purges, one who rotates keys and one who sets the
//! clocks, on the shipped queue over a simulated disk. A seed decides who goes on at each storage call, what each of them does, when
//! the machine stops, and every salt: the same seed, the same bytes on the disk.
//!
//! ```text
//!   life 1: 10 tasks ──╳ the machine stops, or all come to their end ──► power cut or not ──► opened, all looked at ──► life 2 …
//! ```
//! `QUEUE_SIMULATIONS` says how many seeds; `QUEUE_SEED=n QUEUE_SIMULATIONS=1` repeats one. What is expected of leases that overlap
//! is in [`super::witness`].

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use super::{
    history::{numbers, tokens},
    model::Outcome,
    rig::{Random, Rig, for_numbers, now, request},
    turns::{self, Body, Waiter},
    witness::{FUNCTIONS, LEASE, PARTITIONS, Witness, is_ordered},
};
use crate::{
    BootClock, EmbeddedQueue, Event, EventId, FunctionNumber, LeaseEpoch, Leased, PartitionNumber, Queue,
    WriteError, embedded::Finding, seal, storage::memory::Fault, testing,
};

const LIVES: u64 = 3;
/// Calls of each task in a life.
const CALLS: usize = 40;

struct World {
    rig: Rig,
    witness: Mutex<Witness>,
}

/// The queue from one opening to the next.
struct Life<'a> {
    world: &'a World,
    queue: EmbeddedQueue,
    partitions: Vec<PartitionNumber>,
    functions: Vec<FunctionNumber>,
}

/// Events that a poller has, as far as it knows.
struct Hand {
    epoch: LeaseEpoch,
    partition: usize,
    leased: Vec<Leased>,
}

impl World {
    fn witness(&self) -> MutexGuard<'_, Witness> {
        self.witness.lock().unwrap()
    }

    fn boot(&self) -> Duration {
        self.rig.clock.since_boot()
    }

    fn open(&self) -> Life<'_> {
        let (queue, findings) = self.rig.try_open().unwrap();
        let cut_off =
            findings.iter().all(|finding| matches!(finding, Finding::Torn { .. } | Finding::Nameless { .. }));
        assert!(cut_off, "{findings:?}");
        let partitions = PARTITIONS.iter().map(|(name, order)| queue.partition(name, *order).unwrap());
        let functions = (0..FUNCTIONS).map(|at| queue.function(&arn(at)).unwrap());
        Life { world: self, partitions: partitions.collect(), functions: functions.collect(), queue }
    }
}

fn arn(function: usize) -> String {
    format!("arn:f{function}")
}

impl Life<'_> {
    fn trace(&self, what: std::fmt::Arguments<'_>) {
        if std::env::var_os("QUEUE_TRACE").is_some() {
            eprintln!("{what}");
        }
    }

    fn is_over(&self) -> bool {
        self.world.rig.disk.has_stopped()
    }

    /// A lane has one who enqueues, so that its order is known.
    fn enqueuer(&self, mut random: Random, waiter: &Waiter, lane: Option<usize>) {
        for _ in 0..CALLS {
            let partition = lane.unwrap_or_else(|| random.below(2) as usize);
            let function = random.below(FUNCTIONS as u64) as usize;
            let sizes: Vec<usize> = (0..=random.below(4)).map(|_| 8 + random.below(2500) as usize).collect();
            let new = self.world.witness().begin_events(partition, function, &sizes);
            let events: Vec<Event<'_>> = new
                .iter()
                .map(|(id, payload)| Event {
                    id: *id,
                    function: self.functions[function],
                    partition: self.partitions[partition],
                    attributes: b"a",
                    payload,
                })
                .collect();
            let result = waiter.wait(self.queue.enqueue(&events));
            let ids: Vec<EventId> = new.iter().map(|(id, _)| *id).collect();
            self.trace(format_args!("enqueue {:?} in {partition}: {result:?}", numbers(&ids)));
            if self.is_over() && result.is_err() {
                return;
            }
            if result.is_ok() {
                self.world.witness().model.accepted(&ids);
            }
        }
    }

    fn poller(&self, mut random: Random, waiter: &Waiter, lane: Option<usize>) {
        let mut hand: Option<Hand> = None;
        for _ in 0..CALLS {
            if self.is_over() {
                return;
            }
            hand = match hand.take() {
                None => {
                    let partition = lane.unwrap_or_else(|| random.below(2) as usize);
                    self.lease(waiter, partition, 1 + random.below(12) as usize)
                }
                Some(hand) => match random.below(10) {
                    0..5 => self.finish(waiter, hand, &mut random),
                    5..7 => self.note(waiter, hand, &mut random),
                    7 => self.release(hand),
                    8 => self.extend(hand),
                    // It forgets what it has.
                    _ => None,
                },
            };
        }
    }

    fn lease(&self, waiter: &Waiter, partition: usize, events: usize) -> Option<Hand> {
        let exclude = HashSet::new();
        let boot = self.world.boot();
        let asked = self.world.witness().ask(partition, boot);
        let result =
            waiter.wait(self.queue.lease(request(self.partitions[partition], events, LEASE, &exclude)));
        let boot = self.world.boot();
        let mut witness = self.world.witness();
        let leased = result.as_ref().map_or(&[][..], |(_, leased)| leased);
        let epoch = result.as_ref().map_or(LeaseEpoch(0), |(epoch, _)| *epoch);
        self.trace(format_args!("lease {epoch:?} of {partition}: {:?}", tokens(leased)));
        witness.answer(asked, epoch, leased, boot);
        drop(witness);
        let (epoch, leased) = result.ok()?;
        (!leased.is_empty()).then_some(Hand { epoch, partition, leased })
    }

    fn finish(&self, waiter: &Waiter, mut hand: Hand, random: &mut Random) -> Option<Hand> {
        let count = 1 + random.below(hand.leased.len() as u64) as usize;
        let some: Vec<Leased> = hand.leased.drain(..count).collect();
        let last = &some[count - 1];
        let ordered = is_ordered(hand.partition);
        let ids = self.world.witness().ending(hand.partition, &some);
        let result = if ordered {
            waiter.wait(self.queue.checkpoint(hand.epoch, last.token, &last.id.0))
        } else {
            let tokens: Vec<_> = some.iter().map(|event| (event.token, event.id)).collect();
            waiter.wait(self.queue.ack(hand.epoch, &tokens))
        };
        let boot = self.world.boot();
        self.trace(format_args!("finish {:?} {:?}: {result:?}", hand.epoch, numbers(&ids)));
        self.world.witness().ended(hand.partition, hand.epoch, &some, &ids, &result, boot);
        (result.is_ok() && !hand.leased.is_empty()).then_some(hand)
    }

    fn note(&self, waiter: &Waiter, hand: Hand, random: &mut Random) -> Option<Hand> {
        let event = &hand.leased[0];
        let attempts = event.attempts + 1;
        let not_before = self.world.rig.clock.wall_ms() + random.below(20_000);
        self.world.witness().begin_note(event.id, attempts, not_before);
        let result = waiter.wait(self.queue.note(hand.epoch, (event.token, event.id), attempts, not_before));
        if result.is_ok() {
            self.world.witness().model.note(event.id, attempts, true);
        }
        Some(hand).filter(|_| !refused(&result))
    }

    fn release(&self, hand: Hand) -> Option<Hand> {
        // The last first: in a lane what follows comes back too, and the lease has it no more.
        for event in hand.leased.iter().rev() {
            self.world.witness().released(event.id, hand.epoch);
            let _ = self.queue.release(hand.epoch, &[event.token]);
        }
        None
    }

    fn extend(&self, hand: Hand) -> Option<Hand> {
        let before = self.world.boot();
        self.world.witness().extending(hand.epoch);
        let result = self.queue.extend(hand.epoch, LEASE);
        let after = self.world.boot();
        self.world.witness().extended(hand.epoch, result.is_ok().then_some(before), after);
        Some(hand).filter(|_| result.is_ok())
    }

    fn upkeep(&self, waiter: &Waiter) {
        let upkeep = self.queue.upkeep();
        for _ in 0..2 * CALLS {
            let result = waiter.wait(upkeep.step());
            self.trace(format_args!("upkeep: {result:?}"));
            if self.is_over() {
                return;
            }
            testing::pause();
        }
    }

    fn purger(&self, mut random: Random, waiter: &Waiter) {
        for _ in 0..CALLS / 10 {
            idle(20 + random.below(60));
            let function = random.below(FUNCTIONS as u64) as usize;
            let ids = self.world.witness().begin_purge(function);
            self.trace(format_args!("purge {function}: begins"));
            let result = waiter.wait(self.queue.purge(self.functions[function]));
            self.trace(format_args!("purge {function}: {result:?}"));
            self.world.witness().end_purge(function, &ids, Outcome::from(&result));
            if self.is_over() {
                return;
            }
        }
    }

    fn rotator(&self, mut random: Random, waiter: &Waiter) {
        for _ in 0..CALLS / 8 {
            idle(10 + random.below(40));
            let function = random.below(FUNCTIONS as u64) as usize;
            let result = waiter.wait(self.queue.rewrap(self.functions[function]));
            if self.is_over() {
                return;
            }
            if result.is_ok() {
                // Now the old wrap may be destroyed, and whoever has forgotten the key must do with the new one.
                self.world.rig.keys.retire_wraps(&arn(function));
            }
            if random.below(2) == 0 {
                self.queue.forget_key(self.functions[function]);
            }
        }
    }

    fn timekeeper(&self, mut random: Random) {
        let clock = &self.world.rig.clock;
        for _ in 0..CALLS {
            idle(random.below(20));
            match random.below(8) {
                0 => clock.jump(3_600_000),
                1 => clock.jump(-3_600_000),
                2 => clock.advance(LEASE),
                _ => clock.advance(Duration::from_millis(random.below(2000))),
            }
        }
    }

    /// All that is there, which goes back in order.
    fn look(&self) -> Vec<EventId> {
        self.world.rig.clock.advance(Duration::from_secs(3600));
        let latest = self.world.witness().latest_not_before;
        let wall = self.world.rig.clock.wall_ms();
        self.world.rig.clock.advance(Duration::from_millis(latest.saturating_sub(wall)));
        let exclude = HashSet::new();
        let mut found = Vec::new();
        for (at, partition) in self.partitions.iter().enumerate() {
            let lease = || now(self.queue.lease(request(*partition, 50, LEASE, &exclude))).unwrap();
            let leases: Vec<_> =
                std::iter::from_fn(|| Some(lease()).filter(|(_, leased)| !leased.is_empty())).collect();
            let came: Vec<&Leased> = leases.iter().flat_map(|(_, leased)| leased).collect();
            self.world.witness().looked(at, &came);
            found.extend(came.iter().map(|event| event.id));
            for (epoch, leased) in leases.iter().rev() {
                for event in leased.iter().rev() {
                    self.queue.release(*epoch, &[event.token]).unwrap();
                }
            }
            let position = self.queue.position(*partition);
            self.world.witness().settle_position(at, position);
        }
        found
    }
}

/// Others run meanwhile.
fn idle(pauses: u64) {
    (0..pauses).for_each(|_| testing::pause());
}

fn refused(result: &Result<(), WriteError>) -> bool {
    matches!(result, Err(WriteError::Refused(_)))
}

/// One life, to its end; how often the turn was handed over.
fn live(life: &Life<'_>, random: &mut Random, salts: &testing::SharedRandom) -> u64 {
    let mut child = || Random(random.next());
    let mut tasks: Vec<Body<'_>> = Vec::new();
    for lane in [None, None, Some(2), Some(3)] {
        let (enqueues, polls) = (child(), child());
        tasks.push(Box::new(move |waiter: &Waiter| life.enqueuer(enqueues, waiter, lane)));
        tasks.push(Box::new(move |waiter: &Waiter| life.poller(polls, waiter, lane)));
    }
    let (purges, rotates, times) = (child(), child(), child());
    tasks.push(Box::new(|waiter: &Waiter| life.upkeep(waiter)));
    tasks.push(Box::new(move |waiter: &Waiter| life.purger(purges, waiter)));
    tasks.push(Box::new(move |waiter: &Waiter| life.rotator(rotates, waiter)));
    tasks.push(Box::new(move |_: &Waiter| life.timekeeper(times)));
    let shared = life.queue.shared.clone();
    turns::run(child(), salts, Box::new(move || shared.state.try_lock().is_ok()), tasks)
}

/// What a seed leads to: what is on the disk at its end, and how often a turn was handed over.
struct Simulated {
    contents: Vec<(String, Vec<u8>)>,
    handed_over: u64,
    events: u64,
}

fn simulate(seed: u64) -> Simulated {
    let mut random = Random(seed);
    let salts = Random(seed ^ 0x5A17).shared();
    testing::seed(Some(salts.clone()));
    let world = World { rig: Rig::new(), witness: Mutex::default() };
    let disk = &world.rig.disk;
    let mut handed_over = 0;
    for _ in 0..LIVES {
        let life = world.open();
        let found = life.look();
        world.witness().settle(&found);
        let somewhere = disk.calls() + random.below(250);
        match random.below(4) {
            0 => {}
            1 => disk.fail_at(somewhere, Fault::Error(std::io::ErrorKind::Other)),
            _ => disk.fail_at(somewhere, Fault::Stop),
        }
        handed_over += live(&life, &mut random, &salts);
        drop(life);
        if disk.has_stopped() || random.below(2) == 0 {
            disk.crash(&mut |bound| random.below(bound));
        } else {
            disk.heal();
        }
    }
    let life = world.open();
    let found = life.look();
    world.witness().settle(&found);
    testing::seed(None);
    let events = world.witness().model.events.len() as u64;
    Simulated { contents: disk.contents(), handed_over, events }
}

/// Forgets what was sealed: the same seed seals it again.
fn simulate_once(seed: u64) -> Simulated {
    let simulated = simulate(seed);
    seal::audit::count();
    simulated
}

#[test]
fn the_same_seed_gives_the_same_log() {
    for seed in 0..4 {
        let [first, second] = [seed, seed].map(simulate_once);
        assert_eq!(first.handed_over, second.handed_over, "seed {seed}");
        assert!(first.contents == second.contents, "seed {seed}");
    }
    assert!(simulate_once(0).contents != simulate_once(1).contents);
}

#[test]
fn whoever_does_what_at_once_the_promises_hold() {
    let [seeds, events, handed_over, seals] = for_numbers("QUEUE_SIMULATIONS", 30, |seed| {
        let Simulated { events, handed_over, .. } = simulate(seed);
        [1, events, handed_over, seal::audit::count() as u64]
    });
    println!(
        "queue: {seeds} simulations of 12 tasks, {handed_over} times another one went on, {events} events: \
         0 lost, 0 done twice, 0 out of order, 0 leased twice at once; {seals} seals, no nonce twice"
    );
}
