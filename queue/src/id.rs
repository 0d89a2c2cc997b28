//! What identifies things in the log.

use std::fmt;

/// An event, for its life: the same in every copy of its record. For an asynchronous invocation it is the request id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(pub [u8; 16]);

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_bytes(self.0).as_hyphenated().fmt(f)
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventId({self})")
    }
}

/// A segment of the log, counted from 1 over the log's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentId(pub u64);

impl SegmentId {
    /// The one that is written after this one.
    #[must_use]
    pub(crate) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The how-manieth event of its segment, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ordinal(pub u32);

/// Where an event lies. Later is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Location {
    pub segment: SegmentId,
    pub ordinal: Ordinal,
}

impl Location {
    /// Before all others.
    pub(crate) const FIRST: Self = Self { segment: SegmentId(0), ordinal: Ordinal(0) };

    /// Behind all others.
    pub(crate) const LAST: Self = Self { segment: SegmentId(u64::MAX), ordinal: Ordinal(u32::MAX) };

    /// Of a segment's first event.
    #[must_use]
    pub(crate) fn start_of(segment: SegmentId) -> Self {
        Self { segment, ..Self::FIRST }
    }

    /// The place behind this one, in its segment.
    #[must_use]
    pub(crate) fn next(self) -> Self {
        Self { ordinal: Ordinal(self.ordinal.0.saturating_add(1)), ..self }
    }
}

/// Short for a partition's name, on disk and in memory. Never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartitionNumber(pub u32);

/// Short for a function's ARN and key, on disk and in memory. Never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FunctionNumber(pub u32);
