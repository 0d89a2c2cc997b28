//! Which partition an event belongs in.
//!
//! ```text
//!   async/shared/<n>       invocations; each function has two of them, and an event goes to the shorter
//!   async/own/<arn>        invocations of a function that was moved away from its neighbours
//!   deliveries             records for destinations
//!   dead-letters/<arn>     what could not be processed, until somebody looks; nothing polls it
//! ```
//! Two functions share both of their partitions seldom, so one that fills its own leaves most others a way around it
//! (shuffle sharding). Names are stable: they are on disks.

use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock},
};

use queue::{FunctionNumber, PartitionNumber, Queue, Refused, WriteError, partition::Order};
use types::{FunctionArn, stable_hash};

const SHARED: &str = "async/shared/";
const OWN: &str = "async/own/";
const DELIVERIES: &str = "deliveries";
const DEAD_LETTERS: &str = "dead-letters/";

/// What a partition's events are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PartitionKind<'a> {
    SharedInvocations,
    /// Of the function with this ARN.
    OwnInvocations(&'a str),
    Deliveries,
    /// Of the function with this ARN.
    DeadLetters(&'a str),
}

impl<'a> PartitionKind<'a> {
    /// `None`: it is not the fleet's.
    pub(crate) fn of(name: &'a str) -> Option<Self> {
        if name.starts_with(SHARED) {
            Some(Self::SharedInvocations)
        } else if name == DELIVERIES {
            Some(Self::Deliveries)
        } else if let Some(arn) = name.strip_prefix(OWN) {
            Some(Self::OwnInvocations(arn))
        } else {
            name.strip_prefix(DEAD_LETTERS).map(Self::DeadLetters)
        }
    }

    /// As metrics call it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::SharedInvocations | Self::OwnInvocations(_) => "invocations",
            Self::Deliveries => "deliveries",
            Self::DeadLetters(_) => "dead_letters",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Router<Q> {
    queue: Q,
    shared: Vec<PartitionNumber>,
    deliveries: PartitionNumber,
    /// Numbers never change while the queue is open.
    functions: RwLock<HashMap<FunctionArn, Known>>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    number: FunctionNumber,
    /// The shared partitions that are its own.
    shards: [PartitionNumber; 2],
}

impl<Q: Queue> Router<Q> {
    pub(crate) fn new(queue: Q, shared: u32) -> Result<Self, Refused> {
        let named = |n| queue.partition(&format!("{SHARED}{n}"), Order::None);
        let shared = (0..shared.max(1)).map(named).collect::<Result<_, _>>()?;
        let deliveries = queue.partition(DELIVERIES, Order::None)?;
        Ok(Self { queue, shared, deliveries, functions: RwLock::default() })
    }

    pub(crate) fn queue(&self) -> &Q {
        &self.queue
    }

    /// A function's number, and where a new invocation of it is queued.
    pub(crate) fn invocations(
        &self,
        arn: &FunctionArn,
    ) -> Result<(FunctionNumber, PartitionNumber), WriteError> {
        let Known { number, shards: [first, second] } = self.known(arn)?;
        if let Some(own) = self.queue.redirected(number) {
            return Ok((number, own));
        }
        let events = |partition| self.queue.depth(partition).events;
        let shorter = if first == second || events(first) <= events(second) { first } else { second };
        Ok((number, shorter))
    }

    fn known(&self, arn: &FunctionArn) -> Result<Known, WriteError> {
        if let Some(known) = self.functions.read().unwrap_or_else(PoisonError::into_inner).get(arn) {
            return Ok(*known);
        }
        let number = self.queue.function(&arn.to_string())?;
        let shards = shards(arn, self.shared.len()).map(|index| self.shared[index]);
        let known = Known { number, shards };
        self.functions.write().unwrap_or_else(PoisonError::into_inner).insert(arn.clone(), known);
        Ok(known)
    }

    /// The partition that a function gets for itself.
    pub(crate) fn own(&self, arn: &str) -> Result<PartitionNumber, Refused> {
        self.queue.partition(&format!("{OWN}{arn}"), Order::None)
    }

    pub(crate) fn deliveries(&self) -> PartitionNumber {
        self.deliveries
    }

    pub(crate) fn dead_letters(&self, arn: &FunctionArn) -> Result<PartitionNumber, Refused> {
        self.queue.partition(&format!("{DEAD_LETTERS}{arn}"), Order::None)
    }
}

/// Two of `count`, the same for a function for ever; different ones if there are two.
fn shards(arn: &FunctionArn, count: usize) -> [usize; 2] {
    // Names that differ in their last letter only differ little in that hash: spread over all bits (the last steps of MurmurHash3).
    let mut hash = stable_hash(arn.to_string().as_bytes());
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        hash = (hash ^ (hash >> 33)).wrapping_mul(factor);
    }
    let (first, rest) = ((hash >> 32) as usize % count, hash as u32 as usize);
    let second = if count > 1 { (first + 1 + rest % (count - 1)) % count } else { first };
    [first, second]
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn arn(n: usize) -> FunctionArn {
        FunctionArn {
            region: "us-east-1".parse().unwrap(),
            account: "123456789012".parse().unwrap(),
            name: format!("function-{n}").parse().unwrap(),
        }
    }

    #[test]
    fn a_function_has_two_partitions_and_functions_are_spread_over_all_pairs() {
        let pairs: Vec<_> = (0..2_000).map(|n| shards(&arn(n), 8)).collect();
        assert!(pairs.iter().all(|[first, second]| first != second));
        assert_eq!(pairs.iter().collect::<HashSet<_>>().len(), 56, "every ordered pair of eight");
        for shard in 0..8 {
            let firsts = pairs.iter().filter(|[first, _]| *first == shard).count();
            assert!((180..320).contains(&firsts), "{shard} is the first of {firsts}");
        }
        assert_eq!(shards(&arn(1), 1), [0, 0]);
        assert_eq!(shards(&arn(1), 8), shards(&arn(1), 8));
    }

    #[test]
    fn names_say_what_is_in_a_partition() {
        use PartitionKind as Kind;
        for (name, kind) in [
            ("async/shared/0", Some(Kind::SharedInvocations)),
            ("async/own/arn:x", Some(Kind::OwnInvocations("arn:x"))),
            ("deliveries", Some(Kind::Deliveries)),
            ("dead-letters/arn:y", Some(Kind::DeadLetters("arn:y"))),
            ("mapping/0", None),
        ] {
            assert_eq!(PartitionKind::of(name), kind);
        }
    }
}
