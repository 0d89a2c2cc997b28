//! The load: everybody does what comes next as soon as he can, until the process is killed.

use std::{sync::Arc, time::Duration};

use queue::{EventId, Queue, partition::Order};
use tokio::task::JoinSet;
use types::{Clock, SystemClock};

use crate::{
    Failure,
    random::Random,
    world::{FUNCTIONS, Held, MOVING, PARTITIONS, PURGED, Partition, WAIT, World, hex},
};

/// Events of a partition that are not done, above which its producers wait.
const BACKLOG: u64 = 150;
/// Producers, and pollers, of each shared partition. A lane has one of each, so that its order is known.
const EACH: usize = 2;
/// Leases that a poller has at once.
const LEASES: usize = 3;

pub(crate) async fn load(world: Arc<World>) -> Result<(), Failure> {
    let mut tasks = JoinSet::new();
    let mut number = 0;
    for partition in &world.partitions {
        for _ in 0..if partition.order == Order::None { EACH } else { 1 } {
            tasks.spawn(produce(world.clone(), *partition, number));
            tasks.spawn(poll(world.clone(), *partition, world.random(u64::from(number) << 32)));
            number += 1;
        }
    }
    match tasks.join_next().await {
        Some(Err(error)) => Err(error.into()),
        _ => Err("somebody stopped working".into()),
    }
}

async fn produce(world: Arc<World>, partition: Partition, number: u32) {
    let mut random = world.random(u64::from(number));
    let mut sequence = 0_u32;
    loop {
        let progress = world.progress.notified();
        if world.queue.depth(partition.number).events >= BACKLOG {
            progress.await;
            continue;
        }
        let count = 1 + random.below(4);
        let mut ids = Vec::with_capacity(count);
        for _ in 0..count {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&world.round.to_be_bytes());
            id[8..12].copy_from_slice(&number.to_be_bytes());
            id[12..].copy_from_slice(&sequence.to_be_bytes());
            ids.push(EventId(id));
            sequence += 1;
        }
        let sizes: Vec<usize> = ids.iter().map(|_| random.size()).collect();
        // What went wrong was told; the next ones may fare better.
        let _ = world.enqueue(partition, random.below(FUNCTIONS.len()), &ids, &sizes).await;
        if random.one_in(100) {
            let call = world.queue.purge(world.functions[PURGED]);
            let _ = world.tell.promised(format!("purge {}", FUNCTIONS[PURGED]), false, call).await;
            world.progress.notify_waiters();
        }
        if number == 0 && random.one_in(50) {
            redirect(&world, &mut random).await;
        }
    }
}

async fn redirect(world: &World, random: &mut Random) {
    let to = random.below(PARTITIONS.len() + 1);
    let partition = world.partitions.get(to);
    let name = partition.map_or("-", |partition| partition.name);
    let call = world.queue.redirect(world.functions[MOVING], partition.map(|partition| partition.number));
    let _ = world.tell.promised(format!("redirect {} {name}", FUNCTIONS[MOVING]), false, call).await;
}

async fn poll(world: Arc<World>, partition: Partition, mut random: Random) {
    let mut held: Vec<Held> = Vec::new();
    loop {
        if held.len() < LEASES {
            let short = random.one_in(4).then(|| Duration::from_millis(random.next() % 20));
            let wait = if held.is_empty() { WAIT } else { Duration::ZERO };
            held.extend(world.lease(partition, 1 + random.below(16), wait, short).await);
        }
        if held.is_empty() || (held.len() < LEASES && random.one_in(2)) {
            continue;
        }
        if partition.order == Order::Strict {
            work_in_order(&world, partition, std::mem::take(&mut held), &mut random).await;
        } else {
            let lease = held.swap_remove(random.below(held.len()));
            work(&world, lease, &mut random).await;
        }
    }
}

/// Ends a lease in one way or another, or lets it run out.
async fn work(world: &World, lease: Held, random: &mut Random) {
    let split = random.below(lease.events.len() + 1);
    let (first, second) = lease.events.split_at(split);
    let rest = match random.below(10) {
        0 if lease.short => return,
        0 => &lease.events[..],
        1 => {
            note(world, &lease, random).await;
            &lease.events[..]
        }
        2 if first.is_empty() || world.ack(lease.epoch, first).await.is_ok() => second,
        _ if world.ack(lease.epoch, &lease.events).await.is_ok() => &[],
        // The lease was too short, or the disk failed.
        _ => &lease.events[..],
    };
    world.release(lease.epoch, rest).await;
}

/// The same for a lane, whose events are done in order: up to one of them, over all leases that are held; the rest is given back.
async fn work_in_order(world: &World, partition: Partition, leases: Vec<Held>, random: &mut Random) {
    let through = random.below(leases.len());
    if random.one_in(8) {
        note(world, &leases[through], random).await;
    } else if let Some(event) = leases[through].events.get(random.below(leases[through].events.len())) {
        // If the lease was too short, all of it comes again.
        let _ = world.checkpoint(partition, leases[through].epoch, event).await;
    }
    // From the last: what follows an event comes back with it.
    for lease in leases.iter().rev() {
        for event in lease.events.iter().rev() {
            world.release(lease.epoch, std::slice::from_ref(event)).await;
        }
    }
}

async fn note(world: &World, lease: &Held, random: &mut Random) {
    let event = &lease.events[random.below(lease.events.len())];
    let attempts = event.attempts + 1;
    let wall = u64::try_from(SystemClock.now().as_millis()).unwrap_or(u64::MAX);
    let not_before = wall + random.next() % 20;
    let call = world.queue.note(lease.epoch, (event.token, event.id), attempts, not_before);
    let what = format!("note {} {attempts}", hex(&event.id.0));
    let _ = world.tell.promised(what, false, call).await;
}
