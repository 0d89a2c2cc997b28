//! The dead-letter store: what could not be processed is kept, and an operator looks at it, queues it again or throws it away.
//!
//! ```text
//!   invocations ─┐ given up, and                                 ┌─ redrive ─► queued again ─► done here
//!                ├───────────────► dead-letters/<arn> ── list, ──┤
//!   deliveries ──┘ no destination         │              show    └─ purge ───► done here
//!                                         └ nothing polls it
//! ```
//! One partition for each function, in the order in which events were given up. [`look`] reads without taking anything; [`settle`]
//! leases, so that nobody else ends what it is about to end. A redriven event is durable as what it was before its dead letter is done:
//! a crash between the two brings a duplicate, never a loss.
//!
//! Only what was given up before an order began is touched by it: an event that fails again at once, such as one of a deleted
//! function, comes back here, and is not redriven for ever.
//!
//! Not here: who may ask (the edge), and what is given up when ([`invocation`](crate::invocation), [`delivery`](crate::delivery)).

mod look;
mod pace;
mod settle;

use std::{
    collections::{BTreeSet, HashSet},
    num::NonZeroU32,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use queue::{PartitionNumber, Queue, ReadError, WriteError};
use types::{FunctionArn, FunctionRef, RequestId};

use crate::{
    attributes::{DeadLetter, Reason},
    fleet::Handle,
    router::PartitionKind,
    schedule::Condition,
};

/// Most entries of a page.
pub const MAX_PAGE: usize = 1_000;
/// Most events of one function that an order looks at; those that are not meant stay leased until it ends. A bound on memory, some
/// 100 bytes for each, and on what the pollers must do without: a fifth of what may be leased of the queue.
pub const MAX_SCANNED: u64 = 20_000;

/// What operators can do with dead letters. A [`Handle`] does it.
pub trait DeadLetters: Send + Sync {
    /// By function, in the order of their ARNs; of each the oldest first. A page may be shorter than asked for and not be the last.
    fn list(&self, query: Query) -> BoxFuture<'_, Result<Page, Error>>;

    /// One of them, with its payload.
    fn show(&self, function: FunctionRef, id: RequestId) -> BoxFuture<'_, Result<Shown, Error>>;

    /// Queues them again as what they were, with the same id, no attempts, and accepted now.
    ///
    /// *Dropped:* what is done is done; the rest is as it was, but for those under way: they may be queued and dead letters still.
    fn redrive(&self, order: Order) -> BoxFuture<'_, Result<Progress, Error>>;

    /// Throws them away.
    ///
    /// *Dropped:* what is done is done; the rest is as it was.
    fn purge(&self, order: Order) -> BoxFuture<'_, Result<Progress, Error>>;
}

/// Why an event is a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeadLetterReason {
    RetriesExhausted,
    EventAgeExceeded,
    RecursiveInvocation,
    FunctionDeleted,
    /// A record that a destination refused for good, or did not take in time.
    DestinationRefused,
}

/// Which dead letters are meant: those to which all of this applies.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Its qualifier is not looked at. `None`: every function.
    pub function: Option<FunctionRef>,
    pub reason: Option<DeadLetterReason>,
    /// Given up at this time or later, Unix time.
    pub after: Option<Duration>,
    /// Given up before, Unix time.
    pub before: Option<Duration>,
    /// None: any.
    pub ids: HashSet<RequestId>,
}

/// What is to be listed.
#[derive(Debug, Clone, Default)]
pub struct Query {
    pub filter: Filter,
    /// Of the page before.
    pub marker: Option<String>,
    /// Most entries, up to [`MAX_PAGE`].
    pub limit: usize,
}

#[derive(Debug, Clone, Default)]
pub struct Page {
    pub entries: Vec<Entry>,
    /// Where to go on; `None`: there are no more.
    pub marker: Option<String>,
}

/// One dead letter.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What orders call it. An invocation's is its request id. `None`: its record is damaged.
    pub id: Option<RequestId>,
    pub function: FunctionArn,
    pub letter: Result<Letter, Unreadable>,
}

/// What is known of a dead letter beside its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    pub reason: DeadLetterReason,
    /// When the event was accepted first, Unix time.
    pub accepted: Duration,
    /// When it was given up, Unix time.
    pub given_up: Duration,
    pub attempts: u32,
    pub payload_bytes: u64,
    /// Of the last failure.
    pub error: String,
    pub was: WasOnce,
}

