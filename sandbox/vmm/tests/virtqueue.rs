//! The walk along descriptor chains against a model, and the ways in which chains have broken monitors before.

mod driver;

use driver::{BUFFERS, Driver, INDIRECT, Link, MEMORY, NEXT, SECOND, SECOND_LENGTH, WRITE, memory, put};
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};
use vmm::{
    rate_limiter::Limits,
    virtio::{
        Memory, Rng,
        chain::{Chain, ChainError, MAX_CHAIN_BYTES, Table},
        registers::status,
    },
};

const TABLE: u64 = 0x1_0000;
const INNER: u64 = 0x2_0000;
const SIZE: u16 = 8;

/// Address and length.
type Range = (u64, u32);

fn walk_with(memory: &Memory, table: Table, head: u16) -> Result<(Vec<Range>, Vec<Range>), ChainError> {
    let mut chain = Chain::default();
    chain.walk(memory, table, head)?;
    assert_eq!(chain.head, head);
    let [readable, writable] = [&chain.readable, &chain.writable].map(|buffers| {
        let ranges: Vec<_> =
            buffers.segments().iter().map(|segment| (segment.address.0, segment.length)).collect();
        assert_eq!(buffers.length(), ranges.iter().map(|range| range.1).sum::<u32>());
        ranges
    });
    Ok((readable, writable))
}

fn table() -> Table {
    Table { address: GuestAddress(TABLE), entries: SIZE, indirect: true }
}

/// Walks from descriptor 0 of a table with these descriptors.
fn walk(links: &[Link]) -> Result<(Vec<Range>, Vec<Range>), ChainError> {
    let memory = memory();
    for (position, link) in links.iter().enumerate() {
        put(&memory, TABLE + position as u64 * 16, *link);
    }
    walk_with(&memory, table(), 0)
}

/// The same, with one descriptor in the queue's table that points to a table with these.
fn walk_inner(links: &[Link]) -> Result<(Vec<Range>, Vec<Range>), ChainError> {
    let memory = memory();
    put(&memory, TABLE, (INNER, links.len() as u32 * 16, INDIRECT, 0));
    for (position, link) in links.iter().enumerate() {
        put(&memory, INNER + position as u64 * 16, *link);
    }
    walk_with(&memory, table(), 0)
}

#[test]
fn a_good_chain_is_copied() {
    let links = [(BUFFERS, 16, NEXT, 2), (SECOND, 7, WRITE, 0), (BUFFERS + 99, 512, NEXT | WRITE, 1)];
    assert_eq!(walk(&links), Ok((vec![(BUFFERS, 16)], vec![(BUFFERS + 99, 512), (SECOND, 7)])));
}

#[test]
fn a_good_indirect_chain_is_copied() {
    let links = [(BUFFERS, 16, NEXT, 2), (SECOND, 7, WRITE, 0), (BUFFERS + 99, 512, NEXT | WRITE, 1)];
    assert_eq!(walk_inner(&links), walk(&links));
    let mixed = [(BUFFERS, 16, NEXT, 1), (INNER, 16, INDIRECT, 0)];
    let memory = memory();
    mixed.iter().enumerate().for_each(|(n, link)| put(&memory, TABLE + n as u64 * 16, *link));
    put(&memory, INNER, (SECOND, 7, WRITE, 0));
    assert_eq!(walk_with(&memory, table(), 0), Ok((vec![(BUFFERS, 16)], vec![(SECOND, 7)])));
}

#[test]
fn a_chain_may_be_as_long_as_the_queue() {
    let chain = |length: u16| -> Vec<Link> {
        (0..length).map(|n| (BUFFERS, 1, if n + 1 < length { NEXT } else { 0 }, n + 1)).collect()
    };
    assert_eq!(walk(&chain(SIZE)).unwrap().0.len(), usize::from(SIZE));
    assert_eq!(walk_inner(&chain(SIZE)).unwrap().0.len(), usize::from(SIZE));
}

#[test]
fn cve_descriptor_chain_that_loops() {
    assert_eq!(walk(&[(BUFFERS, 1, NEXT, 0)]), Err(ChainError::TooLong));
    assert_eq!(walk(&[(BUFFERS, 1, NEXT, 1), (BUFFERS, 1, NEXT, 0)]), Err(ChainError::TooLong));
    assert_eq!(walk(&[(BUFFERS, 0, NEXT, 0)]), Err(ChainError::TooLong), "and with no bytes at all");
    assert_eq!(walk_inner(&[(BUFFERS, 1, NEXT, 0)]), Err(ChainError::TooLong));
}

