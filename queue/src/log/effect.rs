//! What a durable record means for the log's state. The same effects are applied when a batch is committed and when a log is
//! replayed: there is one definition of what is on the disk.

use crate::{
    FunctionNumber, Location, PartitionNumber,
    entry::{Entry, StreamKey},
    format::{checkpoint::Checkpoint, done::Reason, event::Moved, purge::Purge, redirect::Redirect},
};

#[derive(Debug)]
pub(crate) enum Effect {
    /// An event may be leased.
    Event {
        stream: StreamKey,
        entry: Entry,
    },
    /// An event has a new place; the record at the old one is done.
    Moved {
        stream: StreamKey,
        entry: Entry,
        moved: Moved,
    },
    /// Events are done. Tokens are what leases call them.
    Done {
        reason: Reason,
        tokens: Vec<Location>,
    },
    /// Notes count from when they are made.
    Note,
    /// `token` is what the lease calls the last event that is done.
    Checkpoint {
        token: Location,
        checkpoint: Checkpoint,
    },
    Redirect(Redirect),
    /// The number has its name on the disk.
    Function(FunctionNumber),
    Partition(PartitionNumber),
    /// `before` is where the next event would have been.
    Purge {
        purge: Purge,
        before: Location,
    },
}

impl Effect {
    pub(super) fn redirects(&self, function: FunctionNumber) -> bool {
        matches!(self, Self::Redirect(redirect) if redirect.function == function)
    }

    pub(super) fn is_checkpoint_of(&self, partition: PartitionNumber) -> bool {
        matches!(self, Self::Checkpoint { checkpoint, .. } if checkpoint.partition == partition)
    }
}
