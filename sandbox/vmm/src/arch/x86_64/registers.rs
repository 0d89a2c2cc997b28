//! Registers of the first virtual CPU at the kernel's 64-bit entry.
//!
//! The boot protocol (Documentation/arch/x86/boot.rst, "64-bit boot protocol") wants: long mode, paging on with the kernel,
//! zero page and command line identity-mapped, a GDT with a flat code segment at selector 0x10 and a flat data segment at
//! 0x18, interrupts off, RSI pointing at the zero page.
//!
//! ```text
//!  0x500  GDT   0x00 null │ 0x08 null │ 0x10 code: execute/read, 64 bit │ 0x18 data: read/write │ 0x20 TSS
//!
//!  0x9000  PML4 ── [0] ──► 0xA000  PDPT ── [0] ──► 0xB000  PD: 512 × 2 MiB = the first GiB
//!                                       ── [1] ──► 0xC000  PD: the second
//!                                       ── [2] ──► 0xD000  PD: the third
//!                                       ── [3] ──► 0xE000  PD: the fourth, with the devices
//! ```
//!
//! The kernel needs the first GiB at most and makes tables of its own at once. Four are mapped so that a payload without
//! page tables, such as the hostile one of the tests, reaches the devices too.

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs, kvm_xcrs};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::memory::Memory;

pub const GDT: u64 = 0x500;
pub const PML4: u64 = 0x9000;
const PDPT: u64 = 0xA000;
const FIRST_PD: u64 = 0xB000;
const MAPPED_GIB: u64 = 4;

/// Grows down; the zero page is below it, the page tables above.
const STACK: u64 = 0x8FF0;

const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const TSS: u16 = 0x20;

// Intel SDM volume 3, 2.5 "Control registers" and 2.2.1 "Extended feature enable register".
const CR0_PROTECTED: u64 = 1;
const CR0_EXTENSION_TYPE: u64 = 1 << 4;
const CR0_PAGING: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LONG_MODE: u64 = 1 << 8;
const EFER_LONG_MODE_ACTIVE: u64 = 1 << 10;

// Intel SDM volume 3, 4.5 "4-level paging".
const PRESENT_WRITABLE: u64 = 0b11;
const LARGE_PAGE: u64 = 1 << 7;

/// Where the first virtual CPU begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryPoint {
    /// Guest-physical address of the first instruction.
    pub instruction: u64,
    /// Guest-physical address of the zero page.
    pub zero_page: u64,
}

/// A descriptor as the processor reads it (Intel SDM volume 3, 3.4.5 "Segment descriptors").
const fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = (if segment.g == 1 { segment.limit >> 12 } else { segment.limit }) as u64;
    let flags = segment.type_ as u64
        | (segment.s as u64) << 4
        | (segment.dpl as u64) << 5
        | (segment.present as u64) << 7
        | (segment.avl as u64) << 12
        | (segment.l as u64) << 13
        | (segment.db as u64) << 14
        | (segment.g as u64) << 15;
    limit & 0xFFFF
        | (segment.base & 0xFF_FFFF) << 16
        | flags << 40
        | (limit & 0xF_0000) << 32
        | (segment.base & 0xFF00_0000) << 32
}

/// A segment over all of memory.
const fn flat(selector: u16, type_: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: 0,
        s: 1,
        l: 0,
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    }
}

// Types: Intel SDM volume 3, table 3-1 and 3-2.
const CODE_SEGMENT: kvm_segment = kvm_segment { l: 1, ..flat(CODE, 0b1011) };
const DATA_SEGMENT: kvm_segment = kvm_segment { db: 1, ..flat(DATA, 0b0011) };
const TASK_SEGMENT: kvm_segment = kvm_segment { s: 0, g: 0, limit: 0x67, ..flat(TSS, 0b1011) };

const GDT_ENTRIES: [u64; 5] =
    [0, 0, descriptor(&CODE_SEGMENT), descriptor(&DATA_SEGMENT), descriptor(&TASK_SEGMENT)];

/// Writes the GDT and the page tables.
pub fn write_tables(memory: &Memory) -> Result<(), GuestMemoryError> {
    for (address, entry) in (GDT..).step_by(8).zip(GDT_ENTRIES) {
        memory.write_obj(entry, GuestAddress(address))?;
    }
    memory.write_obj(PDPT | PRESENT_WRITABLE, GuestAddress(PML4))?;
    for gib in 0..MAPPED_GIB {
        let directory = FIRST_PD + gib * 0x1000;
        memory.write_obj(directory | PRESENT_WRITABLE, GuestAddress(PDPT + gib * 8))?;
        let pages = (0..512).map(|page| gib << 30 | page << 21 | LARGE_PAGE | PRESENT_WRITABLE);
        let table: Vec<u8> = pages.flat_map(u64::to_le_bytes).collect();
        memory.write_slice(&table, GuestAddress(directory))?;
    }
    Ok(())
}

