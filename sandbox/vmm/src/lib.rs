//! The microVM monitor: one process for each virtual machine.
//!
//! ```text
//!                         ┌────────────────────────── monitor process ───────────────────────────┐
//!  server ── stream fd 5 ─┼─ vsock ┐                                                              │
//!         ── VmSpec fd 3 ─┼─► process ─► machine ─┬─ vcpu threads ── KVM_RUN ──► guest            │
//!         ── images ──────┼─ block ┘              │      │ ports, device memory                   │
//!                         │                       │      ▼                                        │
//!                         │                       │     bus ─► console, virtio registers          │
//!                         │                       └─ device thread ◄── doorbells (from the kernel)│
//!                         │                                └──► interrupts (to the kernel)        │
//!                         └───────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! | module | is |
//! |---|---|
//! | [`config`] | what the server wants: [`config::VmSpec`] |
//! | [`process`] | the process: descriptors, signals, filters, exit codes |
//! | [`machine`] | one virtual machine from creation to end |
//! | [`memory`] | guest memory and its map |
//! | [`arch`] | boot protocol, CPUID, registers, saved state of x86_64 |
//! | [`vcpu`], [`bus`], [`console`] | the threads that run the guest, and what they reach |
//! | [`virtio`], [`rate_limiter`] | block, vsock and rng devices |
//! | [`state`] | a machine as plain data |
//! | [`seccomp`] | what each kind of thread may ask of the host's kernel |
//!
//! What it does *not* have: PCI, ACPI, firmware, hot plug, a display, network devices, more than one machine per process in
//! production (tests make several), or any way to open a file by name.

#![allow(
    unsafe_code,
    reason = "KVM, guest memory and inherited descriptors have no safe form; each use is argued for"
)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing))]

// The driver that tests of devices share calls the crate by its name.
#[cfg(test)]
extern crate self as vmm;

pub mod arch;
pub mod bus;
pub mod command_line;
pub mod config;
pub mod console;
pub mod exit;
pub mod image_file;
pub mod machine;
pub mod memory;
pub mod process;
pub mod rate_limiter;
pub mod seccomp;
pub mod state;
pub mod vcpu;
pub mod virtio;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A thread that has panicked leaves no value here half changed.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
