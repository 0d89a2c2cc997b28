//! A queue in use: the rings of crate `virtio-queue`, chains checked as they are taken, and the bookkeeping of notifications.
//!
//! ```text
//!   driver ── available ring ──► pop ──► Chain ──► (device) ──► complete ──► used ring ──► driver
//!               ▲ doorbell                                          │ interrupt
//!               └ only if asked for: `enable_notifications`         └ `take_interrupt`: if something urgent was
//!                                                                     completed and the driver wants to know
//! ```
//!
//! With `EVENT_IDX` (virtio 1.2, 2.7.7 and 2.7.10) each side writes down at which index it wants to be told; a device that has not
//! written for a while is not told, which is why there is nothing to do for *not* wanting doorbells. Without it, flags do the same, less well.

use std::sync::atomic::Ordering;

use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::{
    Memory,
    chain::{Chain, ChainError, Table},
    state::QueueState,
};

/// Completions that may wait for an interrupt, at most. See also [`VirtQueue::complete`].
const LAZY_COMPLETIONS: u16 = 16;

/// Bytes in completions that may wait for an interrupt, at most: the driver holds them until it is told.
const LAZY_BYTES: u32 = 256 * 1024;

/// How soon the driver has to hear of a completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// Somebody may be waiting for it.
    Now,
    /// Only buffers come free, of this many bytes: with the next interrupt, or when many have come together.
    Later(u32),
}

/// What is wrong with a queue.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// A chain that breaks the rules.
    #[error("{0}")]
    Chain(#[from] ChainError),
    /// The rings are not usable, or the available ring has run ahead.
    #[error("{0}")]
    Rings(#[from] virtio_queue::Error),
}

/// A queue that the driver has set up.
#[derive(Debug)]
pub struct VirtQueue {
    rings: Queue,
    indirect: bool,
    /// Something was completed that the driver has to hear of.
    urgent: bool,
    /// Completions, the descriptors that they hold, and their bytes, since the driver was last told.
    lazy: u16,
    lazy_descriptors: u16,
    lazy_bytes: u32,
    /// Without `EVENT_IDX`: whether the driver was asked to ring.
    wanted: Option<bool>,
}

impl VirtQueue {
    /// Takes over rings that were checked to lie in guest memory.
    pub(super) fn new(rings: Queue, indirect: bool) -> Self {
        Self { rings, indirect, urgent: false, lazy: 0, lazy_descriptors: 0, lazy_bytes: 0, wanted: None }
    }

    /// The next chain into `chain`, or `false`.
    pub fn pop(&mut self, memory: &Memory, chain: &mut Chain) -> Result<bool, QueueError> {
        let Some(head) = self.rings.iter(memory)?.next().map(|link| link.head_index()) else {
            return Ok(false);
        };
        let table = Table {
            address: GuestAddress(self.rings.desc_table()),
            entries: self.rings.size(),
            indirect: self.indirect,
        };
        chain.walk(memory, table, head)?;
        Ok(true)
    }

    /// Gives the chain that was popped last back to the available ring.
    pub fn undo_pop(&mut self) {
        self.rings.go_to_previous_position();
    }

    /// Hands a chain back to the driver. `written` counts the bytes at the front of its writable part that were written.
    ///
    /// No completion waits if it could leave the driver without descriptors for what it wants to send next: none that is not a table of its own,
    /// where those were not negotiated, and none while fewer than half of the queue's descriptors are free.
    pub fn complete(
        &mut self,
        memory: &Memory,
        chain: &Chain,
        written: u32,
        urgency: Urgency,
    ) -> Result<(), QueueError> {
        self.rings.add_used(memory, chain.head, written)?;
        self.lazy = self.lazy.saturating_add(1);
        self.lazy_descriptors = self.lazy_descriptors.saturating_add(chain.descriptors);
        match urgency {
            Urgency::Now => self.urgent = true,
            Urgency::Later(bytes) => {
                self.lazy_bytes = self.lazy_bytes.saturating_add(bytes);
                self.urgent |= !self.indirect
                    || self.lazy >= LAZY_COMPLETIONS
                    || self.lazy_bytes >= LAZY_BYTES
                    || self.free(memory)? < self.rings.size().div_ceil(2);
            }
        }
        Ok(())
    }

    /// Descriptors that the driver has, at most: neither on the available ring nor in a completion that it was not told of.
    fn free(&self, memory: &Memory) -> Result<u16, QueueError> {
        let available = self.rings.avail_idx(memory, Ordering::Acquire)?.0;
        let waiting = available.wrapping_sub(self.rings.next_avail());
        Ok(self.rings.size().saturating_sub(waiting).saturating_sub(self.lazy_descriptors))
    }

    /// Changes with every chain that is handed back.
    pub(super) fn completions(&self) -> u16 {
        self.rings.next_used()
    }

    /// Asks for the doorbell when there is more. `true`: there is more already, and the doorbell may not ring.
    pub fn enable_notifications(&mut self, memory: &Memory) -> Result<bool, QueueError> {
        self.wanted = Some(true);
        Ok(self.rings.enable_notification(memory)?)
    }

    /// New buffers are of no interest for now. The doorbell may ring all the same.
    pub fn disable_notifications(&mut self, memory: &Memory) -> Result<(), QueueError> {
        if !self.rings.event_idx_enabled() && self.wanted != Some(false) {
            self.rings.disable_notification(memory)?;
        }
        self.wanted = Some(false);
        Ok(())
    }

    /// Whether an interrupt is due for this queue's sake.
    pub(super) fn due(&self) -> bool {
        self.urgent
    }

    /// An interrupt is due for some queue's sake: whether the driver wants to hear of this one. What was completed counts as told.
    pub(super) fn take_interrupt(&mut self, memory: &Memory) -> Result<bool, QueueError> {
        if self.lazy == 0 {
            return Ok(false);
        }
        (self.urgent, self.lazy, self.lazy_descriptors, self.lazy_bytes) = (false, 0, 0, 0);
        let told = self.rings.needs_notification(memory)?;
        if self.rings.event_idx_enabled() {
            return Ok(told);
        }
        let flags: u16 = memory
            .load(GuestAddress(self.rings.avail_ring()), Ordering::Relaxed)
            .map_err(virtio_queue::Error::GuestMemory)?;
        Ok(u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0)
    }

    pub(super) fn save(&self) -> QueueState {
        let state = self.rings.state();
        QueueState {
            size: state.size,
            ready: state.ready,
            descriptors: state.desc_table,
            available: state.avail_ring,
            used: state.used_ring,
            next_available: state.next_avail,
            next_used: state.next_used,
        }
    }
}