/// General registers at the entry.
#[must_use]
pub fn general(entry: EntryPoint) -> kvm_regs {
    kvm_regs {
        rip: entry.instruction,
        rsi: entry.zero_page,
        rsp: STACK,
        rbp: STACK,
        rflags: 1 << 1, // the bit that is always set
        ..kvm_regs::default()
    }
}

/// `sregs`, as KVM made them, changed to long mode.
pub fn enter_long_mode(sregs: &mut kvm_sregs) {
    sregs.gdt = kvm_dtable { base: GDT, limit: 8 * 5 - 1, padding: [0; 3] };
    sregs.idt = kvm_dtable { base: 0, limit: 0, padding: [0; 3] }; // an exception is a triple fault until the kernel has its own
    sregs.cs = CODE_SEGMENT;
    for segment in [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs, &mut sregs.ss] {
        *segment = DATA_SEGMENT;
    }
    sregs.tr = TASK_SEGMENT;
    sregs.cr0 = CR0_PROTECTED | CR0_EXTENSION_TYPE | CR0_PAGING;
    sregs.cr3 = PML4;
    sregs.cr4 = CR4_PAE;
    sregs.efer = EFER_LONG_MODE | EFER_LONG_MODE_ACTIVE;
}

/// XCR0 with the components that every Linux switches on: x87, SSE, AVX.
///
/// The kernel sets it anyway. Where the host is itself emulated (QEMU without KVM), KVM does not learn of that and goes on to
/// tell the guest the size of an area for x87 alone, whereupon the kernel gives up XSAVE. This way KVM knows from the start.
#[must_use]
pub fn extended_control() -> kvm_xcrs {
    let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..kvm_xcrs::default() };
    let [xcr0, ..] = &mut xcrs.xcrs;
    xcr0.value = 0b111;
    xcrs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(memory: &Memory, address: u64) -> u64 {
        memory.read_obj(GuestAddress(address)).unwrap()
    }

    #[test]
    fn the_gdt_has_its_golden_layout() {
        let memory = crate::memory::new(16).unwrap();
        write_tables(&memory).unwrap();
        let entries = [0, 8, 16, 24, 32].map(|offset| read(&memory, GDT + offset));
        let golden = [0, 0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF, 0x0000_8B00_0000_0067];
        assert_eq!(entries, golden, "{entries:#x?}");
    }

    #[test]
    fn the_page_tables_map_four_gib_to_themselves() {
        let memory = crate::memory::new(16).unwrap();
        write_tables(&memory).unwrap();
        for address in [0u64, 0x7000, 0x100_0000, 0x3FFF_FFFF, 0x4000_0000, 0xD000_0050, 0xFFFF_FFFF] {
            let mut entry = PML4 | PRESENT_WRITABLE;
            for shift in [39, 30, 21] {
                assert_eq!(entry & PRESENT_WRITABLE, PRESENT_WRITABLE, "{address:#x} at bit {shift}");
                entry = read(&memory, (entry & !0xFFF) + (address >> shift & 0x1FF) * 8);
            }
            assert_eq!(entry & 0xFFF, LARGE_PAGE | PRESENT_WRITABLE);
            assert_eq!(entry & !0xFFF, address & !0x1F_FFFF);
        }
        assert_eq!(read(&memory, PML4 + 8), 0, "512 GiB on, nothing is mapped");
        assert_eq!(read(&memory, PDPT + 8 * MAPPED_GIB), 0);
    }

    #[test]
    fn the_tables_leave_the_zero_page_and_the_stack_alone() {
        let memory = crate::memory::new(16).unwrap();
        write_tables(&memory).unwrap();
        for address in (0x528..PML4).step_by(8).chain((0xF000..0xA_0000).step_by(8)) {
            assert_eq!(read(&memory, address), 0, "{address:#x}");
        }
    }

    #[test]
    fn the_entry_is_in_long_mode_with_interrupts_off() {
        let mut sregs = kvm_sregs::default();
        enter_long_mode(&mut sregs);
        assert_eq!((sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer), (0x8000_0011, 0x9000, 0x20, 0x500));
        assert_eq!((sregs.cs.selector, sregs.cs.l, sregs.cs.db), (0x10, 1, 0));
        assert_eq!((sregs.ds.selector, sregs.ss.selector), (0x18, 0x18));
        let regs = general(EntryPoint { instruction: 0x100_0000, zero_page: 0x7000 });
        assert_eq!((regs.rip, regs.rsi, regs.rflags), (0x100_0000, 0x7000, 2));
    }
}
