//! The invoker: the one way to run a function.
//!
//! ```text
//!   edge, pollers ──InvokeRequest──► Invoker (tower::Service) ──► EnvironmentPool (one per deployment) ──► Environment
//!                 ◄──InvokeOutcome (head, then chunks)──
//! ```
//!
//! Everything that runs a function calls the same [`Invoker`], so admission, concurrency, tracing and metering exist once.
//! It knows nothing of HTTP, queues or retries: those belong to its callers.

#![forbid(unsafe_code)]

mod api;
mod attempt;
mod capacity;
mod config;
mod environment_task;
mod failure;
mod launcher;
mod log_capture;
pub mod metrics;
mod pool;
mod pool_task;
mod service;

pub use api::{FunctionError, InvokeError, InvokeOutcome, InvokeRequest, OutcomeBody};
pub use config::Config;
pub use service::{Invoker, Parts};
