//! What a device is to the transport.

use std::{
    fmt::Debug,
    io,
    os::fd::{BorrowedFd, RawFd},
};

use vmm_sys_util::epoll::EventSet;

use super::{
    Memory,
    chain::ChainError,
    queue::{QueueError, VirtQueue},
    state::{DeviceState, RestoreError},
};

/// A device's queues while the driver runs it, and the memory that they are in.
#[derive(Debug)]
pub struct Rings<'a> {
    /// The guest's memory.
    pub memory: &'a Memory,
    /// As many as [`Device::queue_sizes`] names.
    pub queues: &'a mut [VirtQueue],
}

/// Whether a device has done what there was to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Until a doorbell rings or a descriptor is ready.
    Done,
    /// There is more, left for the next round so that nobody else waits.
    More,
}

/// Why a device stops until it is reset.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The driver has broken the rules of queues.
    #[error("queue: {0}")]
    Queue(#[from] QueueError),
    /// The driver has broken the rules of chains.
    #[error("chain: {0}")]
    Chain(#[from] ChainError),
    /// The driver has broken the rules of the device.
    #[error("{0}")]
    Malformed(&'static str),
    /// The host has failed the device.
    #[error("{0}")]
    Host(#[from] io::Error),
}

/// What takes interrupts on from the events that devices write to. Its functions are called on the device thread and do not block.
pub trait Interrupts: Send {
    /// Events to watch, edge-triggered; they are open for as long as this lives.
    fn events(&self) -> Vec<RawFd>;

    /// The event at this position was written to; it is not read.
    fn signalled(&mut self, event: usize);
}

/// A device behind a [`Transport`](super::Transport).
///
/// Its functions are called under the transport's lock and do not block. `process` is called after `ready`, after a doorbell and when the
/// driver starts the device; each call does a bounded amount of work. An error stops the device until the driver resets it.
pub trait Device: Send + Debug {
    /// The device ID (virtio 1.2, 5).
    fn id(&self) -> u32;

    /// Features it offers beyond those of the transport.
    fn features(&self) -> u64 {
        0
    }

    /// The largest size of each queue: powers of two.
    fn queue_sizes(&self) -> &'static [u16];

    /// The configuration space. It never changes.
    fn config(&self) -> &[u8] {
        &[]
    }

    /// Descriptors to watch, edge-triggered, for as long as the device lives. One of them is known by its position.
    fn sources(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    /// What a descriptor is watched for, until the device was next called. A descriptor that is watched for something new and is ready
    /// for it counts as having become ready.
    fn interest(&self, source: usize) -> EventSet {
        let _ = source;
        EventSet::IN
    }

    /// A descriptor has become ready; called whether or not the driver runs the device.
    fn ready(&mut self, source: usize, events: EventSet) {
        let _ = (source, events);
    }

    /// Does what there is to do, up to a bound.
    fn process(&mut self, rings: &mut Rings<'_>) -> Result<Work, DeviceError>;

    /// Forgets what it knows of the driver.
    fn reset(&mut self);

    /// What [`Self::restore`] needs to go on elsewhere.
    fn save(&self) -> DeviceState;

    /// Goes on from there. After an error the device is not to be used.
    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError>;
}
