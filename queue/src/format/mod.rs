//! Every byte that the queue puts on a disk; `queue/FORMAT.md` draws them. Pure functions from values to bytes and back.
//!
//! ```text
//!  data directory            segment                         record
//!  ├ LOG        identity     ┌────────────────┐ 0            ┌────────┬──────┬──────────────────┬─────┐
//!  ├ 0….segment records      │ header         │              │ prefix │ kind's own fields │ sealed │ 0…0 │
//!  ├ 0….index   the segment's├────────────────┤ 4096         └────────┴──────┴──────────────────┴─────┘
//!  │            footer       │ record         │                16       to the next multiple of 16 ───▲
//!  └ spare-….segment         │ record …       │
//! ```
//! A record says what it is, where it is and which segment it belongs to (its checksum begins with the segment's salt). So a
//! record of another place, of another segment, or of what the file held before it was recycled, is no record.
//!
//! Numbers are little-endian. Numbers of kinds and fields are stable: they are on disks.
//! What is read here comes from a disk and may be anything: nothing here panics on it, nor allocates by a length it claims.

pub(crate) mod checkpoint;
pub(crate) mod codec;
pub(crate) mod done;
pub(crate) mod event;
pub(crate) mod function;
pub(crate) mod identity;
pub(crate) mod index;
pub(crate) mod note;
pub(crate) mod partition;
pub(crate) mod purge;
pub(crate) mod record;
pub(crate) mod redirect;
pub(crate) mod segment;

/// The format that this program writes, and the newest that it reads.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// Why bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FormatError {
    /// A checksum, a magic or a length that cannot be: not ours, or damaged.
    #[error("damaged: {0}")]
    Damaged(&'static str),
    /// Sound, but of a version of the format that this program does not know. It must be left as it is.
    #[error("format version {0} is newer than this program, which knows up to {FORMAT_VERSION}")]
    UnknownVersion(u32),
    /// A sound record of a kind that this program does not know.
    #[error("record kind {0} is unknown")]
    UnknownKind(u8),
}
