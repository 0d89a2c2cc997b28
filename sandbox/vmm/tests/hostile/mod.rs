//! A driver that means harm, for the fuzzers: it drives a device through what a guest can reach, and nothing else.
//!
//! **What is counted.** An execution is one call of an entry point of the transport: a register read or written, or a round of the device
//! after a doorbell or an event of one of its descriptors. Memory that is scribbled between two calls, and what the host does at its end, are not
//! counted. Each call has content that is hostile: random registers with random values, or rings and chains of which some part is wrong or
//! lies about the rest. So that calls reach deep, most chains are nearly right, the device is started anew when it has given up, and in every other
//! episode the rings are kept in order, so that only what is in the buffers does harm.
//!
//! The number of executions comes from `FUZZ_EXECUTIONS`, or is a million. The same seeds are used every time; a failure names its own.

#![allow(dead_code, unreachable_pub, reason = "each fuzzer uses a part")]

use std::{collections::BTreeMap, time::Instant};

use vm_memory::{Bytes, GuestAddress};
use vmm::virtio::{
    Device, DeviceError, Transport,
    registers::{WINDOW, features, status},
};
use vmm_sys_util::epoll::EventSet;

use crate::driver::{BUFFERS, Driver, INDIRECT, MEMORY, NEXT, SECOND, SECOND_LENGTH, WRITE, put};

/// Tables for indirect chains, and headers of requests, are here.
const TABLES: u64 = BUFFERS;
pub const HEADERS: u64 = BUFFERS + 0x1_0000;
const DATA: u64 = BUFFERS + 0x2_0000;

/// Resident bytes that a million executions may add, beyond the guest's memory.
const GROWTH: u64 = 16 << 20;

/// SplitMix64: small, and the same everywhere.
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
    /// In this episode the rings are in order.
    pub orderly: bool,
}

impl Random {
    fn new(seed: u64) -> Self {
        Self { state: seed, orderly: seed.is_multiple_of(2) }
    }

    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// A number that programs get wrong.
    pub fn number(&mut self) -> u64 {
        let edges = [
            0,
            1,
            7,
            8,
            15,
            16,
            0xffff,
            0x1_0000,
            MEMORY,
            SECOND,
            SECOND + SECOND_LENGTH,
            1 << 31,
            1 << 32,
            1 << 63,
            0,
        ];
        match self.below(4) {
            0 => self.next(),
            1 => self.next() & 0xffff,
            _ => self.pick(&edges).wrapping_add(self.below(5)).wrapping_sub(2),
        }
    }

    /// An address for a buffer: mostly good, often at an edge.
    fn address(&mut self) -> u64 {
        match self.below(12) {
            0 => self.number(),
            1 => MEMORY - self.below(64),
            2 => SECOND - self.below(4),
            3 => SECOND + SECOND_LENGTH - self.below(8192),
            4 => SECOND + self.below(SECOND_LENGTH),
            _ => DATA + self.below(MEMORY - DATA - 0x2_0000),
        }
    }

    fn length(&mut self) -> u32 {
        match self.below(12) {
            0 => self.number() as u32,
            1 => 0,
            2 => 1,
            3..=5 => self.below(70_000) as u32,
            6..=8 => 512 * (1 + self.below(8)) as u32,
            _ => self.below(5000) as u32,
        }
    }
}

