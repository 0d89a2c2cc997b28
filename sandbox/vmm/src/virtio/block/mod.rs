//! A read-only disk over a file (virtio 1.2, 5.2).
//!
//! ```text
//!  requests ──► ready? (throttle) ──► pop ──► Request::parse ──► preadv into guest memory ──► status byte ──► complete
//!                 │ no: the timer goes off when it is
//! ```
//!
//! Requests are served in order, each in full, on the device thread: the images are small and in the page cache, so that a
//! read is a copy. What a request may ask for is bounded by [`MAX_CHAIN_BYTES`](super::chain::MAX_CHAIN_BYTES).
//!
//! The disk's size is the file's when the device was made, rounded up to a whole sector with zeros. A file that has shrunk since is
//! an I/O error where it is missing.
//!
//! There is no way to write: the feature `RO` is offered, a write fails whether or not the driver has accepted it, and the file need not
//! be open for writing.

mod request;
mod state;
#[cfg(test)]
mod tests;

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd},
};

use virtio_bindings::{
    virtio_blk::{
        VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX,
        VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP,
    },
    virtio_ids::VIRTIO_ID_BLOCK,
};

use self::request::{Operation, Request};
pub use self::state::BlockState;
use super::{
    Memory, Urgency,
    chain::Chain,
    device::{Device, DeviceError, Rings, Work},
    iovec::IoVectors,
    state::{DeviceState, RestoreError},
    throttle::Throttle,
};
use crate::rate_limiter::Limits;

/// Largest size of the queue.
const QUEUE_SIZE: u16 = 64;
const QUEUE_SIZES: &[u16] = &[QUEUE_SIZE];

/// Requests served before others have their turn, and before the guest hears of what was read.
const ROUND: u16 = 2 * QUEUE_SIZE;
/// And bytes: a vCPU that wants a register waits for no more than this, and the request at hand.
const ROUND_BYTES: u32 = 1 << 20;

/// The unit of all positions (5.2.5).
pub(super) const SECTOR: u64 = 512;

/// Bytes in a range of a request, at most, as the driver is told. Together with [`SEG_MAX`] below the largest chain.
pub(super) const SIZE_MAX: u32 = 64 * 1024;
/// Ranges in a request, at most, as the driver is told: with header and status they fill the queue.
pub(super) const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;

/// How the disk calls itself, padded with zeros.
const ID: [u8; 20] = *b"waterwheel\0\0\0\0\0\0\0\0\0\0";

/// The disk.
#[derive(Debug)]
pub struct Block {
    image: File,
    /// Bytes of the file.
    length: u64,
    /// Of the disk.
    sectors: u64,
    config: [u8; CONFIG_BYTES],
    throttle: Throttle,
    /// For the request at hand.
    chain: Chain,
}

/// How a request has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// So many bytes were written.
    Done(u32),
    IoError,
    Unsupported,
}

impl Block {
    /// A disk with the contents of a file.
    pub fn new(image: File, limits: Limits) -> io::Result<Self> {
        let length = image.metadata()?.len();
        let sectors = length.div_ceil(SECTOR);
        let config = config(sectors);
        Ok(Self { image, length, sectors, config, throttle: Throttle::new(limits)?, chain: Chain::default() })
    }

    /// Serves the request in `self.chain`. Bytes written, with the status.
    fn serve(&mut self, memory: &Memory) -> Result<u32, DeviceError> {
        let request = Request::parse(memory, &self.chain)?;
        let outcome = match request.operation {
            Operation::Read { sector } => self.read(memory, sector, request.data),
            Operation::Identify if request.data >= 20 => {
                self.chain.writable.write(memory, 0, &ID)?;
                Outcome::Done(20)
            }
            // Nothing is ever held back.
            Operation::Flush => Outcome::Done(0),
            Operation::Write | Operation::Identify => Outcome::IoError,
            Operation::Other(_) => Outcome::Unsupported,
        };
        let (written, status) = match outcome {
            Outcome::Done(bytes) => (bytes, VIRTIO_BLK_S_OK),
            Outcome::IoError => (0, VIRTIO_BLK_S_IOERR),
            Outcome::Unsupported => (0, VIRTIO_BLK_S_UNSUPP),
        };
        let [status, ..] = status.to_le_bytes();
        self.chain.writable.write(memory, request.data, &[status])?;
        self.throttle.charge(written);
        // The count is of bytes at the front, so it may only include the status if all before it was written.
        Ok(if written == request.data { written + 1 } else { written })
    }

