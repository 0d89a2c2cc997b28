//! A random history of calls of every kind, on storage that fails and machines that stop, held against the model all along.
//!
//! With `QUEUE_TRACE=1` it tells what is done.

use std::{collections::HashSet, ops::Range, time::Duration};

use super::{
    model::{Expected, Model, Outcome},
    rig::{Random, Rig, now, request},
};
use crate::{
    EmbeddedQueue, Event, EventId, FunctionNumber, LeaseEpoch, Leased, OpenError, PartitionNumber, Queue,
    ReadError, WriteError,
    embedded::Finding,
    partition::Order,
    storage::memory::{Call, Fault},
};

const LEASE: Duration = Duration::from_secs(60);
const PARTITIONS: [(&str, Order); 4] = [
    ("shared/0", Order::None),
    ("shared/1", Order::None),
    ("lane/0", Order::Strict),
    ("lane/1", Order::Strict),
];
const FUNCTIONS: usize = 3;

pub(super) struct History {
    pub(super) rig: Rig,
    pub(super) random: Random,
    model: Model,
    queue: EmbeddedQueue,
    partitions: Vec<PartitionNumber>,
    functions: Vec<FunctionNumber>,
    leases: Vec<(LeaseEpoch, usize, Vec<Leased>)>,
    /// What went wrong, as far as callers were told.
    pub(super) errors: u64,
    /// No faults but those that somebody else sets.
    pub(super) calm: bool,
    /// Numbers of syncs that were made while the log was opened.
    pub(super) recovery_syncs: Vec<Range<u64>>,
    trace: bool,
}

impl History {
    pub(super) fn begin(seed: u64) -> Self {
        let rig = Rig::new();
        let queue = rig.open();
        Self::of(rig, Random(seed), Model::default(), queue)
    }

    /// The same history up to here, to go another way on a machine of its own: there the process has ended.
    pub(super) fn fork(&self) -> Self {
        let rig = self.rig.fork();
        // Nobody writes by this queue: what goes on opens the log again first.
        Self::of(rig, self.random.clone(), self.model.clone(), self.queue.clone())
    }

    fn of(rig: Rig, random: Random, model: Model, queue: EmbeddedQueue) -> Self {
        let mut history = Self {
            rig,
            random,
            model,
            queue,
            partitions: Vec::new(),
            functions: Vec::new(),
            leases: Vec::new(),
            errors: 0,
            calm: false,
            recovery_syncs: Vec::new(),
            trace: std::env::var_os("QUEUE_TRACE").is_some(),
        };
        history.learn_numbers();
        history
    }

    fn learn_numbers(&mut self) {
        self.partitions =
            PARTITIONS.iter().map(|(name, order)| self.queue.partition(name, *order).unwrap()).collect();
        self.functions =
            (0..FUNCTIONS).map(|at| self.queue.function(&format!("arn:f{at}")).unwrap()).collect();
    }

    fn trace(&self, what: std::fmt::Arguments<'_>) {
        if self.trace {
            eprintln!("{what}");
        }
    }

    fn count_errors(&mut self, result: &Result<(), WriteError>) {
        self.errors += u64::from(!matches!(result, Ok(()) | Err(WriteError::Refused(_))));
    }

    fn below(&mut self, bound: usize) -> usize {
        self.random.below(bound as u64) as usize
    }

    pub(super) fn step(&mut self) {
        match self.below(100) {
            0..30 => self.enqueue(),
            30..50 => self.lease(),
            50..70 => self.finish(),
            70..75 => self.note(),
            75..80 => self.release(),
            80..84 => self.rig.clock.advance(LEASE / 2),
            84..85 => self.purge(),
            85..95 => {
                let result = now(self.queue.upkeep().step());
                self.trace(format_args!("upkeep: {result:?}"));
                self.errors += u64::from(result.is_err());
            }
            95..97 if !self.calm => self.fault(),
            97 if !self.calm && self.below(4) == 0 => self.go_on_from_a_copy(),
            95..97 if self.calm => self.purge(),
            97..99 if self.calm => self.restart(false),
            97..99 => {
                let call = self.rig.disk.calls() + self.random.below(8);
                self.rig.disk.fail_at(call, Fault::Stop);
            }
            _ => self.restart(false),
        }
        if self.rig.disk.has_stopped() {
            self.restart(true);
        }
    }

