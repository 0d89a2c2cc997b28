//! A name for a partition's number. Events of a partition come behind its record.
//!
//! ```text
//!   0        4        8        12
//!   ├────────┼────────┼────────┼──────┤
//!   │ number │ order  │ length │ name │
//! ```

use super::{
    FormatError,
    codec::{Fields, put_counted},
};
use crate::{PartitionNumber, partition::Order};

/// Most bytes of a name.
pub(crate) const MAX_NAME_BYTES: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Partition {
    pub(crate) number: PartitionNumber,
    pub(crate) order: Order,
    pub(crate) name: String,
}

impl Partition {
    pub(crate) fn put(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.number.0.to_le_bytes());
        to.extend_from_slice(&(self.order as u32).to_le_bytes());
        put_counted(to, self.name.as_bytes());
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self, FormatError> {
        let mut fields = Fields::new(body);
        let number = PartitionNumber(fields.u32()?);
        let order = fields.u32()?;
        let order = Order::ALL.into_iter().find(|known| *known as u32 == order);
        let partition = Self {
            number,
            order: order.ok_or(FormatError::Damaged("an unknown order"))?,
            name: fields.text()?.to_owned(),
        };
        fields.end()?;
        Ok(partition)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn it_comes_back(number: u32, order in prop::sample::select(&Order::ALL[..]), name in ".{0,40}") {
            let partition = Partition { number: PartitionNumber(number), order, name };
            let mut bytes = Vec::new();
            partition.put(&mut bytes);
            prop_assert_eq!(Partition::decode(&bytes), Ok(partition));
            prop_assert!(Partition::decode(&bytes[..bytes.len() - 1]).is_err());
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in vec(any::<u8>(), 0..100)) {
            let _ = Partition::decode(&bytes);
        }
    }

    #[test]
    fn orders_keep_their_numbers() {
        assert_eq!(Order::ALL.map(|order| order as u8), [1, 2]);
    }
}
