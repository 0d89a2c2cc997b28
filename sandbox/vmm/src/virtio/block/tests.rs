use std::{
    fs::File,
    io::{Read, Seek, Write},
    num::NonZeroU64,
    os::fd::AsRawFd,
};

use vmm_sys_util::epoll::EventSet;

use super::Block;
use crate::{
    rate_limiter::{Limits, Rate},
    virtio::{
        Device,
        driver::{BUFFERS, Driver, MEMORY, SECOND},
        registers::status,
    },
};

/// Byte `n` of the image.
fn byte(n: usize) -> u8 {
    (n * 7 + n / 512) as u8
}

fn image(length: usize) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&(0..length).map(byte).collect::<Vec<_>>()).unwrap();
    file
}

fn disk(length: usize) -> Driver {
    Driver::started(Block::new(image(length), Limits::default()).unwrap())
}

const HEADER: u64 = BUFFERS;
const STATUS: u64 = BUFFERS + 0x100;
const DATA: u64 = BUFFERS + 0x1000;

/// Offers a request; its data is at `DATA`.
fn offer(driver: &mut Driver, kind: u32, sector: u64, length: u32) {
    driver.put(HEADER, &kind.to_le_bytes());
    driver.put(HEADER + 8, &sector.to_le_bytes());
    driver.put(STATUS, &[0xff]);
    let data = [(DATA, length, true)];
    let data = if length > 0 { &data[..] } else { &[] };
    driver.add(0, &[&[(HEADER, 16, false)], data, &[(STATUS, 1, true)]].concat());
}

/// Makes a request. Its status, and the bytes said to be written.
fn request(driver: &mut Driver, kind: u32, sector: u64, length: u32) -> (u8, u32) {
    offer(driver, kind, sector, length);
    driver.run();
    let used = driver.used(0);
    assert_eq!(used.len(), 1);
    (driver.bytes(STATUS, 1)[0], used[0].1)
}

#[test]
fn the_configuration_is_golden() {
    let mut driver = disk(1024 * 512 + 1);
    let mut config = [0xee; 26];
    driver.transport.read(0x100, &mut config);
    let hex: String = config.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "0104000000000000 00000100 3e000000 00000000 00020000 0000".replace(' ', ""));
}

#[test]
fn reads_what_is_in_the_image() {
    let mut driver = disk(64 * 1024);
    for (sector, length) in [(0, 512), (1, 1024), (127, 512), (0, 64 * 1024), (100, 4096)] {
        assert_eq!(request(&mut driver, 0, sector, length), (0, length + 1));
        let start = sector as usize * 512;
        let expected: Vec<u8> = (start..start + length as usize).map(byte).collect();
        assert!(driver.bytes(DATA, length as usize) == expected, "{length} bytes at {sector}");
    }
}

#[test]
fn a_last_sector_that_is_not_whole_is_filled_with_zeros() {
    let mut driver = disk(700);
    driver.put(DATA, &[0xee; 1024]);
    assert_eq!(request(&mut driver, 0, 0, 1024), (0, 1025));
    let expected: Vec<u8> = (0..1024).map(|n| if n < 700 { byte(n) } else { 0 }).collect();
    assert_eq!(driver.bytes(DATA, 1024), expected);
    assert_eq!(request(&mut driver, 0, 2, 512).0, 1);
}

#[test]
fn reads_into_many_ranges_in_two_regions() {
    let mut driver = disk(1 << 20);
    driver.put(HEADER, &[0; 16]);
    let mut buffers = vec![(HEADER, 8, false), (HEADER + 8, 8, false)];
    let addresses: Vec<u64> =
        (0..30).map(|n| if n % 2 == 0 { SECOND } else { DATA } + n * 0x2000 + n).collect();
    buffers.extend(addresses.iter().map(|at| (*at, 0x1001, true)));
    // To a whole number of sectors, and the status in the last one's end.
    let rest = 512 - 30 * 0x1001 % 512 + 1;
    buffers.push((MEMORY - u64::from(rest), rest, true));
    driver.add(0, &buffers);
    driver.run();
    let total = 30 * 0x1001 + rest;
    assert_eq!(driver.used(0), [(0, total)]);
    let mut bytes: Vec<u8> = addresses.iter().flat_map(|at| driver.bytes(*at, 0x1001)).collect();
    bytes.extend(driver.bytes(MEMORY - u64::from(rest), rest as usize));
    assert_eq!(bytes.pop(), Some(0), "the status");
    assert!(bytes == (0..total as usize - 1).map(byte).collect::<Vec<_>>());
}

