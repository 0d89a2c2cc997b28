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

pub use api::{FunctionError, InvokeError, InvokeOutcome, InvokeRequest, OutcomeBody};
