//! The first block of a segment: which segment of which log this is.
//!
//! ```text
//!   0          8        12       16        32         40         48         56        88          120    124     4096
//!   ├──────────┼────────┼────────┼─────────┼──────────┼──────────┼──────────┼─────────┼───────────┼──────┼─ ─ ─ ─ ┤
//!   │ WWSEGMNT │ version│ 0      │ log id  │ sequence │ capacity │ created  │ salt    │ SHA-256 of│ crc  │ zeros   │
//!   │          │        │        │         │          │ bytes    │ ms, Unix │         │ header −1 │ 32c  │         │
//! ```
//! It stands at the beginning and once more at the very end, in the last 4096 bytes: without the salt nothing of a segment can
//! be read, so losing one block must not lose it. It is written and synced, and the directory too, before the segment's first record: a salt is never used that might be
//! forgotten. It never changes; a recycled file gets a new one. `sequence` counts from 1 without gaps over the log's life.
//! The digest of the segment before makes the segments a chain: one that was swapped for another log's, or another copy's, shows.

use aws_lc_rs::digest::{SHA256, digest};

use super::{FORMAT_VERSION, FormatError, codec::Fields};
use crate::SegmentId;

/// Bytes before the first record: one page, so that records never share a page with the header.
pub(crate) const HEADER_BYTES: usize = 4096;
const CHECKED: usize = 120;
const MAGIC: &[u8; 8] = b"WWSEGMNT";

/// The identity of a log, for its life: made with its directory, and kept by every copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LogId(pub(crate) [u8; 16]);

/// 256 random bits that make a segment's keys its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Salt(pub(crate) [u8; 32]);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) log: LogId,
    pub(crate) segment: SegmentId,
    /// Where records must end, and the header's copy begins.
    pub(crate) capacity: u64,
    /// Milliseconds since the Unix epoch.
    pub(crate) created_ms: u64,
    pub(crate) salt: Salt,
    /// [`SegmentHeader::digest`] of the segment before; zeros if there was none.
    pub(crate) previous: [u8; 32],
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.log.0);
        bytes.extend_from_slice(&self.segment.0.to_le_bytes());
        bytes.extend_from_slice(&self.capacity.to_le_bytes());
        bytes.extend_from_slice(&self.created_ms.to_le_bytes());
        bytes.extend_from_slice(&self.salt.0);
        bytes.extend_from_slice(&self.previous);
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.resize(HEADER_BYTES, 0);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut fields = Fields::new(bytes);
        if fields.array()? != *MAGIC {
            return Err(FormatError::Damaged("not a segment"));
        }
        let version = fields.u32()?;
        let (checked, mut rest) = split_checked(bytes)?;
        if crc32c::crc32c(checked) != rest.u32()? {
            return Err(FormatError::Damaged("a segment's header"));
        }
        // A sound header of another version is not damage: whoever wrote it must read it.
        if version != FORMAT_VERSION {
            return Err(FormatError::UnknownVersion(version));
        }
        fields.array::<4>()?;
        Ok(Self {
            log: LogId(fields.array()?),
            segment: SegmentId(fields.u64()?),
            capacity: fields.u64()?,
            created_ms: fields.u64()?,
            salt: Salt(fields.array()?),
            previous: fields.array()?,
        })
    }

    /// More events than this have no room in the segment: what counts more of them was not written by us.
    pub(crate) fn most_events(&self) -> u32 {
        /// Prefix, plain fields, length of the attributes and tag of the smallest.
        const SMALLEST_EVENT: u64 = 16 + 40 + 4 + 16;
        /// 32 GiB.
        const LARGEST_CAPACITY: u64 = 1 << 35;
        u32::try_from(self.capacity.min(LARGEST_CAPACITY) / SMALLEST_EVENT).unwrap_or(u32::MAX)
    }

    /// What the next segment's header says of this one.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let mut sum = [0; 32];
        sum.copy_from_slice(digest(&SHA256, &self.encode()).as_ref());
        sum
    }
}

fn split_checked(bytes: &[u8]) -> Result<(&[u8], Fields<'_>), FormatError> {
    let mut fields = Fields::new(bytes);
    let checked = fields.bytes(CHECKED)?;
    Ok((checked, fields))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn header() -> impl Strategy<Value = SegmentHeader> {
        (any::<[u8; 16]>(), any::<[u64; 3]>(), any::<[u8; 32]>(), any::<[u8; 32]>()).prop_map(
            |(log, [segment, capacity, created_ms], salt, previous)| SegmentHeader {
                log: LogId(log),
                segment: SegmentId(segment),
                capacity,
                created_ms,
                salt: Salt(salt),
                previous,
            },
        )
    }

    proptest! {
        #[test]
        fn a_header_comes_back(header in header()) {
            let bytes = header.encode();
            prop_assert_eq!(bytes.len(), HEADER_BYTES);
            prop_assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
        }

        #[test]
        fn a_flipped_bit_is_found(header in header(), bit in 0..(CHECKED + 4) * 8) {
            let mut bytes = header.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(matches!(SegmentHeader::decode(&bytes), Err(FormatError::Damaged(_))));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(SegmentHeader::decode(&bytes).is_err());
        }

        #[test]
        fn a_cut_is_found(header in header(), length in 0..CHECKED + 4) {
            prop_assert!(matches!(SegmentHeader::decode(&header.encode()[..length]), Err(FormatError::Damaged(_))));
        }
    }

    #[test]
    fn a_newer_format_is_named_and_is_not_damage() {
        let header = SegmentHeader {
            log: LogId([1; 16]),
            segment: SegmentId(2),
            capacity: 3,
            created_ms: 4,
            salt: Salt([5; 32]),
            previous: [6; 32],
        };
        let mut bytes = header.encode();
        bytes[8] = 2;
        let crc = crc32c::crc32c(&bytes[..CHECKED]);
        bytes[CHECKED..CHECKED + 4].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&bytes), Err(FormatError::UnknownVersion(2)));
    }
}
