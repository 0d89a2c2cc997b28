//! x86_64: where things lie, and which interrupt belongs to what.
//!
//! ```text
//!  first MiB of guest memory                        interrupts (I/O APIC pins = ISA numbers)
//!  0x0_0500  GDT                    registers       4   serial port
//!  0x0_7000  zero page              boot            1…  virtio devices, in the order of the MMIO pages
//!  0x0_9000  page tables (6 pages)  registers
//!  0x2_0000  kernel command line    boot
//!  0x9_FC00  MP table (1 KiB)       mptable         ports
//!  0xA_0000  no RAM up to 1 MiB     boot (e820)     0x3F8–0x3FF  serial      0x64  keyboard controller: reset
//! ```

pub mod apic;
pub mod boot;
pub mod cpuid;
pub mod ioapic;
pub mod mptable;
pub mod msr;
pub mod registers;
pub mod state;

/// The MP table and the command line have room for this many.
pub const MAX_VCPUS: u8 = 32;

/// Registers of the first virtio device; each has one page.
pub const DEVICES_START: u64 = 0xD000_0000;
pub const DEVICE_BYTES: u64 = 0x1000;

/// Interrupts of virtio devices, in their order, from the lowest: each pin of the I/O APIC up to the highest costs a boot eight exits. To
/// Linux 0 is no interrupt; 8 is the clock's on every PC, and drivers take it for theirs.
pub const DEVICE_INTERRUPTS: [u32; 7] = [1, 2, 3, 5, 6, 7, 9];

/// Interrupt of the first serial port of a PC.
pub const SERIAL_INTERRUPT: u32 = 4;

/// Interrupts of a machine: the serial port's, and those of this many virtio devices.
pub fn interrupts(devices: usize) -> impl Iterator<Item = u32> {
    std::iter::once(SERIAL_INTERRUPT).chain(DEVICE_INTERRUPTS.into_iter().take(devices))
}

/// Three pages that Intel's virtual-8086 mode needs in guest-physical memory: at the end of the hole, below the firmware's
/// place, which nobody uses here (`KVM_SET_TSS_ADDR`).
pub const TSS_ADDRESS: usize = 0xFFFB_D000;
