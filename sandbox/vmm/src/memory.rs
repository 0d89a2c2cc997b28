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
//!
//! **Huge pages.** Both parts begin at a multiple of 2 MiB in this process too, and the kernel is asked for huge pages there: KVM
//! then maps 2 MiB with the first touch, where it would come back for each of 512 pages, and the processor needs fewer entries of
//! its TLB. The price is memory: a page that the guest touches may bring in 2 MiB. A guest is never given more than its
//! size in this way. Where the host has no huge pages, or no such address is to be had, everything works, page by page.

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{
    Address, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionMmap, MmapRegion, mmap::MmapRegionError,
};

pub type Memory = GuestMemoryMmap;

/// The addresses without memory, where devices and interrupt controllers are.
pub const MMIO_START: u64 = 3 << 30;
pub const MMIO_END: u64 = 4 << 30;

/// A huge page, and what it begins at a multiple of, for the processor and for the host's kernel.
const HUGE_PAGE: usize = 2 << 20;

/// Further attempts at such an address. The first succeeds unless a gap is full with it, or another thread maps something meanwhile.
const ATTEMPTS: usize = 8;

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
    let regions = ranges.into_iter().filter(|(_, length)| *length > 0);
    let regions = regions.map(|(start, length)| region(GuestAddress(start), length));
    let regions = regions.collect::<Result<_, _>>().map_err(|reason| MemoryError::Map { mib, reason })?;
    Memory::from_regions(regions).map_err(|error| MemoryError::Map { mib, reason: error.to_string() })
}

fn region(start: GuestAddress, length: u64) -> Result<GuestRegionMmap, String> {
    let length = usize::try_from(length).map_err(|error| error.to_string())?;
    let mapping = aligned(length).map_err(|error| error.to_string())?;
    // SAFETY: the range is that mapping. The advice changes how it is filled, not what it holds; a kernel without huge pages
    // refuses, which is as well.
    unsafe { libc::madvise(mapping.as_ptr().cast(), mapping.size(), libc::MADV_HUGEPAGE) };
    GuestRegionMmap::new(mapping, start).ok_or_else(|| format!("no {length} bytes at {start:?}"))
}

/// A mapping that begins at a multiple of [`HUGE_PAGE`], if one is to be had.
///
/// A mapping cannot be told its address. The kernel gives them out downwards, each at the end of the highest gap that it fits:
/// below one that begins too high, a filler takes so much that the next one begins right. Both are then given back.
fn aligned(length: usize) -> Result<MmapRegion, MmapRegionError> {
    let mut mapping = MmapRegion::new(length)?;
    let mut rejected = Vec::new();
    while mapping.as_ptr().addr() % HUGE_PAGE != 0 && rejected.len() < ATTEMPTS {
        // At least as large as the mapping, so that it is not put into a smaller gap.
        let below = mapping.as_ptr().addr().wrapping_sub(length) % HUGE_PAGE;
        let filler = (below > 0).then(|| MmapRegion::<()>::new(length.next_multiple_of(HUGE_PAGE) + below));
        // Where there is no room for more, the one there is serves.
        let (Ok(filler), Ok(next)) = (filler.transpose(), MmapRegion::new(length)) else { break };
        rejected.push((std::mem::replace(&mut mapping, next), filler));
    }
    Ok(mapping)
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

    /// The host's addresses of all regions, by how far they are from a huge page.
    fn misalignments(memory: &Memory) -> Vec<usize> {
        let hosts = memory.iter().map(|region| region.get_host_address(vm_memory::MemoryRegionAddress(0)));
        hosts.map(|host| host.unwrap().addr() % HUGE_PAGE).collect()
    }

    #[test]
    fn memory_begins_at_a_huge_page_whatever_its_size() {
        let mut kept = Vec::new();
        for mib in [1, 2, 3, 16, 127, 128, 129, 255, 1024, 4097] {
            // What lies beside it differs each time: others are mapped, by a page more each.
            let memory = new(mib).unwrap();
            assert!(misalignments(&memory).iter().all(|above| *above == 0), "{mib} MiB: {memory:?}");
            kept.push((memory, MmapRegion::<()>::new(4096 * (kept.len() + 1)).unwrap()));
        }
    }

    #[test]
    fn memory_elsewhere_serves_as_well() {
        let filler = MmapRegion::<()>::new(HUGE_PAGE - 4096).unwrap();
        let ranges = [(GuestAddress(0), 16 << 20)];
        let mut memory = Memory::from_ranges(&ranges).unwrap();
        for _ in 0..8 {
            if misalignments(&memory) != [0] {
                break;
            }
            memory = Memory::from_ranges(&[(GuestAddress(0), (16 << 20) + 4096)]).unwrap();
        }
        assert_ne!(misalignments(&memory), [0]);
        vm_memory::Bytes::write_obj(&memory, 7u64, GuestAddress(0xF0_0000)).unwrap();
        assert_eq!(vm_memory::Bytes::read_obj::<u64>(&memory, GuestAddress(0xF0_0000)).unwrap(), 7);
        drop(filler);
    }

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
