//! Descriptor chains: from what the guest wrote to ranges of its memory that may be used.
//!
//! ```text
//!  descriptor (virtio 1.2, 2.7.5), 16 bytes, little-endian
//!  0         8       12     14     16
//!  ┌─────────┬────────┬──────┬──────┐     flags: 1 NEXT, 2 WRITE (the device writes), 4 INDIRECT
//!  │ address │ length │ flags│ next │
//!  └─────────┴────────┴──────┴──────┘
//!
//!  table            [0] NEXT ──► [3] NEXT,WRITE ──► [1] WRITE      a chain, or
//!                   [2] INDIRECT ──► table elsewhere: [0] NEXT ──► [1] WRITE
//! ```
//!
//! [`Chain::walk`] reads each descriptor once, checks it and copies its address and length; nothing after it looks at descriptors again,
//! so that a guest which rewrites them meanwhile changes nothing. What it lets through satisfies:
//!
//! - no more descriptors than the queue has entries, with and without a table of their own (2.7.5.2 and 2.7.5.3.1): loops end;
//! - one level of tables, only if negotiated, only as the last link;
//! - what the device reads comes before what it writes (2.7.4.2);
//! - every range lies in guest memory, whole, and all together are at most [`MAX_CHAIN_BYTES`].
//!
//! Descriptors of length zero are counted and then left out.

use virtio_queue::desc::split::Descriptor;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemory, Permissions};

use super::Memory;

/// Most bytes of all ranges of a chain together. The largest request that a driver of ours makes is a read of
/// [`SEG_MAX`](super::block) × [`SIZE_MAX`](super::block) bytes, which is just below.
pub const MAX_CHAIN_BYTES: u32 = 4 << 20;

/// Size of a descriptor.
pub const DESCRIPTOR_BYTES: u32 = 16;

/// What is wrong with a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// A link points behind the table.
    #[error("descriptor {index} of a table of {entries}")]
    Index {
        /// The link.
        index: u16,
        /// Entries of the table.
        entries: u16,
    },
    /// Longer than the queue: a loop, most likely.
    #[error("more descriptors in a chain than entries in the queue")]
    TooLong,
    /// A table within a table.
    #[error("an indirect table within an indirect table")]
    Nested,
    /// An indirect descriptor has a successor.
    #[error("an indirect descriptor that is not the last")]
    IndirectNext,
    /// An indirect table, without the feature.
    #[error("an indirect table that was not negotiated")]
    NotNegotiated,
    /// No entries, a broken one, or more than the queue has.
    #[error("an indirect table of {0} bytes")]
    TableLength(u32),
    /// Readable after writable.
    #[error("a readable descriptor after a writable one")]
    Order,
    /// Not in guest memory, or over the end of the address space.
    #[error("{length} bytes at {address:#x} are not guest memory")]
    Address {
        /// Where.
        address: u64,
        /// How many bytes.
        length: u32,
    },
    /// More than [`MAX_CHAIN_BYTES`].
    #[error("more than {MAX_CHAIN_BYTES} bytes in a chain")]
    TooLarge,
    /// The device wants to read or write more than the chain holds.
    #[error("a chain that is too short")]
    TooShort,
}

/// A range of guest memory, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins.
    pub address: GuestAddress,
    /// Its length in bytes, never 0.
    pub length: u32,
}

/// Ranges of guest memory, one behind the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Buffers {
    segments: Vec<Segment>,
    length: u32,
}

impl Buffers {
    /// Bytes in all of them.
    pub fn length(&self) -> u32 {
        self.length
    }

    /// The ranges.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The ranges of the `length` bytes from `offset`, or of as many as there are.
    pub fn ranges(&self, offset: u32, length: u32) -> impl Iterator<Item = Segment> {
        let (mut skip, mut left) = (offset, length);
        self.segments.iter().filter_map(move |segment| {
            let skipped = skip.min(segment.length);
            skip -= skipped;
            let length = (segment.length - skipped).min(left);
            left -= length;
            // Within a checked range: no overflow.
            let address = segment.address.unchecked_add(u64::from(skipped));
            (length > 0).then_some(Segment { address, length })
        })
    }

    /// Copies from `offset`.
    pub fn read(&self, memory: &Memory, offset: u32, mut out: &mut [u8]) -> Result<(), ChainError> {
        let length = u32::try_from(out.len()).map_err(|_| ChainError::TooShort)?;
        for Segment { address, length } in self.ranges(offset, length) {
            let (now, later) = out.split_at_mut_checked(length as usize).ok_or(ChainError::TooShort)?;
            let outside = ChainError::Address { address: address.raw_value(), length };
            memory.read_slice(now, address).map_err(|_| outside)?;
            out = later;
        }
        if out.is_empty() { Ok(()) } else { Err(ChainError::TooShort) }
    }

