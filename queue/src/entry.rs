//! What indexes hold of events, on the disk and in memory.

use crate::{FunctionNumber, Location, PartitionNumber, partition::Order};

/// A stream: the events of one function in one partition, or of all functions in an ordered one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct StreamKey {
    pub(crate) partition: PartitionNumber,
    /// 0 in an ordered partition: its order is one, whatever functions its events are for.
    pub(crate) function: FunctionNumber,
}

impl StreamKey {
    pub(crate) fn of(partition: PartitionNumber, order: Order, function: FunctionNumber) -> Self {
        match order {
            Order::None => Self { partition, function },
            Order::Strict => Self { partition, function: FunctionNumber(0) },
        }
    }
}

/// An event that waits: where it is, and what must be known to choose it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) location: Location,
    pub(crate) offset: u64,
    /// Bytes of its record: prefix and body.
    pub(crate) length: u32,
    pub(crate) accepted_ms: u64,
    /// Rewritten at the tail: in an ordered partition its place in the order is elsewhere.
    pub(crate) moved: bool,
}
