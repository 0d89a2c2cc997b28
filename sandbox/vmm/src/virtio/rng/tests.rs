use super::{MOST, Rng};
use crate::{
    rate_limiter::Limits,
    virtio::{
        driver::{BUFFERS, Driver, SECOND},
        registers::status,
    },
};

fn started() -> Driver {
    Driver::started(Rng::new(Limits::default()).unwrap())
}

#[test]
fn fills_what_is_offered() {
    let mut driver = started();
    driver.add(0, &[(BUFFERS, 300, true), (SECOND, 1000, true)]);
    driver.run();
    assert_eq!(driver.used(0), [(0, 1300)]);
    let bytes = [driver.bytes(BUFFERS, 300), driver.bytes(SECOND, 1000)].concat();
    for part in bytes.chunks(100) {
        assert!(part.iter().any(|byte| *byte != 0), "a hundred zeros in a row");
    }
    assert_eq!(driver.bytes(BUFFERS + 300, 100), [0; 100], "and no more");
    driver.add(0, &[(BUFFERS, 1300, true)]);
    driver.run();
    assert_ne!(driver.bytes(BUFFERS, 1300), bytes);
}

#[test]
fn a_request_is_bounded() {
    let mut driver = started();
    driver.add(0, &[(BUFFERS, 1 << 20, true)]);
    driver.run();
    assert_eq!(driver.used(0), [(0, MOST)]);
    assert_eq!(driver.bytes(BUFFERS + u64::from(MOST), 100), [0; 100]);
}

#[test]
fn requests_with_nothing_to_fill_stop_the_device() {
    let chains: [&[(u64, u32, bool)]; 3] =
        [&[(BUFFERS, 8, false)], &[(BUFFERS, 0, true)], &[(BUFFERS, 8, false), (BUFFERS, 8, true)]];
    for chain in chains {
        let mut driver = started();
        driver.add(0, chain);
        driver.run();
        assert_ne!(driver.status() & status::NEEDS_RESET, 0);
    }
}

#[test]
fn nobody_waits_for_a_ring_that_is_always_full() {
    let mut driver = started();
    // The driver offers a chain for each that comes back, before the device has looked.
    for _ in 0..8 {
        driver.add(0, &[(BUFFERS, 8, true)]);
    }
    driver.transport.doorbell_rang();
    assert_eq!(driver.used(0).len(), 8);
    for round in 0..100 {
        for _ in 0..8 {
            driver.add(0, &[(BUFFERS, 8, true)]);
        }
        driver.transport.doorbell_rang();
        assert_eq!(driver.used(0).len(), 8, "round {round}");
    }
}
