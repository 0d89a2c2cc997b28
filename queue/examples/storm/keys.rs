//! Keys for this test alone: a secret in a file, from which a data key is derived by its wrap. It protects nothing that is worth
//! protecting; it gives the same keys to every process that opens the directory.

use std::path::Path;

use aws_lc_rs::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use types::{DataKey, KeyContext, KeyError, Keys, WrappedDataKey};

/// Bytes of a wrap: what makes one key differ from another.
const WRAP_BYTES: usize = 16;

#[derive(Debug)]
pub(crate) struct DerivedKeys(hmac::Key);

impl DerivedKeys {
    pub(crate) fn read(path: &Path) -> std::io::Result<Self> {
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &std::fs::read(path)?)))
    }

    fn derive(&self, wrapped: &[u8], context: &KeyContext) -> Result<DataKey, KeyError> {
        if wrapped.len() != WRAP_BYTES {
            return Err(KeyError::UnknownFormat);
        }
        let mut of = hmac::Context::with_key(&self.0);
        for part in [wrapped, context.arn.as_bytes(), context.purpose.as_bytes()] {
            of.update(&(part.len() as u64).to_le_bytes());
            of.update(part);
        }
        let tag = of.sign();
        let bytes = tag.as_ref().try_into().map_err(|_| KeyError::UnknownFormat)?;
        Ok(DataKey::new(bytes))
    }
}

impl Keys for DerivedKeys {
    fn generate(&self, context: &KeyContext) -> Result<(DataKey, WrappedDataKey), KeyError> {
        let mut wrapped = vec![0; WRAP_BYTES];
        let filled = SystemRandom::new().fill(&mut wrapped);
        filled.map_err(|_| KeyError::Unavailable("no randomness".to_owned()))?;
        Ok((self.derive(&wrapped, context)?, WrappedDataKey(wrapped)))
    }

    fn unwrap(&self, wrapped: &WrappedDataKey, context: &KeyContext) -> Result<DataKey, KeyError> {
        self.derive(&wrapped.0, context)
    }

    fn rewrap(&self, wrapped: &WrappedDataKey, _: &KeyContext) -> Result<WrappedDataKey, KeyError> {
        Ok(wrapped.clone())
    }
}