#[test]
fn cve_descriptor_chain_longer_than_the_queue() {
    let links: Vec<Link> =
        (0..SIZE + 1).map(|n| (BUFFERS, 1, if n < SIZE { NEXT } else { 0 }, n + 1)).collect();
    assert_eq!(walk(&links), Err(ChainError::TooLong));
    assert_eq!(walk_inner(&links), Err(ChainError::TableLength(u32::from(SIZE + 1) * 16)));
    // Neither the direct part nor the table is too long, but both together are.
    let memory = memory();
    for n in 0..SIZE {
        put(&memory, TABLE + u64::from(n) * 16, (BUFFERS, 1, NEXT, n + 1));
        put(&memory, INNER + u64::from(n) * 16, (BUFFERS, 1, NEXT, n + 1));
    }
    put(&memory, TABLE + 4 * 16, (INNER, u32::from(SIZE) * 16, INDIRECT, 0));
    assert_eq!(walk_with(&memory, table(), 0), Err(ChainError::TooLong));
}

#[test]
fn cve_indirect_tables() {
    let good = (BUFFERS, 1, 0, 0);
    assert_eq!(walk_inner(&[(INNER, 16, INDIRECT, 0)]), Err(ChainError::Nested), "a table that is its own");
    assert_eq!(walk_inner(&[(BUFFERS, 1, NEXT, 1), (INNER, 16, INDIRECT, 0)]), Err(ChainError::Nested));
    assert_eq!(walk(&[(INNER, 16, INDIRECT | NEXT, 1), good]), Err(ChainError::IndirectNext));
    for length in [0, 1, 15, 17, 31, 16 * 9, 16 * 0x1_0000, u32::MAX, u32::MAX - 15] {
        assert_eq!(walk(&[(INNER, length, INDIRECT, 0)]), Err(ChainError::TableLength(length)));
    }
    for address in [MEMORY, MEMORY - 8, SECOND - 1, u64::MAX - 15, u64::MAX] {
        let outside = ChainError::Address { address, length: 16 };
        assert_eq!(walk(&[(address, 16, INDIRECT, 0)]), Err(outside));
    }
    assert_eq!(walk_inner(&[(BUFFERS, 1, NEXT, 1)]), Err(ChainError::Index { index: 1, entries: 1 }));
    let memory = memory();
    put(&memory, TABLE, (INNER, 16, INDIRECT, 0));
    let direct = Table { indirect: false, ..table() };
    assert_eq!(walk_with(&memory, direct, 0), Err(ChainError::NotNegotiated));
}

#[test]
fn cve_zero_length() {
    assert_eq!(walk(&[(BUFFERS, 0, 0, 0)]), Ok((vec![], vec![])));
    assert_eq!(walk(&[(u64::MAX, 0, WRITE, 0)]), Ok((vec![], vec![])), "nothing is nowhere");
    let links =
        [(BUFFERS, 0, NEXT, 1), (BUFFERS, 4, NEXT, 2), (0, 0, NEXT | WRITE, 3), (BUFFERS, 1, WRITE, 0)];
    assert_eq!(walk(&links), Ok((vec![(BUFFERS, 4)], vec![(BUFFERS, 1)])));
}

#[test]
fn cve_address_overflow() {
    for (address, length) in [
        (u64::MAX, 1),
        (u64::MAX, u32::MAX),
        (u64::MAX - 15, 16),
        (1 << 63, 1),
        (MEMORY, 1),
        (MEMORY - 1, 2),
        (MEMORY - 1, u32::MAX),
        (0, u32::MAX),
        (SECOND - 1, 2),
        (SECOND + SECOND_LENGTH - 1, 2),
    ] {
        for flags in [0, WRITE] {
            let outside = ChainError::Address { address, length };
            assert_eq!(walk(&[(address, length, flags, 0)]), Err(outside));
            assert_eq!(walk_inner(&[(address, length, flags, 0)]), Err(outside));
        }
    }
    for good in [(MEMORY - 1, 1), (SECOND, SECOND_LENGTH as u32), (0, MAX_CHAIN_BYTES)] {
        assert_eq!(walk(&[(good.0, good.1, 0, 0)]), Ok((vec![good], vec![])));
    }
}

