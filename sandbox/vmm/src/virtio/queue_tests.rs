//! Completions that may wait, against a driver that takes nothing back before it is told.

use proptest::prelude::*;

use super::{
    Memory, QueueState, Urgency,
    chain::Chain,
    driver::{BUFFERS, INDIRECT, NEXT, Ring, memory, put},
    queue::VirtQueue,
};

/// Where chains' own tables are.
const TABLES: u64 = BUFFERS + 0x1_0000;

/// A driver of one queue, which counts its free descriptors.
struct Sender {
    memory: Memory,
    ring: Ring,
    queue: VirtQueue,
    /// Of chains that were added and not taken back: descriptors in the queue's table, oldest first.
    held: Vec<u16>,
    /// How many of them the device has handed back.
    completed: usize,
}

impl Sender {
    fn new(size: u16, indirect: bool) -> Self {
        let ring = Ring::new(0, size);
        let state = QueueState {
            size,
            ready: true,
            descriptors: ring.table,
            available: ring.available,
            used: ring.used,
            ..QueueState::default()
        };
        let queue = VirtQueue::new(state.rings(size, true).unwrap(), indirect);
        Self { memory: memory(), ring, queue, held: Vec::new(), completed: 0 }
    }

    fn free(&self) -> u16 {
        self.ring.size - self.held.iter().sum::<u16>()
    }

    /// Adds a chain of so many descriptors, in a table of its own or not.
    fn add(&mut self, descriptors: u16, own_table: bool) {
        if own_table {
            for link in 0..descriptors {
                let (flags, next) = if link + 1 < descriptors { (NEXT, link + 1) } else { (0, 0) };
                put(&self.memory, TABLES + u64::from(link) * 16, (BUFFERS, 64, flags, next));
            }
            let head = self.ring.add(&self.memory, &[(TABLES, u32::from(descriptors) * 16, false)]);
            let table = (TABLES, u32::from(descriptors) * 16, INDIRECT, 0);
            self.ring.descriptor(&self.memory, head, table);
            self.held.push(1);
        } else {
            self.ring.add(&self.memory, &vec![(BUFFERS, 64, false); descriptors.into()]);
            self.held.push(descriptors);
        }
    }

    /// The device takes up to so many chains and lets the driver know later. Whether it has been told.
    fn device(&mut self, most: usize, bytes: u32) -> bool {
        let mut chain = Chain::default();
        for _ in 0..most {
            if !self.queue.pop(&self.memory, &mut chain).unwrap() {
                break;
            }
            assert_eq!(chain.descriptors, self.held[self.completed]);
            self.queue.complete(&self.memory, &chain, 0, Urgency::Later(bytes)).unwrap();
            self.completed += 1;
        }
        let told = self.queue.due() && self.queue.take_interrupt(&self.memory).unwrap();
        if told {
            self.ring.used(&self.memory);
            self.held.drain(..self.completed);
            self.completed = 0;
        }
        told
    }
}

proptest! {
    #[test]
    fn a_completion_that_waits_never_leaves_the_driver_with_less_than_half_of_the_queue(
        order in 1..8u32, negotiated in any::<bool>(), bytes in 0..10_000u32,
        steps in prop::collection::vec((1..40u16, any::<bool>(), 1..5usize), 1..300),
    ) {
        let size = 1 << order;
        let mut sender = Sender::new(size, negotiated);
        for (descriptors, own_table, most) in steps {
            let own_table = negotiated && own_table;
            let descriptors = descriptors.min(size);
            if sender.free() >= if own_table { 1 } else { descriptors } {
                sender.add(descriptors, own_table);
            }
            let told = sender.device(most, bytes);
            if !told && sender.completed > 0 {
                prop_assert!(negotiated, "without tables of their own none waits");
                prop_assert!(sender.free() * 2 >= size, "{} of {size} are free", sender.free());
                prop_assert!(sender.completed < 16);
            }
        }
    }
}

#[test]
fn with_tables_of_their_own_many_completions_share_an_interrupt() {
    let mut sender = Sender::new(128, true);
    let told = (0..160).filter(|_| {
        sender.add(3, true);
        sender.device(1, 100)
    });
    assert_eq!(told.count(), 10);
}