    fn read(&self, memory: &Memory, sector: u64, bytes: u32) -> Outcome {
        let sectors = u64::from(bytes) / SECTOR;
        let end = sector.checked_add(sectors);
        if u64::from(bytes) % SECTOR != 0 || end.is_none_or(|end| end > self.sectors) {
            return Outcome::IoError;
        }
        // Below the length of a file, rounded up: no overflow.
        let start = sector * SECTOR;
        let here = self.length.saturating_sub(start).min(u64::from(bytes));
        let here = u32::try_from(here).unwrap_or(bytes);
        let mut done = 0;
        while done < here {
            let ranges = self.chain.writable.ranges(done, here - done);
            let read = IoVectors::new(memory, ranges)
                .and_then(|mut vectors| vectors.read_at(self.image.as_fd(), start + u64::from(done)));
            match read.map(u32::try_from) {
                Ok(Ok(read)) if read > 0 => done = done.saturating_add(read),
                _ => return Outcome::IoError,
            }
        }
        let padding = [0; 512];
        match padding
            .get(..(bytes - here) as usize)
            .map(|zeros| self.chain.writable.write(memory, here, zeros))
        {
            Some(Ok(())) => Outcome::Done(bytes),
            _ => Outcome::IoError,
        }
    }
}

impl Device for Block {
    fn id(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_BLK_F_RO
            | 1 << VIRTIO_BLK_F_SIZE_MAX
            | 1 << VIRTIO_BLK_F_SEG_MAX
            | 1 << VIRTIO_BLK_F_BLK_SIZE
    }

    fn queue_sizes(&self) -> &'static [u16] {
        QUEUE_SIZES
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn sources(&self) -> Vec<BorrowedFd<'_>> {
        self.throttle.source().into_iter().collect()
    }

    fn process(&mut self, rings: &mut Rings<'_>) -> Result<Work, DeviceError> {
        let memory = rings.memory;
        let [queue] = rings.queues else { return Err(DeviceError::Malformed("not one queue")) };
        queue.disable_notifications(memory)?;
        let mut bytes = 0u32;
        for _ in 0..ROUND {
            if bytes >= ROUND_BYTES {
                break;
            }
            if !self.throttle.ready()? {
                return Ok(Work::Done);
            }
            if queue.pop(memory, &mut self.chain)? {
                let written = self.serve(memory)?;
                bytes = bytes.saturating_add(written);
                queue.complete(memory, &self.chain, written, Urgency::Now)?;
            } else if !queue.enable_notifications(memory)? {
                return Ok(Work::Done);
            }
        }
        Ok(Work::More)
    }

    fn reset(&mut self) {}

    fn save(&self) -> DeviceState {
        DeviceState::Block(BlockState { length: self.length })
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        match state {
            DeviceState::Block(state) if state.length == self.length => Ok(()),
            DeviceState::Block(_) => Err(RestoreError::Device("a disk of another size")),
            _ => Err(RestoreError::Device("not a disk")),
        }
    }
}

/// ```text
///  5.2.4, little-endian
///  0           8          12        16           20         24
///  ┌───────────┬──────────┬─────────┬────────────┬──────────┐
///  │ sectors   │ SIZE_MAX │ SEG_MAX │ (geometry) │ BLK_SIZE │
///  └───────────┴──────────┴─────────┴────────────┴──────────┘
/// ```
const CONFIG_BYTES: usize = 24;

fn config(sectors: u64) -> [u8; CONFIG_BYTES] {
    let fields = sectors.to_le_bytes().into_iter().chain(SIZE_MAX.to_le_bytes()).chain(SEG_MAX.to_le_bytes());
    let block_size = 512u32.to_le_bytes();
    let mut config = [0; CONFIG_BYTES];
    config.iter_mut().zip(fields.chain([0; 4]).chain(block_size)).for_each(|(to, from)| *to = from);
    config
}
