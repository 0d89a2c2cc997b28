//! A machine as plain data: what a snapshot keeps besides guest memory.
//!
//! ```text
//!  MicrovmState
//!  ├── version
//!  ├── vcpus      registers, local APIC, MSRs, CPUID of each            arch
//!  ├── platform   I/O APIC, clock                                       arch
//!  ├── console    registers of the serial port                          console
//!  └── devices    virtio registers, queues, the device's own state      virtio
//! ```
//!
//! It is written by [`Machine::save`](crate::machine::Machine::save) of a paused machine, when nothing of an instruction, a
//! request or an interrupt is pending outside of it. A version that this monitor does not write is refused: a snapshot is cheap
//! to make again.
//!
//! Not in it: the console's lines, and open files and streams, which belong to the process. The new one brings its own.

use serde::{Deserialize, Serialize};

use crate::{
    arch::current::state::{PlatformState, VcpuState},
    console::ConsoleState,
    virtio::TransportState,
};

/// Changes with every change of [`MicrovmState`], or of how its parts are to be read.
pub const STATE_VERSION: u32 = 2;

/// A machine without its memory.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MicrovmState {
    pub version: u32,
    pub vcpus: Vec<VcpuState>,
    pub platform: PlatformState,
    pub console: ConsoleState,
    /// In the order of [`crate::machine::Parts::devices`].
    pub devices: Vec<TransportState>,
}
