//! The transport by itself. Names with "cve" are for classes of bugs that other monitors have had.

use std::os::unix::net::UnixStream;

use vm_memory::{Bytes, GuestAddress};

use super::{
    Rng, Transport, Vsock,
    driver::{BUFFERS, Driver, Ring, memory},
    registers::{features, interrupt, status},
};
use crate::rate_limiter::Limits;

fn rng() -> Rng {
    Rng::new(Limits::default()).unwrap()
}

const AGREED: u32 = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;

#[test]
fn identifies_itself() {
    let mut driver = Driver::new(rng());
    assert_eq!(driver.read(0), u32::from_le_bytes(*b"virt"));
    assert_eq!(driver.read(4), 2);
    assert_eq!(driver.read(8), 4);
    assert_eq!(driver.read(0xfc), 0);
    assert_eq!([0xb0, 0xb4, 0xb8, 0xbc].map(|offset| driver.read(offset)), [u32::MAX; 4]);
}

#[test]
fn control_registers_are_only_accessible_whole_and_aligned() {
    let mut driver = Driver::new(rng());
    for (offset, width) in [(0, 1), (0, 2), (0, 8), (1, 4), (2, 4), (0, 0), (0, 3), (u64::MAX, 4), (0xfd, 4)]
    {
        let mut data = vec![0xaa; width];
        driver.transport.read(offset, &mut data);
        assert_eq!(data, vec![0; width], "{width} bytes at {offset:#x}");
        driver.transport.write(offset, &vec![0xff; width]);
    }
    driver.transport.write(0x70, &[1]);
    assert_eq!(driver.status(), 0);
}

#[test]
fn the_configuration_can_be_read_at_any_width_and_not_written() {
    let (_host, stream) = UnixStream::pair().unwrap();
    let mut driver = Driver::new(Vsock::new(0x0102_0304_0506_0708, 1024, stream, Limits::default()).unwrap());
    let mut long = [0xaa; 12];
    driver.transport.write(0x100, &[0xff; 8]);
    driver.transport.read(0x100, &mut long);
    assert_eq!(long, [8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 0, 0]);
    let mut byte = [0];
    driver.transport.read(0x102, &mut byte);
    assert_eq!(byte, [6]);
    driver.transport.read(u64::MAX, &mut byte);
    assert_eq!(byte, [0]);
}

#[test]
fn features_must_include_version_1_and_nothing_that_was_not_offered() {
    for (accepted, good) in [
        (features::COMMON, true),
        (features::VERSION_1, true),
        (features::COMMON & !features::VERSION_1, false),
        (0, false),
        (features::COMMON | 1 << 5, false),
        (features::COMMON | 1 << 63, false),
    ] {
        let mut driver = Driver::new(rng());
        driver.negotiate(accepted);
        assert_eq!(driver.status() & status::FEATURES_OK != 0, good, "{accepted:#x}");
    }
}

#[test]
fn offered_features_are_read_by_the_word() {
    let mut driver = Driver::new(rng());
    let words = [0, 1, 2, u32::MAX].map(|select| {
        driver.write(0x14, select);
        driver.read(0x10)
    });
    assert_eq!(words, [1 << 28 | 1 << 29, 1, 0, 0]);
}

#[test]
fn status_bits_are_only_added_and_only_in_order() {
    let mut driver = Driver::new(rng());
    driver.write(0x70, status::DRIVER);
    assert_eq!(driver.status(), 0, "a step was left out");
    driver.write(0x70, status::ACKNOWLEDGE | status::DRIVER);
    assert_eq!(driver.status(), 3, "two at once");
    driver.write(0x70, status::ACKNOWLEDGE);
    assert_eq!(driver.status(), 3, "none is taken back");
    driver.write(0x70, status::ACKNOWLEDGE | status::DRIVER | status::DRIVER_OK);
    assert_eq!(driver.status(), 3, "not without features");
    driver.write(0x70, 3 | status::FAILED);
    driver.write(0x70, 0xff);
    assert_eq!(driver.status(), 3 | status::FAILED, "nothing comes after failure");
    driver.write(0x70, 0);
    assert_eq!(driver.status(), 0);
}

