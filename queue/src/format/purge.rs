//! Every event of a function, or of an ordered partition, that lies before this record is done, whatever became of it.
//!
//! ```text
//!   0          4           8
//!   ├──────────┼───────────┤
//!   │ function │ partition │   one of them is 0
//! ```

use super::{FormatError, codec::Fields};
use crate::{FunctionNumber, PartitionNumber};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purge {
    Function(FunctionNumber),
    Partition(PartitionNumber),
}

impl Purge {
    pub(crate) fn put(&self, to: &mut Vec<u8>) {
        let (function, partition) = match self {
            Self::Function(number) => (number.0, 0),
            Self::Partition(number) => (0, number.0),
        };
        to.extend_from_slice(&function.to_le_bytes());
        to.extend_from_slice(&partition.to_le_bytes());
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self, FormatError> {
        let mut fields = Fields::new(body);
        let (function, partition) = (fields.u32()?, fields.u32()?);
        fields.end()?;
        match (function, partition) {
            (0, 0) => Err(FormatError::Damaged("a purge of nothing")),
            (number, 0) => Ok(Self::Function(FunctionNumber(number))),
            (0, number) => Ok(Self::Partition(PartitionNumber(number))),
            _ => Err(FormatError::Damaged("a purge of two things")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_comes_back(number in 1..=u32::MAX) {
            for purge in [Purge::Function(FunctionNumber(number)), Purge::Partition(PartitionNumber(number))] {
                let mut bytes = Vec::new();
                purge.put(&mut bytes);
                prop_assert_eq!(Purge::decode(&bytes), Ok(purge));
                prop_assert!(Purge::decode(&bytes[..bytes.len() - 1]).is_err());
            }
        }
    }

    #[test]
    fn it_is_of_one_thing() {
        assert!(Purge::decode(&[0; 8]).is_err());
        assert!(Purge::decode(&[1; 8]).is_err());
    }
}
