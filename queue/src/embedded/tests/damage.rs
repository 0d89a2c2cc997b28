//! Disks that lie: flipped bits, blocks and segments that changed places, files that were cut. All of it must be found, no
//! event that was not hit may be lost, and nothing may be taken for what it is not.
//!
//! `QUEUE_DAMAGES` says how many times.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Range,
    time::Duration,
};

use super::rig::{Random, Rig, for_numbers, now};
use crate::{
    EmbeddedQueue, Event, EventId, Queue, Request,
    embedded::{files::FileName, scan::scan, verify::verify},
    format::{
        event::EventHeader,
        record::{Kind, PREFIX_BYTES},
        segment::{HEADER_BYTES, SegmentHeader},
    },
    partition::Order,
    storage::Storage,
};

const BLOCK: usize = 4096;
const PARTITIONS: [(&str, Order); 2] = [("shared/0", Order::None), ("lane/0", Order::Strict)];

/// A record on the disk.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) file: String,
    pub(super) bytes: Range<usize>,
    event: Option<EventId>,
}

pub(super) struct Filled {
    pub(super) rig: Rig,
    pub(super) payloads: HashMap<EventId, Vec<u8>>,
    pub(super) places: Vec<Place>,
}

/// A log of a few segments, closed ones with indexes and open ones without, all of whose events are live.
pub(super) fn fill(random: &mut Random) -> Filled {
    let rig = Rig::new();
    let mut payloads = HashMap::new();
    for session in 0..2 {
        let queue = rig.open();
        let partitions = PARTITIONS.map(|(name, order)| queue.partition(name, order).unwrap());
        let functions = [0, 1].map(|at| queue.function(&format!("arn:f{at}")).unwrap());
        for at in 0..60_u8 {
            let mut id = [session; 16];
            id[1] = at;
            let payload = vec![at; 20 + random.below(2500) as usize];
            let partition = partitions[random.below(2) as usize];
            let function = functions[random.below(2) as usize];
            let event = Event { id: EventId(id), function, partition, attributes: &[], payload: &payload };
            now(queue.enqueue(&[event])).unwrap();
            payloads.insert(EventId(id), payload);
        }
        if random.below(2) == 0 {
            while now(queue.upkeep().step()).unwrap() {}
        }
    }
    let places = places(&rig);
    Filled { rig, payloads, places }
}

fn places(rig: &Rig) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    for (name, content) in rig.disk.contents() {
        if !matches!(FileName::parse(&name), Some(FileName::Segment(_))) {
            continue;
        }
        let header = SegmentHeader::decode(&content).unwrap();
        let file = rig.disk.open(&name).unwrap();
        scan(&*file, &header, |offset, record| {
            let event =
                (record.kind == Kind::Event as u8).then(|| EventHeader::split(record.body).unwrap().0.id);
            let start = offset as usize;
            let bytes = start..start + PREFIX_BYTES + record.body.len();
            places.push(Place { file: name.clone(), bytes, event });
        })
        .unwrap();
    }
    places
}

#[derive(Debug)]
enum Damage {
    Flip { file: String, byte: usize, bit: u8 },
    SwapBlocks { files: [String; 2], blocks: [usize; 2] },
    Noise { file: String, sector: usize },
    Cut { file: String, length: usize },
    SwapFiles { files: [String; 2] },
    Lose { file: String },
}