    fn fault(&mut self) {
        let call = self.rig.disk.calls() + self.random.below(8);
        let kinds = [std::io::ErrorKind::Other, std::io::ErrorKind::StorageFull];
        let kind = kinds[self.below(2)];
        self.rig.disk.fail_at(call, Fault::Error(kind));
    }

    fn enqueue(&mut self) {
        let partition = self.below(PARTITIONS.len());
        let function = self.below(FUNCTIONS);
        let count = 1 + self.below(8);
        let sizes: Vec<usize> = (0..count).map(|_| 8 + self.below(3000)).collect();
        let ids: Vec<EventId> =
            sizes.iter().map(|bytes| self.model.new_event(partition, function, *bytes)).collect();
        let payloads: Vec<Vec<u8>> = ids.iter().map(|id| self.model.events[id].payload.clone()).collect();
        let events: Vec<Event<'_>> = ids
            .iter()
            .zip(&payloads)
            .map(|(id, payload)| Event {
                id: *id,
                function: self.functions[function],
                partition: self.partitions[partition],
                attributes: b"a",
                payload,
            })
            .collect();
        let result = now(self.queue.enqueue(&events));
        self.trace(format_args!("enqueue {:?} in {partition} for {function}: {result:?}", numbers(&ids)));
        self.count_errors(&result);
        if result.is_ok() {
            self.model.accepted(&ids);
        }
    }

    fn lease(&mut self) {
        let partition = self.below(PARTITIONS.len());
        let events = 1 + self.below(20);
        match self.try_lease(partition, events) {
            Ok((_, leased)) if leased.is_empty() => {}
            Ok((epoch, leased)) => {
                self.trace(format_args!("lease {epoch:?} of {partition}: {:?}", tokens(&leased)));
                self.check(partition, &leased);
                self.leases.push((epoch, partition, leased));
            }
            // What was leased to nobody who knows comes back when that lease has run out.
            Err(_) => self.errors += 1,
        }
    }

    fn try_lease(&self, partition: usize, events: usize) -> Result<(LeaseEpoch, Vec<Leased>), ReadError> {
        let exclude = HashSet::new();
        let partition = self.partitions[partition];
        now(self.queue.lease(request(partition, events, LEASE, &exclude)))
    }

    fn check(&mut self, partition: usize, leased: &[Leased]) {
        let asked = self.model.moment();
        for event in leased {
            self.model.came(partition, event, asked);
            assert_eq!(self.functions[self.model.events[&event.id].function], event.function);
        }
        if PARTITIONS[partition].1 == Order::Strict {
            assert!(leased.is_sorted_by_key(|event| event.id), "out of order");
            // Nothing that is before the first one, and is surely there, was left out, unless somebody has it.
            let first = leased[0].id;
            let had: HashSet<EventId> =
                self.leases.iter().flat_map(|(_, _, leased)| leased.iter().map(|event| event.id)).collect();
            for (id, expected) in self.model.of_partition(partition).filter(|(id, _)| **id < first) {
                assert!(!expected.is_live() || had.contains(id), "{first} came before {id}");
            }
        }
    }

    fn take_lease(&mut self) -> Option<(LeaseEpoch, usize, Vec<Leased>)> {
        let at = self.below(self.leases.len());
        (!self.leases.is_empty()).then(|| self.leases.swap_remove(at))
    }

