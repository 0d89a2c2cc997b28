//! The monitor as the server sees it: a process with descriptors, an exit code and a last line, under its filters.

#![allow(unsafe_code, reason = "signals a child")]

mod common;

use std::{
    fs::File,
    io::{Read, Write},
    os::{
        fd::{OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    process::Child,
    time::{Duration, Instant},
};

use common::{
    CONNECT, EXIT, OPEN, READ, SAVE, SOCKET, Value, WRITE, file, forever, initramfs, kernel, program, spawn,
    syscall,
};
use vmm::{
    config::{BootSource, DeviceConfig, MachineConfig, SeccompMode, VmSpec},
    rate_limiter::Limits,
};

/// The descriptors of every spec here; the others are the process's own.
const KVM: RawFd = 6;
const KERNEL: RawFd = 7;
const INITRAMFS: RawFd = 8;
const DISK: RawFd = 9;

struct Monitor {
    child: Child,
    stream: UnixStream,
}

impl Monitor {
    fn start(init: &[u8], change: impl FnOnce(&mut VmSpec)) -> Self {
        let limits = Limits::default();
        let mut spec = VmSpec {
            machine: MachineConfig {
                vcpus: 1,
                memory_mib: common::MEMORY_MIB,
                devices: vec![
                    DeviceConfig::Block { image: DISK, limits },
                    DeviceConfig::Vsock { limits },
                    DeviceConfig::Rng { limits },
                ],
            },
            boot: BootSource { kernel: KERNEL, initramfs: Some(INITRAMFS), command_line: String::new() },
            kvm: KVM,
            debug_console: false,
            seccomp: SeccompMode::Kill,
        };
        change(&mut spec);
        let kvm = File::options().read(true).write(true).open("/dev/kvm").expect("/dev/kvm");
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        ours.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        let disk: Vec<u8> = (0..4096u32).flat_map(u32::to_le_bytes).collect();
        let given: Vec<(OwnedFd, RawFd)> = vec![
            (file(&serde_json::to_vec(&spec).expect("JSON")).into(), 3),
            (theirs.into(), 5),
            (kvm.into(), KVM),
            (kernel().into(), KERNEL),
            (file(&initramfs(init)).into(), INITRAMFS),
            (file(&disk).into(), DISK),
        ];
        Self { child: spawn(given), stream: ours }
    }

    fn read(&mut self, bytes: usize) -> Vec<u8> {
        let mut buffer = vec![0; bytes];
        if let Err(error) = self.stream.read_exact(&mut buffer) {
            let _ = self.child.kill();
            panic!("{error}; the monitor said: {}", self.end().1);
        }
        buffer
    }

    /// Exit code and stderr.
    fn end(&mut self) -> (Option<i32>, String) {
        let mut text = String::new();
        let mut stderr = self.child.stderr.take().expect("stderr is a pipe");
        stderr.read_to_string(&mut text).expect("stderr");
        (self.child.wait().expect("an end").code(), text)
    }
}

const TEXTS: &[u8] = b"/dev/vda\0/dev/hwrng\0";
const VDA: u32 = 0;
const HWRNG: u32 = 9;
const ADDRESS: u32 = 20;
const BUFFER: u32 = 36;
const BUFFER_BYTES: u32 = 2048;

/// An init that connects to the host, sends the disk's first 512 bytes and 64 random ones, and then everything it gets,
/// until it gets no more.
fn echo() -> Vec<u8> {
    use Value::{Number, Result, Saved};
    let mut data = TEXTS.to_vec();
    data.extend(40u16.to_le_bytes()); // struct sockaddr_vm: AF_VSOCK, port 1024 of CID 2
    data.extend([0; 2]);
    data.extend([1024u32, 2, 0].iter().flat_map(|word| word.to_le_bytes()));
    data.resize((BUFFER + BUFFER_BYTES) as usize, 0);
    program(&data, |start| {
        let at = |offset| Number(start + offset);
        // Without a console the socket is descriptor 0, the disk 1, the source of randomness 2.
        let send = |descriptor, bytes| {
            [
                syscall(READ, [Number(descriptor), at(BUFFER), Number(bytes)]),
                syscall(WRITE, [Saved, at(BUFFER), Result]),
            ]
            .concat()
        };
        let copy = [
            syscall(READ, [Saved, at(BUFFER), Number(BUFFER_BYTES)]),
            vec![0x85, 0xC0, 0x75, 0x0C], // test eax, eax; jnz over the exit
            syscall(EXIT, [Number(3)]),
            syscall(WRITE, [Saved, at(BUFFER), Result]),
        ];
        [
            syscall(SOCKET, [Number(40), Number(1), Number(0)]),
            SAVE.to_vec(),
            syscall(CONNECT, [Saved, at(ADDRESS), Number(16)]),
            syscall(OPEN, [at(VDA), Number(0)]),
            syscall(OPEN, [at(HWRNG), Number(0)]),
            send(1, 512),
            send(2, 64),
            forever(copy.concat()),
        ]
        .concat()
    })
}

#[test]
#[ignore = "needs a KVM that boots a kernel: make test-microvm"]
fn a_guest_reaches_disk_randomness_and_the_server_under_the_filters() {
    let mut monitor = Monitor::start(&echo(), |_| {});
    let disk: Vec<u8> = (0..128u32).flat_map(u32::to_le_bytes).collect();
    assert_eq!(monitor.read(512), disk);
    let random = monitor.read(64);
    assert!(random.iter().filter(|byte| **byte == 0).count() < 8, "{random:?}");
    for bytes in [1, 1024, 100_000] {
        let question: Vec<u8> = (0..bytes).map(|byte| byte as u8).collect();
        let mut writer = monitor.stream.try_clone().expect("a clone");
        std::thread::scope(|scope| {
            scope.spawn(|| writer.write_all(&question).expect("the guest takes it"));
            assert_eq!(monitor.read(bytes as usize), question, "{bytes} bytes");
        });
    }
    drop(std::mem::replace(&mut monitor.stream, UnixStream::pair().expect("a socket pair").0));
    let (code, said) = monitor.end();
    assert!(said.lines().count() == 1 && said.starts_with("vmm: "), "{said}");
    assert_eq!(code, Some(0), "{said}");
}

#[test]
#[ignore = "needs a KVM that boots a kernel: make test-microvm"]
fn the_monitor_is_small_and_tells_its_exits() {
    let mut monitor = Monitor::start(&echo(), |_| {});
    monitor.read(512 + 64);
    let warm = |monitor: &mut Monitor| {
        monitor.stream.write_all(&[7; 1024]).expect("a question");
        monitor.read(1024);
    };
    (0..20).for_each(|_| warm(&mut monitor));
    let kib = common::resident_kib(monitor.child.id());
    println!("monitor_rss_mib {:.2}", f64::from(kib) / 1024.0);
    let mut counts = Vec::new();
    for _ in 0..2 {
        kill(&monitor.child, libc::SIGUSR1);
        let mut line = Vec::new();
        let stderr = monitor.child.stderr.as_mut().expect("a pipe");
        while !line.ends_with(b"\n") {
            let mut byte = [0];
            stderr.read_exact(&mut byte).expect("stderr");
            line.extend(byte);
        }
        counts.push(String::from_utf8(line).expect("text"));
        (0..100).for_each(|_| warm(&mut monitor));
    }
    println!("before and after 100 echoes of 1 KiB:\n{}", counts.concat());
    kill(&monitor.child, libc::SIGTERM);
    let (code, said) = monitor.end();
    assert_eq!((code, said.as_str()), (Some(0), "vmm: shut down\n"));
    assert!(kib <= 5 * 1024, "{kib} KiB");
}

#[test]
#[ignore = "needs a KVM that boots a kernel: make test-microvm"]
fn a_panic_has_its_exit_code_and_its_line() {
    let mut monitor = Monitor::start(&program(&[], |_| syscall(EXIT, [Value::Number(7)])), |_| {});
    let (code, said) = monitor.end();
    assert_eq!(code, Some(11), "{said}");
    assert!(said.starts_with("vmm: the guest's kernel panicked: Attempted to kill init!"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
#[ignore = "needs a KVM that boots a kernel: make test-microvm"]
fn a_server_that_goes_away_during_the_boot_ends_the_machine() {
    let asleep = program(&[], |_| forever(syscall(34, []))); // pause
    let mut monitor = Monitor::start(&asleep, |_| {});
    monitor.stream = UnixStream::pair().expect("a socket pair").0;
    let started = Instant::now();
    let (code, said) = monitor.end();
    assert_eq!((code, said.as_str()), (Some(0), "vmm: shut down\n"));
    println!("gone after {:?}", started.elapsed());
}

#[test]
#[ignore = "needs /dev/kvm: make test-microvm"]
fn what_is_no_machine_is_refused_with_a_reason() {
    let mut monitor = Monitor::start(&[], |spec| spec.machine.vcpus = 0);
    let (code, said) = monitor.end();
    assert_eq!((code, said.as_str()), (Some(64), "vmm: 0 vCPUs, but 1 to 32 are possible\n"));
    let mut monitor = Monitor::start(&[], |spec| spec.boot.kernel = 77);
    assert_eq!(monitor.end().0, Some(64));
    let mut monitor = Monitor::start(&[], |spec| spec.boot.kernel = DISK + 1);
    assert_eq!(monitor.end().0, Some(64));
    let mut monitor = Monitor::start(&[], |spec| {
        spec.machine.devices.clear();
        spec.boot.kernel = DISK;
    });
    let (code, said) = monitor.end();
    assert_eq!(code, Some(70), "{said}");
    assert!(said.starts_with("vmm: cannot load the kernel: "), "{said}");
}

fn kill(child: &Child, signal: libc::c_int) {
    let process = libc::pid_t::try_from(child.id()).expect("a process number");
    // SAFETY: the child is ours and has not been waited for.
    assert_eq!(unsafe { libc::kill(process, signal) }, 0);
}