fn damage(random: &mut Random, files: &[(String, Vec<u8>)]) -> Damage {
    let pick = |random: &mut Random| random.below(files.len() as u64) as usize;
    let segments: Vec<usize> = (0..files.len()).filter(|at| files[*at].0.ends_with(".segment")).collect();
    let segment = |random: &mut Random| segments[random.below(segments.len() as u64) as usize];
    let name = |at: usize| files[at].0.clone();
    match random.below(20) {
        0..8 => {
            let file = pick(random);
            let byte = random.below(files[file].1.len() as u64) as usize;
            Damage::Flip { file: name(file), byte, bit: random.below(8) as u8 }
        }
        8..13 => {
            let chosen = [segment(random), segment(random)];
            let blocks = chosen.map(|file| random.below((files[file].1.len() / BLOCK) as u64) as usize);
            Damage::SwapBlocks { files: chosen.map(name), blocks }
        }
        13..16 => {
            let file = pick(random);
            Damage::Noise {
                file: name(file),
                sector: random.below((files[file].1.len() / 512) as u64 + 1) as usize,
            }
        }
        16..18 => {
            let file = segment(random);
            Damage::Cut { file: name(file), length: random.below(files[file].1.len() as u64) as usize }
        }
        18 => Damage::SwapFiles { files: [segment(random), segment(random)].map(name) },
        _ => Damage::Lose { file: name(pick(random)) },
    }
}

fn inflict(rig: &Rig, damage: &Damage, random: &mut Random) {
    let content = |name: &str| rig.disk.contents().into_iter().find(|(file, _)| file == name).unwrap().1;
    match damage {
        Damage::Flip { file, byte, bit } => rig.disk.damage(file, |content| content[*byte] ^= 1 << bit),
        Damage::SwapBlocks { files: [a, b], blocks: [i, j] } => {
            let range = |block: usize| block * BLOCK..(block + 1) * BLOCK;
            let (first, second) = (content(a)[range(*i)].to_vec(), content(b)[range(*j)].to_vec());
            rig.disk.damage(a, |content| content[range(*i)].copy_from_slice(&second));
            rig.disk.damage(b, |content| content[range(*j)].copy_from_slice(&first));
        }
        Damage::Noise { file, sector } => rig.disk.damage(file, |content| {
            let end = content.len().min((sector + 1) * 512);
            content[(sector * 512).min(end)..end].iter_mut().for_each(|byte| *byte = random.next() as u8);
        }),
        Damage::Cut { file, length } => rig.disk.damage(file, |content| content.truncate(*length)),
        Damage::SwapFiles { files: [a, b] } => {
            let (first, second) = (content(a), content(b));
            rig.disk.damage(a, |content| *content = second);
            rig.disk.damage(b, |content| *content = first);
        }
        Damage::Lose { file } => rig.disk.remove(file).unwrap(),
    }
}

/// Everything that can be had.
pub(super) fn lease_all(queue: &EmbeddedQueue) -> Vec<(EventId, Vec<u8>)> {
    let mut found = Vec::new();
    let exclude = HashSet::new();
    for (name, order) in PARTITIONS {
        let partition = queue.partition(name, order).unwrap();
        loop {
            let lease = Duration::from_secs(3600);
            let request = Request {
                partition,
                events: 100,
                bytes: u64::MAX,
                wait: Duration::ZERO,
                lease,
                exclude: &exclude,
            };
            let (_, leased) = now(queue.lease(request)).unwrap();
            if leased.is_empty() {
                break;
            }
            found.extend(leased.into_iter().map(|event| (event.id, event.payload)));
        }
    }
    found
}

/// Whether what is at a place is what was there, in a segment that can be read and is where it was.
struct After {
    before: BTreeMap<String, Vec<u8>>,
    after: BTreeMap<String, Vec<u8>>,
}

impl After {
    fn intact(&self, place: &Place) -> bool {
        let same = |range: Range<usize>| {
            let (before, after) = (
                self.before[&place.file].get(range.clone()),
                self.after.get(&place.file).and_then(|content| content.get(range)),
            );
            before == after
        };
        same(place.bytes.clone()) && self.header(&place.file)
    }

    /// Whether one of the copies of the header is where it is looked for.
    fn header(&self, file: &str) -> bool {
        let Some(content) = self.after.get(file) else { return false };
        let expected = &self.before[file][..HEADER_BYTES];
        let end = content.len().saturating_sub(HEADER_BYTES);
        let sound = |copy: &[u8]| copy.get(..124) == expected.get(..124);
        sound(content) || content.get(end..).is_some_and(sound)
    }

