//! The file LOG: which log this directory holds, and how far it has come.
//!
//! ```text
//!   0          8         12  16        32              40                        72              80    84
//!   ├──────────┼─────────┼───┼─────────┼───────────────┼─────────────────────────┼───────────────┼─────┤
//!   │ WWQUEUE  │ version │ 0 │ log id  │ newest segment│ SHA-256 of its header   │ oldest segment│ crc │
//! ```
//! It is replaced after a segment was begun and before one is deleted. So the newest segment that may be there is the one it
//! names or the next, and from it backwards to the oldest each must be there, and each segment's header vouches for the one
//! before: a segment that is lost, or was put in another's place, shows.

use super::{FORMAT_VERSION, FormatError, codec::Fields, segment::LogId};
use crate::SegmentId;

const MAGIC: &[u8; 8] = b"WWQUEUE\0";
const CHECKED: usize = 80;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) log: LogId,
    /// 0: none yet.
    pub(crate) newest: SegmentId,
    pub(crate) digest: [u8; 32],
    /// Those before may be deleted. 1 if none was.
    pub(crate) oldest: SegmentId,
}

impl Identity {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.log.0);
        bytes.extend_from_slice(&self.newest.0.to_le_bytes());
        bytes.extend_from_slice(&self.digest);
        bytes.extend_from_slice(&self.oldest.0.to_le_bytes());
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let damaged = FormatError::Damaged("the file LOG");
        let (checked, crc) = bytes.split_at_checked(CHECKED).ok_or(damaged.clone())?;
        let mut fields = Fields::new(checked);
        if fields.array()? != *MAGIC || Fields::new(crc).u32()? != crc32c::crc32c(checked) {
            return Err(damaged);
        }
        let version = fields.u32()?;
        if version != FORMAT_VERSION {
            return Err(FormatError::UnknownVersion(version));
        }
        fields.array::<4>()?;
        Ok(Self {
            log: LogId(fields.array()?),
            newest: SegmentId(fields.u64()?),
            digest: fields.array()?,
            oldest: SegmentId(fields.u64()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            prop_assert!(Identity::decode(&bytes).is_err());
        }

        #[test]
        fn it_comes_back_and_flipped_bits_are_found(log: [u8; 16], newest: u64, digest: [u8; 32], oldest: u64, bit in 0..84 * 8_usize) {
            let identity = Identity { log: LogId(log), newest: SegmentId(newest), digest, oldest: SegmentId(oldest) };
            let mut bytes = identity.encode();
            prop_assert_eq!(bytes.len(), 84);
            prop_assert_eq!(Identity::decode(&bytes), Ok(identity));
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(matches!(Identity::decode(&bytes), Err(FormatError::Damaged(_))));
            prop_assert!(Identity::decode(&bytes[..bytes.len() - 1]).is_err());
        }
    }
}