/// What a dead letter is made into again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WasOnce {
    /// Of the function as it was named, with its qualifier if it had one.
    Invocation { invoked_arn: String },
    /// A record on its way to a destination.
    Record { destination: String, request_id: RequestId },
}

/// Why a dead letter cannot be read. It stays until it is purged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("the key of its function is destroyed")]
    KeyDestroyed,
    #[error("its record is damaged")]
    Damaged,
    #[error("{0}")]
    Unknown(String),
}

/// A dead letter with all that there is of it.
#[derive(Debug, Clone)]
pub struct Shown {
    pub entry: Entry,
    pub client_context: Option<String>,
    /// `X-Amzn-Trace-Id` of the invocation.
    pub trace: Option<String>,
    /// Empty if it cannot be read.
    pub payload: Vec<u8>,
}

/// Which dead letters are to be ended, and how fast.
#[derive(Debug, Clone)]
pub struct Order {
    pub filter: Filter,
    /// [`Progress::next`] of the call before.
    pub from: Option<String>,
    pub limit: u64,
    pub per_second: NonZeroU32,
    /// It stops by then, and says what it has done.
    pub within: Duration,
}

/// What an order has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Dead letters that were redriven or purged.
    pub done: u64,
    pub scanned: u64,
    /// Found, and left alone, because they cannot be read.
    pub unreadable: u64,
    /// Behind the first [`MAX_SCANNED`] of their function, and not looked at.
    pub not_scanned: u64,
    /// `None`: it came to the end.
    pub stopped: Option<Stopped>,
    /// The function to go on with where it stopped.
    pub next: Option<String>,
    /// Only what was given up before was looked at: whoever goes on says so again. Unix time.
    pub before: Duration,
}

/// Why an order ended before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    Limit,
    Time,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0:?} is not a marker of this list")]
    Marker(String),
    #[error("{function} has no dead letter {id}")]
    NotFound { function: String, id: RequestId },
    #[error("dead letters of {0} are being redriven or purged already")]
    UnderWay(FunctionArn),
    #[error("the key of {0} is destroyed: its dead letters cannot be read, only purged all together")]
    KeyDestroyed(FunctionArn),
    #[error("the server is stopping")]
    Stopping,
    #[error(transparent)]
    Read(ReadError),
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Draining => Self::Stopping,
            ReadError::Write(error) => Self::Write(error),
            error => Self::Read(error),
        }
    }
}

/// Functions whose dead letters are being redriven or purged.
#[derive(Debug, Clone, Default)]
pub(crate) struct UnderWay(Arc<Mutex<BTreeSet<FunctionArn>>>);

/// Only who has this may end dead letters of the function.
#[derive(Debug)]
struct Turn {
    under_way: UnderWay,
    function: FunctionArn,
}

/// The dead letters of one function.
#[derive(Debug)]
struct Store {
    function: FunctionArn,
    partition: PartitionNumber,
}

// === impl DeadLetterReason ===

impl DeadLetterReason {
    pub const ALL: [Self; 5] = [
        Self::RetriesExhausted,
        Self::EventAgeExceeded,
        Self::RecursiveInvocation,
        Self::FunctionDeleted,
        Self::DestinationRefused,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RetriesExhausted => "RetriesExhausted",
            Self::EventAgeExceeded => "EventAgeExceeded",
            Self::RecursiveInvocation => "RecursiveInvocation",
            Self::FunctionDeleted => "FunctionDeleted",
            Self::DestinationRefused => "DestinationRefused",
        }
    }

    fn of(reason: &Reason) -> Self {
        match reason {
            Reason::Invocation(Condition::RetriesExhausted) => Self::RetriesExhausted,
            Reason::Invocation(Condition::EventAgeExceeded) => Self::EventAgeExceeded,
            Reason::Invocation(Condition::RecursiveInvocation) => Self::RecursiveInvocation,
            Reason::Invocation(Condition::FunctionDeleted) => Self::FunctionDeleted,
            Reason::Refused => Self::DestinationRefused,
        }
    }
}

