//! The I/O APIC: turns a device's interrupt into a message to local APICs, as the guest has said.
//!
//! ```text
//!  vCPU threads ── registers ──► redirection table
//!                                    │ pin n: vector, destination, mask
//!  device thread ── raise(n) ────────┴──► message ──► KVM_SIGNAL_MSI ──► local APIC (in the kernel)
//!        ▲                           │
//!        └──────── attention ◄───────┘ a pin with a pending edge was unmasked
//! ```
//!
//! The local APICs are KVM's; this one is the monitor's so that there is no PIC, which KVM only has together with an I/O APIC of its
//! own: a kernel that finds a PIC takes hundreds of exits to silence both.
//!
//! | address | register (Intel 82093AA, 3.1) | |
//! |---|---|---|
//! | `0xFEC0_0000` | IOREGSEL | which of those below is reached |
//! | `0xFEC0_0010` | IOWIN | that register, 32 bits at a time |
//!
//! | index | register (3.2) | |
//! |---|---|---|
//! | 0x00 | IOAPICID | bits 24–27, kept |
//! | 0x01 | IOAPICVER | version, and the highest pin; read-only |
//! | 0x02 | IOAPICARB | as IOAPICID; read-only |
//! | 0x10 + 2n | IOREDTBL n, low: vector 0–7, delivery mode 8–10, logical destination 11, polarity 13, level 15, mask 16 | bits 12 and 14 read as 0 |
//! | 0x11 + 2n | IOREDTBL n, high: destination 24–31 | |
//!
//! **Every pin is edge-triggered**, whatever the table says: nothing here keeps a level, and no end of interrupt comes back. An
//! edge on a masked pin is remembered, one for each pin, and delivered when it is unmasked. Of the delivery modes there are fixed and
//! lowest priority; what else a guest asks for, such as resetting itself, goes nowhere.
//!
//! A vCPU's thread may not send a message (its only `ioctl` is `KVM_RUN`): it leaves that to the device thread, by an event.

use std::{io, sync::Mutex};

use kvm_bindings::kvm_msi;
use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::lock;

pub const ADDRESS: u64 = 0xFEC0_0000;
pub const BYTES: u64 = 0x1000;

/// Of the largest machine.
const MOST_PINS: usize = 10;

const IOREGSEL: u64 = 0x00;
const IOWIN: u64 = 0x10;

const ID: u8 = 0x00;
const VERSION: u8 = 0x01;
const ARBITRATION: u8 = 0x02;
const REDIRECTION_TABLE: u8 = 0x10;

const VERSION_82093AA: u32 = 0x11;
const ID_BITS: u32 = 0x0F00_0000;

const VECTOR: u64 = 0xFF;
const DELIVERY_MODE: u64 = 0b111 << 8;
/// The highest of those that are delivered: fixed is 0.
const LOWEST_PRIORITY: u64 = 1 << 8;
const LOGICAL_DESTINATION: u64 = 1 << 11;
const MASKED: u64 = 1 << 16;
/// All but delivery status and remote IRR, which a guest cannot write.
const WRITABLE_LOW: u32 = 0x1_AFFF;
const WRITABLE_HIGH: u32 = 0xFF00_0000;

/// Where messages to local APICs are written to (Intel SDM volume 3, 11.11.1).
const MESSAGES: u32 = 0xFEE0_0000;

/// The registers and what is pending.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IoApicState {
    /// From 0.
    pins: u8,
    selected: u8,
    id: u32,
    table: [u64; MOST_PINS],
    /// Edges that came while their pins were masked.
    pending: [bool; MOST_PINS],
}

/// The one I/O APIC of a machine.
#[derive(Debug)]
pub struct IoApic {
    state: Mutex<IoApicState>,
    attention: EventFd,
}

