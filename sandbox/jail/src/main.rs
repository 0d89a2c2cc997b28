//! The jail program; see the library. It takes no arguments, only descriptors.

#![allow(unsafe_code, reason = "takes over inherited descriptors")]

use std::process::ExitCode;

fn main() -> ExitCode {
    // SAFETY: this is the first thing the process does: it has one thread, and nothing else owns descriptors 3 to 5.
    match unsafe { jail::enter::run() } {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // The driver reads one line.
            eprintln!("jail: {error}");
            ExitCode::from(u8::try_from(jail::SETUP_FAILED).unwrap_or(u8::MAX))
        }
    }
}
