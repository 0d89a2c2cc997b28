//! The control plane: which functions there are, and everything about them that must survive.
//!
//! ```text
//!                       ControlPlane                                   LogStore ◄── lines functions print
//!      create, update ─►  │  resolve, get, list (memory only)              │
//!                         ▼                                                ▼
//!  package ──► image   catalogue ◄── MetadataStore (SQLite)          sealed segments
//!  (checked)     │                     records, variables sealed           │
//!                ▼                                                         │
//!           artefacts: image and ZIP, sealed                               │
//!                └──────────────┬──────────────────────────────────────────┘
//!                               ▼
//!                     Keys (LocalKeyring): a data key for each sealed thing, wrapped
//!
//!  <data>/  lock   metadata.sqlite   artefacts/<deployment>.{image,zip}   logs/<function>/<segment>.{log,key}
//! ```
//! Whatever a customer would not want read is on the disk only sealed, and in memory only while it is needed; code is never unpacked to
//! a disk. The record in the store is the commit point of every change, so a crash leaves a function old or new, never between.
//!
//! It does not run functions, speak HTTP or check who may ask: the edge does the last two with the keys [`AccessKeys`] holds. What
//! protects the keyring file itself (another disk, an outside key service) is the operator's; see `docs/threat-model.md`.

#![forbid(unsafe_code)]

mod artefacts;
mod durable;
mod keys;
mod logs;
mod metrics;
mod package;
mod plane;
mod record;
mod seal;
mod store;

pub use keys::{AccessKey, AccessKeys, CredentialsError, KeyringError, LocalKeyring, WrappingKeyId};
pub use logs::{LogBatch, LogConfig, LogPosition, LogReadError, LogReader, LogRecord, LogStore};
pub use package::{EntryName, EntryProblem, PackageRefused};
pub use plane::{
    ControlConfig, ControlError, ControlPlane, FunctionDetail, InstalledRuntimes, OpenError, Retired,
    Retirements,
};
pub use record::{
    CodeRecord, Deployment, EventInvokeConfig, FunctionRecord, RecordError, SealedKey, SealedVariables,
    State, Update,
};
pub use seal::SealError;
pub use store::{MetadataStore, SqliteStore, StoreError};
