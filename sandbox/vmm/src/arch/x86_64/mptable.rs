//! The MP table: without ACPI it tells the kernel its processors, the I/O APIC and how interrupts are wired.
//!
//! Intel MultiProcessor Specification 1.4, chapter 4. The kernel looks for the floating pointer in the last KiB of the 640
//! KiB of base memory, among other places.
//!
//! ```text
//!  0x9_FC00  floating pointer "_MP_"      16 bytes ── address of ──┐
//!  0x9_FC10  configuration header "PCMP"  44 bytes ◄───────────────┘
//!  0x9_FC3C  processor × vCPUs            20 bytes each
//!            bus: ISA                      8 bytes
//!            I/O APIC                      8 bytes
//!            interrupt × (1 + devices)     8 bytes each: ISA number n is pin n
//!            local interrupt × 2           8 bytes each: ExtINT to LINT0, NMI to LINT1
//! ```

use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::{
    arch::x86_64::{interrupts, ioapic},
    memory::Memory,
};

/// The last KiB of base memory.
pub const ADDRESS: u64 = 0x9_FC00;
pub const BYTES: u64 = 0x400;

const POINTER_BYTES: u32 = 16;
const HEADER_BYTES: usize = 44;

const SPECIFICATION_REVISION: u8 = 4;
/// Of the integrated APIC; also what KVM's local APIC calls itself.
const APIC_VERSION: u8 = 0x14;
const LOCAL_APIC: u32 = 0xFEE0_0000;
const ISA: u8 = 0;
const EVERY_APIC: u8 = 0xFF;

// Entry types (table 4-3) and interrupt types (table 4-11).
const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const IO_APIC_ENTRY: u8 = 2;
const INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;
const VECTORED: u8 = 0;
const NMI: u8 = 1;
const EXTERNAL: u8 = 3;

const ENABLED: u8 = 1;
const BOOT_PROCESSOR: u8 = 2;

/// Writes the table for `vcpus` processors, whose local APICs are numbered from 0, and `devices` virtio devices.
pub fn write(memory: &Memory, vcpus: u8, devices: usize) -> Result<(), GuestMemoryError> {
    let configuration = configuration(vcpus, devices);
    debug_assert!(configuration.len() as u64 + u64::from(POINTER_BYTES) <= BYTES);
    memory.write_slice(&floating_pointer(), GuestAddress(ADDRESS))?;
    memory.write_slice(&configuration, GuestAddress(ADDRESS + u64::from(POINTER_BYTES)))
}

/// The byte that makes the sum of all bytes 0.
fn checksum<'a>(bytes: impl IntoIterator<Item = &'a u8>) -> u8 {
    bytes.into_iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}

fn floating_pointer() -> Vec<u8> {
    let table = u32::try_from(ADDRESS).unwrap_or(0) + POINTER_BYTES;
    let mut pointer = b"_MP_".to_vec();
    pointer.extend(table.to_le_bytes());
    let length_in_paragraphs = 1;
    let mut rest = [length_in_paragraphs, SPECIFICATION_REVISION, 0, 0, 0, 0, 0, 0];
    let sum = checksum(pointer.iter().chain(&rest));
    let [_, _, place, ..] = &mut rest;
    *place = sum;
    pointer.extend(rest);
    pointer
}

