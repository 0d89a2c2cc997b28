//! What depends on the processor architecture: how a kernel is entered, which features a guest sees, what makes up the state
//! of a virtual CPU. Everything else in the monitor is the same everywhere.

#[cfg(target_arch = "x86_64")]
pub mod x86_64;

#[cfg(target_arch = "x86_64")]
pub use x86_64 as current;