    /// Whether anything was hit that means something.
    fn matters(&self, places: &[Place]) -> bool {
        // Where nothing is left behind what was hit, and no index says that there should be, the log may as well have ended.
        let indexed = |place: &Place| self.after.contains_key(&place.file.replace(".segment", ".index"));
        let followed = |at: usize| {
            places.iter().skip(at + 1).any(|other| other.file == places[at].file && self.intact(other))
        };
        let hit = places
            .iter()
            .enumerate()
            .any(|(at, place)| !self.intact(place) && (indexed(place) || followed(at)));
        let other =
            self.before.iter().filter(|(name, _)| !name.ends_with(".segment") && !name.contains("blank"));
        let changed = other.filter(|(name, content)| {
            // Of an index the header and all pages; what lies behind the fields of a header page means nothing.
            let after = self.after.get(*name);
            let page = |content: &Vec<u8>| {
                [content.get(..92).map(<[u8]>::to_vec), content.get(4096..).map(<[u8]>::to_vec)]
            };
            match after {
                // It is made again, as after a crash.
                None => *name == "LOG",
                // LOG is shorter than that.
                Some(after) if *name == "LOG" => after != *content,
                Some(after) => page(after) != page(content),
            }
        });
        hit || changed.count() > 0
    }
}

fn contents(rig: &Rig) -> BTreeMap<String, Vec<u8>> {
    rig.disk.contents().into_iter().collect()
}

fn check(seed: u64) -> bool {
    let mut random = Random(seed);
    let Filled { rig, payloads, places } = fill(&mut random);
    let before = contents(&rig);
    let files: Vec<(String, Vec<u8>)> = before.clone().into_iter().collect();
    let harm = damage(&mut random, &files);
    inflict(&rig, &harm, &mut random);
    let state = After { before, after: contents(&rig) };

    let verified = verify(&rig.disk).unwrap().findings;
    let (queue, opened) = rig.try_open().unwrap();
    let found: HashMap<EventId, Vec<u8>> = lease_all(&queue).into_iter().collect();
    for (id, payload) in &found {
        assert_eq!(payloads.get(id), Some(payload), "{harm:?}: {id} is not what was queued");
    }
    let mut lost = 0;
    for place in &places {
        let Some(id) = place.event else { continue };
        if state.intact(place) {
            assert!(
                found.contains_key(&id),
                "{harm:?}: {id} at {place:?} was not hit, and is lost\n{opened:?}\n{verified:?}"
            );
        } else {
            lost += 1;
        }
    }
    let matters = state.matters(&places);
    let reported = !verified.is_empty() || !opened.is_empty() || queue.unreadable().corrupt > 0;
    assert!(reported || !matters, "{harm:?} was not found; {lost} events were hit");
    matters
}

#[test]
fn damage_is_found_and_costs_only_what_it_hits() {
    let [times, mattered] = for_numbers("QUEUE_DAMAGES", 300, |seed| [1, u64::from(check(seed))]);
    println!(
        "queue: {times} damages, {mattered} of them to what means something: all found, 0 intact events lost"
    );
}

#[test]
fn an_event_whose_checksum_alone_is_damaged_is_leased_and_the_damage_is_found() {
    /// Where a record's checksum is.
    const CHECKSUM: Range<usize> = 8..12;
    let Filled { rig, payloads, places } = fill(&mut Random(1));
    let event = places.iter().find(|place| place.event.is_some()).unwrap();
    let queue = rig.open();
    for byte in CHECKSUM {
        rig.disk.damage(&event.file, |content| content[event.bytes.start + byte] ^= 1);
    }
    let found: HashMap<EventId, Vec<u8>> = lease_all(&queue).into_iter().collect();
    assert_eq!(found, payloads);
    drop(queue);
    assert!(!verify(&rig.disk).unwrap().findings.is_empty());
}
