//! A guest without a kernel that sets up its socket device by the book, and then sends packets without end, while the host does not read.
//!
//! ```text
//!  0x30_0000  rings: rx, tx, events; for each a table, an available and a used ring, a page each
//!  0x40_0000  128 buffers to receive into, 8 KiB apart
//!  0x60_0000  128 packets to send, 8 KiB apart; the first is the request to connect, and later an update of credit
//! ```
//!
//! The program gives all buffers back as soon as they are used, and rings both doorbells, again and again. `HOSTILE_SECONDS` is shared by the
//! floods.
//!
//! **The bound.** With a limit of `n` operations a second the device thread does in each second, whatever the guest does, at most
//!
//! | rounds | for |
//! |---|---|
//! | 2 n | packets in each direction, when a timer lets them through |
//! | 2 n | rings that come just then, and find one |
//! | 2 n | a ring for nothing behind each of them |
//! | 250 | rings for nothing, one after the other |
//!
//! and each round is bounded work. That is what is tested everywhere; CPU time only where the processor is a real one: an emulated one's
//! time is its host's, and says nothing.

mod common;

use std::{
    io::{ErrorKind, Read, Write},
    os::{fd::BorrowedFd, unix::net::UnixStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use common::{MEMORY_MIB, bare, forever, hostile_time, parts, resident_kib};
use vm_memory::{Bytes, GuestAddress};
use vmm::{
    exit::Exit,
    machine::Machine,
    rate_limiter::{Limits, Rate},
    virtio::{
        Device, DeviceError, DeviceState, Memory, RestoreError, Rings, Vsock, Work,
        vsock::packet::{HEADER, Header, Operation, SHUTDOWN_SEND, TYPE_STREAM},
    },
};
use vmm_sys_util::epoll::EventSet;

const DEVICE: u32 = 0xD000_0000;
const BASE: u32 = 0x30_0000;
const PAGE: u32 = 0x1000;
const SIZES: [u32; 3] = [128, 128, 8];
const RX: u32 = 0;
const TX: u32 = 1;
const RX_BUFFERS: u32 = 0x40_0000;
const PACKETS: u32 = 0x60_0000;
const SLOT: u32 = 0x2000;
const DATA: u32 = 4096;
/// The program counts its rounds here.
const ROUNDS: u32 = 0x2F_0000;

/// So many packets a second are let through in each direction.
const PER_SECOND: u64 = 200;

/// Of the device thread in a second under that limit: its rounds, and its share of a CPU.
const MOST_ROUNDS: f64 = (6 * PER_SECOND + 250) as f64;
const MOST_CPU: f64 = 0.2;

/// Until the bursts that the limits allow are over.
const BURSTS: Duration = Duration::from_millis(500);

fn table(queue: u32) -> u32 {
    BASE + queue * 3 * PAGE
}

fn available(queue: u32) -> u32 {
    table(queue) + PAGE
}

fn used(queue: u32) -> u32 {
    table(queue) + 2 * PAGE
}

/// `mov dword [rbx + register], value`, with the device's registers in RBX.
fn register(register: u32, value: u32) -> Vec<u8> {
    [&[0xC7, 0x83][..], &register.to_le_bytes(), &value.to_le_bytes()].concat()
}

/// An instruction whose operand is at `address`: RSI holds [`BASE`].
fn at(opcode: &[u8], address: u32) -> Vec<u8> {
    [opcode, &address.wrapping_sub(BASE).to_le_bytes()].concat()
}

/// Machine code: reset, features (only `VERSION_1`), queues, `DRIVER_OK`.
fn set_up() -> Vec<u8> {
    let mut code = [&[0xBB][..], &DEVICE.to_le_bytes(), &[0xBE], &BASE.to_le_bytes()].concat(); // mov ebx; mov esi
    for (offset, value) in [(0x70, 0), (0x70, 1), (0x70, 3), (0x24, 1), (0x20, 1), (0x70, 11)] {
        code.extend(register(offset, value));
    }
    for (queue, size) in (0..).zip(SIZES) {
        let addresses = [(0x80, table(queue)), (0x90, available(queue)), (0xA0, used(queue))];
        for (offset, value) in [(0x30, queue), (0x38, size)].into_iter().chain(addresses).chain([(0x44, 1)]) {
            code.extend(register(offset, value));
        }
    }
    [code, register(0x70, 15)].concat()
}

/// `movzx eax, word [used index]; add eax, 128; mov [available index], ax`, and the doorbell.
fn give_back(queue: u32) -> Vec<u8> {
    let give = [
        at(&[0x0F, 0xB7, 0x86], used(queue) + 2),
        vec![0x05, 128, 0, 0, 0],
        at(&[0x66, 0x89, 0x86], available(queue) + 2),
    ];
    [give.concat(), register(0x50, queue)].concat()
}

/// Connects, makes the request an update of credit, and sends all packets for ever.
fn flooder() -> Vec<u8> {
    let offer = |queue, count: u16| {
        [at(&[0x66, 0xC7, 0x86], available(queue) + 2), count.to_le_bytes().to_vec()].concat() // mov word
    };
    let wait = [at(&[0x66, 0x83, 0xBE], used(TX) + 2), vec![0, 0x74, 0xF6]].concat(); // cmp word, 0; je back
    let update = (Operation::CreditUpdate as u16).to_le_bytes().to_vec();
    let connect = [
        offer(RX, 128),
        offer(TX, 1),
        register(0x50, TX),
        wait,
        at(&[0x66, 0xC7, 0x86], PACKETS + 30),
        update,
    ];
    let round = [
        give_back(TX),
        give_back(RX),
        at(&[0x48, 0xFF, 0x86], ROUNDS), // inc qword
    ];
    [set_up(), connect.concat(), forever(round.concat())].concat()
}

fn packet(operation: Operation, len: u32) -> Header {
    Header {
        src_cid: 3,
        dst_cid: 2,
        src_port: 77,
        dst_port: 1024,
        len,
        socket_type: TYPE_STREAM,
        op: operation as u16,
        buf_alloc: 256 * 1024,
        ..Header::default()
    }
}

/// What packet number `slot` is.
type Flood = (&'static str, fn(u32) -> Header);

const FLOODS: [Flood; 5] = [
    ("questions for credit", |_| packet(Operation::CreditRequest, 0)),
    ("updates of credit", |slot| Header {
        buf_alloc: slot.wrapping_mul(0x9E37_79B9),
        ..packet(Operation::CreditUpdate, 0)
    }),
    ("data, until there is no credit and then on", |_| packet(Operation::ReadWrite, DATA)),
    ("requests to all ports", |slot| Header {
        src_port: slot,
        dst_port: slot * 512 + 1,
        ..packet(Operation::Request, 0)
    }),
    ("ends, resets, lies about lengths", |slot| match slot % 6 {
        0 => Header { src_port: slot, ..packet(Operation::Reset, 0) },
        1 => Header { flags: SHUTDOWN_SEND, ..packet(Operation::Shutdown, 0) },
        2 => packet(Operation::ReadWrite, u32::MAX),
        3 => packet(Operation::Response, 0),
        4 => packet(Operation::Reset, 0),
        _ => packet(Operation::ReadWrite, 0),
    }),
];

/// Rings, buffers and packets.
fn lay_out(memory: &Memory, kind: fn(u32) -> Header) {
    let put = |address: u32, bytes: &[u8]| {
        memory.write_slice(bytes, GuestAddress(address.into())).expect("guest memory");
    };
    let length = HEADER as u32 + DATA;
    for slot in 0..128u32 {
        for (queue, start, flags) in [(RX, RX_BUFFERS, 2u16), (TX, PACKETS, 0)] {
            let address = u64::from(start + slot * SLOT);
            let rest = [&length.to_le_bytes()[..], &flags.to_le_bytes(), &[0; 2]].concat();
            put(table(queue) + slot * 16, &[&address.to_le_bytes()[..], &rest].concat());
            put(available(queue) + 4 + slot * 2, &(slot as u16).to_le_bytes());
        }
        let header = if slot == 0 { packet(Operation::Request, 0) } else { kind(slot) };
        put(PACKETS + slot * SLOT, &header.encode());
    }
}

/// CPU time of the device thread so far. The kernel counts it in hundredths of a second.
fn device_thread_cpu() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").expect("threads").flatten();
    let is_devices = |path: &std::path::Path| {
        std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim_end() == "devices")
    };
    let mut found = tasks.map(|task| task.path()).filter(|path| is_devices(path));
    let stat = std::fs::read_to_string(found.next().expect("the device thread").join("stat")).expect("stat");
    assert!(found.next().is_none(), "there is one");
    // Behind the name: state is field 3, user and system time are fields 14 and 15.
    let fields = stat.rsplit_once(") ").expect("a name").1.split(' ');
    let ticks: u64 = fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("ticks")).sum();
    Duration::from_millis(ticks * 10)
}

