//! A name for a function's number, and the key that seals its events, wrapped. Events of a function come behind its record.
//!
//! ```text
//!   0        4        8
//!   ├────────┼────────┼─────┬────────┬─────────┬────────┬─────────────┤
//!   │ number │ length │ ARN │ length │ purpose │ length │ wrapped key │
//! ```
//! A newer record of a number replaces the wrap (the key is the same: re-wrapped). A function whose key is replaced by
//! another gets another number, so that a number has one key for ever.

use types::{KeyContext, WrappedDataKey};

use super::{
    FormatError,
    codec::{Fields, put_counted},
};
use crate::FunctionNumber;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) number: FunctionNumber,
    pub(crate) context: KeyContext,
    pub(crate) wrapped: WrappedDataKey,
}

impl Function {
    pub(crate) fn put(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.number.0.to_le_bytes());
        put_counted(to, self.context.arn.as_bytes());
        put_counted(to, self.context.purpose.as_bytes());
        put_counted(to, &self.wrapped.0);
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self, FormatError> {
        let mut fields = Fields::new(body);
        let function = Self {
            number: FunctionNumber(fields.u32()?),
            context: KeyContext { arn: fields.text()?.to_owned(), purpose: fields.text()?.to_owned() },
            wrapped: WrappedDataKey(fields.counted()?.to_vec()),
        };
        fields.end()?;
        Ok(function)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn it_comes_back(number: u32, arn in ".{0,40}", purpose in ".{0,10}", wrapped in vec(any::<u8>(), 0..80)) {
            let number = FunctionNumber(number);
            let function = Function { number, context: KeyContext { arn, purpose }, wrapped: WrappedDataKey(wrapped) };
            let mut bytes = Vec::new();
            function.put(&mut bytes);
            prop_assert_eq!(Function::decode(&bytes), Ok(function));
            prop_assert!(Function::decode(&bytes[..bytes.len() - 1]).is_err());
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in vec(any::<u8>(), 0..100)) {
            let _ = Function::decode(&bytes);
        }
    }
}