    fn finish(&mut self) {
        let Some((epoch, partition, leased)) = self.take_lease() else { return };
        let count = 1 + self.below(leased.len());
        let some = &leased[..count];
        let through = some[count - 1].id;
        let strict = PARTITIONS[partition].1 == Order::Strict;
        let ids: Vec<EventId> = if strict {
            self.model.of_partition(partition).map(|(id, _)| *id).filter(|id| *id <= through).collect()
        } else {
            some.iter().map(|event| event.id).collect()
        };
        self.model.ending(&ids);
        let result = if strict {
            self.checkpoint(epoch, partition, &some[count - 1])
        } else {
            let tokens: Vec<_> = some.iter().map(|event| (event.token, event.id)).collect();
            now(self.queue.ack(epoch, &tokens))
        };
        self.trace(format_args!("finish {epoch:?}: {:?}: {result:?}", numbers(&ids)));
        self.count_errors(&result);
        self.model.ended(&ids, Outcome::from(&result));
        // After an error it still has them, or somebody else has.
        let rest = if result.is_ok() { &leased[count..] } else { &leased };
        if !rest.is_empty() {
            self.leases.push((epoch, partition, rest.to_vec()));
        }
    }

    fn checkpoint(&mut self, epoch: LeaseEpoch, partition: usize, last: &Leased) -> Result<(), WriteError> {
        let position = self.random.next().to_le_bytes().to_vec();
        let result = now(self.queue.checkpoint(epoch, last.token, &position));
        let known = self.model.positions.entry(partition).or_insert_with(|| vec![None]);
        match Outcome::from(&result) {
            Outcome::Done => *known = vec![Some(position)],
            Outcome::Refused => {}
            Outcome::Unknown => known.push(Some(position)),
        }
        result
    }

    fn note(&mut self) {
        let Some((epoch, partition, leased)) = self.take_lease() else { return };
        let event = &leased[0];
        let attempts = event.attempts + 1;
        let not_before = self.rig.clock.wall_ms() + self.random.below(60_000);
        let result = now(self.queue.note(epoch, (event.token, event.id), attempts, not_before));
        self.trace(format_args!("note {:?}: {result:?}", tokens(&leased[..1])));
        self.count_errors(&result);
        if Outcome::from(&result) != Outcome::Refused {
            self.model.note(event.id, attempts, result.is_ok());
        }
        self.leases.push((epoch, partition, leased));
    }

    fn release(&mut self) {
        let Some((epoch, _, leased)) = self.take_lease() else { return };
        let tokens: Vec<_> = leased.iter().map(|event| event.token).collect();
        for token in tokens {
            let _ = self.queue.release(epoch, &[token]);
        }
    }

    fn purge(&mut self) {
        let function = self.below(FUNCTIONS);
        let ids = self.model.purgeable(function, |partition| PARTITIONS[partition].1 == Order::Strict);
        self.model.ending(&ids);
        let result = now(self.queue.purge(self.functions[function]));
        self.trace(format_args!("purge {function}: {result:?}"));
        self.count_errors(&result);
        self.model.ended(&ids, Outcome::from(&result));
    }

    /// The process ends, with a power cut or without one; another opens the log, looks at all of it, and goes on. The machine may
    /// stop again meanwhile.
    pub(super) fn restart(&mut self, power_cut: bool) {
        let mut power_cut = power_cut || self.random.below(2) == 0;
        let mut faults = self.rig.disk.faults_met();
        self.leases.clear();
        let (queue, findings) = loop {
            let random = &mut self.random;
            if power_cut {
                self.rig.disk.crash(&mut |bound| random.below(bound));
            } else {
                self.rig.disk.heal();
            }
            let syncs = self.rig.disk.calls_of(Call::Sync);
            let opened = self.rig.try_open();
            self.recovery_syncs.push(syncs..self.rig.disk.calls_of(Call::Sync));
            match opened {
                Err(_) if self.rig.disk.has_stopped() => power_cut = true,
                Err(error) if matches!(error, OpenError::Io(_)) && self.rig.disk.faults_met() > faults => {
                    faults = self.rig.disk.faults_met();
                    self.errors += 1;
                }
                opened => break opened.unwrap(),
            }
        };
        self.trace(format_args!("restart, power cut: {power_cut}: {findings:?}"));
        let cut_off =
            findings.iter().all(|finding| matches!(finding, Finding::Torn { .. } | Finding::Nameless { .. }));
        assert!(cut_off, "{findings:?}");
        self.queue = queue;
        self.learn_numbers();
        self.look();
    }

