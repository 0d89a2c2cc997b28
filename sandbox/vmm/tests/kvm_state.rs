//! A machine is paused, saved, and goes on in another one over the same memory.

mod common;

use std::time::{Duration, Instant};

use common::{MEMORY_MIB, OPEN, READ, SAVE, Value, forever, kvm, linux, parts, program, say, syscall};
use vmm::{
    machine::{Machine, Parts},
    rate_limiter::Limits,
    state::MicrovmState,
    virtio::{Device, Rng},
};

const NANOSLEEP: u32 = 35;

const TICK: &[u8] = b"tick !\n";
const MARK: u32 = 5;
const FIRST: u8 = b'!';

/// An init that counts: it sleeps 20 ms, reads from the source of randomness, prints a line with the next character.
fn counter() -> Vec<u8> {
    let hwrng = TICK.len();
    let pause = hwrng + b"/dev/hwrng\0".len();
    let data = [TICK, b"/dev/hwrng\0", &0u64.to_le_bytes(), &20_000_000u64.to_le_bytes()].concat();
    program(&data, |start| {
        let at = |offset: usize| Value::Number(start + u32::try_from(offset).expect("a small offset"));
        let mut round = syscall(NANOSLEEP, [at(pause), Value::Number(0)]);
        round.extend(syscall(READ, [Value::Saved, at(data.len()), Value::Number(16)]));
        round.extend(say(start, TICK.len()));
        round.extend([0xFE, 0x04, 0x25]); // inc byte [mark]
        round.extend((start + MARK).to_le_bytes());
        [syscall(OPEN, [at(hwrng), Value::Number(0)]), SAVE.to_vec(), forever(round)].concat()
    })
}

fn devices() -> Vec<Box<dyn Device>> {
    vec![Box::new(Rng::new(Limits::default()).expect("a source of randomness"))]
}

/// What was printed from the first tick on, without line ends.
fn said(machine: &Machine) -> String {
    let lines = machine.last_lines().concat();
    lines.find("tick").map_or_else(String::new, |start| lines[start..].to_owned())
}

fn wait_for(machine: &Machine, ticks: usize) {
    let started = Instant::now();
    while said(machine).matches("tick ").count() < ticks {
        assert!(started.elapsed() < Duration::from_secs(60), "{:?}", machine.last_lines());
        assert_eq!(machine.control().exit(), None, "{:?}", machine.last_lines());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
#[ignore = "needs a KVM that boots a kernel: make test-microvm"]
fn a_guest_that_counts_goes_on_counting_after_pause_save_and_restore() {
    for vcpus in [1, 2] {
        let mut machine = linux(&counter(), vcpus, devices(), true);
        machine.resume();
        wait_for(&machine, 5);
        let mut heard = String::new();
        for _ in 0..3 {
            machine.pause();
            heard += &machine.last_lines().concat();
            let json = serde_json::to_vec(&machine.save().expect("a saved machine")).expect("JSON");
            let saved: MicrovmState = serde_json::from_slice(&json).expect("a saved machine");
            println!("{vcpus} vCPUs: {} bytes as JSON", json.len());
            let memory = machine.memory().clone();
            drop(machine);
            let parts = Parts { memory, ..parts(MEMORY_MIB, vcpus, devices()) };
            machine = Machine::restore(kvm(), parts, &saved).expect("a restored machine");
            machine.resume();
            wait_for(&machine, 5);
        }
        machine.pause();
        heard += &machine.last_lines().concat();
        let ticks = heard.split_once("tick ").expect("ticks").1;
        let marks: Vec<u8> = ticks.split("tick ").filter_map(|text| text.bytes().next()).collect();
        let expected: Vec<u8> = (FIRST..).take(marks.len()).collect();
        assert_eq!(marks, expected, "{ticks}");
        assert!(marks.len() >= 20);
    }
}

#[test]
#[ignore = "needs a KVM that boots a kernel: make test-microvm"]
fn a_paused_guest_does_nothing_and_a_resumed_one_goes_on() {
    let machine = linux(&counter(), 1, devices(), true);
    machine.resume();
    assert_eq!(machine.save().expect_err("it runs").to_string(), "a machine is saved while it is paused");
    wait_for(&machine, 3);
    for _ in 0..20 {
        machine.pause();
        let before = said(&machine);
        std::thread::sleep(Duration::from_millis(60));
        assert_eq!(said(&machine), before);
        machine.resume();
    }
    wait_for(&machine, said(&machine).matches("tick ").count() + 3);
}

#[test]
#[ignore = "needs a KVM that boots a kernel: make test-microvm"]
fn a_machine_of_another_shape_or_version_is_refused() {
    let machine = linux(&counter(), 1, devices(), true);
    let saved = machine.save().expect("a saved machine");
    let restore = |parts, saved: &MicrovmState| {
        Machine::restore(kvm(), parts, saved).expect_err("no machine").to_string()
    };
    let error = restore(parts(MEMORY_MIB, 2, devices()), &saved);
    assert_eq!(error, "a saved machine with 1 vCPUs, but this one has 2");
    let error = restore(parts(MEMORY_MIB, 1, Vec::new()), &saved);
    assert_eq!(error, "a saved machine with 1 devices, but this one has 0");
    let saved = MicrovmState { version: 0, ..saved };
    let error = restore(parts(MEMORY_MIB, 1, devices()), &saved);
    assert!(error.starts_with("a saved machine of version 0"), "{error}");
}
