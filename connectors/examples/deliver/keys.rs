//! A key service for tests: wrapping keys that are given, the last of which is current. Its wraps are bound to their
//! context, as those of the real one.

use std::sync::{Mutex, PoisonError};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};
use types::{DataKey, KeyContext, KeyError, Keys, WrappedDataKey};

pub(crate) struct TestKeys(Mutex<Vec<u8>>);

impl TestKeys {
    /// Wrapping keys by number.
    pub(crate) fn new(numbers: &[u8]) -> Self {
        Self(Mutex::new(numbers.to_vec()))
    }

    /// Makes these the wrapping keys there are.
    #[cfg(test)]
    pub(crate) fn replace(&self, numbers: &[u8]) {
        *self.0.lock().unwrap() = numbers.to_vec();
    }

    fn numbers(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn wrap(&self, key: &DataKey, context: &KeyContext) -> Result<WrappedDataKey, KeyError> {
        let number = *self.numbers().last().ok_or(KeyError::Unavailable("there is no key".to_owned()))?;
        let nonce: [u8; NONCE_LEN] = random()?;
        let mut sealed = key.expose().to_vec();
        cipher(number)
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad(context), &mut sealed)
            .map_err(|_| KeyError::Unavailable("sealing failed".to_owned()))?;
        Ok(WrappedDataKey([&[number], &nonce[..], &sealed].concat()))
    }
}

impl Keys for TestKeys {
    fn generate(&self, context: &KeyContext) -> Result<(DataKey, WrappedDataKey), KeyError> {
        let key = DataKey::new(random()?);
        let wrapped = self.wrap(&key, context)?;
        Ok((key, wrapped))
    }

    fn unwrap(&self, wrapped: &WrappedDataKey, context: &KeyContext) -> Result<DataKey, KeyError> {
        let (number, rest) = wrapped.0.split_first().ok_or(KeyError::UnknownFormat)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>().ok_or(KeyError::UnknownFormat)?;
        if !self.numbers().contains(number) {
            return Err(KeyError::UnknownKey(number.to_string()));
        }
        let mut sealed = sealed.to_vec();
        let opened = cipher(*number)
            .open_in_place(Nonce::assume_unique_for_key(*nonce), aad(context), &mut sealed)
            .ok()
            .and_then(|key| <[u8; DataKey::LEN]>::try_from(&*key).ok());
        let KeyContext { arn, purpose } = context.clone();
        opened.map(DataKey::new).ok_or(KeyError::WrongContext { arn, purpose })
    }

    fn rewrap(&self, wrapped: &WrappedDataKey, context: &KeyContext) -> Result<WrappedDataKey, KeyError> {
        self.wrap(&self.unwrap(wrapped, context)?, context)
    }
}

fn cipher(number: u8) -> LessSafeKey {
    let key = UnboundKey::new(&AES_256_GCM, &[number; DataKey::LEN]).expect("32 bytes are an AES-256 key");
    LessSafeKey::new(key)
}

fn aad(context: &KeyContext) -> Aad<String> {
    Aad::from(format!("{}\n{}", context.arn, context.purpose))
}

fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map(|()| bytes).map_err(|_| KeyError::Unavailable("no randomness".to_owned()))
}
