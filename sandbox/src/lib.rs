//! Environments: the isolated places that functions run in.
//!
//! ```text
//!   invoker ── EnvironmentSpec ──► Isolation::start ──► Environment
//!                                                       │  send(Invoke) ─► ┌ agent (PID 1) ┐ ◄─ HTTP ─► runtime + function
//!                                                       │  recv() ◄─ frames └───────────────┘   127.0.0.1:9001
//!                                                       │  memory_peak(), out_of_memory()  (cgroup)
//!                                                       └─ stop() / drop: every process, mount and cgroup is gone
//! ```
//!
//! An [`Environment`] is a framed connection to an agent and the means to end it, whatever isolates it. This crate starts,
//! feeds and ends environments; when to do so, and what a frame means for an invocation, is the invoker's business.
//!
//! A worker keeps unsealed code in memory only: [`WorkerDirectory`] is a tmpfs in a mount namespace of the server's own,
//! so it is invisible to others on the machine and vanishes with the process, however that ends.

#![forbid(unsafe_code)]

mod code;
mod environment;
mod greeting;
mod guest;
mod isolation;
mod jails;
mod microvm;
mod process;
mod stream;
mod uids;
mod variables;
mod worker;

pub use code::{Code, CodeImage};
pub use environment::{Environment, EnvironmentGone};
pub use image::{RuntimeCatalog, UnpackError};
pub use isolation::{EnvironmentSpec, Isolation, StartError};
pub use microvm::{
    MicrovmIsolation, MicrovmIsolationConfig, MicrovmLimits, NoMicrovm, has_hardware_virtualisation,
    test_boot,
};
pub use process::{ProcessIsolation, ProcessIsolationConfig};
pub use protocol::{AgentFrame, Invoke, InvokerFrame, LogStream, ResponseMode};
pub use vmm::rate_limiter::{Limits as RateLimits, Rate};
pub use worker::{PrepareError, WorkerDirectory};
