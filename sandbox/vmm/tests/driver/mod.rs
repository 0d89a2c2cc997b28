//! A virtio driver for tests: what a guest's kernel does with a device's registers, rings and memory, and the hooks to do it wrongly.
//!
//! ```text
//!  guest memory   0x00_0000 ┌──────────────────────┐
//!                           │ (unused)             │
//!                 0x01_0000 ├──────────────────────┤  for each queue: table, available ring, used ring, a page each
//!                           │ rings                │
//!                 0x10_0000 ├──────────────────────┤
//!                           │ buffers              │
//!                 0x80_0000 └──────────────────────┘
//!                            hole
//!                0x100_0000 ┌──────────────────────┐
//!                           │ a second region      │
//!                0x108_0000 └──────────────────────┘
//! ```

#![allow(dead_code, unreachable_pub, reason = "each test, in the crate or beside it, uses a part")]
#![allow(unsafe_code, reason = "memory between guards is mapped by hand")]

use std::{
    os::fd::RawFd,
    sync::atomic::{Ordering, fence},
};

use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use vm_memory::{Bytes, GuestAddress, GuestRegionMmap, MmapRegion};
use vmm::virtio::{
    Device, Interrupts, Memory, Transport,
    registers::{features, status},
};

/// End of the first region.
pub const MEMORY: u64 = 0x80_0000;
/// The second region, and its length.
pub const SECOND: u64 = 0x100_0000;
pub const SECOND_LENGTH: u64 = 0x8_0000;
/// Where buffers may be.
pub const BUFFERS: u64 = 0x10_0000;
const RINGS: u64 = 0x1_0000;
const PAGE: u64 = 0x1000;

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// A descriptor to be: address, length, flags, next.
pub type Link = (u64, u32, u16, u16);

/// Guest memory, each region between two areas that nobody may touch: what reaches over an end is a fault.
pub fn memory() -> Memory {
    let regions = [(0, MEMORY as usize), (SECOND, SECOND_LENGTH as usize)];
    let regions = regions
        .map(|(address, length)| GuestRegionMmap::new(guarded(length), GuestAddress(address)).unwrap());
    Memory::from_regions(regions.into()).unwrap()
}

/// A mapping that is never unmapped: tests make few.
fn guarded(length: usize) -> MmapRegion {
    const GUARD: usize = 64 * 1024;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice, and a change to the middle of it, which nobody uses yet.
    unsafe {
        let start = libc::mmap(std::ptr::null_mut(), length + 2 * GUARD, libc::PROT_NONE, flags, -1, 0);
        assert_ne!(start, libc::MAP_FAILED);
        let inside = start.cast::<u8>().add(GUARD);
        let access = libc::PROT_READ | libc::PROT_WRITE;
        assert_eq!(libc::mprotect(inside.cast(), length, access), 0);
        MmapRegion::build_raw(inside, length, access, flags).unwrap()
    }
}

/// Interrupts that go nowhere: a test reads the devices' events itself.
#[derive(Debug)]
pub struct Unwired;

impl Unwired {
    pub fn boxed() -> Box<dyn Interrupts> {
        Box::new(Self)
    }
}

impl Interrupts for Unwired {
    fn events(&self) -> Vec<RawFd> {
        Vec::new()
    }

    fn signalled(&mut self, _event: usize) {}
}

/// A queue from the driver's side.
#[derive(Debug, Clone)]
pub struct Ring {
    pub size: u16,
    pub table: u64,
    pub available: u64,
    pub used: u64,
    next: u16,
    added: u16,
    rung: u16,
    seen: u16,
}

impl Ring {
    pub fn new(queue: usize, size: u16) -> Self {
        let table = RINGS + queue as u64 * 3 * PAGE;
        Self {
            size,
            table,
            available: table + PAGE,
            used: table + 2 * PAGE,
            next: 0,
            added: 0,
            rung: 0,
            seen: 0,
        }
    }

    pub fn descriptor(&self, memory: &Memory, index: u16, link: Link) {
        put(memory, self.table + u64::from(index) * 16, link);
    }

    /// Links buffers `(address, length, writable)` into a chain and offers it. Its head.
    pub fn add(&mut self, memory: &Memory, buffers: &[(u64, u32, bool)]) -> u16 {
        let head = self.next;
        for (position, &(address, length, writable)) in buffers.iter().enumerate() {
            let index = (head + position as u16) % self.size;
            let more = if position + 1 < buffers.len() { NEXT } else { 0 };
            let flags = more | if writable { WRITE } else { 0 };
            self.descriptor(memory, index, (address, length, flags, (index + 1) % self.size));
        }
        self.next = (head + buffers.len() as u16) % self.size;
        self.offer(memory, head);
        head
    }

    /// Chains that have not come back.
    pub fn outstanding(&self) -> u16 {
        self.added.wrapping_sub(self.seen)
    }

    /// Puts a head, whatever it is, on the available ring.
    pub fn offer(&mut self, memory: &Memory, head: u16) {
        let slot = self.available + 4 + u64::from(self.added % self.size) * 2;
        memory.write_obj(head, GuestAddress(slot)).unwrap();
        self.added = self.added.wrapping_add(1);
        memory.store(self.added, GuestAddress(self.available + 2), Ordering::Release).unwrap();
    }

    /// Whether the device wants to hear of what was added since this was last asked (2.7.10).
    pub fn wants_doorbell(&mut self, memory: &Memory) -> bool {
        // A device that goes to sleep writes where it wants to be woken and looks at the ring once more; here it is the other way about. Without
        // the fence neither might see what the other wrote.
        fence(Ordering::SeqCst);
        let event: u16 = memory.read_obj(GuestAddress(self.used + 4 + u64::from(self.size) * 8)).unwrap();
        let (new, old) = (self.added, self.rung);
        self.rung = new;
        new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
    }

