//! Who was told what, and when, where calls overlap: the model, and all leases that anybody was ever given.
//!
//! ```text
//!   ask ────────── granted somewhere here ────────── answer         the lease runs out no sooner than ask + LEASE,
//!    │ boot clock                                      │            and no later than answer + LEASE
//! ```
//! So two leases of one event surely overlapped if the newer one was answered before the older one could run out; and an event of a
//! lane surely was free if its lease had run out before the call began that passed it over.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use super::model::{Model, Outcome};
use crate::{EventId, LeaseEpoch, Leased, WriteError, partition::Order};

pub(super) const LEASE: Duration = Duration::from_secs(10);
pub(super) const FUNCTIONS: usize = 3;
pub(super) const PARTITIONS: [(&str, Order); 4] = [
    ("shared/0", Order::None),
    ("shared/1", Order::None),
    ("lane/0", Order::Strict),
    ("lane/1", Order::Strict),
];

pub(super) fn is_ordered(partition: usize) -> bool {
    PARTITIONS[partition].1 == Order::Strict
}

/// That somebody was given an event.
#[derive(Debug)]
struct Hold {
    epoch: LeaseEpoch,
    asked: u64,
    answered: Duration,
    /// When it may run out at the earliest, and has at the latest.
    earliest: Duration,
    latest: Duration,
    /// It was given back, or the event is done.
    ended: bool,
}

/// A lease that was asked for.
pub(super) struct Asked {
    partition: usize,
    moment: u64,
    boot: Duration,
}

/// What a purge spoke of when it began.
pub(super) struct Purged {
    accepted: Vec<EventId>,
    /// They were being queued meanwhile.
    others: Vec<EventId>,
}

#[derive(Debug, Default)]
pub(super) struct Witness {
    pub(super) model: Model,
    pub(super) latest_not_before: u64,
    holds: BTreeMap<EventId, Vec<Hold>>,
    finished: HashSet<EventId>,
    /// By function: purges under way, and when the last one began or ended.
    purging: [u32; FUNCTIONS],
    purged: [u64; FUNCTIONS],
}

impl Witness {
    pub(super) fn begin_events(
        &mut self,
        partition: usize,
        function: usize,
        sizes: &[usize],
    ) -> Vec<(EventId, Vec<u8>)> {
        let new: Vec<EventId> =
            sizes.iter().map(|bytes| self.model.new_event(partition, function, *bytes)).collect();
        if self.purging[function] > 0 && !is_ordered(partition) {
            // It may be before the purge or behind it.
            self.model.ending(&new);
        }
        new.into_iter().map(|id| (id, self.model.events[&id].payload.clone())).collect()
    }

    pub(super) fn ask(&mut self, partition: usize, boot: Duration) -> Asked {
        Asked { partition, moment: self.model.moment(), boot }
    }

    pub(super) fn answer(&mut self, asked: Asked, epoch: LeaseEpoch, leased: &[Leased], boot: Duration) {
        for event in leased {
            let holds = self.holds.entry(event.id).or_default();
            // Its lease may have run out before its holder was told of it.
            if holds.iter().all(|hold| hold.epoch < epoch) {
                self.model.came(asked.partition, event, asked.moment);
            }
            let earliest = asked.boot + LEASE;
            for hold in holds.iter().filter(|hold| !is_ordered(asked.partition) && !hold.ended) {
                let overlap =
                    if hold.epoch < epoch { boot < hold.earliest } else { hold.answered < earliest };
                assert!(!overlap, "{} is leased twice at once: {hold:?}, {epoch:?} at {boot:?}", event.id);
            }
            let latest = boot + LEASE;
            let asked = asked.moment;
            holds.push(Hold { epoch, asked, answered: boot, earliest, latest, ended: false });
        }
        if is_ordered(asked.partition) && !leased.is_empty() {
            self.check_order(&asked, leased);
        }
    }

    /// In a lane nothing comes before what is free and was queued earlier.
    fn check_order(&self, asked: &Asked, leased: &[Leased]) {
        assert!(leased.is_sorted_by(|a, b| a.id < b.id), "out of order");
        let first = leased[0].id;
        let before = self.model.of_partition(asked.partition).filter(|(id, _)| **id < first);
        for (id, _) in before.filter(|(_, expected)| expected.is_live()) {
            let hold = self.holds.get(id).and_then(|holds| holds.last());
            let held = hold.is_some_and(|hold| !hold.ended && hold.latest > asked.boot);
            assert!(held, "{first} came before {id}: {hold:?}");
        }
    }

    /// A call begins that ends these, and in a lane all before them; returns all it ends.
    pub(super) fn ending(&mut self, partition: usize, some: &[Leased]) -> Vec<EventId> {
        let through = some[some.len() - 1].id;
        let ids: Vec<EventId> = if is_ordered(partition) {
            self.model.of_partition(partition).map(|(id, _)| *id).filter(|id| *id <= through).collect()
        } else {
            some.iter().map(|event| event.id).collect()
        };
        self.model.ending(&ids);
        ids
    }