    /// Somebody opens a copy of the directory and writes to it; then the same is done with the original. Their segments have the
    /// same numbers, and must not have the same salts.
    fn go_on_from_a_copy(&mut self) {
        let copy = self.rig.fork();
        if let Ok((queue, _)) = copy.try_open() {
            let partition = queue.partition(PARTITIONS[0].0, Order::None).unwrap();
            let function = queue.function("arn:f0").unwrap();
            let event =
                Event { id: EventId([255; 16]), function, partition, attributes: &[], payload: &[0; 100] };
            now(queue.enqueue(&[event])).unwrap();
        }
        self.restart(false);
        self.enqueue();
    }

    /// Leases everything, and gives it back.
    fn look(&mut self) {
        let found = loop {
            // Notes that are in the future, and leases of looks that failed.
            self.rig.clock.advance(Duration::from_secs(120));
            let faults = self.rig.disk.faults_met();
            match self.find() {
                Ok(found) => break found,
                Err(error) => assert!(self.rig.disk.faults_met() > faults, "{error}"),
            }
            self.errors += 1;
        };
        self.model.settle(&found);
    }

    fn find(&mut self) -> Result<Vec<EventId>, ReadError> {
        let mut found = Vec::new();
        for partition in 0..PARTITIONS.len() {
            self.leases.clear();
            loop {
                let events = 1 + self.random.clone().below(50) as usize;
                let (epoch, leased) = self.try_lease(partition, events)?;
                if leased.is_empty() {
                    break;
                }
                self.trace(format_args!("look at {partition}: {:?}", tokens(&leased)));
                self.check(partition, &leased);
                found.extend(leased.iter().map(|event| event.id));
                self.leases.push((epoch, partition, leased));
            }
            for (epoch, _, leased) in std::mem::take(&mut self.leases).into_iter().rev() {
                for event in leased.iter().rev() {
                    let _ = self.queue.release(epoch, &[event.token]);
                }
            }
            let position = self.queue.position(self.partitions[partition]);
            let known = self.model.positions.entry(partition).or_insert_with(|| vec![None]);
            assert!(known.contains(&position), "{position:?} of {known:?}");
            *known = vec![position];
        }
        Ok(found)
    }

    /// Nothing goes wrong any more: all can be finished, and then nothing is left but what is being written.
    pub(super) fn end(mut self) {
        self.restart(false);
        for partition in 0..PARTITIONS.len() {
            loop {
                let (epoch, leased) = self.try_lease(partition, 1000).unwrap();
                if leased.is_empty() {
                    break;
                }
                self.leases.push((epoch, partition, leased));
                while !self.leases.is_empty() {
                    self.finish();
                }
            }
            assert_eq!(self.queue.depth(self.partitions[partition]).events, 0);
        }
        while now(self.queue.upkeep().step()).unwrap() {}
        self.restart(false);
        assert!(self.model.events.values().all(Expected::is_done));
        let upkeep = self.queue.upkeep();
        now(self.queue.purge(self.functions[0])).unwrap();
        while now(upkeep.step()).unwrap() {}
        let names = self.rig.disk.contents();
        let segments = names.iter().filter(|(name, _)| name.ends_with(".segment")).count();
        assert!(
            segments <= 3,
            "{segments} segments of {names:?} with nothing in them",
            names = names.iter().map(|(name, _)| name).collect::<Vec<_>>()
        );
    }
}

pub(super) fn numbers(ids: &[EventId]) -> Vec<u64> {
    ids.iter().map(|id| u64::from_be_bytes(id.0[..8].try_into().unwrap())).collect()
}

/// Number, segment, ordinal.
pub(super) fn tokens(leased: &[Leased]) -> Vec<(u64, u64, u32)> {
    leased
        .iter()
        .map(|event| (numbers(&[event.id])[0], event.token.segment.0, event.token.ordinal.0))
        .collect()
}