    /// The chains that came back since this was last asked, and asks for an interrupt at the next one, as Linux does: what comes before the device
    /// has seen that it is to interrupt is taken as well.
    pub fn used(&mut self, memory: &Memory) -> Vec<(u16, u32)> {
        let used_event = self.available + 4 + u64::from(self.size) * 2;
        let mut chains = Vec::new();
        loop {
            self.take_used(memory, &mut chains);
            memory.store(self.seen, GuestAddress(used_event), Ordering::SeqCst).unwrap();
            fence(Ordering::SeqCst);
            let index: u16 = memory.load(GuestAddress(self.used + 2), Ordering::Acquire).unwrap();
            if self.seen == index {
                return chains;
            }
        }
    }

    fn take_used(&mut self, memory: &Memory, chains: &mut Vec<(u16, u32)>) {
        let index: u16 = memory.load(GuestAddress(self.used + 2), Ordering::Acquire).unwrap();
        // A ring that a fuzzer has scribbled on tells no more than its size.
        if index.wrapping_sub(self.seen) > self.size {
            self.seen = index;
        }
        while self.seen != index {
            let slot = self.used + 4 + u64::from(self.seen % self.size) * 8;
            let [id, length]: [u32; 2] =
                [slot, slot + 4].map(|at| memory.read_obj(GuestAddress(at)).unwrap());
            chains.push((id as u16, length));
            self.seen = self.seen.wrapping_add(1);
        }
    }
}

/// Writes a descriptor.
pub fn put(memory: &Memory, at: u64, (address, length, flags, next): Link) {
    let descriptor = RawDescriptor::from(Descriptor::new(address, length, flags, next));
    memory.write_obj(descriptor, GuestAddress(at)).unwrap();
}

/// A device and the driver of it.
#[derive(Debug)]
pub struct Driver {
    pub memory: Memory,
    pub transport: Transport,
    pub rings: Vec<Ring>,
}

impl Driver {
    /// Nothing is set up.
    pub fn new(device: impl Device + 'static) -> Self {
        Self::new_boxed(Box::new(device))
    }

    pub fn new_boxed(device: Box<dyn Device>) -> Self {
        let memory = memory();
        let sizes = device.queue_sizes();
        let rings = sizes.iter().enumerate().map(|(queue, size)| Ring::new(queue, *size)).collect();
        let transport = Transport::new(memory.clone(), device).unwrap();
        Self { memory, transport, rings }
    }

    /// Another device in the same memory.
    pub fn replace(&mut self, device: Box<dyn Device>) {
        self.transport = Transport::new(self.memory.clone(), device).unwrap();
    }

    /// Set up as by the book.
    pub fn started(device: impl Device + 'static) -> Self {
        let mut driver = Self::new(device);
        driver.start(features::COMMON);
        driver
    }

    pub fn read(&mut self, offset: u64) -> u32 {
        let mut word = [0; 4];
        self.transport.read(offset, &mut word);
        u32::from_le_bytes(word)
    }

    pub fn write(&mut self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }

    pub fn status(&mut self) -> u32 {
        self.read(0x70)
    }

    pub fn negotiate(&mut self, accepted: u64) {
        self.write(0x70, 0);
        self.write(0x70, status::ACKNOWLEDGE);
        self.write(0x70, status::ACKNOWLEDGE | status::DRIVER);
        for (word, features) in [accepted as u32, (accepted >> 32) as u32].into_iter().enumerate() {
            self.write(0x24, word as u32);
            self.write(0x20, features);
        }
        self.write(0x70, status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK);
    }

    pub fn set_up_queue(&mut self, queue: usize) {
        let Ring { size, table, available, used, .. } = self.rings[queue];
        self.write(0x30, queue as u32);
        self.write(0x38, size.into());
        for (offset, address) in [(0x80, table), (0x90, available), (0xa0, used)] {
            self.write(offset, address as u32);
            self.write(offset + 4, (address >> 32) as u32);
        }
        self.write(0x44, 1);
    }

    /// Resets the device and its rings, and starts it.
    pub fn start(&mut self, accepted: u64) {
        self.negotiate(accepted);
        for queue in 0..self.rings.len() {
            let size = self.rings[queue].size;
            self.rings[queue] = Ring::new(queue, size);
            let zeros = vec![0; 3 * PAGE as usize];
            self.memory.write_slice(&zeros, GuestAddress(self.rings[queue].table)).unwrap();
            self.set_up_queue(queue);
        }
        let running = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK;
        self.write(0x70, running);
    }

    pub fn add(&mut self, queue: usize, buffers: &[(u64, u32, bool)]) -> u16 {
        self.rings[queue].add(&self.memory, buffers)
    }

    pub fn used(&mut self, queue: usize) -> Vec<(u16, u32)> {
        self.rings[queue].used(&self.memory)
    }

    pub fn bytes(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    pub fn put(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    /// Interrupts since this was last asked.
    pub fn interrupts(&self) -> u64 {
        self.transport.interrupt().read().unwrap_or(0)
    }

    /// Whether the device has asked its thread to come by again.
    pub fn woken(&self) -> bool {
        self.transport.doorbells().iter().any(|doorbell| doorbell.read().is_ok())
    }

    /// Does what the device thread does for a doorbell, until the device has nothing more to do.
    pub fn run(&mut self) {
        self.transport.doorbell_rang();
        while self.woken() {
            self.transport.doorbell_rang();
        }
    }
}
