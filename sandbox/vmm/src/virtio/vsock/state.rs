//! What is kept of a vsock device.

use serde::{Deserialize, Serialize};

use super::connection::Connection;

/// The connection and what the host has not taken yet. Going on from it needs the same stream: whoever goes on with another one restores
/// into a guest whose connection is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsockState {
    /// The connection.
    pub connection: Connection,
    /// Bytes from the guest, not written to the stream yet.
    pub outbox: Vec<u8>,
}
