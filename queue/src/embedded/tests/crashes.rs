//! Random histories against the model: calls of every kind, storage that fails, machines that stop at any storage call.
//!
//! `QUEUE_SEQUENCES` says how many histories; each is one number, which is printed when it goes wrong. That one alone, with
//! `QUEUE_TRACE=1`, tells what was done.

use std::{collections::HashSet, time::Duration};

use super::{
    model::{Fate, Model},
    rig::{Random, Rig, for_numbers, now},
};
use crate::{
    EmbeddedQueue, EventId, FunctionNumber, LeaseEpoch, Leased, PartitionNumber, ReadError, WriteError,
    embedded::{Event, Finding, Request},
    partition::Order,
    seal,
    storage::memory::Fault,
};

const LEASE: Duration = Duration::from_secs(60);
const PARTITIONS: [(&str, Order); 4] = [
    ("shared/0", Order::None),
    ("shared/1", Order::None),
    ("lane/0", Order::Strict),
    ("lane/1", Order::Strict),
];
const FUNCTIONS: usize = 3;

struct History {
    rig: Rig,
    random: Random,
    model: Model,
    queue: EmbeddedQueue,
    partitions: Vec<PartitionNumber>,
    functions: Vec<FunctionNumber>,
    leases: Vec<(LeaseEpoch, usize, Vec<Leased>)>,
    trace: bool,
}

