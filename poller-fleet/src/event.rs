//! An event in memory, from its lease to its end.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use queue::{EventId, FunctionNumber, Location, PartitionNumber};
use types::RequestId;

use crate::{attributes::Attributes, budget::Holding, envelope::Response, leases::Lease, schedule::Wait};

/// `K`: what kind of event it is.
#[derive(Debug)]
pub(crate) struct Event<K> {
    pub(crate) token: Location,
    pub(crate) id: EventId,
    pub(crate) function: FunctionNumber,
    pub(crate) lease: Arc<Lease>,
    pub(crate) kind: K,
    pub(crate) payload: Bytes,
    /// Unix time, on the clock that does not jump.
    pub(crate) accepted: Duration,
    /// Attempts that failed.
    pub(crate) attempts: u32,
    /// Times that it could not be tried since the last attempt.
    pub(crate) deferrals: u32,
    /// How the last try ended that did not succeed.
    pub(crate) failure: Option<Failure>,
    /// Its part of the budget.
    pub(crate) _holding: Holding,
}

/// The end of a try.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// What the function answered, if it ran.
    pub(crate) response: Option<Response>,
    /// As a dead-letter queue is told: the HTTP status that a caller would have had, and a text.
    pub(crate) code: u16,
    pub(crate) message: String,
}

/// An event that is to be queued.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) id: EventId,
    pub(crate) function: FunctionNumber,
    pub(crate) partition: PartitionNumber,
    pub(crate) attributes: Attributes,
    pub(crate) payload: Bytes,
}

/// What came of trying an event.
#[derive(Debug)]
pub(crate) enum Tried {
    /// It is done as soon as these are queued.
    Done(Vec<Draft>),
    Again(Again),
}

/// An event is to be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Again {
    pub(crate) wait: Wait,
    /// Its count of attempts has changed, which must outlive a crash.
    pub(crate) noted: bool,
    /// There was no room for it: fewer should be tried at once.
    pub(crate) refused: bool,
}

impl<K> Event<K> {
    pub(crate) fn request_id(&self) -> RequestId {
        RequestId::from_bytes(self.id.0)
    }

    /// An answer of more bytes than this is not needed any more: it must not wait in memory for the next attempt.
    pub(crate) fn forget_long_response(&mut self, bytes: usize) {
        let response = self.failure.as_mut().and_then(|failure| failure.response.as_mut());
        if let Some(response) = response.filter(|response| response.body.len() > bytes) {
            response.body = Bytes::new();
        }
    }

    pub(crate) fn response(&self) -> Option<&Response> {
        self.failure.as_ref()?.response.as_ref()
    }
}
