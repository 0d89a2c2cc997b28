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
//!
//! What an accepted event is promised, and what a lease means, is written on the operations of [`log::Log`].

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
mod embedded;
mod entry;
mod format;
mod id;
mod log;
mod seal;
mod storage;

pub mod partition;

pub use clock::{BootClock, SystemBootClock};
pub use embedded::{
    Config, EmbeddedQueue, Event, Finding, Leased, OpenError, ReadError, Request, Upkeep, UpkeepError,
    Verified, WriteError, verify,
};
pub use id::{EventId, FunctionNumber, Location, Ordinal, PartitionNumber, SegmentId};
pub use log::{Depth, LeaseEpoch, Refused, Unreadable};
