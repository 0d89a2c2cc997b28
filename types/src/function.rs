//! One function version, as an environment is built from it.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::FunctionArn;

/// A function version: `$LATEST` or a published number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    Latest,
    Number(u64),
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("$LATEST"),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

/// Names one state of a function's code and configuration. It changes with every update, so that an environment
/// built before the update never serves after it, although the version (`$LATEST`) stays the same. An update of nothing
/// but where failed events go keeps it: that is nothing to an environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DeploymentId(Uuid);

impl DeploymentId {
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

impl fmt::Display for DeploymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl std::str::FromStr for DeploymentId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// The identifier of a runtime as the API spells it, such as `python3.11`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RuntimeName(String);

impl RuntimeName {
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RuntimeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Memory of a function in MB (the API's MB is 2^20 bytes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MemorySize(pub u32);

impl MemorySize {
    #[must_use]
    pub fn bytes(self) -> u64 {
        u64::from(self.0) * 1024 * 1024
    }
}

/// Everything the data plane needs to know of one function version. Immutable: an update makes a new one with another
/// [`DeploymentId`]. It holds no customer secret; code and variables are opened only for a starting environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionSpec {
    /// Without a qualifier.
    pub arn: FunctionArn,
    pub version: Version,
    pub deployment: DeploymentId,
    pub runtime: RuntimeName,
    /// Empty for a `provided` runtime that was created without one.
    pub handler: String,
    pub memory: MemorySize,
    /// Size of `/tmp`.
    pub ephemeral_storage: MemorySize,
    pub timeout: Duration,
    /// ARN of the execution role.
    pub role: String,
}
