//! The walls around one environment: namespaces, mounts, cgroups, capabilities and a system-call filter.
//!
//! ```text
//!  driver (root) ── spawns ──► jail: supervisor             fd 3: JailSpec as JSON; perhaps Files behind it
//!     │                         │ joins the cgroups         fd 4: program to run (the agent)
//!     │                         │ new pid namespace         fd 5: the environment's stream
//!     │                         │ fork                      stderr: why a step failed (exit code 70)
//!     │                         ▼
//!     │                        PID 1 ── new mount, net, ipc, uts, cgroup namespaces; rlimits
//!     │                         │       ── a prepared jail waits here for its Files ──
//!     │                         │       read-only root, /tmp, /dev, /proc; the old root is gone
//!     │                         │       capabilities, no_new_privs, seccomp
//!     │                         ▼
//!     └──── stream ───────────► execveat(fd 4): the agent, its stream as standard input
//! ```
//!
//! Around a virtual machine's monitor ([`Program::Monitor`]) there is less: an empty read-only root, a user of its own, no
//! capability, the descriptors that the driver names, and no filter, for the monitor has one for each of its threads.
//!
//! The supervisor waits for PID 1 and ends with its status. If the supervisor or the driver dies, however it dies, PID 1 is
//! killed, and with PID 1 the kernel kills everything in the pid namespace.
//!
//! What the jail does *not* do: it does not hide the kernel. Functions share it; whoever has a kernel exploit that works
//! through the system calls of [`seccomp`] leaves the jail. That is what the microvm isolation is for.
//!
//! Each wall can be left out with [`Controls`]. Only tests do that: an escape must fail with the wall, and get further
//! without it, or the test proves nothing.

#![allow(
    unsafe_code,
    reason = "fork, execveat, close_range and inherited descriptors have no safe form; each use is argued for"
)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing))]

pub mod cgroup;
pub mod enter;
mod monitor;
mod mounts;
mod privileges;
pub mod seccomp;
mod spec;

pub use enter::JailError;
pub use spec::{Bind, Controls, Files, JailSpec, Program};

/// Exit code of the jail when it could not set up a wall (`EX_SOFTWARE` of sysexits.h).
pub const SETUP_FAILED: i32 = 70;
