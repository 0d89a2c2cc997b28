//! The one connection, as a state machine: packets and what became of the host's stream go in, packets and decisions come out. No I/O.
//!
//! ```text
//!               REQUEST from the guest                      RST from either side, or
//!               to our port                                 both ends of the guest's are shut and all is passed on
//!  ┌───────────┐              ┌───────────┐                                ┌──────────┐
//!  │ Listening ├─────────────►│ Connected ├───────────────────────────────►│ Finished │   for good: there is no second
//!  └───────────┘  → RESPONSE  └───────────┘                                └──────────┘
//!     anything else → RST          guest:  sends ⇢ SHUTDOWN(SEND)      receives ⇢ SHUTDOWN(RECEIVE)
//!                                  host:   sends ⇢ end of the stream   receives ⇢ the stream is broken
//! ```
//!
//! **Credit** (virtio 1.2, 5.10.6.3) counts bytes of payload since the beginning, modulo 2^32, in each direction:
//!
//! ```text
//!  to the guest     sent ──────────────► fwd_cnt (the guest says)       may send: buf_alloc − (sent − fwd_cnt)
//!  from the guest   received ──────────► forwarded (we say)             may come: BUF_ALLOC − (received − forwarded)
//! ```
//!
//! A guest that sends more than it may is reset, so what is buffered for the host never exceeds [`BUF_ALLOC`]. What the guest says of
//! its own buffer is believed only as far as it can be true: `fwd_cnt` does not go back (packets of several threads of the guest may
//! overtake one another) and does not pass what was sent.
//!
//! A credit update is only sent when a quarter of the buffer has come free since the guest last heard; every other packet
//! carries the figures too.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::packet::{Header, Operation, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, TYPE_STREAM};

/// The host's address.
pub const HOST_CID: u64 = 2;

/// Bytes of the guest's that are held for the host.
pub const BUF_ALLOC: u32 = 256 * 1024;

/// Answers to packets that belong to nothing, at most, before no more packets are taken.
const REFUSALS: usize = 32;

/// Where the connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The guest has not connected yet.
    Listening,
    /// Data may flow.
    Connected,
    /// And will not again.
    Finished,
}

/// Whether one side still sends, and still receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ends {
    /// It may send more.
    pub sends: bool,
    /// It takes what comes.
    pub receives: bool,
}

/// Packets that are owed to the guest, for the connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owed {
    response: bool,
    credit: bool,
    shutdown: bool,
    reset: bool,
}

/// What a packet was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Nothing that the host has to hear of. See [`Connection::guest`] and [`Connection::phase`] for what may have changed.
    Nothing,
    /// So many bytes for the host, which are to be [`forwarded`](Connection::forwarded).
    Data(u32),
}

/// The connection between a port of the host's and the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connection {
    guest_cid: u64,
    port: u32,
    phase: Phase,
    guest_port: u32,
    guest: Ends,
    host: Ends,
    /// Bytes sent to the guest.
    sent: u32,
    /// As the guest says.
    guest_buf_alloc: u32,
    guest_fwd_cnt: u32,
    /// Bytes received from the guest.
    received: u32,
    /// Of these, passed on to the host.
    forwarded: u32,
    /// As the guest was last told.
    announced: u32,
    owed: Owed,
    /// Not kept: a stranger that is not refused asks again.
    #[serde(skip)]
    refusals: VecDeque<Header>,
}

// === impl Connection: from the guest ===

impl Connection {
    /// Waits for the guest at a port.
    pub fn new(guest_cid: u64, port: u32) -> Self {
        let open = Ends { sends: true, receives: true };
        Self {
            guest_cid,
            port,
            phase: Phase::Listening,
            guest_port: 0,
            guest: open,
            host: open,
            sent: 0,
            guest_buf_alloc: 0,
            guest_fwd_cnt: 0,
            received: 0,
            forwarded: 0,
            announced: 0,
            owed: Owed::default(),
            refusals: VecDeque::new(),
        }
    }

