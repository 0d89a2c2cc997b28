//! A request (virtio 1.2, 5.2.6).
//!
//! ```text
//!  readable               writable
//!  0      4          8       16          0             n
//!  ┌──────┬──────────┬────────┐          ┌─────────────┬────────┐
//!  │ type │ reserved │ sector │          │ data        │ status │
//!  └──────┴──────────┴────────┘          └─────────────┴────────┘
//! ```
//!
//! How the bytes are spread over descriptors is the driver's business (2.7.4.3).

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};

use crate::virtio::{Memory, chain::Chain, device::DeviceError};

/// Bytes of the header.
pub(super) const HEADER: usize = 16;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Read { sector: u64 },
    Write,
    Flush,
    Identify,
    Other(u32),
}

/// A request that has a header, and a place for its status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) operation: Operation,
    /// Bytes for data at the front of the chain's writable part; the status comes behind.
    pub(super) data: u32,
}

impl Request {
    /// A request that cannot be answered because it has no place for a status is an error of the driver's.
    pub(super) fn parse(memory: &Memory, chain: &Chain) -> Result<Self, DeviceError> {
        let data = chain.writable.length().checked_sub(1);
        let data = data.ok_or(DeviceError::Malformed("a request without a status byte"))?;
        let mut header = [0; HEADER];
        chain.readable.read(memory, 0, &mut header)?;
        let [a, b, c, d, _, _, _, _, sector @ ..] = header;
        let operation = match u32::from_le_bytes([a, b, c, d]) {
            VIRTIO_BLK_T_IN => Operation::Read { sector: u64::from_le_bytes(sector) },
            VIRTIO_BLK_T_OUT => Operation::Write,
            VIRTIO_BLK_T_FLUSH => Operation::Flush,
            VIRTIO_BLK_T_GET_ID => Operation::Identify,
            other => Operation::Other(other),
        };
        Ok(Self { operation, data })
    }
}
