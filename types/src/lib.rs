//! The vocabulary of Waterwheel: names, versions, limits and the traits every crate shares.
//!
//! Nothing here does I/O, and nothing here depends on another crate of ours. A type lands here when two
//! crates must agree on it; what only one crate needs stays there.

#![forbid(unsafe_code)]

pub mod api;
mod arn;
mod clock;
mod error;
mod function;
mod keys;
pub mod limits;
mod log;
mod request;

pub use arn::{AccountId, FunctionArn, FunctionName, FunctionRef, ParseReferenceError, Qualifier, Region};
pub use clock::{Clock, SystemClock};
pub use error::{ApiError, ErrorCode};
pub use function::{DeploymentId, FunctionSpec, MemorySize, RuntimeName, Version};
pub use keys::{DataKey, KeyContext, KeyError, Keys, WrappedDataKey};
pub use log::{LogEvent, LogSink};
pub use request::{RequestId, TraceContext};
