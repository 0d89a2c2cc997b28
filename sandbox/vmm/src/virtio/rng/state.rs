//! What is kept of a source of randomness.

use serde::{Deserialize, Serialize};

/// Nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RngState {}