    /// Copies to `offset`.
    pub fn write(&self, memory: &Memory, offset: u32, mut data: &[u8]) -> Result<(), ChainError> {
        let length = u32::try_from(data.len()).map_err(|_| ChainError::TooShort)?;
        for Segment { address, length } in self.ranges(offset, length) {
            let (now, later) = data.split_at_checked(length as usize).ok_or(ChainError::TooShort)?;
            let outside = ChainError::Address { address: address.raw_value(), length };
            memory.write_slice(now, address).map_err(|_| outside)?;
            data = later;
        }
        if data.is_empty() { Ok(()) } else { Err(ChainError::TooShort) }
    }

    fn clear(&mut self) {
        self.segments.clear();
        self.length = 0;
    }
}

/// A table of descriptors.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// Where it lies.
    pub address: GuestAddress,
    /// How many entries it has.
    pub entries: u16,
    /// Whether an entry may point to a table of its own.
    pub indirect: bool,
}

/// A chain that was checked. It is filled again for each request, so that the memory it has is allocated once and never more than
/// the queue's size asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// The first descriptor, by which the driver knows the chain.
    pub head: u16,
    /// How many descriptors of the queue's own table it takes up.
    pub descriptors: u16,
    /// What the device may read.
    pub readable: Buffers,
    /// What the device may write.
    pub writable: Buffers,
}

impl Chain {
    /// Follows the chain that begins at `head`. After an error the contents are not to be used.
    pub fn walk(&mut self, memory: &Memory, queue: Table, head: u16) -> Result<(), ChainError> {
        self.head = head;
        self.descriptors = 0;
        self.readable.clear();
        self.writable.clear();
        let (mut table, mut index, mut nested, mut writing) = (queue, head, false, false);
        for _ in 0..queue.entries {
            let mut descriptor = table.get(memory, index)?;
            self.descriptors += u16::from(!nested);
            if descriptor.refers_to_indirect_table() {
                if nested {
                    return Err(ChainError::Nested);
                }
                table = queue.indirect(descriptor)?;
                nested = true;
                descriptor = table.get(memory, 0)?;
                if descriptor.refers_to_indirect_table() {
                    return Err(ChainError::Nested);
                }
            }
            if writing && !descriptor.is_write_only() {
                return Err(ChainError::Order);
            }
            writing = descriptor.is_write_only();
            self.push(memory, descriptor)?;
            if !descriptor.has_next() {
                return Ok(());
            }
            index = descriptor.next();
        }
        Err(ChainError::TooLong)
    }

    fn push(&mut self, memory: &Memory, descriptor: Descriptor) -> Result<(), ChainError> {
        let segment = Segment { address: descriptor.addr(), length: descriptor.len() };
        if segment.length == 0 {
            return Ok(());
        }
        let (buffers, access) = if descriptor.is_write_only() {
            (&mut self.writable, Permissions::Write)
        } else {
            (&mut self.readable, Permissions::Read)
        };
        if !memory.check_range(segment.address, segment.length as usize, access) {
            return Err(ChainError::Address { address: segment.address.raw_value(), length: segment.length });
        }
        buffers.length = buffers.length.checked_add(segment.length).ok_or(ChainError::TooLarge)?;
        buffers.segments.push(segment);
        let total = u64::from(self.readable.length) + u64::from(self.writable.length);
        if total > u64::from(MAX_CHAIN_BYTES) { Err(ChainError::TooLarge) } else { Ok(()) }
    }
}

impl Table {
    fn get(self, memory: &Memory, index: u16) -> Result<Descriptor, ChainError> {
        if index >= self.entries {
            return Err(ChainError::Index { index, entries: self.entries });
        }
        let outside = ChainError::Address { address: self.address.raw_value(), length: DESCRIPTOR_BYTES };
        let offset = u64::from(index) * u64::from(DESCRIPTOR_BYTES);
        let address = self.address.checked_add(offset).ok_or(outside)?;
        memory.read_obj(address).map_err(|_| outside)
    }

    fn indirect(self, descriptor: Descriptor) -> Result<Self, ChainError> {
        if !self.indirect {
            return Err(ChainError::NotNegotiated);
        }
        if descriptor.has_next() {
            return Err(ChainError::IndirectNext);
        }
        let length = descriptor.len();
        let wrong = ChainError::TableLength(length);
        let entries = u16::try_from(length / DESCRIPTOR_BYTES).map_err(|_| wrong)?;
        if !length.is_multiple_of(DESCRIPTOR_BYTES) || entries == 0 || entries > self.entries {
            return Err(wrong);
        }
        Ok(Self { address: descriptor.addr(), entries, indirect: false })
    }
}