/// It is none of the five.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected RetriesExhausted, EventAgeExceeded, RecursiveInvocation, FunctionDeleted or DestinationRefused"
)]
pub struct ParseReasonError;

impl FromStr for DeadLetterReason {
    type Err = ParseReasonError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text).ok_or(ParseReasonError)
    }
}

// === impl Filter ===

impl Filter {
    fn wants(&self, id: RequestId, letter: &DeadLetter) -> bool {
        let at = Duration::from_millis(letter.at_ms);
        self.wants_id(id)
            && self.reason.is_none_or(|reason| DeadLetterReason::of(&letter.reason) == reason)
            && self.after.is_none_or(|after| at >= after)
            && self.before.is_none_or(|before| at < before)
    }

    /// Nothing is known of it but, at most, its id.
    fn wants_unreadable(&self, id: Option<RequestId>) -> bool {
        let by_content = self.reason.is_some() || self.after.is_some() || self.before.is_some();
        !by_content && id.map_or(self.ids.is_empty(), |id| self.wants_id(id))
    }

    fn wants_id(&self, id: RequestId) -> bool {
        self.ids.is_empty() || self.ids.contains(&id)
    }

    /// Whether it means everything that its functions have.
    fn is_whole(&self) -> bool {
        self.wants_unreadable(None)
    }

    fn wants_function(&self, arn: &FunctionArn) -> bool {
        self.function.as_ref().is_none_or(|wanted| {
            wanted.name == arn.name
                && wanted.region.as_ref().is_none_or(|region| *region == arn.region)
                && wanted.account.as_ref().is_none_or(|account| *account == arn.account)
        })
    }
}

// === impl UnderWay ===

impl UnderWay {
    fn begin(&self, function: &FunctionArn) -> Result<Turn, Error> {
        let mut functions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !functions.insert(function.clone()) {
            return Err(Error::UnderWay(function.clone()));
        }
        Ok(Turn { under_way: self.clone(), function: function.clone() })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.under_way.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.function);
    }
}

// === impl Handle ===

impl<Q: Queue> Handle<Q> {
    /// The stores that a filter means, by their functions' ARNs.
    fn stores(&self, filter: &Filter) -> Vec<Store> {
        let partitions = self.router.queue().partitions();
        let mut stores: Vec<_> = partitions
            .iter()
            .filter_map(|(partition, name)| {
                let Some(PartitionKind::DeadLetters(arn)) = PartitionKind::of(name) else { return None };
                let function = arn.parse::<FunctionRef>().ok()?.into_arn()?;
                Some(Store { function, partition: *partition })
            })
            .filter(|store| filter.wants_function(&store.function))
            .collect();
        stores.sort_by_cached_key(|store| store.function.to_string());
        stores
    }
}

impl<Q: Queue> DeadLetters for Handle<Q> {
    fn list(&self, query: Query) -> BoxFuture<'_, Result<Page, Error>> {
        self.page_of_dead_letters(query).boxed()
    }

    fn show(&self, function: FunctionRef, id: RequestId) -> BoxFuture<'_, Result<Shown, Error>> {
        self.dead_letter(function, id).boxed()
    }

    fn redrive(&self, order: Order) -> BoxFuture<'_, Result<Progress, Error>> {
        self.settle_dead_letters(order, settle::End::Redriven).boxed()
    }

    fn purge(&self, order: Order) -> BoxFuture<'_, Result<Progress, Error>> {
        self.settle_dead_letters(order, settle::End::Purged).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_read_as_they_are_written() {
        for reason in DeadLetterReason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(reason));
        }
        assert_eq!("retriesexhausted".parse::<DeadLetterReason>(), Err(ParseReasonError));
    }

    #[test]
    fn one_at_a_time_ends_dead_letters_of_a_function() {
        let function = |name: &str| {
            let arn = format!("arn:aws:lambda:us-east-1:123456789012:function:{name}");
            arn.parse::<FunctionRef>().unwrap().into_arn().unwrap()
        };
        let under_way = UnderWay::default();
        let turn = under_way.begin(&function("f")).unwrap();
        assert!(matches!(under_way.begin(&function("f")), Err(Error::UnderWay(arn)) if arn == function("f")));
        under_way.begin(&function("g")).unwrap();
        drop(turn);
        under_way.begin(&function("f")).unwrap();
    }
}