    /// A packet came, in a buffer that holds `payload` bytes behind the header.
    pub fn receive(&mut self, header: &Header, payload: u32) -> Received {
        if header.src_cid != self.guest_cid {
            // There is nobody to tell.
            return Received::Nothing;
        }
        let operation = Operation::of(header.op);
        let ours =
            header.dst_cid == HOST_CID && header.dst_port == self.port && header.socket_type == TYPE_STREAM;
        let connected = ours && self.phase == Phase::Connected && header.src_port == self.guest_port;
        match operation {
            Some(operation) if connected => self.receive_connected(header, operation, payload),
            Some(Operation::Request) if ours && self.phase == Phase::Listening && header.len == 0 => {
                self.phase = Phase::Connected;
                self.guest_port = header.src_port;
                self.guest_buf_alloc = header.buf_alloc;
                self.owed.response = true;
                Received::Nothing
            }
            None if connected => self.break_off(),
            _ => {
                if self.refusals.len() < REFUSALS {
                    self.refusals.extend(header.refusal());
                }
                Received::Nothing
            }
        }
    }

    /// No more packets can be taken before some have been sent.
    pub fn is_congested(&self) -> bool {
        self.refusals.len() >= REFUSALS
    }

    fn receive_connected(&mut self, header: &Header, operation: Operation, payload: u32) -> Received {
        if header.len > payload || header.len > 0 && operation != Operation::ReadWrite {
            return self.break_off();
        }
        self.learn_credit(header);
        match operation {
            Operation::ReadWrite if self.guest.sends && header.len <= self.free() => {
                self.received = self.received.wrapping_add(header.len);
                return Received::Data(header.len);
            }
            Operation::CreditUpdate => {}
            Operation::CreditRequest => self.owed.credit = true,
            Operation::Shutdown => {
                self.guest.receives &= header.flags & SHUTDOWN_RECEIVE == 0;
                self.guest.sends &= header.flags & SHUTDOWN_SEND == 0;
            }
            Operation::Reset => {
                self.phase = Phase::Finished;
                self.owed = Owed::default();
            }
            Operation::ReadWrite | Operation::Request | Operation::Response => return self.break_off(),
        }
        Received::Nothing
    }

    fn learn_credit(&mut self, header: &Header) {
        self.guest_buf_alloc = header.buf_alloc;
        let advance = header.fwd_cnt.wrapping_sub(self.guest_fwd_cnt);
        if advance <= self.sent.wrapping_sub(self.guest_fwd_cnt) {
            self.guest_fwd_cnt = header.fwd_cnt;
        }
    }

    /// The guest does not keep to the protocol.
    fn break_off(&mut self) -> Received {
        self.phase = Phase::Finished;
        self.owed = Owed { reset: true, ..Owed::default() };
        Received::Nothing
    }

    /// Bytes that may come from the guest.
    fn free(&self) -> u32 {
        BUF_ALLOC.saturating_sub(self.received.wrapping_sub(self.forwarded))
    }
}

// === impl Connection: the host ===

impl Connection {
    /// Where the connection is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// What the guest still does.
    pub fn guest(&self) -> Ends {
        match self.phase {
            Phase::Finished => Ends { sends: false, receives: false },
            Phase::Listening | Phase::Connected => self.guest,
        }
    }

    /// What the host still does.
    pub fn host(&self) -> Ends {
        self.host
    }

    /// So many bytes of the guest's are with the host, or were dropped because it takes none.
    pub fn forwarded(&mut self, bytes: u32) {
        self.forwarded = self.forwarded.wrapping_add(bytes);
        let unheard = self.forwarded.wrapping_sub(self.announced);
        self.owed.credit |= self.phase == Phase::Connected && unheard >= BUF_ALLOC / 4;
    }

    /// Everything that the guest has sent is with the host: if the guest is done, so is the connection.
    pub fn drained(&mut self) {
        if self.phase == Phase::Connected && !self.guest.sends && !self.guest.receives {
            self.break_off();
        }
    }