fn is_emulated() -> bool {
    std::fs::read_to_string("/proc/cpuinfo").expect("cpuinfo").contains("QEMU TCG CPU")
}

/// A device, and how many rounds of work it was asked for.
#[derive(Debug)]
struct Counted {
    device: Vsock,
    rounds: Arc<AtomicU64>,
}

impl Device for Counted {
    fn id(&self) -> u32 {
        self.device.id()
    }

    fn features(&self) -> u64 {
        self.device.features()
    }

    fn queue_sizes(&self) -> &'static [u16] {
        self.device.queue_sizes()
    }

    fn config(&self) -> &[u8] {
        self.device.config()
    }

    fn sources(&self) -> Vec<BorrowedFd<'_>> {
        self.device.sources()
    }

    fn interest(&self, source: usize) -> EventSet {
        self.device.interest(source)
    }

    fn ready(&mut self, source: usize, events: EventSet) {
        self.device.ready(source, events);
    }

    fn process(&mut self, rings: &mut Rings<'_>) -> Result<Work, DeviceError> {
        self.rounds.fetch_add(1, Ordering::Relaxed);
        self.device.process(rings)
    }

    fn reset(&mut self) {
        self.device.reset();
    }

    fn save(&self) -> DeviceState {
        self.device.save()
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        self.device.restore(state)
    }
}

