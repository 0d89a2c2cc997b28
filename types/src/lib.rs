//! The vocabulary of Waterwheel: names, versions, limits and the traits every crate shares.
//!
//! Nothing here does I/O, and nothing here depends on another crate of ours. A type lands here when two
//! crates must agree on it; what only one crate needs stays there.

#![forbid(unsafe_code)]

pub mod api;
mod arn;
mod clock;
mod destination;
mod error;
mod event_invoke;
mod function;
mod hash;
mod keys;
pub mod limits;
mod lineage;
mod log;
mod request;

pub use arn::{AccountId, FunctionArn, FunctionName, FunctionRef, ParseReferenceError, Qualifier, Region};
pub use clock::{Clock, SystemClock};
pub use destination::{Destination, ParseDestinationError};
pub use error::{ApiError, ErrorCode};
pub use event_invoke::{EventInvokePolicy, ParseRecursiveLoopError, RecursiveLoop};
pub use function::{DeploymentId, FunctionSpec, MemorySize, RuntimeName, Version};
pub use hash::stable_hash;
pub use keys::{DataKey, KeyContext, KeyError, Keys, WrappedDataKey};
pub use lineage::Lineage;
pub use log::{LogEvent, LogSink};
pub use request::{RequestId, TraceContext};
