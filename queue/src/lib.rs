//! The durable encrypted queue: one log on a disk, with many logical partitions.
//!
//! ```text
//!   enqueue ─► seal ─► │ pending batch │ ─► one write + fdatasync for everybody who waits ─► ready ─► lease ─► ack
//!                                                        ▲                                    ▲  ◄── release, lost lease
//!            acks · notes · checkpoints · redirects ─────┘                                    └── index of a segment
//! ```
//! - [`format`]: every byte on the disk. Pure.
//! - [`seal`]: keys of segments, sealing and opening of events. Pure.
//! - [`log`]: the log as a state machine. It decides everything and does nothing: no clock, no disk, no task.
//! - [`storage`]: the disk. [`embedded`]: the log on a disk, driven.
//!
//! What an accepted event is promised, and what a lease means, is written on the operations of [`Queue`].

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )
)]

mod clock;
#[cfg(any(test, feature = "conformance"))]
#[allow(clippy::indexing_slicing, reason = "a check looks first whether what it asked for is there")]
pub mod conformance;
mod embedded;
mod entry;
mod format;
mod id;
mod log;
mod metrics;
mod queue;
mod seal;
mod storage;
#[cfg(test)]
mod testing;

pub mod partition;

pub use clock::{BootClock, SystemBootClock};
pub use embedded::{
    Config, EmbeddedQueue, Finding, OpenError, PartitionStat, RecordHeader, SegmentStat, Snapshot,
    StreamStat, Upkeep, UpkeepError, Verified, verify,
};
pub use id::{EventId, FunctionNumber, Location, Ordinal, PartitionNumber, SegmentId};
pub use log::{Depth, LeaseEpoch, Refused, Unreadable};
pub use metrics::describe as describe_metrics;
pub use queue::{
    Browse, Browsed, Content, Event, EventState, FunctionStat, Leased, Page, Queue, ReadError, Request,
    Scrubbed, WriteError,
};