impl History {
    fn begin(seed: u64) -> Self {
        let rig = Rig::new();
        let queue = rig.open();
        let mut history = Self {
            rig,
            random: Random(seed),
            model: Model::default(),
            queue,
            partitions: Vec::new(),
            functions: Vec::new(),
            leases: Vec::new(),
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

    fn below(&mut self, bound: usize) -> usize {
        self.random.below(bound as u64) as usize
    }

    fn step(&mut self) {
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
            }
            95..97 => self.fault(),
            97 if self.below(4) == 0 => self.go_on_from_a_copy(),
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
        if result.is_ok() {
            self.model.set(ids, Fate::Live);
        }
    }

    fn lease(&mut self) {
        let partition = self.below(PARTITIONS.len());
        let events = 1 + self.below(20);
        if let Ok((epoch, leased)) = self.try_lease(partition, events)
            && !leased.is_empty()
        {
            self.trace(format_args!("lease {epoch:?} of {partition}: {:?}", tokens(&leased)));
            self.check(partition, &leased);
            self.leases.push((epoch, partition, leased));
        }
    }

    fn try_lease(&self, partition: usize, events: usize) -> Result<(LeaseEpoch, Vec<Leased>), ReadError> {
        let exclude = HashSet::new();
        let partition = self.partitions[partition];
        now(self.queue.lease(Request { partition, events, bytes: u64::MAX, lease: LEASE, exclude: &exclude }))
    }

    fn check(&self, partition: usize, leased: &[Leased]) {
        for event in leased {
            let expected =
                self.model.events.get(&event.id).unwrap_or_else(|| panic!("{} was never queued", event.id));
            assert_ne!(expected.fate, Fate::Done, "{} is done, and came again", event.id);
            assert_eq!((expected.partition, &expected.payload), (partition, &event.payload));
            assert_eq!(self.functions[expected.function], event.function);
            let (fewest, most) = expected.attempts;
            assert!(
                (fewest..=most).contains(&event.attempts),
                "{} attempts of {}, not {:?}",
                event.attempts,
                event.id,
                expected.attempts
            );
        }
        if PARTITIONS[partition].1 == Order::Strict {
            assert!(leased.is_sorted_by_key(|event| event.id), "out of order");
            // Nothing that is before the first one, and is surely there, was left out, unless somebody has it.
            let first = leased[0].id;
            let had: HashSet<EventId> =
                self.leases.iter().flat_map(|(_, _, leased)| leased.iter().map(|event| event.id)).collect();
            for (id, expected) in self.model.of_partition(partition).filter(|(id, _)| **id < first) {
                assert!(expected.fate != Fate::Live || had.contains(id), "{first} came before {id}");
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
        let ids: Vec<EventId> = some.iter().map(|event| event.id).collect();
        let result = match PARTITIONS[partition].1 {
            Order::None => {
                let tokens: Vec<_> = some.iter().map(|event| (event.token, event.id)).collect();
                now(self.queue.ack(epoch, &tokens))
            }
            Order::Strict => {
                let position = self.random.next().to_le_bytes().to_vec();
                let result = now(self.queue.checkpoint(epoch, some[count - 1].token, &position));
                let known = self.model.positions.entry(partition).or_insert_with(|| vec![None]);
                match &result {
                    Ok(()) => *known = vec![Some(position)],
                    Err(WriteError::Refused(_)) => {}
                    Err(_) => known.push(Some(position)),
                }
                result
            }
        };
        let through = ids[count - 1];
        let strict = PARTITIONS[partition].1 == Order::Strict;
        let before =
            self.model.of_partition(partition).map(|(id, _)| *id).filter(|id| strict && *id <= through);
        let ids: Vec<EventId> = before.chain(ids).collect();
        self.trace(format_args!("finish {epoch:?}: {:?}: {result:?}", numbers(&ids)));
        let mut rest = &leased[count..];
        match result {
            Ok(()) => self.model.set(ids, Fate::Done),
            // It still has them, or somebody else has.
            Err(WriteError::Refused(_) | WriteError::NoSpace) => rest = &leased,
            Err(_) => {
                let live: Vec<EventId> =
                    ids.into_iter().filter(|id| self.model.events[id].fate == Fate::Live).collect();
                self.model.set(live, Fate::Uncertain);
                rest = &leased;
            }
        }
        if !rest.is_empty() {
            self.leases.push((epoch, partition, rest.to_vec()));
        }
    }

    fn note(&mut self) {
        let Some((epoch, partition, leased)) = self.take_lease() else { return };
        let event = &leased[0];
        let attempts = event.attempts + 1;
        let not_before = self.rig.clock.wall_ms() + self.random.below(60_000);
        let result = now(self.queue.note(epoch, (event.token, event.id), attempts, not_before));
        self.trace(format_args!("note {:?}: {result:?}", tokens(&leased[..1])));
        let known = &mut self.model.events.get_mut(&event.id).unwrap().attempts;
        match result {
            Ok(()) => *known = (attempts, attempts.max(known.1)),
            Err(WriteError::Refused(_)) => {}
            Err(_) => known.1 = known.1.max(attempts),
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
        let result = now(self.queue.purge(self.functions[function]));
        self.trace(format_args!("purge {function}: {result:?}"));
        // In lanes events of all functions are one stream, which a purge of a function leaves alone.
        let ids: Vec<EventId> = self
            .model
            .events
            .iter()
            .filter(|(_, event)| event.function == function && PARTITIONS[event.partition].1 == Order::None)
            .map(|(id, _)| *id)
            .collect();
        match result {
            Ok(()) => self.model.set(ids, Fate::Done),
            Err(WriteError::Refused(_) | WriteError::NoSpace) => {}
            Err(_) => {
                let live: Vec<EventId> =
                    ids.into_iter().filter(|id| self.model.events[id].fate == Fate::Live).collect();
                self.model.set(live, Fate::Uncertain);
            }
        }
    }

    /// The process ends, with a power cut or without one; another opens the log, looks at all of it, and goes on.
    fn restart(&mut self, power_cut: bool) {
        let random = &mut self.random;
        if power_cut || random.below(2) == 0 {
            self.rig.disk.crash(&mut |bound| random.below(bound));
        } else {
            self.rig.disk.heal();
        }
        self.leases.clear();
        let (queue, findings) = self.rig.try_open().unwrap();
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
        let copy = Rig { disk: self.rig.disk.copy(), ..self.rig.clone() };
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
        // Notes that are in the future.
        self.rig.clock.advance(Duration::from_secs(120));
        let mut found = Vec::new();
        for partition in 0..PARTITIONS.len() {
            let mut leases = Vec::new();
            loop {
                let (epoch, leased) =
                    self.try_lease(partition, 1 + self.random.clone().below(50) as usize).unwrap();
                if leased.is_empty() {
                    break;
                }
                self.trace(format_args!("look at {partition}: {:?}", tokens(&leased)));
                self.check(partition, &leased);
                found.extend(leased.iter().map(|event| event.id));
                leases.push((epoch, partition, leased));
                self.leases.extend(leases.last().cloned());
            }
            self.leases.clear();
            for (epoch, _, leased) in leases.into_iter().rev() {
                for event in leased.iter().rev() {
                    let _ = self.queue.release(epoch, &[event.token]);
                }
            }
            let position = self.queue.position(self.partitions[partition]);
            let known = self.model.positions.entry(partition).or_insert_with(|| vec![None]);
            assert!(known.contains(&position), "{position:?} of {known:?}");
            *known = vec![position];
        }
        self.model.settle(&found);
    }

    fn end(mut self) {
        self.restart(false);
        // All can be finished, and then nothing is left but what is being written.
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
        assert!(self.model.events.values().all(|event| event.fate == Fate::Done));
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

fn numbers(ids: &[EventId]) -> Vec<u64> {
    ids.iter().map(|id| u64::from_be_bytes(id.0[..8].try_into().unwrap())).collect()
}

/// Number, segment, ordinal.
fn tokens(leased: &[Leased]) -> Vec<(u64, u64, u32)> {
    leased
        .iter()
        .map(|event| (numbers(&[event.id])[0], event.token.segment.0, event.token.ordinal.0))
        .collect()
}

#[test]
fn every_history_keeps_its_promises() {
    let (sequences, seals) = for_numbers("QUEUE_SEQUENCES", 500, |seed| {
        let mut history = History::begin(seed);
        for _ in 0..200 {
            history.step();
        }
        history.end();
        seal::audit::count() as u64
    });
    println!("queue: {sequences} histories, 0 lost, 0 done twice; {seals} seals, no nonce twice under a key");
}
