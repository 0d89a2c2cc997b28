//! Frames between the invoker and the agent of one environment, over one byte stream (Unix socket or vsock).
//!
//! ```text
//!  0        4      5                      5 + body
//!  ┌────────┬──────┬──────────────────────┐
//!  │ length │ kind │ body: fields in order │      length = bytes after it (kind + body), u32 LE
//!  └────────┴──────┴──────────────────────┘      integers LE; text and bytes: u32 length, then the bytes
//!
//!  invoker                         agent
//!     │── Start ────────────────────►│   once, first
//!     │◄───────────── Hello ─────────│   the agent listens; the runtime process is started
//!     │◄─ Log* ── Usage? ── Idle ────│   the runtime asked for its first event: init is over; Usage from a VM only
//!     │   (or InitError / RuntimeExited)
//!     │── Invoke ───────────────────►│
//!     │◄── Log* ── ResponseHead ─────│
//!     │◄── ResponseChunk* ───────────│
//!     │◄─ ResponseEnd ─ Usage? ─ Idle│   Idle: the runtime asked for its next event
//!     │   (or InvocationError, RuntimeExited)
//!     │── Shutdown ─────────────────►│   the agent ends, and with it every process of the environment
//! ```
//!
//! Neither side trusts the other's lengths: a frame over [`MAX_FRAME`] or with bytes left over is an error, and a decoder
//! never allocates more than what has arrived. This crate does no I/O.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation))]

mod codec;
mod frame;
pub mod guest;

pub use codec::{DecodeError, Decoder};
pub use frame::{AgentFrame, Invoke, InvokerFrame, LogStream, ResponseMode, Start, Usage};

/// Largest frame, bytes: the largest payload (6 MB + 100) and room for headers.
pub const MAX_FRAME: usize = 8 * 1024 * 1024;

/// Version of these frames, in `Start` and `Hello`. An agent and an invoker of different versions refuse each other.
pub const VERSION: u32 = 2;