#[test]
fn cve_total_length() {
    let links: Vec<Link> =
        (0..8).map(|n| (0, MAX_CHAIN_BYTES / 2, if n < 7 { NEXT } else { 0 }, n + 1)).collect();
    assert_eq!(walk(&links), Err(ChainError::TooLarge));
    let links = [(0, MAX_CHAIN_BYTES, NEXT, 1), (0, 1, WRITE, 0)];
    assert_eq!(walk(&links), Err(ChainError::TooLarge));
    let links = [(0, MAX_CHAIN_BYTES - 1, NEXT, 1), (0, 1, WRITE, 0)];
    assert!(walk(&links).is_ok());
}

#[test]
fn readable_comes_before_writable() {
    assert_eq!(walk(&[(BUFFERS, 1, NEXT | WRITE, 1), (BUFFERS, 1, 0, 0)]), Err(ChainError::Order));
    assert_eq!(walk(&[(BUFFERS, 0, NEXT | WRITE, 1), (BUFFERS, 1, 0, 0)]), Err(ChainError::Order));
}

#[test]
fn heads_beyond_the_table_are_refused() {
    for head in [SIZE, SIZE + 1, u16::MAX] {
        let wrong = ChainError::Index { index: head, entries: SIZE };
        assert_eq!(walk_with(&memory(), table(), head), Err(wrong));
    }
}

/// A guest that rewrites a descriptor after it was checked changes nothing.
#[test]
fn cve_descriptors_changed_after_the_check() {
    let memory = memory();
    put(&memory, TABLE, (BUFFERS, 4, WRITE, 0));
    let mut chain = Chain::default();
    chain.walk(&memory, table(), 0).unwrap();
    put(&memory, TABLE, (BUFFERS + 4, u32::MAX, NEXT, 0));
    chain.writable.write(&memory, 0, &[7; 4]).unwrap();
    assert_eq!(chain.writable.write(&memory, 0, &[7; 5]), Err(ChainError::TooShort));
    let mut bytes = [0; 8];
    memory.read_slice(&mut bytes, GuestAddress(BUFFERS)).unwrap();
    assert_eq!(bytes, [7, 7, 7, 7, 0, 0, 0, 0]);
}

#[test]
fn indices_wrap_and_chains_come_back_in_order() {
    let mut driver = Driver::started(Rng::new(Limits::default()).unwrap());
    for round in 0..70_000u32 {
        let length = round % 50 + 1;
        let head = driver.add(0, &[(BUFFERS, length, true)]);
        driver.transport.doorbell_rang();
        assert_eq!(driver.used(0), [(head, length)]);
    }
    assert_eq!(driver.status() & status::NEEDS_RESET, 0);
}

// === the model ===

/// All descriptors of the chain, or nothing if a link leads nowhere or they do not end.
fn links(memory: &Memory, at: u64, entries: u16, index: u16, left: u16, inner: bool) -> Option<Vec<Link>> {
    if index >= entries {
        return None;
    }
    let at_index = at + u64::from(index) * 16;
    let address = memory.read_obj::<u64>(GuestAddress(at_index)).ok()?;
    let length = memory.read_obj::<u32>(GuestAddress(at_index + 8)).ok()?;
    let flags = memory.read_obj::<u16>(GuestAddress(at_index + 12)).ok()?;
    let next = memory.read_obj::<u16>(GuestAddress(at_index + 14)).ok()?;
    if left == 0 {
        return None;
    }
    if flags & INDIRECT != 0 {
        let good = !inner
            && flags & NEXT == 0
            && length > 0
            && length % 16 == 0
            && length / 16 <= u32::from(entries);
        let whole = address.checked_add(16).is_some();
        return (good && whole).then(|| links(memory, address, (length / 16) as u16, 0, left, true))?;
    }
    let mut all = vec![(address, length, flags, next)];
    if flags & NEXT != 0 {
        all.extend(links(memory, at, entries, next, left - 1, inner)?);
    }
    Some(all)
}

fn in_memory((address, length, ..): Link) -> bool {
    let end = u128::from(address) + u128::from(length);
    let within = |from: u64, to: u64| address >= from && end <= u128::from(to);
    length == 0 || within(0, MEMORY) || within(SECOND, SECOND + SECOND_LENGTH)
}

