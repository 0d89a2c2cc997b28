//! The drain: everything that is there is leased and told of, then a part of it is finished.

use queue::{Queue, WriteError, partition::Order};

use crate::{
    Failure,
    world::{FUNCTIONS, Held, MOVING, WAIT, World, hex},
};

/// As many as one line can tell of.
const TOGETHER: usize = 32;

pub(crate) async fn drain(world: &World, finish_percent: u64) -> Result<(), Failure> {
    let mut random = world.random(u64::MAX);
    let mut finishes = |_: &_| random.next() % 100 < finish_percent;
    let mut all = Vec::new();
    for partition in &world.partitions {
        let mut leases: Vec<Held> = Vec::new();
        loop {
            let had: usize = leases.iter().map(|lease| lease.events.len()).sum();
            if world.queue.depth(partition.number).events == had as u64 {
                break;
            }
            // Some must not be tried before their time.
            leases.extend(world.lease(*partition, TOGETHER, WAIT, None).await);
        }
        all.push((partition, leases));
    }
    tell_of_the_rest(world);
    for (partition, leases) in all {
        for Held { epoch, mut events, .. } in leases {
            if partition.order == Order::None {
                events.retain(&mut finishes);
                if !events.is_empty() {
                    with_room(|| world.ack(epoch, &events)).await?;
                }
            } else if let Some(last) = events.last().filter(|event| finishes(event)) {
                with_room(|| world.checkpoint(*partition, epoch, last)).await?;
            } else {
                break;
            }
        }
    }
    world.tell.line(format_args!("drained"));
    Ok(())
}

/// Asks again as long as the disk is full: upkeep makes room of what is done.
async fn with_room<F: Future<Output = Result<(), WriteError>>>(
    call: impl Fn() -> F,
) -> Result<(), WriteError> {
    loop {
        match call().await {
            Err(WriteError::NoSpace) => {}
            result => return result,
        }
    }
}

/// What is not an event, and that all events have been told of.
fn tell_of_the_rest(world: &World) {
    for partition in &world.partitions {
        if let Some(position) = world.queue.position(partition.number) {
            world.tell.line(format_args!("position {} {}", partition.name, hex(&position)));
        }
    }
    if let Some(to) = world.queue.redirected(world.functions[MOVING]) {
        let name = world.partitions.iter().find(|partition| partition.number == to);
        let name = name.map_or("unknown", |partition| partition.name);
        world.tell.line(format_args!("redirected {} {name}", FUNCTIONS[MOVING]));
    }
    let unreadable = world.queue.unreadable();
    world.tell.line(format_args!("all {} {}", unreadable.corrupt, unreadable.shredded));
}