/// What a fuzzer knows of its device.
pub trait Target {
    /// Its name.
    const NAME: &'static str;
    /// Executions with one seed and one device.
    const EPISODE: u64;
    /// A new device. What was kept for the old one is forgotten.
    fn device(&mut self, random: &mut Random) -> Box<dyn Device>;
    /// How many queues, and which ones are worth filling.
    fn queues(&self) -> &'static [usize];
    /// A chain that is nearly right: its readable head is written to `HEADERS`, the rest are lengths of writable buffers.
    fn request(&mut self, queue: usize, random: &mut Random, driver: &Driver) -> Vec<(u64, u32, bool)>;
    /// What the host does meanwhile.
    fn host(&mut self, random: &mut Random) {
        let _ = random;
    }
    /// Chains that came back.
    fn completed(&mut self, queue: usize, driver: &Driver, chains: &[(u16, u32)]) {
        let _ = (queue, driver, chains);
    }
    /// What must hold at the end of an episode; and how much of something there was in it.
    fn check(&mut self, transport: &Transport) -> &[(&'static str, u64)] {
        let _ = transport;
        &[]
    }
}

/// A run, and what it has seen.
pub struct Fuzzer<T> {
    target: T,
    random: Random,
    driver: Driver,
    executions: u64,
    seed: u64,
    seen: BTreeMap<&'static str, u64>,
}

/// Fuzzes for as many executions as are wanted, and prints what it did.
pub fn run<T: Target>(mut target: T) {
    let wanted = std::env::var("FUZZ_EXECUTIONS").map_or(1_000_000, |number| number.parse().unwrap());
    let mut random = Random::new(1);
    let driver = Driver::new_boxed(target.device(&mut random));
    // Every page of the guest's is resident before anything is measured.
    driver.put(0, &vec![0; MEMORY as usize]);
    driver.put(SECOND, &vec![0; SECOND_LENGTH as usize]);
    let mut fuzzer = Fuzzer { target, random, driver, executions: 0, seed: 0, seen: BTreeMap::new() };
    let start = Instant::now();
    let mut resident = 0;
    while fuzzer.executions < wanted {
        fuzzer.seed += 1;
        fuzzer.episode();
        if resident == 0 && fuzzer.executions >= wanted / 20 {
            resident = resident_bytes();
        }
    }
    let grown = resident_bytes().saturating_sub(resident);
    println!(
        "fuzz {}: {} entry-point calls with hostile content in {:.1?}, {} KiB grown; {:?}",
        T::NAME,
        fuzzer.executions,
        start.elapsed(),
        grown / 1024,
        fuzzer.seen
    );
    assert!(grown < GROWTH, "{grown} bytes more are resident");
    let completed = fuzzer.seen.get("chains completed").copied().unwrap_or(0);
    assert!(completed > wanted / 20, "too shallow: {completed} chains completed");
}

impl<T: Target> Fuzzer<T> {
    fn episode(&mut self) {
        let seed = self.seed;
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            self.random = Random::new(seed);
            let device = self.target.device(&mut self.random);
            self.driver.replace(device);
            self.start();
            let end = self.executions + T::EPISODE;
            while self.executions < end {
                self.step();
            }
        }));
        if let Err(panic) = result {
            eprintln!("fuzz {}: seed {seed} failed", T::NAME);
            std::panic::resume_unwind(panic);
        }
        for (what, amount) in self.target.check(&self.driver.transport) {
            *self.seen.entry(what).or_default() += amount;
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn start(&mut self) {
        let accepted = match self.random.below(4) {
            0 if !self.random.orderly => features::VERSION_1 | self.random.next() & features::COMMON,
            _ => features::COMMON,
        };
        self.driver.start(accepted);
        // As many register writes, but by the book: they do not count as hostile.
        self.count("starts by the book");
    }

    fn step(&mut self) {
        match self.random.below(64) {
            0..=3 => self.read_register(),
            4..=11 if self.random.orderly => self.event(),
            4..=8 => self.write_register(),
            9..=10 => self.scribble(),
            11 => self.save_and_restore(),
            12..=13 => self.target.host(&mut self.random),
            14..=17 => self.event(),
            _ => self.offer(),
        }
        let status = self.driver.status();
        let stopped = status & (status::NEEDS_RESET | status::FAILED) != 0 || status & status::DRIVER_OK == 0;
        if stopped && self.random.once_in(4) {
            if let Some(DeviceError::Host(error)) = self.driver.transport.failure() {
                panic!("a guest made a system call fail: {error}");
            }
            self.count("stopped");
            self.start();
        }
    }

    fn read_register(&mut self) {
        let mut data = [0; 16];
        let width = self.random.pick(&[0, 1, 2, 4, 4, 4, 8, 16]);
        let offset = self.offset();
        self.driver.transport.read(offset, &mut data[..width]);
        self.executions += 1;
    }

    fn write_register(&mut self) {
        let offset = self.offset();
        let bytes = self.random.number().to_le_bytes();
        let width = self.random.pick(&[0, 1, 2, 4, 4, 4, 4, 8]);
        // A reset is easily made and seldom interesting.
        if offset == 0x70 && bytes[..4] == [0; 4] && !self.random.once_in(8) {
            return;
        }
        self.driver.transport.write(offset, &bytes[..width]);
        self.executions += 1;
        self.settle();
    }

    fn offset(&mut self) -> u64 {
        match self.random.below(8) {
            0 => self.random.number(),
            1 => self.random.below(WINDOW),
            _ => self.random.below(0x110) & !3,
        }
    }

    fn queue(&mut self) -> usize {
        let queues = self.target.queues();
        self.random.pick(queues)
    }

    /// Random bytes somewhere in the rings.
    fn scribble(&mut self) {
        let queue = self.queue();
        let ring = &self.driver.rings[queue];
        let base = self.random.pick(&[ring.table, ring.available, ring.used]);
        let reach = self.random.pick(&[8, 2048]);
        let at = base + self.random.below(reach);
        let value = self.random.number() as u16;
        self.driver.memory.write_obj(value, GuestAddress(at)).unwrap();
        self.driver.transport.doorbell_rang();
        self.executions += 1;
        self.settle();
    }

    fn event(&mut self) {
        let events = EventSet::from_bits_truncate(self.random.next() as u32 & 0x2005);
        let source = self.random.below(4) as usize;
        self.driver.transport.source_ready(source, events);
        self.executions += 1;
        self.settle();
    }

    /// The state of a device under attack is one that can be gone on from, at the transport at least.
    fn save_and_restore(&mut self) {
        if !self.random.once_in(16) {
            return;
        }
        let state = self.driver.transport.save();
        let mut other = self.target.device(&mut self.random);
        other.restore(&state.device).ok();
        self.driver.replace(other);
        self.count("saved and made anew");
        self.start();
    }

    /// A chain that is nearly right, in descriptors that are nearly right, offered nearly as it should be.
    fn offer(&mut self) {
        let queue = self.queue();
        for _ in 0..1 + self.random.below(3) {
            let ring = &self.driver.rings[queue];
            if ring.outstanding() >= ring.size / 4 && !self.random.once_in(1000) {
                break;
            }
            let mut buffers = self.target.request(queue, &mut self.random, &self.driver);
            if self.random.orderly {
                self.driver.add(queue, &buffers);
                continue;
            }
            while self.random.once_in(6) {
                let buffer = (self.random.address(), self.random.length(), self.random.once_in(2));
                let at = self.random.below(buffers.len() as u64 + 1) as usize;
                buffers.insert(at, buffer);
            }
            if self.random.once_in(24) && !buffers.is_empty() {
                let at = self.random.below(buffers.len() as u64) as usize;
                buffers[at].1 = self.random.length();
            }
            let head = self.link(queue, &buffers);
            let memory = self.driver.memory.clone();
            let head = if self.random.once_in(100) { self.random.number() as u16 } else { head };
            self.driver.rings[queue].offer(&memory, head);
        }
        self.driver.transport.doorbell_rang();
        self.executions += 1;
        self.settle();
    }

    /// Writes descriptors, sometimes into a table of their own. The head.
    fn link(&mut self, queue: usize, buffers: &[(u64, u32, bool)]) -> u16 {
        let (table, size) = (self.driver.rings[queue].table, self.driver.rings[queue].size);
        let head = self.random.below(u64::from(size)) as u16;
        let indirect = self.random.once_in(3);
        let inner = TABLES + self.random.below(8) * 0x1000;
        for (position, &(address, length, writable)) in buffers.iter().enumerate() {
            let more = position + 1 < buffers.len() && !self.random.once_in(200);
            let mut flags = if more { NEXT } else { 0 } | if writable { WRITE } else { 0 };
            let mut next = if indirect { position as u16 + 1 } else { (head + position as u16 + 1) % size };
            if self.random.once_in(150) {
                flags ^= self.random.pick(&[NEXT, WRITE, INDIRECT, 0xffff]);
            }
            if self.random.once_in(150) {
                next = self.random.number() as u16;
            }
            let at = if indirect {
                inner + position as u64 * 16
            } else {
                table + u64::from((head + position as u16) % size) * 16
            };
            put(&self.driver.memory, at, (address, length, flags, next));
        }
        if indirect {
            let mut length = buffers.len() as u32 * 16;
            if self.random.once_in(50) {
                length = self.random.number() as u32;
            }
            let flags = if self.random.once_in(50) { self.random.next() as u16 } else { INDIRECT };
            let inner = if self.random.once_in(50) { self.random.number() } else { inner };
            put(&self.driver.memory, table + u64::from(head) * 16, (inner, length, flags, head));
        }
        head
    }

    /// Rounds that the device has asked for, and what came back.
    fn settle(&mut self) {
        for _ in 0..3 {
            if !self.driver.woken() {
                break;
            }
            self.driver.transport.doorbell_rang();
            self.executions += 1;
        }
        if self.driver.interrupts() > 0 {
            self.count("interrupts");
        }
        for queue in self.target.queues() {
            let chains = self.driver.used(*queue);
            *self.seen.entry("chains completed").or_default() += chains.len() as u64;
            self.target.completed(*queue, &self.driver, &chains);
        }
    }
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