impl IoApic {
    /// As after a reset: all pins, up to this one, are masked.
    pub fn new(highest_pin: u32) -> io::Result<Self> {
        let pins = u8::try_from(highest_pin + 1).ok().filter(|pins| usize::from(*pins) <= MOST_PINS);
        let pins = pins.ok_or(io::ErrorKind::InvalidInput)?;
        let (table, pending) = ([MASKED; MOST_PINS], [false; MOST_PINS]);
        let state = IoApicState { pins, selected: 0, id: 0, table, pending };
        Ok(Self { state: Mutex::new(state), attention: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)? })
    }

    /// The guest reads at `offset`: any offset, any width.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let Ok(word) = <&mut [u8; 4]>::try_from(data) else { return };
        let state = lock(&self.state);
        *word = match offset {
            IOREGSEL => u32::from(state.selected),
            IOWIN => state.read(),
            _ => 0,
        }
        .to_le_bytes();
    }

    /// The guest writes at `offset`: any offset, any width.
    pub fn write(&self, offset: u64, data: &[u8]) {
        let Ok(word) = <[u8; 4]>::try_from(data) else { return };
        let mut state = lock(&self.state);
        match offset {
            IOREGSEL => [state.selected, ..] = word,
            IOWIN => state.write(u32::from_le_bytes(word)),
            _ => {}
        }
        if state.has_deliverable() {
            // A full counter has been written to before.
            let _ = self.attention.write(1);
        }
    }

    /// An edge on a pin: the message it is now, if any.
    #[must_use]
    pub fn raise(&self, pin: usize) -> Option<kvm_msi> {
        let mut state = lock(&self.state);
        *state.pending.get_mut(pin)? = true;
        state.take(pin)
    }

    /// Written to when [`Self::take_pending`] has something.
    pub fn attention(&self) -> &EventFd {
        &self.attention
    }

    /// Messages of pins that were unmasked after their edge.
    #[must_use]
    pub fn take_pending(&self) -> Vec<kvm_msi> {
        let mut state = lock(&self.state);
        (0..MOST_PINS).filter_map(|pin| state.take(pin)).collect()
    }

    #[must_use]
    pub fn save(&self) -> IoApicState {
        lock(&self.state).clone()
    }

    /// Goes on as `saved` says.
    pub fn restore(&self, saved: &IoApicState) {
        *lock(&self.state) = saved.clone();
        // One too many does no harm, and a full counter has been written to before.
        let _ = self.attention.write(1);
    }
}

impl IoApicState {
    /// The pin whose entry is selected, and whether it is its high half.
    fn entry(&self) -> Option<(usize, bool)> {
        let register = self.selected.checked_sub(REDIRECTION_TABLE)?;
        (register / 2 < self.pins).then_some((usize::from(register / 2), register % 2 == 1))
    }

    fn read(&self) -> u32 {
        match self.selected {
            ID | ARBITRATION => self.id,
            VERSION => VERSION_82093AA | u32::from(self.pins.saturating_sub(1)) << 16,
            _ => self.entry().map_or(0, |(pin, high)| {
                let entry = self.table.get(pin).copied().unwrap_or(0);
                (if high { entry >> 32 } else { entry & u64::from(u32::MAX) }) as u32
            }),
        }
    }

    fn write(&mut self, value: u32) {
        if self.selected == ID {
            self.id = value & ID_BITS;
        }
        let Some((pin, high)) = self.entry() else { return };
        let Some(entry) = self.table.get_mut(pin) else { return };
        *entry = if high {
            *entry & u64::from(u32::MAX) | u64::from(value & WRITABLE_HIGH) << 32
        } else {
            *entry & !u64::from(u32::MAX) | u64::from(value & WRITABLE_LOW)
        };
    }

    fn has_deliverable(&self) -> bool {
        self.pending.iter().zip(&self.table).any(|(pending, entry)| *pending && entry & MASKED == 0)
    }

    /// The message of a pin with an edge that is not masked; the edge is gone then.
    fn take(&mut self, pin: usize) -> Option<kvm_msi> {
        let (entry, pending) = (*self.table.get(pin)?, self.pending.get_mut(pin)?);
        if entry & MASKED != 0 || !std::mem::take(pending) {
            return None;
        }
        message(entry)
    }
}

/// What an entry of the table says, as a message (Intel SDM volume 3, 11.11). `None`: a mode that is not delivered.
fn message(entry: u64) -> Option<kvm_msi> {
    let mode = entry & DELIVERY_MODE;
    let destination = (entry >> 56) as u32;
    let logical = u32::from(entry & LOGICAL_DESTINATION != 0);
    (mode <= LOWEST_PRIORITY).then(|| kvm_msi {
        address_lo: MESSAGES | destination << 12 | logical << 2,
        data: (entry & VECTOR | mode) as u32,
        ..kvm_msi::default()
    })
}

#[cfg(test)]
mod tests;
