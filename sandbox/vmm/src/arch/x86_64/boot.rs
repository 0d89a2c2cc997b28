//! Puts a Linux kernel into guest memory: the segments of an uncompressed ELF image, its command line, its initramfs, and the
//! zero page that tells it where they are.
//!
//! ```text
//!  zero page (struct boot_params; Documentation/arch/x86/zero-page.rst)
//!  0x1E8  number of memory ranges: 3, or 4 with memory above 4 GiB
//!  0x1F1  setup header: boot flag 0xAA55 at 0x1FE, "HdrS" at 0x202, loader 0xFF at 0x210,
//!         initramfs address at 0x218 and length at 0x21C, command line address at 0x228 and length at 0x238
//!  0x2D0  memory ranges, 20 bytes each:
//!         0x0_0000 .. 0x9_FC00   RAM
//!         0x9_FC00 .. 0xA_0000   reserved: MP table
//!         0x10_0000 .. end       RAM
//!         4 GiB .. end           RAM, if there is any
//! ```
//!
//! The images are the server's, not the guest's: they are checked for what could make the monitor fail, and otherwise trusted.

use std::io::{Seek, SeekFrom};

use linux_loader::loader::{
    KernelLoader,
    bootparam::{boot_e820_entry, boot_params},
    elf::Elf,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::{
    arch::x86_64::{mptable, registers, registers::EntryPoint},
    image_file::ImageFile,
    memory::{MMIO_END, Memory, high_bytes, low_bytes},
};

pub const ZERO_PAGE: u64 = 0x7000;
pub const COMMAND_LINE: u64 = 0x2_0000;

/// `COMMAND_LINE_SIZE` of the kernel, with the zero behind the line.
pub const COMMAND_LINE_BYTES: usize = 2048;

/// Memory above the first MiB, where a kernel may be; nothing of the boot structures is there.
const KERNEL_LOWEST: u64 = 0x10_0000;

const PAGE: u64 = 0x1000;

// Documentation/arch/x86/boot.rst, "Details of header fields".
const BOOT_FLAG: u16 = 0xAA55;
const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
const LOADER_WITHOUT_NUMBER: u8 = 0xFF;

const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;

#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error("cannot load the kernel: {0}")]
    Kernel(#[from] linux_loader::loader::Error),
    #[error("the kernel needs memory up to {end:#x}, of {available:#x} bytes")]
    KernelDoesNotFit { end: u64, available: u64 },
    #[error(
        "the command line has {bytes} bytes, but {COMMAND_LINE_BYTES} is the limit, with a zero at its end"
    )]
    CommandLine { bytes: usize },
    #[error("the command line has a character that is not printable ASCII")]
    CommandLineCharacter,
    #[error("cannot read the initramfs: {0}")]
    Initramfs(std::io::Error),
    #[error("an initramfs of {bytes} bytes does not fit above the kernel, which ends at {kernel_end:#x}")]
    InitramfsDoesNotFit { bytes: u64, kernel_end: u64 },
    #[error("cannot write to guest memory: {0}")]
    Memory(#[from] GuestMemoryError),
}

/// An open kernel and what it is given.
#[derive(Debug)]
pub struct Linux {
    /// An uncompressed ELF image.
    pub kernel: ImageFile,
    pub initramfs: Option<ImageFile>,
    pub command_line: String,
}

/// Loads everything and writes all boot structures for `vcpus` processors and `devices` virtio devices. Tells where the first processor begins.
pub fn load(memory: &Memory, linux: &mut Linux, vcpus: u8, devices: usize) -> Result<EntryPoint, BootError> {
    let lowest = Some(GuestAddress(KERNEL_LOWEST));
    let kernel = Elf::load(memory, None, &mut linux.kernel, lowest)?;
    let available = low_bytes(memory);
    if kernel.kernel_end > available {
        return Err(BootError::KernelDoesNotFit { end: kernel.kernel_end, available });
    }
    let command_line = write_command_line(memory, &linux.command_line)?;
    let initramfs = match &mut linux.initramfs {
        Some(file) => load_initramfs(memory, file, kernel.kernel_end)?,
        None => Range { start: 0, bytes: 0 },
    };
    write_zero_page(memory, command_line, initramfs)?;
    write_tables(memory, vcpus, devices)?;
    Ok(EntryPoint { instruction: kernel.kernel_load.0, zero_page: ZERO_PAGE })
}

