//! A machine is paused, saved, and goes on in another one over the same memory.

mod common;

use std::time::{Duration, Instant};

use common::{MEMORY_MIB, OPEN, READ, SAVE, Value, bare, forever, kvm, linux, parts, program, say, syscall};
use vm_memory::{Bytes, GuestAddress};
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

/// The guest writes 1 when its MSRs are written, the test 1 when they are to be read back, the guest 2 when that is done.
const STEP: u64 = 0x20_0000;
const READ_BACK: u64 = 0x20_0100;

/// MTRRs of each kind, and the PAT: KVM lists some of them, and keeps all.
const MSRS: [(u32, u64); 5] = [
    (0x200, 0x8000_0006),
    (0x201, 0xF_8000_0800),
    (0x250, 0x0606_0606_0606_0606),
    (0x2FF, 0xC06),
    (0x277, 0x0007_0406_0007_0401),
];

/// Machine code that writes all of [`MSRS`], waits to be told, and puts what they hold at [`READ_BACK`].
fn keeper() -> Vec<u8> {
    let immediate = |opcode: u8, value: u32| [&[opcode][..], &value.to_le_bytes()].concat();
    let select = |index: u32| immediate(0xB9, index); // mov ecx, index
    let write = MSRS.iter().flat_map(|(index, value)| {
        let halves = [immediate(0xB8, *value as u32), immediate(0xBA, (value >> 32) as u32)]; // mov eax; mov edx
        [select(*index), halves.concat(), vec![0x0F, 0x30]].concat() // wrmsr
    });
    let read = MSRS.iter().flat_map(|(index, _)| {
        let store = vec![0x89, 0x07, 0x89, 0x57, 0x04, 0x83, 0xC7, 0x08]; // mov [rdi], eax; mov [rdi+4], edx; add edi, 8
        [select(*index), vec![0x0F, 0x32], store].concat() // rdmsr
    });
    let mut code: Vec<u8> = write.collect();
    code.extend(immediate(0xBE, STEP as u32)); // mov esi
    code.extend([0xC6, 0x06, 1]); // mov byte [rsi], 1
    code.extend([0x80, 0x7E, 1, 1, 0x75, 0xFA]); // cmp byte [rsi+1], 1; jne back
    code.extend(immediate(0xBF, READ_BACK as u32)); // mov edi
    code.extend(read);
    code.extend([0xC6, 0x06, 2]); // mov byte [rsi], 2
    code.extend([0xEB, 0xFE]); // jmp to itself
    code
}

fn wait_for_step(machine: &Machine, step: u8) {
    let started = Instant::now();
    while machine.memory().read_obj::<u8>(GuestAddress(STEP)).expect("memory") != step {
        assert!(started.elapsed() < Duration::from_secs(60), "step {step}");
        assert_eq!(machine.control().exit(), None);
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
#[ignore = "needs /dev/kvm: make test-microvm"]
fn memory_types_and_other_msrs_survive() {
    let machine = bare(&keeper(), parts(MEMORY_MIB, 1, Vec::new()));
    machine.resume();
    wait_for_step(&machine, 1);
    machine.pause();
    let json = serde_json::to_vec(&machine.save().expect("a saved machine")).expect("JSON");
    let memory = machine.memory().clone();
    drop(machine);
    memory.write_obj(1u8, GuestAddress(STEP + 1)).expect("memory");
    let saved: MicrovmState = serde_json::from_slice(&json).expect("a saved machine");
    let parts = Parts { memory, ..parts(MEMORY_MIB, 1, Vec::new()) };
    let machine = Machine::restore(kvm(), parts, &saved).expect("a restored machine");
    machine.resume();
    wait_for_step(&machine, 2);
    for ((index, value), place) in MSRS.into_iter().zip((READ_BACK..).step_by(8)) {
        let held: u64 = machine.memory().read_obj(GuestAddress(place)).expect("memory");
        assert_eq!(held, value, "MSR {index:#x}");
    }
}
