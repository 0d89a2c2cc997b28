//! Where records are kept.

#[cfg(test)]
pub(crate) mod conformance;
mod sqlite;

use std::path::PathBuf;

use types::FunctionArn;
use uuid::Uuid;

use crate::record::{FunctionRecord, RecordError};

pub use sqlite::SqliteStore;

/// Why a store refused.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{0} is already stored")]
    AlreadyExists(FunctionArn),
    /// The stored record has another revision, or there is none.
    #[error("{arn} is not stored at revision {expected}")]
    Conflict { arn: FunctionArn, expected: Uuid },
    #[error("{} has schema version {found}; this version knows up to {known}", path.display())]
    NewerSchema { path: PathBuf, found: i64, known: i64 },
    #[error("{} is not a metadata store of this program", path.display())]
    Foreign { path: PathBuf },
    #[error("a stored record cannot be read")]
    Record(#[from] RecordError),
    #[error("the metadata store failed: {0}")]
    Unavailable(String),
}

/// A durable map from ARN to record.
///
/// Guarantees:
/// - *Durable*: when a method has returned `Ok`, its change survives a crash of process and machine.
/// - *Atomic*: a change is there whole or not at all. An error other than [`StoreError::Unavailable`] changed nothing;
///   after `Unavailable` the change may have happened, and [`load`](Self::load) tells.
/// - *Isolated*: changes are in one order, the same for all callers, and each sees those before it.
/// - *Guarded*: `update` and `remove` happen only if the stored record has the expected revision.
///
/// Methods block for one disk synchronisation; call them from a blocking thread. There is nothing to cancel.
pub trait MetadataStore: Send + Sync + 'static {
    /// Every record, in the order of their ARNs.
    fn load(&self) -> Result<Vec<FunctionRecord>, StoreError>;

    /// Adds a record; [`StoreError::AlreadyExists`] if its ARN is taken.
    fn insert(&self, record: &FunctionRecord) -> Result<(), StoreError>;

    /// Replaces the record of the same ARN if it has revision `expected`, else [`StoreError::Conflict`].
    fn update(&self, record: &FunctionRecord, expected: Uuid) -> Result<(), StoreError>;

    /// Removes a record if it has revision `expected`, else [`StoreError::Conflict`].
    fn remove(&self, arn: &FunctionArn, expected: Uuid) -> Result<(), StoreError>;
}
