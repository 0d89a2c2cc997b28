//! A guest without a kernel, whose whole program is to make trouble: it rings every doorbell, reads and writes every register
//! at random and at every width, scribbles over its memory, and floods the serial port. The monitor must stay within its
//! memory, and must end it at once when asked to.
//!
//! `HOSTILE_SECONDS` says for how long; a few seconds by default.

mod common;

use std::{
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use common::{MEMORY_MIB, bare, file, hostile_time, parts, resident_kib};
use vm_memory::{Bytes, GuestAddress};
use vmm::{
    exit::Exit,
    machine::Machine,
    rate_limiter::Limits,
    vcpu::ExitKind,
    virtio::{Block, Device, DeviceError, DeviceState, RestoreError, Rings, Rng, Vsock, Work},
};

/// The program counts its rounds here.
const ROUNDS: u64 = 0x20_0000;

/// RAX is a random number (xorshift); RBX an address, RDX a port.
const TROUBLE: &[&[u8]] = &[
    // again:
    &[0x48, 0x89, 0xC1, 0x48, 0xC1, 0xE1, 0x0D, 0x48, 0x31, 0xC8], // mov rcx, rax; shl rcx, 13; xor rax, rcx
    &[0x48, 0x89, 0xC1, 0x48, 0xC1, 0xE9, 0x07, 0x48, 0x31, 0xC8], // mov rcx, rax; shr rcx, 7; xor rax, rcx
    &[0x48, 0x89, 0xC1, 0x48, 0xC1, 0xE1, 0x11, 0x48, 0x31, 0xC8], // mov rcx, rax; shl rcx, 17; xor rax, rcx
    // Any address of six device pages, three of them without a device, at every width.
    &[0x48, 0x89, 0xC3, 0x48, 0xC1, 0xEB, 0x14], // mov rbx, rax; shr rbx, 20
    &[0x81, 0xE3, 0xFF, 0x7F, 0x00, 0x00],       // and ebx, 0x7FFF
    &[0x81, 0xCB, 0x00, 0x00, 0x00, 0xD0],       // or ebx, 0xD0000000
    &[0x88, 0x03, 0x66, 0x89, 0x03],             // mov [rbx], al; mov [rbx], ax
    &[0x89, 0x03, 0x48, 0x89, 0x03],             // mov [rbx], eax; mov [rbx], rax
    &[0x44, 0x8A, 0x03, 0x4C, 0x8B, 0x03],       // mov r8b, [rbx]; mov r8, [rbx]
    // A register: small offsets, aligned; written with a small number, read back.
    &[0x48, 0x89, 0xC3, 0x48, 0xC1, 0xEB, 0x1E], // mov rbx, rax; shr rbx, 30
    &[0x81, 0xE3, 0xFC, 0x30, 0x00, 0x00],       // and ebx, 0x30FC
    &[0x81, 0xCB, 0x00, 0x00, 0x00, 0xD0],       // or ebx, 0xD0000000
    &[0x49, 0x89, 0xC0, 0x49, 0xC1, 0xE8, 0x28], // mov r8, rax; shr r8, 40
    &[0x41, 0x83, 0xE0, 0x7F],                   // and r8d, 127
    &[0x44, 0x89, 0x03, 0x44, 0x8B, 0x03],       // mov [rbx], r8d; mov r8d, [rbx]
    // A doorbell.
    &[0x89, 0xC3, 0x81, 0xE3, 0x00, 0x30, 0x00, 0x00], // mov ebx, eax; and ebx, 0x3000
    &[0x81, 0xCB, 0x50, 0x00, 0x00, 0xD0],             // or ebx, 0xD0000050
    &[0x41, 0x89, 0xC0, 0x41, 0x83, 0xE0, 0x03],       // mov r8d, eax; and r8d, 3
    &[0x44, 0x89, 0x03],                               // mov [rbx], r8d
    // Memory, where queues may be by now: any word of 16 MiB from 16 MiB on.
    &[0x89, 0xC3, 0x81, 0xE3, 0xF8, 0xFF, 0xFF, 0x00], // mov ebx, eax; and ebx, 0xFFFFF8
    &[0x81, 0xCB, 0x00, 0x00, 0x00, 0x01],             // or ebx, 0x1000000
    &[0x48, 0x89, 0x03],                               // mov [rbx], rax
    // The serial port, its registers, and a port nobody has.
    &[0x66, 0xBA, 0xF8, 0x03, 0xEE, 0xEE, 0xEE, 0xEE], // mov dx, 0x3F8; out dx, al ×4
    &[0x48, 0x89, 0xC2, 0x83, 0xE2, 0x07],             // mov rdx, rax; and edx, 7
    &[0x66, 0x81, 0xC2, 0xF8, 0x03, 0xEE],             // add dx, 0x3F8; out dx, al
    &[0x41, 0x89, 0xC1, 0xEC, 0x44, 0x88, 0xC8],       // mov r9d, eax; in al, dx; mov al, r9b
    &[0x41, 0x89, 0xC1, 0x89, 0xC2, 0x83, 0xCA, 0x70, 0xED], // mov r9d, eax; mov edx, eax; or edx, 0x70; in eax, dx
    &[0x4C, 0x89, 0xC8],                                     // mov rax, r9: half of the number is new
    &[0x48, 0xFF, 0x04, 0x25, 0x00, 0x00, 0x20, 0x00],       // inc qword [0x200000]
];

fn machine() -> (Machine, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    let limits = Limits::default();
    let devices: Vec<Box<dyn Device>> = vec![
        Box::new(Block::new(file(&[7; 1 << 16]), limits).expect("a disk")),
        Box::new(Vsock::new(3, 1024, theirs, limits).expect("a socket device")),
        Box::new(Rng::new(limits).expect("a source of randomness")),
    ];
    let parts = parts(MEMORY_MIB, 1, devices);
    // What it scribbles over.
    common::fill(&parts.memory, 16 << 20, 1);
    let mut code = vec![0x48, 0xB8]; // mov rax, seed
    code.extend(0x9E37_79B9_7F4A_7C15u64.to_le_bytes());
    code.extend(common::forever(TROUBLE.concat()));
    (bare(&code, parts), ours)
}

#[test]
#[ignore = "needs /dev/kvm: make test-microvm"]
fn a_hostile_guest_costs_no_memory_and_ends_when_told_to() {
    let (mut machine, _ours) = machine();
    machine.resume();
    std::thread::sleep(Duration::from_secs(1));
    let before = resident_kib(std::process::id());
    std::thread::sleep(hostile_time());
    let after = resident_kib(std::process::id());
    let rounds: u64 = machine.memory().read_obj(GuestAddress(ROUNDS)).expect("a count");
    let exits = ExitKind::ALL.map(|kind| (kind, machine.control().exits.of(kind)));
    println!("{rounds} rounds, {exits:?}, {before} KiB, then {after} KiB");
    assert_eq!(machine.control().exit(), None, "{:?}", machine.last_lines());
    assert!(rounds > 100, "{rounds}");
    assert!(after < before + 1024, "{before} KiB grew to {after} KiB");
    let asked = Instant::now();
    let ending = machine.stop();
    assert_eq!(ending.exit, Exit::Shutdown);
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    assert!(ending.console.len() <= 65 && ending.to_string().len() < 16 << 10);
}

#[test]
#[ignore = "needs /dev/kvm: make test-microvm"]
fn code_that_makes_no_sense_is_a_typed_end() {
    for (code, ends) in [
        (&[0x0F, 0x0B][..], &[Exit::TripleFault][..]), // ud2, without anybody to handle it
        (&[0xB0, 0xFE, 0xE6, 0x64, 0xF4], &[Exit::Reset]), // mov al, 0xFE; out 0x64, al; hlt
    ] {
        let machine = bare(code, parts(MEMORY_MIB, 1, Vec::new()));
        machine.resume();
        let ending = machine.wait();
        assert!(ends.contains(&ending.exit), "{ending}");
    }
}

/// A device whose configuration cannot be read without a panic.
#[derive(Debug)]
struct Broken;

impl Device for Broken {
    fn id(&self) -> u32 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[]
    }

    fn config(&self) -> &[u8] {
        panic!("a fault of the monitor's")
    }

    fn process(&mut self, _rings: &mut Rings<'_>) -> Result<Work, DeviceError> {
        Ok(Work::Done)
    }

    fn reset(&mut self) {}

    fn save(&self) -> DeviceState {
        unreachable!("it is not saved")
    }

    fn restore(&mut self, _state: &DeviceState) -> Result<(), RestoreError> {
        Ok(())
    }
}

#[test]
#[ignore = "needs /dev/kvm: make test-microvm"]
fn a_panic_on_a_vcpu_s_thread_is_a_typed_end() {
    let read = [0xBB, 0x00, 0x01, 0x00, 0xD0, 0x8B, 0x03, 0xEB, 0xFE]; // mov ebx, 0xD0000100; mov eax, [rbx]; jmp to itself
    let mut machine = bare(&read, parts(MEMORY_MIB, 1, vec![Box::new(Broken)]));
    machine.resume();
    let started = Instant::now();
    while machine.control().exit().is_none() {
        assert!(started.elapsed() < Duration::from_secs(10), "it goes on");
        std::thread::sleep(Duration::from_millis(1));
    }
    machine.pause();
    let exit = machine.stop().exit;
    assert_eq!(exit, Exit::MonitorPanic { detail: "a fault of the monitor's".to_owned() });
}
