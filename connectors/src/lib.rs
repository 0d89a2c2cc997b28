//! Where events come from and where their outcomes go.
//!
//! Each source and each destination is a folder or file of its own that knows one service and nothing of functions,
//! queues or retries: a connector tries once and says what became of it, and the poller fleet decides what follows.

#![forbid(unsafe_code)]

pub mod destinations;
mod metrics;

pub use metrics::describe as describe_metrics;
