//! Directories that somebody wrote by hand: fields that say what they like, with checksums that are right, and files of noise. They
//! must be read without a panic, in bounded time and memory, and nothing may come out that was not put in.
//!
//! A disk that errs does not repair checksums ([`super::damage`] is about such); what stands between this and the payloads is
//! the seal.

use std::time::{Duration, Instant};

use super::{
    damage::{Filled, fill, lease_all},
    rig::{Random, for_numbers, now},
};
use crate::{
    Event, EventId, Queue,
    embedded::verify::verify,
    format::{
        index::{PAGE_BYTES, PAGE_CONTENT, page_crc},
        record::{PREFIX_BYTES, Seed, finish},
        segment::{HEADER_BYTES, SegmentHeader},
    },
    partition::Order,
    storage::Storage,
};

/// Where the checksums of LOG and of headers are.
const LOG_CRC: usize = 80;
const SEGMENT_CRC: usize = 120;
const INDEX_CRC: usize = 88;
const LONGEST: Duration = Duration::from_secs(20);
/// Nothing is read in larger pieces, whatever lengths are claimed.
const LARGEST_READ: usize = 2 * 1024 * 1024;

/// Numbers that fields do not like.
fn odd(random: &mut Random) -> [u8; 4] {
    let number = match random.below(6) {
        0 => u32::MAX,
        1 => u32::MAX - 1,
        2 => 1 << 31,
        3 => 0,
        4 => random.below(100) as u32,
        _ => random.next() as u32,
    };
    number.to_le_bytes()
}

fn put(content: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = content.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

fn put_crc(content: &mut [u8], at: usize) {
    if let Some(checked) = content.get(..at) {
        let crc = crc32c::crc32c(checked);
        put(content, at, &crc.to_le_bytes());
    }
}

/// Changes some fields of a record, and makes its checksum right.
fn forge_record(content: &mut [u8], start: usize, length: usize, seed: Seed, random: &mut Random) {
    let Some(record) = content.get(start..start + length) else { return };
    let mut record = record.to_vec();
    for _ in 0..=random.below(2) {
        let at = PREFIX_BYTES + 4 * random.below((length.min(96) - PREFIX_BYTES) as u64 / 4) as usize;
        put(&mut record, at, &odd(random));
    }
    if random.below(8) == 0 {
        record[2] = random.below(10) as u8;
    }
    finish(&mut record, seed, 0);
    put(content, start, &record[..length]);
}

fn forge_index(content: &mut [u8], random: &mut Random) {
    let salt = content[40..72].try_into().map(crate::format::segment::Salt).unwrap();
    if random.below(2) == 0 {
        put(content, 72 + 4 * random.below(4) as usize, &odd(random));
        put_crc(content, INDEX_CRC);
        return;
    }
    let pages = content.len() / PAGE_BYTES;
    if pages < 2 {
        return;
    }
    let number = 1 + random.below(pages as u64 - 1) as usize;
    let page = &mut content[number * PAGE_BYTES..][..PAGE_BYTES];
    for _ in 0..=random.below(3) {
        put(page, 4 * random.below(60) as usize, &odd(random));
    }
    let crc = page_crc(salt, number as u32, &page[..PAGE_CONTENT]);
    put(page, PAGE_CONTENT, &crc.to_le_bytes());
}

fn forge(Filled { rig, places, .. }: &Filled, random: &mut Random) {
    let files = rig.disk.contents();
    let (name, before) = &files[random.below(files.len() as u64) as usize];
    let here: Vec<_> = places.iter().filter(|place| place.file == *name).collect();
    rig.disk.damage(name, |content| match random.below(10) {
        0 => content.iter_mut().for_each(|byte| *byte = random.next() as u8),
        1 => *content = (0..random.below(20_000)).map(|_| random.next() as u8).collect(),
        _ if name == "LOG" => {
            put(content, 12 + 4 * random.below(17) as usize, &odd(random));
            put_crc(content, LOG_CRC);
        }
        _ if name.ends_with(".index") => forge_index(content, random),
        2 => {
            let field = 12 + 4 * random.below(27) as usize;
            let value = odd(random);
            for copy in [0, content.len() - HEADER_BYTES] {
                put(&mut content[copy..copy + HEADER_BYTES], field, &value);
                put_crc(&mut content[copy..copy + HEADER_BYTES], SEGMENT_CRC);
            }
        }
        _ if name.ends_with(".segment") && !here.is_empty() => {
            let seed = Seed::of(SegmentHeader::decode(before).unwrap().salt);
            for _ in 0..=random.below(4) {
                let place = &here[random.below(here.len() as u64) as usize];
                forge_record(content, place.bytes.start, place.bytes.len(), seed, random);
            }
        }
        _ => {}
    });
}

fn check(seed: u64) {
    let mut random = Random(seed);
    let filled = fill(&mut random);
    (0..=random.below(2)).for_each(|_| {
        forge_safely(&filled, &mut random);
    });
    let began = Instant::now();
    let rig = &filled.rig;
    // Both may refuse it.
    let _ = verify(&rig.disk);
    if let Ok((queue, _)) = rig.try_open() {
        for (id, payload) in lease_all(&queue) {
            assert_eq!(filled.payloads.get(&id), Some(&payload), "{id} is not what was queued");
        }
        let function = queue.function("arn:new");
        let partition = queue.partition("new", Order::None);
        if let (Ok(function), Ok(partition)) = (function, partition) {
            let event = Event { id: EventId([9; 16]), function, partition, attributes: &[], payload: &[9] };
            let _ = now(queue.enqueue(&[event]));
        }
        (0..20).for_each(|_| drop(now(queue.upkeep().step())));
    }
    assert!(began.elapsed() < LONGEST, "it took {:?}", began.elapsed());
    let largest = rig.disk.largest_read();
    assert!(largest <= LARGEST_READ, "{largest} bytes were to be read at once");
}

/// What was forged before may be too short to be forged again.
fn forge_safely(filled: &Filled, random: &mut Random) {
    let whole = |(name, content): &(String, Vec<u8>)| {
        name == "LOG"
            || content.len() >= 2 * HEADER_BYTES
                && (!name.ends_with(".segment") || SegmentHeader::decode(content).is_ok())
    };
    if filled.rig.disk.contents().iter().all(whole) {
        forge(filled, random);
    }
}

#[test]
fn whatever_a_directory_says_it_is_read_and_nothing_false_comes_of_it() {
    let [times] = for_numbers("QUEUE_FORGERIES", 300, |seed| {
        check(seed);
        crate::seal::audit::count();
        [1]
    });
    println!("queue: {times} forged directories, with checksums that are right: 0 panics, 0 false events");
}

#[test]
fn a_directory_of_noise_is_no_log() {
    let mut random = Random(0);
    for _ in 0..200 {
        let rig = super::rig::Rig::new();
        for name in ["LOG", "0000000000000001.segment", "0000000000000001.index", "ffffffffffffffff.segment"]
        {
            let bytes = random.below(12_000);
            rig.disk.create(name, bytes, crate::storage::Preparation::Allocated).unwrap();
            rig.disk.damage(name, |content| content.iter_mut().for_each(|byte| *byte = random.next() as u8));
        }
        let before = rig.disk.contents();
        assert!(rig.try_open().is_err());
        assert!(rig.disk.contents() == before, "what is not understood is left as it is");
    }
}
