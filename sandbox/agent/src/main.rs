//! The agent: PID 1 of every environment. It starts the runtime, serves it the Lambda Runtime API, and speaks frames with the
//! invoker.
//!
//! ```text
//!              frames (stdin: a stream socket)              HTTP, 127.0.0.1:9001
//!   invoker ◄─────────────────────────────────► agent ◄─────────────────────────► runtime + function
//!                                                 ▲           stdout, stderr          │
//!                                                 └───────────────────────────────────┘
//!
//!   boot         as user 0: read Start, listen, start the runtime as its user, become another user, give everything up
//!   serve        one thread, one epoll: reads, and hands bytes to …
//!   runtime_api  … the state machine that knows what an invocation is; no I/O
//!   http         … by way of the parser that knows what a request is; no I/O
//! ```
//!
//! The invoker is trusted, the function is not: whatever it sends, prints or does not read costs it its own memory and time,
//! bounded, and never the agent's life.
//!
//! As PID 1 the agent is every orphan's parent, and when it exits the kernel ends the environment.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation))]

mod boot;
mod connection;
mod http;
mod runtime_api;
mod serve;

use std::process::ExitCode;

fn main() -> ExitCode {
    let ended = boot::boot().and_then(|booted| match booted {
        Some(booted) => serve::Server::new(booted)?.run(),
        None => Ok(()),
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The jail made standard error the driver's diagnostics.
            eprintln!("agent: {error}");
            ExitCode::FAILURE
        }
    }
}
