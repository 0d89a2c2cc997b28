//! Envelope encryption: data keys that live in memory, wrapped by a key service that never hands its own key out.

use zeroize::{Zeroize, ZeroizeOnDrop};

/// What a wrapped key belongs to. It is bound into the wrap as additional authenticated data, so that a wrapped key
/// copied to another function, or to another use, does not open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyContext {
    /// The ARN of the resource, without a qualifier.
    pub arn: String,
    /// What the key seals and of which generation, such as `code/<deployment>` or `environment/<deployment>`.
    pub purpose: String,
}

/// 256 bits that seal one thing. Wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct DataKey([u8; Self::LEN]);

impl DataKey {
    /// Bytes in a key (AES-256).
    pub const LEN: usize = 32;

    #[must_use]
    pub fn new(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    #[must_use]
    pub fn expose(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl std::fmt::Debug for DataKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DataKey(…)")
    }
}

/// A data key as it may be stored: sealed by the key service, meaningless without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappedDataKey(pub Vec<u8>);

/// Why a key service refused.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The wrapping key is not in the keyring: destroyed, or never here.
    #[error("wrapping key {0} is not in the keyring")]
    UnknownKey(String),
    /// The wrap does not open under this context: altered, or moved from another resource.
    #[error("a wrapped key does not belong to {arn} ({purpose})")]
    WrongContext { arn: String, purpose: String },
    /// The wrapped bytes are not in a format this version knows.
    #[error("a wrapped key has an unknown format")]
    UnknownFormat,
    #[error("the key service failed: {0}")]
    Unavailable(String),
}

/// A key service.
///
/// Guarantees: a wrapped key opens only under the context it was made with; a wrap made before a rotation opens until its
/// wrapping key is destroyed; calls do not block longer than a local disk access.
pub trait Keys: Send + Sync + 'static {
    /// Makes a random data key and its wrap under the current wrapping key.
    fn generate(&self, context: &KeyContext) -> Result<(DataKey, WrappedDataKey), KeyError>;

    /// Opens a wrap.
    fn unwrap(&self, wrapped: &WrappedDataKey, context: &KeyContext) -> Result<DataKey, KeyError>;

    /// Wraps the same data key anew under the current wrapping key; what it sealed stays as it is.
    fn rewrap(&self, wrapped: &WrappedDataKey, context: &KeyContext) -> Result<WrappedDataKey, KeyError>;
}