fn count(machine: &Machine, address: u32) -> u64 {
    machine.memory().read_obj(GuestAddress(address.into())).expect("guest memory")
}

/// The host writes until nobody takes it, and reads what there is: each call ends in time.
fn host_side_ends_in_time(ours: &mut UnixStream) -> (usize, usize) {
    let limit = Duration::from_millis(100);
    ours.set_write_timeout(Some(limit)).expect("a time limit");
    ours.set_read_timeout(Some(limit)).expect("a time limit");
    let (mut written, mut read, mut buffer) = (0, 0, vec![0; 65536]);
    let started = Instant::now();
    let check = |result: std::io::Result<usize>, total: &mut usize| match result {
        Ok(bytes) => {
            *total += bytes;
            bytes > 0
        }
        Err(error) => {
            let kinds = [ErrorKind::WouldBlock, ErrorKind::BrokenPipe, ErrorKind::ConnectionReset];
            assert!(kinds.contains(&error.kind()), "{error}");
            false
        }
    };
    while written < 4 << 20 && check(ours.write(&buffer), &mut written) {}
    while read < 4 << 20 && check(ours.read(&mut buffer), &mut read) {}
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    (written, read)
}

fn flooded(kind: fn(u32) -> Header, limits: Limits) -> (Machine, UnixStream, Arc<AtomicU64>) {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    let rounds = Arc::new(AtomicU64::new(0));
    let device = Vsock::new(3, 1024, theirs, limits).expect("a socket device");
    let device = Counted { device, rounds: Arc::clone(&rounds) };
    let new = parts(MEMORY_MIB, 1, vec![Box::new(device)]);
    common::fill(&new.memory, 0, 0);
    lay_out(&new.memory, kind);
    let machine = bare(&flooder(), new);
    machine.resume();
    let started = Instant::now();
    while count(&machine, ROUNDS) == 0 {
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "it does not begin: {:?}",
            machine.control().exit()
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(BURSTS);
    (machine, ours, rounds)
}

fn flood((name, kind): Flood, limits: Limits, time: Duration) {
    let (mut machine, mut ours, rounds) = flooded(kind, limits);
    let limited = !limits.unlimited();
    let (cpu, resident, before) =
        (device_thread_cpu(), resident_kib(std::process::id()), rounds.load(Ordering::Relaxed));
    let started = Instant::now();
    std::thread::sleep(time);
    let elapsed = started.elapsed().as_secs_f64();
    let rounds = (rounds.load(Ordering::Relaxed) - before) as f64 / elapsed;
    let cpu = (device_thread_cpu() - cpu).as_secs_f64() / elapsed;
    let grown = resident_kib(std::process::id()).saturating_sub(resident);
    let (written, read) = host_side_ends_in_time(&mut ours);
    let guests = count(&machine, ROUNDS);
    println!(
        "{name}, {}: the guest's rounds {guests}; device thread: {rounds:.0} rounds a second, {:.0} % of a CPU; \
        {grown} KiB grown; host wrote {written} bytes, read {read}",
        if limited { "limited" } else { "unlimited" },
        cpu * 100.0
    );
    assert_eq!(machine.control().exit(), None);
    assert!(guests > 100 && grown < 1024);
    assert!(!limited || rounds < MOST_ROUNDS, "{rounds} rounds a second");
    assert!(!limited || is_emulated() || cpu < MOST_CPU, "the device thread uses {cpu:.2} of a CPU");
    let asked = Instant::now();
    let ending = machine.stop();
    assert_eq!((ending.exit, ending.failures), (Exit::Shutdown, Vec::new()));
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
}

#[test]
#[ignore = "needs /dev/kvm: make test-microvm"]
fn a_flood_of_valid_packets_stays_within_memory_and_with_a_limit_within_cpu() {
    let limited = Limits { operations: Some(Rate::new(PER_SECOND, 50)), bytes: None };
    let time = hostile_time() / (2 * FLOODS.len() as u32);
    for limits in [limited, Limits::default()] {
        for kind in FLOODS {
            flood(kind, limits, time);
        }
    }
}
