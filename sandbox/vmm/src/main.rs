//! The monitor's program; see the library. It takes no arguments, only descriptors.

#![allow(unsafe_code, reason = "takes over inherited descriptors")]

use std::process::ExitCode;

fn main() -> ExitCode {
    // SAFETY: this is the first thing the process does: it has one thread, and nothing else owns its descriptors.
    ExitCode::from(unsafe { vmm::process::run() })
}
