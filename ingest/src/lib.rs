//! The HTTP edge: the Lambda API as its clients speak it.
//!
//! ```text
//!   client ──TCP, TLS──► server ──one request──► edge ──► model      which operation, well formed?
//!                        connections,             │  ├──► signature  who asks?
//!                        draining                 │  ├──► body       bounded reading
//!                                                 │  └──► handlers ──► control   functions
//!                                                 │                └─► invoker   Invoke
//!                                                 └──► answer     shapes and errors of the API
//! ```
//!
//! The edge decides whether a request is one: authentic, complete, within limits and well formed by the service model.
//! What it means is decided behind it. It keeps no state but what requests in flight hold.

#![forbid(unsafe_code)]

mod answer;
mod body;
mod config;
mod drain;
mod edge;
mod handlers;
mod metrics;
mod model;
mod operations;
mod server;
mod signature;
mod stall;
mod tls;
mod trace;

pub use config::{Authentication, Config, TlsFiles};
pub use edge::{Probes, Services};
pub use server::{Server, StartError};
pub use tls::TlsError;
