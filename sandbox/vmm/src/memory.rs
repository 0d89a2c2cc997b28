//! The guest's physical memory.
//!
//! ```text
//!  guest-physical address
//!  0x0000_0000_0000  ┌────────────────────────────┐
//!                    │ low RAM, at most 3 GiB      │  boot structures in its first MiB (see arch),
//!                    │                             │  kernel from 16 MiB, initramfs at its end
//!  0x0000_C000_0000  ├────────────────────────────┤  MMIO_START
//!                    │ no memory                   │  0xD000_0000: one page of registers for each virtio device
//!                    │                             │  0xFEC0_0000: I/O APIC   0xFEE0_0000: local APICs
//!  0x0001_0000_0000  ├────────────────────────────┤  MMIO_END
//!                    │ high RAM: what is left      │
//!                    └────────────────────────────┘
//! ```
//!
//! Both parts are private anonymous mappings of this process, filled with zeros by the host when the guest first touches a
//! page. They are made in [`new`] and nowhere else, so that a snapshot can put a copy-on-write mapping of its memory file
//! there instead. What the monitor writes there before the guest runs is the kernel, the initramfs and the boot structures;
//! afterwards only virtio devices touch guest memory.

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{
    Address, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryMmap, GuestMemoryRegion,
};

pub type Memory = GuestMemoryMmap;

/// The addresses without memory, where devices and interrupt controllers are.
pub const MMIO_START: u64 = 3 << 30;
pub const MMIO_END: u64 = 4 << 30;

#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    #[error("cannot map {mib} MiB of guest memory: {reason}")]
    Map { mib: u32, reason: String },
    #[error("cannot look up guest memory: {0}")]
    Lookup(#[from] GuestMemoryError),
    #[error("kvm refuses guest memory at {address:#x}: {errno}")]
    Register { address: u64, errno: vmm_sys_util::errno::Error },
}

/// Maps `mib` MiB of zeros.
pub fn new(mib: u32) -> Result<Memory, MemoryError> {
    let bytes = u64::from(mib) << 20;
    let low = bytes.min(MMIO_START);
    let ranges = [(0, low), (MMIO_END, bytes - low)];
    let ranges: Vec<_> = ranges
        .into_iter()
        .filter(|(_, length)| *length > 0)
        .map(|(start, length)| usize::try_from(length).map(|length| (GuestAddress(start), length)))
        .collect::<Result<_, _>>()
        .map_err(|error| MemoryError::Map { mib, reason: error.to_string() })?;
    Memory::from_ranges(&ranges).map_err(|error| MemoryError::Map { mib, reason: error.to_string() })
}

/// Bytes of RAM below the hole; they begin at address 0.
#[must_use]
pub fn low_bytes(memory: &Memory) -> u64 {
    memory.find_region(GuestAddress(0)).map_or(0, GuestMemoryRegion::len)
}

/// Bytes of RAM above the hole; they begin at [`MMIO_END`].
#[must_use]
pub fn high_bytes(memory: &Memory) -> u64 {
    memory.find_region(GuestAddress(MMIO_END)).map_or(0, GuestMemoryRegion::len)
}

/// Makes `memory` the virtual machine's RAM.
///
/// # Safety
///
/// `memory` stays mapped until the virtual machine is gone: the guest writes to it.
pub unsafe fn register(vm: &VmFd, memory: &Memory) -> Result<(), MemoryError> {
    for (slot, region) in (0..).zip(memory.iter()) {
        let start = region.start_addr();
        let host = region.get_host_address(vm_memory::MemoryRegionAddress(0))?;
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: start.raw_value(),
            memory_size: region.len(),
            userspace_addr: host.expose_provenance() as u64,
        };
        // SAFETY: the range is one mapping, which the caller keeps; slots do not overlap because regions do not.
        unsafe { vm.set_user_memory_region(region) }
            .map_err(|errno| MemoryError::Register { address: start.raw_value(), errno })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_memory_lies_below_the_hole() {
        let memory = new(128).unwrap();
        assert_eq!((low_bytes(&memory), high_bytes(&memory)), (128 << 20, 0));
        assert_eq!(memory.iter().count(), 1);
    }

    #[test]
    fn what_does_not_fit_below_the_hole_lies_above_it() {
        let memory = new(5 * 1024).unwrap();
        assert_eq!((low_bytes(&memory), high_bytes(&memory)), (3 << 30, 2 << 30));
        assert!(!memory.address_in_range(GuestAddress(MMIO_START)));
        assert!(!memory.address_in_range(GuestAddress(MMIO_END - 1)));
        assert!(memory.address_in_range(GuestAddress(MMIO_END)));
    }
}
