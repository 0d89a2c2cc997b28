//! What is kept of a disk.

use serde::{Deserialize, Serialize};

/// Nothing but what it needs to know the image again: requests are never half done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockState {
    /// Bytes of the image.
    pub length: u64,
}