/// What any payload in long mode needs, Linux or not.
pub fn write_tables(memory: &Memory, vcpus: u8, devices: usize) -> Result<(), GuestMemoryError> {
    registers::write_tables(memory)?;
    mptable::write(memory, vcpus, devices)
}

/// Guest-physical, below 4 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    start: u32,
    bytes: u32,
}

fn write_command_line(memory: &Memory, line: &str) -> Result<Range, BootError> {
    if !line.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Err(BootError::CommandLineCharacter);
    }
    let bytes = line.len() + 1;
    let too_long = || BootError::CommandLine { bytes };
    let range = Range { start: COMMAND_LINE as u32, bytes: u32::try_from(bytes).map_err(|_| too_long())? };
    if bytes > COMMAND_LINE_BYTES {
        return Err(too_long());
    }
    memory.write_slice(line.as_bytes(), GuestAddress(COMMAND_LINE))?;
    memory.write_obj(0u8, GuestAddress(COMMAND_LINE + line.len() as u64))?;
    Ok(range)
}

/// At the end of low memory: the kernel frees it as one piece once it is unpacked.
fn load_initramfs(memory: &Memory, file: &mut ImageFile, kernel_end: u64) -> Result<Range, BootError> {
    let bytes = file.seek(SeekFrom::End(0)).map_err(BootError::Initramfs)?;
    file.rewind().map_err(BootError::Initramfs)?;
    let does_not_fit = || BootError::InitramfsDoesNotFit { bytes, kernel_end };
    let start = low_bytes(memory).checked_sub(bytes).ok_or_else(does_not_fit)? & !(PAGE - 1);
    if start < kernel_end {
        return Err(does_not_fit());
    }
    let range = Range {
        start: u32::try_from(start).map_err(|_| does_not_fit())?,
        bytes: u32::try_from(bytes).map_err(|_| does_not_fit())?,
    };
    memory.read_exact_volatile_from(GuestAddress(start), file, range.bytes as usize)?;
    Ok(range)
}

fn write_zero_page(memory: &Memory, command_line: Range, initramfs: Range) -> Result<(), GuestMemoryError> {
    let mut page = boot_params::default();
    page.hdr.boot_flag = BOOT_FLAG;
    page.hdr.header = HEADER_MAGIC;
    page.hdr.type_of_loader = LOADER_WITHOUT_NUMBER;
    page.hdr.cmd_line_ptr = command_line.start;
    page.hdr.cmdline_size = command_line.bytes;
    page.hdr.ramdisk_image = initramfs.start;
    page.hdr.ramdisk_size = initramfs.bytes;
    let ranges = memory_ranges(low_bytes(memory), high_bytes(memory));
    page.e820_entries = u8::try_from(ranges.len()).unwrap_or(u8::MAX);
    let mut table = page.e820_table;
    for (entry, range) in table.iter_mut().zip(ranges) {
        *entry = range;
    }
    page.e820_table = table;
    memory.write_obj(page, GuestAddress(ZERO_PAGE))
}