#[test]
fn features_are_frozen_once_agreed() {
    let mut driver = Driver::new(rng());
    driver.negotiate(features::VERSION_1);
    driver.write(0x24, 0);
    driver.write(0x20, 1 << 28);
    assert_eq!(driver.transport.save().driver_features, features::VERSION_1);
}

#[test]
fn starting_without_queues_needs_a_reset() {
    let mut driver = Driver::new(rng());
    driver.negotiate(features::COMMON);
    driver.write(0x70, AGREED | status::DRIVER_OK);
    assert_eq!(driver.status(), AGREED | status::DRIVER_OK | status::NEEDS_RESET);
    assert_eq!(driver.interrupts(), 1);
    assert_eq!(driver.read(0x60), interrupt::CONFIG);
    assert!(driver.transport.failure().is_some());
    driver.start(features::COMMON);
    assert_eq!(driver.status(), AGREED | status::DRIVER_OK);
    assert!(driver.transport.failure().is_none());
}

#[test]
fn queues_are_not_set_up_before_features_are_agreed() {
    let mut driver = Driver::new(rng());
    driver.write(0x70, status::ACKNOWLEDGE | status::DRIVER);
    driver.set_up_queue(0);
    assert_eq!(driver.read(0x44), 0);
    assert_eq!(driver.transport.save().queues[0].descriptors, 0);
}

/// Rings that move under a device that runs.
#[test]
fn cve_registers_changed_after_activation() {
    let mut driver = Driver::started(rng());
    let before = driver.transport.save();
    for (offset, value) in [
        (0x38, 1),
        (0x38, 0xffff),
        (0x80, 0xdead_0000),
        (0x84, 1),
        (0x90, 0x10),
        (0x94, 0xffff_ffff),
        (0xa0, 0x20),
        (0xa4, 0x7fff_ffff),
        (0x44, 0),
        (0x44, 1),
        (0x24, 0),
        (0x20, 0),
        (0x70, AGREED),
        (0x70, status::ACKNOWLEDGE),
    ] {
        driver.write(0x30, 0);
        driver.write(offset, value);
        assert_eq!(driver.read(0x44), 1, "{value:#x} at {offset:#x}: the queue is still ready");
    }
    driver.write(0x24, before.driver_features_select);
    assert_eq!(driver.transport.save(), before);
    driver.add(0, &[(BUFFERS, 64, true)]);
    driver.run();
    assert_eq!(driver.used(0), [(0, 64)]);
}

#[test]
fn a_queue_that_is_ready_is_not_changed_until_it_is_not() {
    let mut driver = Driver::new(rng());
    driver.negotiate(features::COMMON);
    driver.set_up_queue(0);
    let ready = driver.transport.save();
    driver.write(0x80, 0x7000);
    assert_eq!(driver.transport.save(), ready);
    driver.write(0x44, 0);
    driver.write(0x80, 0x7000);
    assert_eq!(driver.transport.save().queues[0].descriptors, 0x7000);
}

#[test]
fn queues_that_cannot_be_do_not_become_ready() {
    let bad = [
        ("size 0", 0x38, 0),
        ("size that is no power of two", 0x38, 3),
        ("size above the largest", 0x38, 16),
        ("size beyond 16 bits", 0x38, 0x1_0008),
        ("table that is not aligned", 0x80, 0x1_0008),
        ("available ring that is not aligned", 0x90, 0x1_1001),
        ("available ring at zero", 0x90, 0),
        ("used ring that is not aligned", 0xa0, 0x1_2002),
        ("table outside of memory", 0x80, 0xfff_0000),
        ("table over the end of memory", 0x80, 0x7f_fff0),
        ("used ring at the end of the address space", 0xa4, 0xffff_ffff),
    ];
    for (name, offset, value) in bad {
        let mut driver = Driver::new(rng());
        driver.negotiate(features::COMMON);
        driver.write(0x30, 0);
        let Ring { table, available, used, .. } = driver.rings[0].clone();
        driver.write(0x38, if offset == 0x38 { 0 } else { 8 });
        for (register, address) in [(0x80, table), (0x90, available), (0xa0, used)] {
            driver.write(register, address as u32);
        }
        driver.write(offset, value);
        driver.write(0x44, 1);
        assert_eq!(driver.read(0x44), 0, "{name}");
    }
}

