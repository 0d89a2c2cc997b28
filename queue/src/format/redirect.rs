//! From here on a function's events go to another partition; those before stay where they are.
//!
//! ```text
//!   0        8
//!   ├────────┼───────────┤
//!   │ number │ partition │   partition 0: to the shared ones again
//! ```
//! The newest redirect of a function counts.

use super::{FormatError, codec::Fields};
use crate::{FunctionNumber, PartitionNumber};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Redirect {
    pub(crate) function: FunctionNumber,
    pub(crate) partition: Option<PartitionNumber>,
}

impl Redirect {
    pub(crate) fn put(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.function.0.to_le_bytes());
        to.extend_from_slice(&self.partition.map_or(0, |partition| partition.0).to_le_bytes());
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self, FormatError> {
        let mut fields = Fields::new(body);
        let function = FunctionNumber(fields.u32()?);
        let partition = fields.u32()?;
        fields.end()?;
        Ok(Self { function, partition: (partition != 0).then_some(PartitionNumber(partition)) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_comes_back(function: u32, partition: Option<u32>) {
            let partition = partition.filter(|number| *number != 0).map(PartitionNumber);
            let redirect = Redirect { function: FunctionNumber(function), partition };
            let mut bytes = Vec::new();
            redirect.put(&mut bytes);
            prop_assert_eq!(Redirect::decode(&bytes), Ok(redirect));
            prop_assert!(Redirect::decode(&bytes[..bytes.len() - 1]).is_err());
        }
    }
}
