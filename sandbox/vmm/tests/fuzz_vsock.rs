//! A million hostile executions against the socket device, with a host at the other end that writes, reads, and leaves. See `hostile` for what is
//! counted.

mod driver;
mod hostile;

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
};

use driver::Driver;
use hostile::{HEADERS, Random, Target};
use vm_memory::{Bytes, GuestAddress};
use vmm::{
    rate_limiter::Limits,
    virtio::{
        Device, DeviceState, Transport, Vsock,
        vsock::{
            connection::{BUF_ALLOC, Phase},
            packet::{HEADER, Header},
        },
    },
};

const RX: usize = 0;
const TX: usize = 1;

const TALLY: [(&str, u64); 4] =
    [("KiB to the guest", 0), ("KiB to the host", 0), ("connections", 0), ("KiB in outboxes", 0)];

struct Socket {
    host: UnixStream,
    /// Bytes that the device has sent, as far as the rings tell.
    received: u32,
    connected: bool,
    sleepy: bool,
    tally: [(&'static str, u64); 4],
}

impl Target for Socket {
    const NAME: &'static str = "vsock";
    // There is one connection in a device's life, and something breaks it soon.
    const EPISODE: u64 = 400;

    fn device(&mut self, random: &mut Random) -> Box<dyn Device> {
        let (host, stream) = UnixStream::pair().unwrap();
        host.set_nonblocking(true).unwrap();
        *self = Self { host, received: 0, connected: false, sleepy: random.once_in(3), tally: TALLY };
        self.host(random);
        Box::new(Vsock::new(3, 1024, stream, Limits::default()).unwrap())
    }

    fn queues(&self) -> &'static [usize] {
        &[TX, TX, RX, TX, RX, 2]
    }

    fn request(&mut self, queue: usize, random: &mut Random, driver: &Driver) -> Vec<(u64, u32, bool)> {
        if queue != TX {
            let length = if !random.orderly && random.once_in(20) {
                random.below(64) as u32
            } else {
                4096 + HEADER as u32
            };
            return vec![(HEADERS + 0x2_0000 + random.below(0x40_0000), length, true)];
        }
        let length = match random.below(8) {
            0 => random.below(u64::from(BUF_ALLOC)) as u32,
            1..=3 => random.below(3000) as u32,
            _ => 0,
        };
        let at = HEADERS + random.below(16) * 64;
        driver.put(at, &self.packet(random, length).encode());
        let mut buffers = vec![(at, HEADER as u32, false)];
        if length > 0 {
            buffers.push((HEADERS + 0x2_0000 + random.below(0x40_0000), length, false));
        }
        buffers
    }

    fn host(&mut self, random: &mut Random) {
        let mut bytes = vec![0x33; random.below(100_000) as usize];
        match random.below(32) {
            0 if random.once_in(4) => {
                drop(self.host.shutdown(random.pick(&[Shutdown::Read, Shutdown::Write, Shutdown::Both])));
            }
            // Some hosts hardly ever read.
            _ if self.sleepy && !random.once_in(20) => {}
            1..=15 => drop(self.host.write(&bytes)),
            _ => self.tally[1].1 += self.host.read(&mut bytes).unwrap_or(0) as u64,
        }
    }

    fn completed(&mut self, queue: usize, driver: &Driver, chains: &[(u16, u32)]) {
        if queue != RX {
            return;
        }
        // The length in the used ring is all that is believed: what chain it was, is the fuzzer's guess.
        for (head, length) in chains.iter().filter(|(_, length)| *length > HEADER as u32) {
            let table = driver.rings[RX].table + u64::from(head % 128) * 16;
            if driver.memory.read_obj::<u64>(GuestAddress(table)).is_ok() {
                self.received = self.received.wrapping_add(length - HEADER as u32);
            }
        }
    }

    fn check(&mut self, transport: &Transport) -> &[(&'static str, u64)] {
        if let DeviceState::Vsock(state) = transport.save().device {
            assert!(
                state.outbox.len() <= BUF_ALLOC as usize,
                "{} bytes wait for the host",
                state.outbox.len()
            );
            self.tally[2].1 = u64::from(state.connection.phase() != Phase::Listening);
            self.tally[3].1 = state.outbox.len() as u64 / 1024;
        }
        self.tally[0].1 = u64::from(self.received) / 1024;
        self.tally[1].1 /= 1024;
        &self.tally
    }
}

impl Socket {
    /// A packet of the connection, or the one that makes it, with something wrong now and then.
    fn packet(&mut self, random: &mut Random, length: u32) -> Header {
        let rough = if random.orderly { 400 } else { 40 };
        let op = match random.below(rough) {
            0 => random.next() as u16,
            1 => random.pick(&[1, 2, 3, 4]),
            _ if !self.connected => 1,
            _ if length > 0 => 5,
            _ => random.pick(&[5, 6, 6, 7]),
        };
        self.connected |= op == 1;
        let mut header = Header {
            src_cid: 3,
            dst_cid: 2,
            src_port: 7,
            dst_port: 1024,
            len: if op == 1 { 0 } else { length },
            socket_type: 1,
            op,
            flags: random.below(4) as u32,
            buf_alloc: random.pick(&[256 * 1024, 256 * 1024, 4096, 0, u32::MAX]),
            fwd_cnt: if random.once_in(10) { random.next() as u32 } else { self.received },
        };
        match random.below(rough * 5) {
            0 => header.src_cid = random.number(),
            1 => header.dst_cid = random.number(),
            2 => header.src_port = random.next() as u32,
            3 => header.dst_port = random.next() as u32,
            4 => header.len = random.number() as u32,
            5 => header.socket_type = random.next() as u16,
            _ => {}
        }
        header
    }
}

#[test]
fn a_million_hostile_calls() {
    let (host, _) = UnixStream::pair().unwrap();
    hostile::run(Socket { host, received: 0, connected: false, sleepy: false, tally: TALLY });
}
