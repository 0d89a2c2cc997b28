//! Numbers of partitions and functions, and what the log must never forget of them: names and wrapped keys, which every segment
//! has that needs them, and redirects and checkpoints, which know the segment of their newest record and are written again
//! before that segment is deleted.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use rustc_hash::FxHashMap;
use types::DataKey;

use crate::{
    FunctionNumber, PartitionNumber, SegmentId,
    format::{checkpoint::Checkpoint, function::Function, partition::Partition, redirect::Redirect},
    partition::Order,
};

/// A name's second record lies so far from its first that no damage of a block or two hits both.
const APART: u64 = 3 * 4096;

/// Where the records of a name are. Every segment has the names that its own records need, so that losing one segment costs
/// no other anything; the first segment of a name has it twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Written {
    first: (SegmentId, u64),
    last: SegmentId,
    repeated: bool,
}

impl Written {
    /// In no segment that is known of.
    pub(super) const NOWHERE: Self = Self { first: (SegmentId(0), 0), last: SegmentId(0), repeated: true };

    /// Whether to write it before another record that needs it is written here.
    pub(super) fn wanted(self, (segment, offset): (SegmentId, u64)) -> bool {
        let (first, at) = self.first;
        self.last != segment || (first == segment && !self.repeated && offset >= at + APART)
    }

    /// Whether it is not wanted in this segment again, wherever the next record lies.
    fn is_enough_for(self, segment: SegmentId) -> bool {
        self.last == segment && (self.first.0 != segment || self.repeated)
    }

    /// It is written here.
    pub(super) fn add(&mut self, (segment, offset): (SegmentId, u64)) {
        if self.last == SegmentId(0) {
            *self = Self { first: (segment, offset), last: segment, repeated: false };
        } else {
            self.repeated = true;
            self.last = segment;
        }
    }
}

/// The newest of something that the log keeps, and the segment that its record is in; `None` while it is in none for sure.
#[derive(Debug, Clone)]
pub(super) struct Kept<T> {
    pub(super) value: T,
    pub(super) logged: Option<SegmentId>,
}

impl<T> Kept<T> {
    /// Whether it would be lost with this segment.
    fn is_in(&self, segment: SegmentId) -> bool {
        self.logged.is_none_or(|logged| logged <= segment)
    }
}

#[derive(Debug)]
pub(super) struct FunctionState {
    pub(super) name: Function,
    pub(super) written: Written,
    /// Opened, if it is there and was needed.
    pub(super) key: Option<DataKey>,
    pub(super) redirect: Option<Kept<Option<PartitionNumber>>>,
}

#[derive(Debug)]
pub(super) struct PartitionState {
    pub(super) order: Order,
    pub(super) written: Written,
    // Elsewhere, because what is above is looked at for every event: of ten thousand partitions it should stay in a cache.
    pub(super) name: Box<Partition>,
    pub(super) checkpoint: Option<Box<Kept<Checkpoint>>>,
}

/// Partitions of which an event needs to know nothing more: they have no order, and this segment has their names often enough. A bit
/// each: of ten thousand partitions everything else that is known is in no cache when their next event comes.
#[derive(Debug, Default)]
struct Settled {
    segment: Option<SegmentId>,
    words: Vec<u64>,
}

impl Settled {
    /// Numbers above are looked up for each event. They come from a disk, so that they can be anything.
    const MOST: u32 = 1 << 20;

    fn get(&self, partition: PartitionNumber, segment: SegmentId) -> bool {
        let word = self.words.get(partition.0 as usize / 64);
        self.segment == Some(segment) && word.is_some_and(|word| word & (1 << (partition.0 % 64)) != 0)
    }