fn configuration(vcpus: u8, devices: usize) -> Vec<u8> {
    let io_apic_id = vcpus; // the first number that no processor has
    let mut entries = Vec::new();
    for apic_id in 0..vcpus {
        let flags = if apic_id == 0 { ENABLED | BOOT_PROCESSOR } else { ENABLED };
        entries.extend([PROCESSOR, apic_id, APIC_VERSION, flags]);
        entries.extend([0; 16]); // signature and features: the kernel asks CPUID
    }
    entries.extend([BUS, ISA]);
    entries.extend(b"ISA   ");
    entries.extend([IO_APIC_ENTRY, io_apic_id, APIC_VERSION, ENABLED]);
    entries.extend((ioapic::ADDRESS as u32).to_le_bytes());
    let numbers: Vec<u8> = interrupts(devices).filter_map(|number| u8::try_from(number).ok()).collect();
    for number in &numbers {
        let number = *number;
        // Polarity and trigger mode (the two zeros) as the bus has them: active high, edge.
        entries.extend([INTERRUPT, VECTORED, 0, 0, ISA, number, io_apic_id, number]);
    }
    entries.extend([LOCAL_INTERRUPT, EXTERNAL, 0, 0, ISA, 0, 0, 0]);
    entries.extend([LOCAL_INTERRUPT, NMI, 0, 0, ISA, 0, EVERY_APIC, 1]);
    let count = u16::from(vcpus) + 1 + 1 + numbers.len() as u16 + 2;
    let mut table = header(count, &entries);
    table.extend(entries);
    table
}

fn header(count: u16, entries: &[u8]) -> Vec<u8> {
    let length = u16::try_from(HEADER_BYTES + entries.len()).unwrap_or(u16::MAX);
    let mut tail = b"WATERWHL".to_vec();
    tail.extend(b"MICROVM     ");
    tail.extend([0; 4 + 2]); // no table of the manufacturer's
    tail.extend(count.to_le_bytes());
    tail.extend(LOCAL_APIC.to_le_bytes());
    tail.extend([0; 2 + 1 + 1]); // no extended entries
    let mut header = b"PCMP".to_vec();
    header.extend(length.to_le_bytes());
    header.push(SPECIFICATION_REVISION);
    let sum = checksum(header.iter().chain(&tail).chain(entries));
    header.push(sum);
    header.extend(tail);
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::x86_64::{DEVICE_INTERRUPTS, MAX_VCPUS};

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn the_floating_pointer_has_its_golden_layout() {
        let golden = *b"_MP_\x10\xFC\x09\x00\x01\x04\x8B\x00\x00\x00\x00\x00";
        assert_eq!(floating_pointer(), golden);
        assert_eq!(sum(&golden), 0);
    }

    #[test]
    fn the_table_of_one_processor_has_its_golden_layout() {
        let table = configuration(1, 4);
        assert_eq!(table.len(), 44 + 20 + 8 + 8 + 5 * 8 + 2 * 8);
        assert_eq!(sum(&table), 0);
        assert_eq!(&table[..7], b"PCMP\x88\x00\x04");
        assert_eq!(&table[8..28], b"WATERWHLMICROVM     ");
        assert_eq!(&table[28..44], b"\0\0\0\0\0\0\x0A\0\x00\x00\xE0\xFE\0\0\0\0");
        assert_eq!(&table[44..48], [0, 0, 0x14, 3]);
        assert_eq!(&table[64..72], b"\x01\x00ISA   ");
        assert_eq!(&table[72..80], [2, 1, 0x14, 1, 0, 0, 0xC0, 0xFE]);
        assert_eq!(&table[80..88], [3, 0, 0, 0, 0, 4, 1, 4]);
        assert_eq!(&table[88..96], [3, 0, 0, 0, 0, 1, 1, 1]);
        assert_eq!(&table[112..120], [3, 0, 0, 0, 0, 5, 1, 5]);
        assert_eq!(&table[120..], [4, 3, 0, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0, 0xFF, 1]);
    }

    #[test]
    fn the_largest_table_fits_and_only_its_first_processor_boots() {
        let table = configuration(MAX_VCPUS, DEVICE_INTERRUPTS.len());
        assert!(table.len() as u64 + u64::from(POINTER_BYTES) <= BYTES, "{} bytes", table.len());
        assert_eq!(sum(&table), 0);
        let flags: Vec<u8> = table[44..].chunks(20).take(MAX_VCPUS.into()).map(|cpu| cpu[3]).collect();
        assert_eq!((flags[0], &flags[1..]), (3, &[1; 31][..]));
    }
}