fn memory_ranges(low_bytes: u64, high_bytes: u64) -> Vec<boot_e820_entry> {
    let range = |addr, end, kind| boot_e820_entry { addr, size: end - addr, r#type: kind };
    let mut ranges = vec![
        range(0, mptable::ADDRESS, E820_RAM),
        range(mptable::ADDRESS, mptable::ADDRESS + mptable::BYTES, E820_RESERVED),
        range(KERNEL_LOWEST, low_bytes.max(KERNEL_LOWEST), E820_RAM),
    ];
    if high_bytes > 0 {
        ranges.push(range(MMIO_END, MMIO_END + high_bytes, E820_RAM));
    }
    ranges
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn zero_page(memory: &Memory) -> Vec<u8> {
        let mut page = vec![0; 4096];
        memory.read_slice(&mut page, GuestAddress(ZERO_PAGE)).unwrap();
        page
    }

    fn file(content: &[u8]) -> ImageFile {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        ImageFile::new(file)
    }

    #[test]
    fn the_zero_page_has_its_golden_layout() {
        let memory = crate::memory::new(4096).unwrap();
        let line = Range { start: 0x2_0000, bytes: 0x12 };
        write_zero_page(&memory, line, Range { start: 0xBFFF_0000, bytes: 0xABCD }).unwrap();
        let page = zero_page(&memory);
        let mut golden = vec![0u8; 4096];
        golden[0x1E8] = 4;
        golden[0x1FE..0x200].copy_from_slice(&[0x55, 0xAA]);
        golden[0x202..0x206].copy_from_slice(b"HdrS");
        golden[0x210] = 0xFF;
        golden[0x218..0x21C].copy_from_slice(&0xBFFF_0000u32.to_le_bytes());
        golden[0x21C..0x220].copy_from_slice(&0xABCDu32.to_le_bytes());
        golden[0x228..0x22C].copy_from_slice(&0x2_0000u32.to_le_bytes());
        golden[0x238..0x23C].copy_from_slice(&0x12u32.to_le_bytes());
        let ranges: [(u64, u64, u32); 4] = [
            (0, 0x9_FC00, 1),
            (0x9_FC00, 0x400, 2),
            (0x10_0000, (3 << 30) - 0x10_0000, 1),
            (1 << 32, 1 << 30, 1),
        ];
        for (entry, (start, bytes, kind)) in golden[0x2D0..].chunks_mut(20).zip(ranges) {
            entry[..8].copy_from_slice(&start.to_le_bytes());
            entry[8..16].copy_from_slice(&bytes.to_le_bytes());
            entry[16..].copy_from_slice(&kind.to_le_bytes());
        }
        let differs = page.iter().zip(&golden).position(|(is, should)| is != should);
        assert_eq!(differs, None, "first difference");
    }

    #[test]
    fn no_range_lies_above_the_hole_when_no_memory_does() {
        let ranges = memory_ranges(128 << 20, 0);
        assert_eq!(ranges.len(), 3);
        let (start, size) = (ranges[2].addr, ranges[2].size);
        assert_eq!(start + size, 128 << 20);
    }

    #[test]
    fn a_command_line_ends_with_a_zero_and_is_bounded() {
        let memory = crate::memory::new(16).unwrap();
        memory.write_slice(&[0xFF; 64], GuestAddress(COMMAND_LINE)).unwrap();
        let range = write_command_line(&memory, "panic=-1").unwrap();
        assert_eq!(range, Range { start: 0x2_0000, bytes: 9 });
        let mut line = [0; 9];
        memory.read_slice(&mut line, GuestAddress(COMMAND_LINE)).unwrap();
        assert_eq!(&line, b"panic=-1\0");
        assert!(write_command_line(&memory, &"x".repeat(COMMAND_LINE_BYTES - 1)).is_ok());
        let long = write_command_line(&memory, &"x".repeat(COMMAND_LINE_BYTES));
        assert!(matches!(long, Err(BootError::CommandLine { bytes: 2049 })));
        assert!(matches!(write_command_line(&memory, "a\nb"), Err(BootError::CommandLineCharacter)));
    }

    #[test]
    fn an_initramfs_lies_at_the_end_of_low_memory_and_above_the_kernel() {
        let memory = crate::memory::new(16).unwrap();
        let range = load_initramfs(&memory, &mut file(&[7; 5000]), 0x20_0000).unwrap();
        assert_eq!(range, Range { start: (16 << 20) - 0x2000, bytes: 5000 });
        let last: u8 = memory.read_obj(GuestAddress(u64::from(range.start) + 4999)).unwrap();
        assert_eq!(last, 7);
        let refused = load_initramfs(&memory, &mut file(&[7; 5000]), (16 << 20) - 0x1000);
        assert!(matches!(refused, Err(BootError::InitramfsDoesNotFit { bytes: 5000, .. })));
        let larger = load_initramfs(&memory, &mut file(&vec![7; 17 << 20]), 0x20_0000);
        assert!(matches!(larger, Err(BootError::InitramfsDoesNotFit { .. })));
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        let memory = crate::memory::new(16).unwrap();
        for content in [&b""[..], b"\x7FELF", &[0; 4096]] {
            let mut linux = Linux { kernel: file(content), initramfs: None, command_line: String::new() };
            assert!(matches!(load(&memory, &mut linux, 1, 0), Err(BootError::Kernel(_))));
        }
    }
}
