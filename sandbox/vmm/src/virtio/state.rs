//! What is kept of a device when its virtual machine is saved: plain data, with a version.
//!
//! It is data of the monitor's own, but a monitor may read what an older or a broken one wrote: `restore` checks everything that it relies on, as
//! if the guest had said it.

use serde::{Deserialize, Serialize};
use virtio_queue::Queue;

use super::{block::BlockState, rng::RngState, vsock::VsockState};

/// The version of [`TransportState`] that is written, and the only one that is read.
pub const STATE_VERSION: u32 = 1;

/// A transport, its queues and its device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransportState {
    /// [`STATE_VERSION`].
    pub version: u32,
    /// Features that the driver has accepted.
    pub driver_features: u64,
    /// Which word of the device's features the driver reads.
    pub device_features_select: u32,
    /// Which word of its own features the driver writes.
    pub driver_features_select: u32,
    /// Which queue the queue registers are for.
    pub queue_select: u32,
    /// The status register, without `DEVICE_NEEDS_RESET`.
    pub status: u32,
    /// Whether the device has failed.
    pub needs_reset: bool,
    /// Causes of an interrupt that the driver has not acknowledged.
    pub interrupt_status: u32,
    /// One for each queue.
    pub queues: Vec<QueueState>,
    /// The device's own.
    pub device: DeviceState,
}

/// A queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueState {
    /// Its size, in entries.
    pub size: u16,
    /// Whether the driver has set it up.
    pub ready: bool,
    /// Guest address of the descriptor table.
    pub descriptors: u64,
    /// Guest address of the available ring.
    pub available: u64,
    /// Guest address of the used ring.
    pub used: u64,
    /// Where the next chain is taken from.
    pub next_available: u16,
    /// Where the next chain is handed back.
    pub next_used: u16,
}

/// What a device keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceState {
    /// See [`BlockState`].
    Block(BlockState),
    /// See [`RngState`].
    Rng(RngState),
    /// See [`VsockState`].
    Vsock(Box<VsockState>),
}

/// Why a state cannot be gone on from.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Written by another version.
    #[error("state of version {0}, not {STATE_VERSION}")]
    Version(u32),
    /// For another device, or one of another shape.
    #[error("state of another device: {0}")]
    Device(&'static str),
    /// Something in it cannot be.
    #[error("impossible state: {0}")]
    Impossible(&'static str),
    /// The host has failed.
    #[error("{0}")]
    Host(#[from] std::io::Error),
}

impl QueueState {
    /// The rings that this describes, if `virtio-queue` finds their sizes and alignments good; not yet that they lie in memory.
    pub(super) fn rings(&self, max_size: u16, event_idx: bool) -> Option<Queue> {
        // The crate takes an available ring at 0 for one that was not set.
        if !self.ready || self.available == 0 {
            return None;
        }
        let state = virtio_queue::QueueState {
            max_size,
            next_avail: self.next_available,
            next_used: self.next_used,
            event_idx_enabled: event_idx,
            size: self.size,
            ready: self.ready,
            desc_table: self.descriptors,
            avail_ring: self.available,
            used_ring: self.used,
        };
        Queue::try_from(state).ok()
    }
}