    pub(super) fn ended(
        &mut self,
        partition: usize,
        epoch: LeaseEpoch,
        some: &[Leased],
        ids: &[EventId],
        result: &Result<(), WriteError>,
        boot: Duration,
    ) {
        let outcome = Outcome::from(result);
        self.model.ended(ids, outcome);
        let last = &some[some.len() - 1];
        let named = if is_ordered(partition) { std::slice::from_ref(last) } else { some };
        match outcome {
            Outcome::Done => {
                for event in named {
                    assert!(self.finished.insert(event.id), "{} was ended twice", event.id);
                }
                some.iter().for_each(|event| self.released(event.id, epoch));
            }
            Outcome::Refused if matches!(result, Err(WriteError::Refused(_))) && !is_ordered(partition) => {
                let over = some.iter().any(|event| self.is_over(event.id, epoch, boot));
                assert!(over, "{epoch:?} still runs at {boot:?}, and was refused");
            }
            Outcome::Refused | Outcome::Unknown => {}
        }
        if is_ordered(partition) {
            let position = Some(last.id.0.to_vec());
            let known = self.model.positions.entry(partition).or_insert_with(|| vec![None]);
            match outcome {
                Outcome::Done => *known = vec![position],
                Outcome::Refused => {}
                Outcome::Unknown => known.push(position),
            }
        }
    }

    /// Whether this lease may have lost the event by now.
    fn is_over(&self, id: EventId, epoch: LeaseEpoch, boot: Duration) -> bool {
        let function = self.model.events[&id].function;
        let hold = self.holds[&id].iter().find(|hold| hold.epoch == epoch).unwrap();
        hold.ended
            || hold.earliest <= boot
            || self.purging[function] > 0
            || self.purged[function] > hold.asked
    }

    pub(super) fn begin_note(&mut self, id: EventId, attempts: u32, not_before_ms: u64) {
        self.model.note(id, attempts, false);
        self.latest_not_before = self.latest_not_before.max(not_before_ms);
    }

    /// The lease is about to give the event back, or it is done.
    pub(super) fn released(&mut self, id: EventId, epoch: LeaseEpoch) {
        let holds = self.holds.get_mut(&id).into_iter().flatten();
        holds.filter(|hold| hold.epoch == epoch).for_each(|hold| hold.ended = true);
    }

    fn holds_of(&mut self, epoch: LeaseEpoch) -> impl Iterator<Item = &mut Hold> {
        self.holds.values_mut().flatten().filter(move |hold| hold.epoch == epoch)
    }

    pub(super) fn extending(&mut self, epoch: LeaseEpoch) {
        self.holds_of(epoch).for_each(|hold| hold.latest = Duration::MAX);
    }

    /// `from`: it runs at least from then on as long as a new one would; `None`: it was over.
    pub(super) fn extended(&mut self, epoch: LeaseEpoch, from: Option<Duration>, boot: Duration) {
        self.holds_of(epoch).for_each(|hold| match from {
            Some(from) => (hold.earliest, hold.latest) = (from + LEASE, boot + LEASE),
            None => hold.latest = boot,
        });
    }

    pub(super) fn begin_purge(&mut self, function: usize) -> Purged {
        self.purging[function] += 1;
        self.purged[function] = self.model.moment();
        let ids = self.model.purgeable(function, is_ordered);
        self.model.ending(&ids);
        let (accepted, others) = ids.into_iter().partition(|id| self.model.events[id].accepted);
        Purged { accepted, others }
    }

    pub(super) fn end_purge(&mut self, function: usize, purged: &Purged, outcome: Outcome) {
        self.purging[function] -= 1;
        self.purged[function] = self.model.moment();
        self.model.ended(&purged.accepted, outcome);
        if outcome == Outcome::Refused {
            self.model.ended(&purged.others, outcome);
        }
    }

    /// All that is in a partition, in order, with nobody else there.
    pub(super) fn looked(&mut self, partition: usize, came: &[&Leased]) {
        let moment = self.model.moment();
        came.iter().for_each(|event| self.model.came(partition, event, moment));
        assert!(!is_ordered(partition) || came.is_sorted_by(|a, b| a.id < b.id), "out of order");
    }

    pub(super) fn settle_position(&mut self, partition: usize, position: Option<Vec<u8>>) {
        let known = self.model.positions.entry(partition).or_insert_with(|| vec![None]);
        assert!(known.contains(&position), "{position:?} of {known:?}");
        *known = vec![position];
    }

    /// A new life begins, with these events.
    pub(super) fn settle(&mut self, found: &[EventId]) {
        self.model.settle(found);
        self.holds.clear();
        self.finished.clear();
    }
}
