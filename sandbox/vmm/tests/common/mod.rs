//! What the tests with a real KVM share: a kernel, tiny programs as its init, and machines around them.
//!
//! They are ignored by a plain `cargo test`: most machines' KVM boots no kernel. `make test-microvm` runs them, nested if need
//! be, with `WATERWHEEL_GUEST_KERNEL` naming the kernel, and counts that they ran.

#![allow(dead_code, unreachable_pub, reason = "each test program uses a part")]
#![allow(unsafe_code, reason = "gives a child its descriptors by number")]

use std::{
    fs::File,
    io::Write,
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use kvm_ioctls::Kvm;
use vm_memory::{Bytes, GuestAddress};
use vmm::{
    arch::x86_64::{
        boot::{self, Linux},
        registers::EntryPoint,
    },
    command_line,
    image_file::ImageFile,
    machine::{Machine, Parts},
    seccomp::Filters,
    virtio::{Device, Memory},
};

/// Little memory that the guest kernel boots in.
pub const MEMORY_MIB: u32 = 64;

pub fn kvm() -> Kvm {
    Kvm::new().expect("/dev/kvm")
}

pub fn kernel() -> File {
    let path = std::env::var_os("WATERWHEEL_GUEST_KERNEL").map(PathBuf::from);
    let path =
        path.expect("WATERWHEEL_GUEST_KERNEL names the guest kernel: run these tests by `make test-microvm`");
    File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub fn file(content: &[u8]) -> File {
    let descriptor = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).expect("memory file");
    let mut file = File::from(descriptor);
    file.write_all(content).expect("write a memory file");
    file
}

/// The console's lines are looked at by the tests, and do not go to stderr, where they would tear the tests' own apart.
pub fn parts(memory_mib: u32, vcpus: u8, devices: Vec<Box<dyn Device>>) -> Parts {
    let memory = vmm::memory::new(memory_mib).expect("guest memory");
    Parts { vcpus, memory, devices, debug_console: false, filters: Filters::none() }
}

/// A machine that boots the guest kernel with `init` as its only program.
pub fn linux(init: &[u8], vcpus: u8, devices: Vec<Box<dyn Device>>, debug_console: bool) -> Machine {
    let command_line = command_line::complete("", devices.len(), debug_console);
    let mut linux = Linux {
        kernel: ImageFile::new(kernel()),
        initramfs: Some(ImageFile::new(file(&initramfs(init)))),
        command_line,
    };
    Machine::with_linux(kvm(), parts(MEMORY_MIB, vcpus, devices), &mut linux).expect("a machine")
}

/// The monitor's process, with these descriptors under these numbers.
pub fn spawn(given: Vec<(OwnedFd, RawFd)>) -> Child {
    let program =
        std::env::var_os("WATERWHEEL_VMM").map_or_else(|| env!("CARGO_BIN_EXE_vmm").into(), PathBuf::from);
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    // SAFETY: between fork and exec it only duplicates descriptors that live in `given`, first to numbers out of the way.
    unsafe {
        command.pre_exec(move || {
            for (owned, number) in &given {
                if libc::dup2(owned.as_raw_fd(), number + 100) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            for (_, number) in &given {
                if libc::dup2(number + 100, *number) < 0 || libc::close(number + 100) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    let child = command.spawn().expect("start the monitor");
    drop(command);
    child
}

/// A cpio archive (Documentation/driver-api/early-userspace/buffer-format.rst) of `/init` and device files.
pub fn initramfs(init: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    let mut add = |name: &str, mode: u32, device: (u32, u32), content: &[u8]| {
        let fields =
            [0, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, device.0, device.1, name.len() as u32 + 1, 0];
        archive.extend(b"070701");
        for field in fields {
            write!(archive, "{field:08X}").expect("write to memory");
        }
        archive.extend(name.bytes().chain([0]));
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend(content);
        archive.resize(archive.len().next_multiple_of(4), 0);
    };
    add("dev", 0o040_755, (0, 0), &[]);
    add("dev/console", 0o020_600, (5, 1), &[]);
    add("dev/vda", 0o060_600, (254, 0), &[]);
    add("dev/hwrng", 0o020_600, (10, 183), &[]);
    add("init", 0o100_755, (0, 0), init);
    add("TRAILER!!!", 0, (0, 0), &[]);
    archive
}

const LOAD: u64 = 0x40_0000;
const HEADERS: u64 = 64 + 56;

/// A static ELF program of `code`, with `data` behind it; `code` gets the data's address.
pub fn program(data: &[u8], code: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    let length = code(0).len() as u64;
    let code = code(u32::try_from(LOAD + HEADERS + length).expect("a small program"));
    let size = HEADERS + length + data.len() as u64;
    let mut elf = b"\x7FELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    elf.extend(2u16.to_le_bytes()); // an executable
    elf.extend(62u16.to_le_bytes()); // for x86_64
    elf.extend(1u32.to_le_bytes());
    for word in [LOAD + HEADERS, 64, 0] {
        elf.extend(word.to_le_bytes()); // entry, program headers, section headers
    }
    elf.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1, 0, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend([1u32, 7].iter().flat_map(|word| word.to_le_bytes())); // load: readable, writable, executable
    for word in [0, LOAD, LOAD, size, size, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(code);
    elf.extend(data);
    elf
}

/// An argument of a system call.
#[derive(Clone, Copy)]
pub enum Value {
    Number(u32),
    /// What [`SAVE`] has saved.
    Saved,
    /// The result of the call before.
    Result,
}

/// `mov ebx, eax`: saves a call's result.
pub const SAVE: [u8; 2] = [0x89, 0xC3];

/// Machine code of a system call.
pub fn syscall<const N: usize>(number: u32, arguments: [Value; N]) -> Vec<u8> {
    // edi, esi, edx, r10d: `mov r32, imm32`, `mov r32, ebx`, `mov r32, eax`.
    const REGISTERS: [[&[u8]; 3]; 4] = [
        [&[0xBF], &[0x89, 0xDF], &[0x89, 0xC7]],
        [&[0xBE], &[0x89, 0xDE], &[0x89, 0xC6]],
        [&[0xBA], &[0x89, 0xDA], &[0x89, 0xC2]],
        [&[0x41, 0xBA], &[0x41, 0x89, 0xDA], &[0x41, 0x89, 0xC2]],
    ];
    let mut code = Vec::new();
    for (argument, [number, saved, result]) in arguments.into_iter().zip(REGISTERS) {
        match argument {
            Value::Number(value) => code.extend(number.iter().copied().chain(value.to_le_bytes())),
            Value::Saved => code.extend(saved),
            Value::Result => code.extend(result),
        }
    }
    code.push(0xB8);
    code.extend(number.to_le_bytes());
    code.extend([0x0F, 0x05]);
    code
}

/// `code` again and again, without end.
pub fn forever(mut code: Vec<u8>) -> Vec<u8> {
    let back = -i32::try_from(code.len() + 5).expect("a short loop");
    code.push(0xE9);
    code.extend(back.to_le_bytes());
    code
}

pub const READ: u32 = 0;
pub const WRITE: u32 = 1;
pub const OPEN: u32 = 2;
pub const SOCKET: u32 = 41;
pub const CONNECT: u32 = 42;
pub const EXIT: u32 = 60;
pub const REBOOT: u32 = 169;
pub const RESTART: [Value; 3] =
    [Value::Number(0xFEE1_DEAD), Value::Number(0x2812_1969), Value::Number(0x0123_4567)];

/// An init that prints `text` and restarts the machine.
pub fn greeter(text: &str) -> Vec<u8> {
    program(text.as_bytes(), |data| [say(data, text.len()), syscall(REBOOT, RESTART)].concat())
}

/// Prints the `length` bytes at `text`.
pub fn say(text: u32, length: usize) -> Vec<u8> {
    let length = u32::try_from(length).expect("a short text");
    syscall(WRITE, [Value::Number(1), Value::Number(text), Value::Number(length)])
}

/// A machine without a kernel: `code` begins in long mode at [`CODE`].
pub fn bare(code: &[u8], parts: Parts) -> Machine {
    boot::write_tables(&parts.memory, 1, parts.devices.len()).expect("tables");
    parts.memory.write_slice(code, GuestAddress(CODE)).expect("code");
    let entry = EntryPoint { instruction: CODE, zero_page: 0 };
    Machine::with_entry(kvm(), parts, entry).expect("a machine")
}

pub const CODE: u64 = 0x10_0000;

/// Fills the 16 MiB from `start` on, so that they are there already and only the monitor can grow. By the page: a large buffer of this
/// process would be counted with the monitor's.
pub fn fill(memory: &Memory, start: u64, byte: u8) {
    for address in (start..start + (16 << 20)).step_by(4096) {
        memory.write_slice(&[byte; 4096], GuestAddress(address)).expect("guest memory");
    }
}

/// `HOSTILE_SECONDS`: for how long a hostile guest does its worst.
pub fn hostile_time() -> Duration {
    let seconds = std::env::var("HOSTILE_SECONDS").map_or(5, |seconds| seconds.parse().expect("seconds"));
    Duration::from_secs(seconds)
}

/// Of all mappings of a process but its guest's memory, of [`MEMORY_MIB`]. That one's host may make huge pages of it at any time.
pub fn resident_kib(process: u32) -> u32 {
    let maps = std::fs::read_to_string(format!("/proc/{process}/smaps")).expect("smaps");
    let values = |name: &str| -> Vec<u32> {
        let lines = maps.lines().filter_map(|line| line.strip_prefix(name)?.trim().strip_suffix("kB"));
        lines.map(|value| value.trim().parse().expect("a number")).collect()
    };
    let (sizes, resident) = (values("Size:"), values("Rss:"));
    let guest = MEMORY_MIB * 1024;
    sizes.iter().zip(resident).filter(|(size, _)| **size < guest).map(|(_, resident)| resident).sum()
}
