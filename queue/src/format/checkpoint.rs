//! How far an ordered partition has been processed: every event of it up to a place is done.
//!
//! ```text
//!   0           4         12        16         20
//!   ├───────────┼─────────┼─────────┼──────────┼──────────┤
//!   │ partition │ segment │ ordinal │ length   │ position │
//! ```
//! `segment` and `ordinal` name the last event that is done, by where it was written first; segment 0 if there is none yet.
//! `position` is the source's own word for the place, opaque to the queue. The newest checkpoint of a partition counts.

use super::{
    FormatError,
    codec::{Fields, put_counted},
};
use crate::{Location, PartitionNumber};

/// Most bytes of a position. Sources' own are far smaller: Kafka's offset is 8, a Kinesis sequence number up to 56 digits.
pub(crate) const MAX_POSITION_BYTES: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) partition: PartitionNumber,
    pub(crate) through: Location,
    pub(crate) position: Vec<u8>,
}

impl Checkpoint {
    pub(crate) fn put(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.partition.0.to_le_bytes());
        self.through.put(to);
        put_counted(to, &self.position);
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self, FormatError> {
        let mut fields = Fields::new(body);
        let checkpoint = Self {
            partition: PartitionNumber(fields.u32()?),
            through: Location::take(&mut fields)?,
            position: fields.counted()?.to_vec(),
        };
        fields.end()?;
        Ok(checkpoint)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{Ordinal, SegmentId};

    proptest! {
        #[test]
        fn it_comes_back(partition: u32, segment: u64, ordinal: u32, position in vec(any::<u8>(), 0..64)) {
            let through = Location { segment: SegmentId(segment), ordinal: Ordinal(ordinal) };
            let checkpoint = Checkpoint { partition: PartitionNumber(partition), through, position };
            let mut bytes = Vec::new();
            checkpoint.put(&mut bytes);
            prop_assert_eq!(Checkpoint::decode(&bytes), Ok(checkpoint));
            prop_assert!(Checkpoint::decode(&bytes[..bytes.len() - 1]).is_err());
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in vec(any::<u8>(), 0..100)) {
            let _ = Checkpoint::decode(&bytes);
        }
    }
}