#[test]
fn positions_beyond_the_end_are_errors() {
    let mut driver = disk(4096);
    for (sector, length) in
        [(8, 512), (7, 1024), (u64::MAX, 512), (u64::MAX / 512, 512), (1 << 55, 512), (0, 100)]
    {
        driver.put(DATA, &[0xee; 1024]);
        assert_eq!(request(&mut driver, 0, sector, length), (1, 0), "{length} bytes at {sector}");
        assert_eq!(driver.bytes(DATA, 1024), [0xee; 1024]);
    }
    assert_eq!(request(&mut driver, 0, 8, 0), (0, 1), "nothing, at the end");
}

#[test]
fn an_image_that_has_shrunk_is_an_error_where_it_is_missing() {
    let file = image(4096);
    let mut driver = Driver::started(Block::new(file.try_clone().unwrap(), Limits::default()).unwrap());
    file.set_len(1000).unwrap();
    assert_eq!(request(&mut driver, 0, 0, 512).0, 0);
    assert_eq!(request(&mut driver, 0, 1, 512).0, 1);
}

#[test]
fn never_writes() {
    let mut file = image(4096);
    let mut driver = Driver::started(Block::new(file.try_clone().unwrap(), Limits::default()).unwrap());
    // As the driver would: data to be read by the device.
    driver.put(HEADER, &1u32.to_le_bytes());
    driver.add(0, &[(HEADER, 16, false), (DATA, 512, false), (STATUS, 1, true)]);
    driver.run();
    assert_eq!(driver.bytes(STATUS, 1), [1]);
    let mut now = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut now).unwrap();
    assert!(now == (0..4096).map(byte).collect::<Vec<_>>());
}

#[test]
fn other_requests() {
    let mut driver = disk(4096);
    assert_eq!(request(&mut driver, 8, 0, 20), (0, 21));
    assert_eq!(driver.bytes(DATA, 20), *b"waterwheel\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(request(&mut driver, 8, 0, 19), (1, 0), "no room for the name");
    assert_eq!(request(&mut driver, 4, 0, 0), (0, 1), "flush");
    for kind in [2, 3, 11, 13, 14, 0x8000_0000, u32::MAX] {
        assert_eq!(request(&mut driver, kind, 0, 512), (2, 0), "type {kind}");
    }
}

#[test]
fn requests_that_cannot_be_answered_stop_the_device() {
    let chains: [&[(u64, u32, bool)]; 4] = [
        &[(HEADER, 16, false)],
        &[(HEADER, 15, false), (STATUS, 1, true)],
        &[(STATUS, 1, true)],
        &[(HEADER, 16, false), (STATUS, 0, true)],
    ];
    for chain in chains {
        let mut driver = disk(4096);
        driver.add(0, chain);
        driver.run();
        assert_ne!(driver.status() & status::NEEDS_RESET, 0, "{chain:?}");
        assert_eq!(driver.used(0), []);
    }
}

#[test]
fn many_requests_cost_one_doorbell_and_one_interrupt() {
    let mut driver = disk(1 << 20);
    driver.run();
    for sector in 0..20 {
        driver.put(HEADER, &[0; 16]);
        driver.add(0, &[(HEADER, 16, false), (DATA + sector * 512, 512, true), (STATUS, 1, true)]);
    }
    let memory = driver.memory.clone();
    assert!(driver.rings[0].wants_doorbell(&memory));
    driver.run();
    assert_eq!(driver.used(0).len(), 20);
    assert_eq!(driver.interrupts(), 1);
}

#[test]
fn a_limited_disk_stops_and_goes_on_when_the_timer_goes_off() {
    let per_second = NonZeroU64::new(200).unwrap();
    let operations = Some(Rate { per_second, burst: NonZeroU64::new(2).unwrap() });
    let disk = Block::new(image(4096), Limits { operations, bytes: None }).unwrap();
    let timer = disk.sources()[0].as_raw_fd();
    let mut driver = Driver::started(disk);
    for _ in 0..4 {
        offer(&mut driver, 0, 0, 512);
    }
    driver.run();
    assert_eq!(driver.used(0).len(), 2, "the burst");
    for _ in 0..2 {
        // SAFETY: the timer is open for as long as the driver's device lives.
        let timer = unsafe { std::os::fd::BorrowedFd::borrow_raw(timer) };
        rustix::io::read(timer, &mut [0u8; 8]).unwrap();
        driver.transport.source_ready(0, EventSet::IN);
        assert_eq!(driver.used(0).len(), 1);
    }
}

#[test]
fn a_state_of_another_image_is_refused() {
    let state = disk(4096).transport.save();
    let mut same = Driver::new(Block::new(image(4096), Limits::default()).unwrap());
    same.transport.restore(&state).unwrap();
    let mut other = Driver::new(Block::new(image(8192), Limits::default()).unwrap());
    assert!(other.transport.restore(&state).is_err());
}
