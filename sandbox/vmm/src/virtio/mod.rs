//! The guest's devices: virtio 1.2 over MMIO registers, in user space.
//!
//! ```text
//!   vCPU threads                        the device thread
//!        │ MMIO exit                          ▲ epoll: doorbells, the devices' descriptors
//!        ▼                                    │
//!  ┌─────────────── Arc<Mutex<Transport>> ────┴──────────────────────────────────────┐
//!  │ transport  registers, status, features, when a queue may change, interrupts     │
//!  │   │ process(queues, memory)                                                     │
//!  │   ▼                                                                             │
//!  │ block · vsock · rng          one folder each                                    │
//!  │   │ pop, complete                                                               │
//!  │   ▼                                                                             │
//!  │ queue      rings (crate virtio-queue)                                           │
//!  │   │ walk                                                                        │
//!  │   ▼                                                                             │
//!  │ chain      descriptors → checked ranges of guest memory, read once and copied   │
//!  └─────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! | device | ID | queues (largest size) | features besides `VERSION_1`, `INDIRECT_DESC`, `EVENT_IDX` | descriptors watched |
//! |---|---|---|---|---|
//! | [`Block`] | 2 | requests (64) | `RO`, `SIZE_MAX`, `SEG_MAX`, `BLK_SIZE` | its timer |
//! | [`Rng`] | 4 | requests (8) | – | its timer |
//! | [`Vsock`] | 19 | rx (128), tx (128), events (8) | – | the stream, the timer of its end, two timers |
//!
//! **What is trusted of the guest: nothing.** A register may be read and written at any offset and width at any time; queues
//! cannot change once the driver has said `DRIVER_OK`; every descriptor is read once, checked and copied before anything acts
//! on it; each call does a bounded amount of work, and rings for nothing are heard so many times a second and no more. A driver
//! that breaks the rules gets `DEVICE_NEEDS_RESET` and silence, the monitor neither panics nor allocates anything whose size the
//! guest chooses.
//!
//! **Few exits.** The costs of a device are doorbells (one exit) and interrupts (two: the handler reads the cause and
//! acknowledges it). With `EVENT_IDX` the driver rings only when the device has run dry, a device that does not care about new
//! buffers does not ask for the doorbell at all, and completions that nobody waits for are told with the next interrupt that is due
//! anyway (see [`Urgency`]).
//!
//! Not here: hot plug, packed rings, PCI, changes of configuration while the guest runs.

#![cfg_attr(
    not(test),
    deny(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        clippy::expect_used,
        clippy::panic
    )
)]

pub mod block;
pub mod chain;
mod device;
mod doorbells;
mod event_loop;
mod iovec;
pub mod queue;
pub mod registers;
pub mod rng;
mod state;
mod throttle;
mod transport;
pub mod vsock;

#[cfg(test)]
#[path = "../../tests/driver/mod.rs"]
mod driver;
#[cfg(test)]
mod queue_tests;
#[cfg(test)]
mod tests;

pub use self::{
    block::Block,
    device::{Device, DeviceError, Interrupts, Rings, Work},
    event_loop::EventLoop,
    queue::Urgency,
    rng::Rng,
    state::{DeviceState, QueueState, RestoreError, STATE_VERSION, TransportState},
    transport::Transport,
    vsock::Vsock,
};

/// The guest's memory. It is mapped for as long as the virtual machine lives: a range checked once stays good.
pub type Memory = vm_memory::GuestMemoryMmap;
