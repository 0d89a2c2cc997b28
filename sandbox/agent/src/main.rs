//! The agent: PID 1 of every environment. It starts the runtime, serves it the Lambda Runtime API, and speaks frames with the
//! invoker.
//!
//! ```text
//!              frames (stdin, or a vsock)                   HTTP, 127.0.0.1:9001
//!   invoker ◄─────────────────────────────────► agent ◄─────────────────────────► runtime + function
//!                                                 ▲           stdout, stderr          │
//!                                                 └───────────────────────────────────┘
//!
//!   guest        as the init of a VM: make of a bare kernel what the jail makes of a process
//!   boot         as user 0: read Start, listen, start the runtime as its user, become another user, give everything up
//!   serve        one thread, one epoll: reads, and hands bytes to …
//!   runtime_api  … the state machine that knows what an invocation is; no I/O
//!   http         … by way of the parser that knows what a request is; no I/O
//! ```
//!
//! The invoker is trusted, the function is not: whatever it sends, prints or does not read costs it its own memory and time,
//! bounded, and never the agent's life.
//!
//! As PID 1 the agent is every orphan's parent. In a jail the kernel ends the environment when the agent exits; in a VM the
//! monitor does when the stream ends.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation))]

mod boot;
mod connection;
mod guest;
mod http;
mod runtime_api;
mod serve;
mod stream;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use boot::AgentError;
use guest::Guest;

fn main() -> ExitCode {
    let guest = Guest::from_environment();
    let is_guest = !matches!(guest, Ok(None));
    match guest.and_then(run) {
        Ok(()) if is_guest => guest::wait_for_the_end(),
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The jail made standard error the driver's diagnostics; a guest's is the kernel's log, which keeps each write
            // apart and wants to know how much it matters.
            let urgency = if is_guest { guest::URGENT } else { "" };
            let _ = io::stderr().write_all(format!("{urgency}agent: {error}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}

/// Everything from the first to the last. When it returns the stream is closed.
fn run(guest: Option<Guest>) -> Result<(), AgentError> {
    let stream = match guest {
        Some(guest) => guest.enter()?,
        None => Some(boot::inherited_stream()?),
    };
    let booted = stream.map(|stream| boot::boot(stream, guest.is_some())).transpose()?.flatten();
    if let Some(booted) = booted {
        serve::Server::new(booted)?.run()?;
    }
    Ok(())
}