fn model(memory: &Memory, table: Table, head: u16) -> Option<(Vec<Range>, Vec<Range>)> {
    let links = links(memory, table.address.0, table.entries, head, table.entries, false)?;
    let writable = |link: &Link| link.2 & WRITE != 0;
    let ordered = links.iter().skip_while(|link| !writable(link)).all(writable);
    let total: u64 = links.iter().map(|link| u64::from(link.1)).sum();
    if !ordered || total > u64::from(MAX_CHAIN_BYTES) || !links.iter().all(|link| in_memory(*link)) {
        return None;
    }
    let ranges = |wanted: bool| {
        let links = links.iter().filter(|link| link.1 > 0 && writable(link) == wanted);
        links.map(|link| (link.0, link.1)).collect()
    };
    Some((ranges(false), ranges(true)))
}

/// A descriptor that is mostly good; links lead to one of the first `entries`.
fn descriptor(entries: u16) -> impl Strategy<Value = Link> {
    let address = prop_oneof![
        12 => BUFFERS..MEMORY - 0x1_0000,
        2 => SECOND..SECOND + SECOND_LENGTH - 0x1_0000,
        2 => MEMORY - 3..MEMORY + 3,
        1 => u64::MAX - 20..=u64::MAX,
        1 => any::<u64>(),
        6 => Just(INNER),
        1 => Just(TABLE),
    ];
    let length = prop_oneof![
        6 => 0..5u32,
        6 => 0..0x1_0000u32,
        8 => (0..6u32).prop_map(|entries| entries * 16),
        1 => Just(MAX_CHAIN_BYTES),
        1 => any::<u32>(),
    ];
    let flags = prop_oneof![
        8 => Just(NEXT),
        4 => Just(NEXT | WRITE),
        4 => Just(WRITE),
        2 => Just(0),
        3 => Just(INDIRECT),
        1 => any::<u16>(),
    ];
    (address, length, flags, prop_oneof![30 => 0..entries, 1 => any::<u16>()])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn walks_like_the_model(
        size in (1..=5u32).prop_map(|power| 1u16 << power),
        outer in prop::collection::vec(descriptor(6), 32),
        inner in prop::collection::vec(descriptor(5), 32),
        head in prop_oneof![20 => 0..4u16, 1 => any::<u16>()],
    ) {
        thread_local!(static MEMORY_OF_ALL: Memory = memory());
        MEMORY_OF_ALL.with(|memory| {
            for (at, links) in [(TABLE, outer), (INNER, inner)] {
                links.iter().enumerate().for_each(|(n, link)| put(memory, at + n as u64 * 16, *link));
            }
            let table = Table { entries: size, ..table() };
            let walked = walk_with(memory, table, head);
            prop_assert_eq!(walked.clone().ok(), model(memory, table, head), "{:?}", walked);
            Ok(())
        })?;
    }

    /// Reading and writing parts is the same as reading and writing parts of all of it.
    #[test]
    fn parts_of_buffers_are_parts_of_their_bytes(
        lengths in prop::collection::vec(0..40u32, 1..8), offset in 0..200u32, length in 0..200usize,
    ) {
        thread_local!(static MEMORY_OF_ALL: Memory = memory());
        MEMORY_OF_ALL.with(|memory| {
            let last = lengths.len() - 1;
            for (n, length) in lengths.iter().enumerate() {
                let flags = WRITE | if n < last { NEXT } else { 0 };
                put(memory, TABLE + n as u64 * 16, (BUFFERS + n as u64 * 0x100, *length, flags, n as u16 + 1));
            }
            let mut chain = Chain::default();
            chain.walk(memory, table(), 0).unwrap();
            let mut all: Vec<u8> = (0..chain.writable.length()).map(|n| n as u8).collect();
            chain.writable.write(memory, 0, &all).unwrap();
            let start = offset as usize;
            let mut part = vec![0xee; length];
            let read = chain.writable.read(memory, offset, &mut part);
            let written = chain.writable.write(memory, offset, &vec![0xdd; length]);
            let fits = start + length <= all.len() || length == 0;
            prop_assert_eq!((read.is_ok(), written.is_ok()), (fits, fits));
            if fits && length > 0 {
                prop_assert_eq!(&part[..], &all[start..start + length]);
                all[start..start + length].fill(0xdd);
                let mut now = vec![0; all.len()];
                chain.writable.read(memory, 0, &mut now).unwrap();
                prop_assert_eq!(now, all);
            }
            Ok(())
        })?;
    }
}
