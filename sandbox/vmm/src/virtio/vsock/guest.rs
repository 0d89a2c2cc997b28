//! A guest for the tests of the device.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read},
    os::unix::net::UnixStream,
    thread,
};

use vmm_sys_util::{epoll::EventSet, eventfd::EventFd};

use super::{
    Vsock,
    packet::{HEADER, Header, Operation, TYPE_STREAM},
};
use crate::{
    rate_limiter::Limits,
    virtio::driver::{BUFFERS, Driver},
};

pub(super) const RX: usize = 0;
pub(super) const TX: usize = 1;
pub(super) const CID: u64 = 3;
pub(super) const PORT: u32 = 1024;
pub(super) const GUEST_PORT: u32 = 5000;
/// What Linux offers for each packet.
pub(super) const RX_BUFFER: u32 = 4096 + HEADER as u32;
pub(super) const TX_BUFFERS: u64 = BUFFERS + 0x20_0000;
/// Packets to the host that there is memory for.
const TX_SLOTS: u64 = 8;
/// What the guest says it can hold.
pub(super) const GUEST_BUFFER: u32 = 256 * 1024;

/// Of [`Guest::operations`].
pub(super) const RESET: (u16, u32) = (Operation::Reset as u16, 0);

/// Bytes that are not the same if one is lost, or a packet comes twice.
pub(super) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * 31 + n / 4096) as u8).collect()
}

/// A guest with one socket, and the host at the other end.
pub(super) struct Guest {
    pub(super) driver: Driver,
    pub(super) host: UnixStream,
    /// Bytes given to the socket's reader.
    pub(super) taken: u32,
    /// What came, without data.
    pub(super) packets: VecDeque<Header>,
    pub(super) data: Vec<u8>,
    pub(super) sent: usize,
    pub(super) device_fwd_cnt: u32,
    pub(super) doorbells: u32,
    /// Where to ring, if the device is with its thread; else it runs at once.
    pub(super) thread: Option<[EventFd; 2]>,
}

impl Guest {
    /// Everything is set up, nothing is said.
    pub(super) fn new() -> Self {
        let (host, stream) = UnixStream::pair().unwrap();
        Self::with(Vsock::new(CID, PORT, stream, Limits::default()).unwrap(), host)
    }

    /// The same, of this device.
    pub(super) fn with(device: Vsock, host: UnixStream) -> Self {
        host.set_nonblocking(true).unwrap();
        let mut guest = Self {
            driver: Driver::started(device),
            host,
            taken: 0,
            packets: VecDeque::new(),
            data: Vec::new(),
            sent: 0,
            device_fwd_cnt: 0,
            doorbells: 0,
            thread: None,
        };
        for slot in 0..128 {
            guest.driver.add(RX, &[(BUFFERS + slot * 8192, RX_BUFFER, true)]);
        }
        guest.run();
        guest
    }

    pub(super) fn connected() -> Self {
        let mut guest = Self::new();
        guest.send(Operation::Request, &[], 0);
        guest.run();
        assert_eq!(guest.packets.pop_front().unwrap().op, Operation::Response as u16);
        guest
    }

    pub(super) fn header(&self, operation: Operation, len: u32, flags: u32) -> Header {
        Header {
            src_cid: CID,
            dst_cid: 2,
            src_port: GUEST_PORT,
            dst_port: PORT,
            len,
            socket_type: TYPE_STREAM,
            op: operation as u16,
            flags,
            buf_alloc: GUEST_BUFFER,
            fwd_cnt: self.taken,
        }
    }

    pub(super) fn send(&mut self, operation: Operation, data: &[u8], flags: u32) {
        let header = self.header(operation, data.len() as u32, flags);
        self.sent += data.len();
        self.send_raw(&header, data);
    }

    /// A packet as Linux sends it: header and data in ranges of their own.
    pub(super) fn send_raw(&mut self, header: &Header, data: &[u8]) {
        // The thread may be behind; that buffers come free is told late, and nobody else needs this processor more than the thread.
        while self.thread.is_some() && u64::from(self.driver.rings[TX].outstanding()) >= TX_SLOTS {
            thread::yield_now();
            self.driver.used(TX);
        }
        let slot = TX_BUFFERS + self.doorbells as u64 % TX_SLOTS * 0x2_0000;
        self.driver.put(slot, &header.encode());
        self.driver.put(slot + 64, data);
        let buffers = [(slot, HEADER as u32, false), (slot + 64, data.len() as u32, false)];
        self.driver.add(TX, if data.is_empty() { &buffers[..1] } else { &buffers });
        let memory = self.driver.memory.clone();
        self.doorbells += 1;
        if self.driver.rings[TX].wants_doorbell(&memory) {
            match &self.thread {
                Some(doorbells) => doorbells[TX].write(1).unwrap(),
                None => drop(self.driver.transport.doorbell_rang()),
            }
        }
    }

    /// What the event loop does when the stream is ready, and what the guest does with what comes.
    pub(super) fn run(&mut self) {
        let events = EventSet::IN | EventSet::OUT;
        self.driver.transport.source_ready(0, events);
        self.driver.run();
        self.receive();
    }

    /// Takes what came, and offers the buffers again.
    pub(super) fn receive(&mut self) {
        for (head, length) in self.driver.used(RX) {
            let address = BUFFERS + u64::from(head) * 8192;
            let header = Header::decode(self.driver.bytes(address, HEADER).try_into().unwrap());
            assert_eq!((header.src_cid, header.dst_cid), (2, CID));
            assert_eq!(header.len, length - HEADER as u32);
            self.data.extend(self.driver.bytes(address + HEADER as u64, header.len as usize));
            self.device_fwd_cnt = header.fwd_cnt;
            if header.op != Operation::ReadWrite as u16 {
                self.packets.push_back(header);
            }
            self.driver.add(RX, &[(address, RX_BUFFER, true)]);
        }
        self.driver.used(TX);
        let memory = self.driver.memory.clone();
        if let Some(doorbells) = &self.thread
            && self.driver.rings[RX].wants_doorbell(&memory)
        {
            doorbells[RX].write(1).unwrap();
        }
    }

    /// The reader has taken everything, and the device is told.
    pub(super) fn update_credit(&mut self) {
        self.taken = self.data.len() as u32;
        self.send(Operation::CreditUpdate, &[], 0);
    }

    /// Everything that the host can read now, and whether the stream has ended.
    pub(super) fn host_reads(&mut self) -> (Vec<u8>, bool) {
        let mut bytes = Vec::new();
        let end = self.host.read_to_end(&mut bytes);
        assert!(end.as_ref().err().is_none_or(|error| error.kind() == ErrorKind::WouldBlock), "{end:?}");
        (bytes, end.is_ok())
    }

    /// Operations and flags of what came, but for credit.
    pub(super) fn operations(&mut self) -> Vec<(u16, u32)> {
        let packets = self.packets.drain(..).filter(|header| header.op != Operation::CreditUpdate as u16);
        packets.map(|header| (header.op, header.flags)).collect()
    }
}
