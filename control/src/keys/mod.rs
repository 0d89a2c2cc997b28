//! Keys: the ring that wraps data keys, and the access keys callers sign with.

mod access;
mod keyring;

pub use access::{AccessKey, AccessKeys, CredentialsError};
pub use keyring::{KeyringError, LocalKeyring, WrappingKeyId};