    fn set(&mut self, partition: PartitionNumber, segment: SegmentId) {
        if partition.0 > Self::MOST {
            return;
        }
        if self.segment != Some(segment) {
            self.segment = Some(segment);
            self.words.clear();
        }
        let at = partition.0 as usize / 64;
        if self.words.len() <= at {
            self.words.resize(at + 1, 0);
        }
        if let Some(word) = self.words.get_mut(at) {
            *word |= 1 << (partition.0 % 64);
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Names {
    functions: BTreeMap<FunctionNumber, FunctionState>,
    /// The newest number of an ARN.
    function_numbers: HashMap<Arc<str>, FunctionNumber>,
    partitions: FxHashMap<PartitionNumber, PartitionState>,
    partition_numbers: HashMap<Arc<str>, PartitionNumber>,
    settled: Settled,
    /// The greatest numbers that anything in the log has, whether or not their names are known.
    greatest_function: u32,
    greatest_partition: u32,
}

impl Names {
    pub(super) fn function_number(&self, arn: &str) -> Option<FunctionNumber> {
        self.function_numbers.get(arn).copied()
    }

    pub(super) fn partition_number(&self, name: &str) -> Option<PartitionNumber> {
        self.partition_numbers.get(name).copied()
    }

    pub(super) fn function(&self, number: FunctionNumber) -> Option<&FunctionState> {
        self.functions.get(&number)
    }

    pub(super) fn function_mut(&mut self, number: FunctionNumber) -> Option<&mut FunctionState> {
        self.functions.get_mut(&number)
    }

    pub(super) fn partition(&self, number: PartitionNumber) -> Option<&PartitionState> {
        self.partitions.get(&number)
    }

    pub(super) fn partition_mut(&mut self, number: PartitionNumber) -> Option<&mut PartitionState> {
        self.partitions.get_mut(&number)
    }

    /// One whose name is lost has no order.
    pub(super) fn order_of(&self, partition: PartitionNumber) -> Order {
        self.partition(partition).map_or(Order::None, |state| state.order)
    }

    /// Whether the partition has no order, and its name is written often enough in this segment.
    pub(super) fn is_settled(&self, partition: PartitionNumber, segment: SegmentId) -> bool {
        self.settled.get(partition, segment)
    }

    /// Whether the name of a partition is to be written before a record that needs it is written here; `None`: there is none.
    pub(super) fn wants_partition(
        &mut self,
        partition: PartitionNumber,
        here: (SegmentId, u64),
    ) -> Option<bool> {
        let (segment, _) = here;
        if self.settled.get(partition, segment) {
            return Some(false);
        }
        let state = self.partitions.get(&partition)?;
        if state.order == Order::None && state.written.is_enough_for(segment) {
            self.settled.set(partition, segment);
        }
        Some(state.written.wanted(here))
    }

    /// In no order.
    pub(super) fn partitions(&self) -> impl Iterator<Item = (PartitionNumber, &PartitionState)> {
        self.partitions.iter().map(|(number, state)| (*number, state))
    }

    pub(super) fn functions(&self) -> impl Iterator<Item = (FunctionNumber, &FunctionState)> {
        self.functions.iter().map(|(number, state)| (*number, state))
    }

    /// Whether the newest record of something lies in this segment, or in none for sure.
    pub(super) fn needs(&self, segment: SegmentId) -> bool {
        !self.redirects_in(segment).is_empty() || !self.checkpoints_in(segment).is_empty()
    }

    pub(super) fn redirects_in(&self, segment: SegmentId) -> Vec<Redirect> {
        let redirects =
            self.functions().filter_map(|(function, state)| Some((function, state.redirect.as_ref()?)));
        let here = redirects.filter(|(_, redirect)| redirect.is_in(segment));
        here.map(|(function, redirect)| Redirect { function, partition: redirect.value }).collect()
    }

    pub(super) fn checkpoints_in(&self, segment: SegmentId) -> Vec<Checkpoint> {
        let checkpoints = self.partitions().filter_map(|(_, state)| state.checkpoint.as_ref());
        let here = checkpoints.filter(|checkpoint| checkpoint.is_in(segment));
        let mut here: Vec<Checkpoint> = here.map(|checkpoint| checkpoint.value.clone()).collect();
        // The same calls write the same log.
        here.sort_unstable_by_key(|checkpoint| checkpoint.partition);
        here
    }

    pub(super) fn next_function(&self) -> FunctionNumber {
        FunctionNumber(self.greatest_function + 1)
    }

    pub(super) fn next_partition(&self) -> PartitionNumber {
        PartitionNumber(self.greatest_partition + 1)
    }

    /// Something in the log has these numbers: they are nobody else's.
    pub(super) fn saw(&mut self, partition: PartitionNumber, function: FunctionNumber) {
        self.greatest_partition = self.greatest_partition.max(partition.0);
        self.greatest_function = self.greatest_function.max(function.0);
    }

    /// A function's name, new or replaced; what else is known of the number stays.
    pub(super) fn put_function(&mut self, function: Function) {
        let number = function.number;
        self.saw(PartitionNumber(0), number);
        self.function_numbers.insert(function.context.arn.as_str().into(), number);
        if let Some(state) = self.functions.get_mut(&number) {
            state.name = function;
            return;
        }
        let state = FunctionState { name: function, written: Written::NOWHERE, key: None, redirect: None };
        self.functions.insert(number, state);
    }

    pub(super) fn put_partition(&mut self, partition: Partition) {
        let number = partition.number;
        self.saw(number, FunctionNumber(0));
        self.partition_numbers.insert(partition.name.as_str().into(), number);
        if let Some(state) = self.partitions.get_mut(&number) {
            state.order = partition.order;
            *state.name = partition;
            return;
        }
        let (order, name) = (partition.order, Box::new(partition));
        let state = PartitionState { order, written: Written::NOWHERE, name, checkpoint: None };
        self.partitions.insert(number, state);
    }
}