    /// The host's stream has ended.
    pub fn host_stopped_sending(&mut self) {
        self.host_stopped(Ends { sends: false, ..self.host });
    }

    /// The host takes nothing more.
    pub fn host_stopped_receiving(&mut self) {
        self.host_stopped(Ends { receives: false, ..self.host });
    }

    fn host_stopped(&mut self, ends: Ends) {
        self.owed.shutdown |= self.host != ends && self.phase != Phase::Finished;
        self.host = ends;
    }

    /// The guest's device was reset, and its sockets with it.
    pub fn guest_reset(&mut self) {
        if self.phase == Phase::Connected {
            self.phase = Phase::Finished;
        }
        self.owed =
            Owed { shutdown: self.owed.shutdown && self.phase == Phase::Listening, ..Owed::default() };
        self.refusals.clear();
    }
}

// === impl Connection: to the guest ===

impl Connection {
    /// Bytes that may be sent to the guest.
    pub fn credit(&self) -> u32 {
        if self.phase != Phase::Connected || !self.guest.receives || !self.host.sends {
            return 0;
        }
        self.guest_buf_alloc.saturating_sub(self.sent.wrapping_sub(self.guest_fwd_cnt))
    }

    /// Whether there is a packet without data to be sent.
    pub fn has_packet(&self) -> bool {
        let connected = self.phase == Phase::Connected && self.owed != Owed::default();
        connected || self.owed.reset || !self.refusals.is_empty()
    }

    /// The next packet without data, which counts as sent. A response comes before anything else of the connection.
    pub fn next_packet(&mut self) -> Option<Header> {
        if self.owed.reset {
            self.owed.reset = false;
            return Some(self.header(Operation::Reset, 0, 0));
        }
        if self.phase == Phase::Connected {
            if self.owed.response {
                self.owed.response = false;
                return Some(self.header(Operation::Response, 0, 0));
            }
            if self.owed.shutdown {
                self.owed.shutdown = false;
                let send = if self.host.sends { 0 } else { SHUTDOWN_SEND };
                let receive = if self.host.receives { 0 } else { SHUTDOWN_RECEIVE };
                return Some(self.header(Operation::Shutdown, 0, send | receive));
            }
            if self.owed.credit {
                return Some(self.header(Operation::CreditUpdate, 0, 0));
            }
        }
        self.refusals.pop_front()
    }

    /// The header of a packet with so many bytes, at most [`Self::credit`], which count as sent.
    pub fn data(&mut self, bytes: u32) -> Header {
        self.sent = self.sent.wrapping_add(bytes);
        self.header(Operation::ReadWrite, bytes, 0)
    }

    fn header(&mut self, operation: Operation, len: u32, flags: u32) -> Header {
        self.announced = self.forwarded;
        self.owed.credit = false;
        Header {
            src_cid: HOST_CID,
            dst_cid: self.guest_cid,
            src_port: self.port,
            dst_port: self.guest_port,
            len,
            socket_type: TYPE_STREAM,
            op: operation as u16,
            flags,
            buf_alloc: BUF_ALLOC,
            fwd_cnt: self.forwarded,
        }
    }
}

// === impl Connection: restoring ===

impl Connection {
    /// Whether this can be a later state of `new`, with so many bytes not passed on to the host.
    pub fn continues(&self, new: &Self, buffered: u32) -> bool {
        let same = self.guest_cid == new.guest_cid && self.port == new.port;
        let unpassed = self.received.wrapping_sub(self.forwarded);
        same && unpassed == buffered && buffered <= BUF_ALLOC
    }

    /// As if all counters had begun here, to see them wrap.
    #[cfg(test)]
    pub(super) fn count_from(&mut self, start: u32) {
        (self.sent, self.guest_fwd_cnt) = (start, start);
        (self.received, self.forwarded, self.announced) = (start, start, start);
    }
}
