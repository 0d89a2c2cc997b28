//! A source of randomness (virtio 1.2, 5.4): the host kernel's, as much as fits in a request up to [`MOST`].

mod request;
mod state;
#[cfg(test)]
mod tests;

use std::{io, os::fd::BorrowedFd};

use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

use self::request::fill;
pub use self::state::RngState;
use super::{
    Urgency,
    chain::Chain,
    device::{Device, DeviceError, Rings, Work},
    state::{DeviceState, RestoreError},
    throttle::Throttle,
};
use crate::rate_limiter::Limits;

/// Largest size of the queue. Linux has one request in flight.
const QUEUE_SIZE: u16 = 8;
const QUEUE_SIZES: &[u16] = &[QUEUE_SIZE];

/// Requests served before others have their turn.
const ROUND: u16 = 2 * QUEUE_SIZE;

/// Bytes for a request, at most. A driver that wants more asks again.
pub const MOST: u32 = 4096;

/// The source.
#[derive(Debug)]
pub struct Rng {
    throttle: Throttle,
    /// For the request at hand.
    chain: Chain,
}

impl Rng {
    /// A source within limits.
    pub fn new(limits: Limits) -> io::Result<Self> {
        Ok(Self { throttle: Throttle::new(limits)?, chain: Chain::default() })
    }
}

impl Device for Rng {
    fn id(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn queue_sizes(&self) -> &'static [u16] {
        QUEUE_SIZES
    }

    fn sources(&self) -> Vec<BorrowedFd<'_>> {
        self.throttle.source().into_iter().collect()
    }

    fn process(&mut self, rings: &mut Rings<'_>) -> Result<Work, DeviceError> {
        let memory = rings.memory;
        let [queue] = rings.queues else { return Err(DeviceError::Malformed("not one queue")) };
        queue.disable_notifications(memory)?;
        for _ in 0..ROUND {
            if !self.throttle.ready()? {
                return Ok(Work::Done);
            }
            if queue.pop(memory, &mut self.chain)? {
                let written = fill(memory, &self.chain)?;
                self.throttle.charge(written);
                queue.complete(memory, &self.chain, written, Urgency::Now)?;
            } else if !queue.enable_notifications(memory)? {
                return Ok(Work::Done);
            }
        }
        Ok(Work::More)
    }

    fn reset(&mut self) {}

    fn save(&self) -> DeviceState {
        DeviceState::Rng(RngState {})
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        match state {
            DeviceState::Rng(RngState {}) => Ok(()),
            _ => Err(RestoreError::Device("not a source of randomness")),
        }
    }
}