#[test]
fn registers_of_queues_that_are_not_there_do_nothing() {
    let mut driver = Driver::started(rng());
    for select in [1, 2, 0xffff, u32::MAX] {
        driver.write(0x30, select);
        assert_eq!((driver.read(0x34), driver.read(0x44)), (0, 0));
        driver.write(0x44, 1);
        driver.write(0x50, select);
    }
    driver.woken();
    driver.write(0x50, 0);
    assert!(driver.woken(), "a doorbell that comes as a register write is passed on");
}

#[test]
fn interrupts_are_acknowledged_by_the_bit() {
    let mut driver = Driver::started(rng());
    driver.add(0, &[(BUFFERS, 8, true)]);
    driver.run();
    assert_eq!((driver.interrupts(), driver.read(0x60)), (1, interrupt::RING));
    driver.write(0x64, interrupt::CONFIG);
    assert_eq!(driver.read(0x60), interrupt::RING);
    driver.write(0x64, interrupt::RING);
    assert_eq!(driver.read(0x60), 0);
}

#[test]
fn without_event_idx_the_flag_of_the_driver_holds() {
    let mut driver = Driver::new(rng());
    driver.start(features::VERSION_1);
    let available = driver.rings[0].available;
    for (flag, interrupts) in [(1u16, 0), (0, 1)] {
        driver.memory.write_obj(flag, GuestAddress(available)).unwrap();
        driver.add(0, &[(BUFFERS, 8, true)]);
        driver.run();
        assert_eq!(driver.interrupts(), interrupts);
    }
}

#[test]
fn an_available_ring_that_runs_ahead_stops_the_device() {
    let mut driver = Driver::started(rng());
    driver.memory.write_obj(9u16, GuestAddress(driver.rings[0].available + 2)).unwrap();
    driver.run();
    assert_eq!(driver.status() & status::NEEDS_RESET, status::NEEDS_RESET);
    driver.run();
    assert_eq!(driver.used(0), []);
}

#[test]
fn saved_and_restored_it_goes_on_where_it_was() {
    let mut driver = Driver::started(rng());
    driver.add(0, &[(BUFFERS, 8, true)]);
    driver.run();
    driver.add(0, &[(BUFFERS, 16, true)]);
    let state = driver.transport.save();
    let json = serde_json::to_string(&state).unwrap();
    let state: super::TransportState = serde_json::from_str(&json).unwrap();
    let mut restored = Transport::new(driver.memory.clone(), Box::new(rng())).unwrap();
    restored.restore(&state).unwrap();
    assert_eq!(restored.save(), super::TransportState { interrupt_status: interrupt::RING, ..state });
    driver.transport = restored;
    assert!(driver.woken(), "the thread looks at the queues without being rung for");
    assert_eq!(driver.interrupts(), 1, "what the driver may not have heard of, it hears of again");
    driver.run();
    assert_eq!(driver.used(0), [(0, 8), (1, 16)]);
}

#[test]
fn states_that_cannot_be_are_refused() {
    let good = Driver::started(rng()).transport.save();
    let mut bad = vec![good.clone(); 7];
    bad[0].version = 2;
    bad[1].queues.clear();
    bad[2].driver_features |= 1;
    bad[3].queues[0].used = u64::MAX - 3;
    bad[4].queues[0].size = 7;
    bad[5].status = status::DRIVER_OK;
    bad[6].queues[0].ready = false;
    for state in bad {
        let mut transport = Transport::new(memory(), Box::new(rng())).unwrap();
        assert!(transport.restore(&state).is_err(), "{state:?}");
    }
    Transport::new(memory(), Box::new(rng())).unwrap().restore(&good).unwrap();
}
