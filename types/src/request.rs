//! What identifies one invocation on its way through edge, invoker and environment.

use std::fmt;

use uuid::Uuid;

use crate::Lineage;

/// The identity of one invocation, as `x-amzn-RequestId` and `Lambda-Runtime-Aws-Request-Id` carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(Uuid);

impl RequestId {
    /// A fresh random identity.
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.into_bytes()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

/// Trace headers as they travel into the function. Both forms name the same trace.
///
/// `xray` is the value of `X-Amzn-Trace-Id` (`Root=1-…;Parent=…;Sampled=1`), `traceparent` that of the W3C header
/// (`00-<32 hex>-<16 hex>-<2 hex>`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    /// Without a `Lineage`.
    pub xray: String,
    pub traceparent: String,
    /// The functions invoked in this chain, the one to be invoked included.
    pub lineage: Lineage,
}

impl TraceContext {
    /// The X-Ray header as a function gets it.
    #[must_use]
    pub fn header(&self) -> String {
        if self.lineage.is_empty() {
            self.xray.clone()
        } else {
            format!("{};Lineage={}", self.xray, self.lineage)
        }
    }
}
