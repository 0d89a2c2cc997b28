//! What identifies one invocation on its way through edge, invoker and environment.

use std::fmt;

use uuid::Uuid;

/// The identity of one invocation, as `x-amzn-RequestId` and `Lambda-Runtime-Aws-Request-Id` carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(Uuid);

impl RequestId {
    /// A fresh random identity.
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4())
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
    pub xray: String,
    pub traceparent: String,
}
