//! A socket between the guest and the host (virtio 1.2, 5.10), in user space: the guest's one connection to the host's port is bridged
//! onto one Unix stream. Everything else that the guest sends is answered with a reset.
//!
//! ```text
//!   guest                                                                              host
//!          tx queue ──► packet ──► Connection ──► sendmsg from guest memory ─────────►
//!                                      │             └ what does not fit ─► outbox ──►  stream
//!          rx queue ◄── packet ◄───────┴───────── readv into guest memory ◄───────────
//! ```
//!
//! **Back-pressure** goes through to both ends and needs no memory but the outbox:
//!
//! - The stream is read only into a buffer that the guest has offered, and only as much as it has given credit for. What it has not, stays in the
//!   host's socket, and its writer waits.
//! - A guest may have [`BUF_ALLOC`](connection::BUF_ALLOC) bytes under way that the host has not taken; they are in the outbox, at
//!   worst. More breaks the protocol and the connection.
//!
//! **Packets** to the guest are as large as the buffers that it offers: the stream is read straight into them.
//!
//! **Doorbells and interrupts.** For a short question and its answer the guest has two exits for the interrupt that tells of the question (its
//! handler reads the cause and acknowledges it) and one for the doorbell of the answer. That the answer's buffer is free again is told with the next
//! interrupt. Doorbells of the rx queue are only asked for while a packet waits for a buffer.
//!
//! **Ends.** Each side's "I send no more" and "I take no more" are told to the other separately, after everything that was sent before them. A
//! stream that has hung up is read to its end before the monitor hears of it ([`hangup`]).
//!
//! The third queue is for events of the transport (migration), which there are none of.

pub mod connection;
#[cfg(test)]
mod connection_tests;
#[cfg(test)]
mod ends_tests;
#[cfg(test)]
mod guest;
mod hangup;
pub mod packet;
mod state;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    io,
    net::Shutdown,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
};

use rustix::net::{SendFlags, send};
use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;
use vmm_sys_util::{epoll::EventSet, eventfd::EventFd};

pub use self::state::VsockState;
use self::{
    connection::{Connection, Phase, Received},
    hangup::Hangup,
    packet::{HEADER, HEADER_LENGTH, Header},
};
use super::{
    Memory, Urgency,
    chain::Chain,
    device::{Device, DeviceError, Rings, Work},
    iovec::IoVectors,
    queue::VirtQueue,
    state::{DeviceState, RestoreError},
    throttle::Throttle,
};
use crate::rate_limiter::Limits;

/// Largest sizes of the queues: from the host, from the guest, events.
const QUEUE_SIZES: &[u16] = &[128, 128, 8];

/// Packets handled in each direction before others have their turn, and before the guest hears of what it got.
const ROUND: usize = 64;

/// An outbox that is empty and larger than this is given back.
const KEEP: usize = 16 * 1024;

/// Bytes copied at a time from the guest to the outbox.
const STEP: u32 = 4096;

/// The sources of events: the stream, the timer of its hang-up, and those of limits, if there are any.
const STREAM: usize = 0;
const HANGUP: usize = 1;

/// The socket device.
#[derive(Debug)]
pub struct Vsock {
    config: [u8; 8],
    connection: Connection,
    stream: UnixStream,
    /// Whether reading, and writing, is worth a try.
    readable: bool,
    writable: bool,
    /// Whether the stream was shut for reading, and for writing, on behalf of the guest.
    read_shut: bool,
    write_shut: bool,
    /// Bytes that the stream has not taken yet.
    outbox: VecDeque<u8>,
    to_guest: Throttle,
    from_guest: Throttle,
    hangup: Hangup,
    /// For the packet at hand.
    chain: Chain,
}

/// Why no more packets are taken from the guest for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    Empty,
    Throttled,
    Congested,
    Round,
}

impl Vsock {
    /// Bridges the connection that the guest, at `guest_cid`, will make to `port` of the host onto the stream. `limits` hold for each direction.
    pub fn new(guest_cid: u64, port: u32, stream: UnixStream, limits: Limits) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            config: guest_cid.to_le_bytes(),
            connection: Connection::new(guest_cid, port),
            stream,
            readable: true,
            writable: true,
            read_shut: false,
            write_shut: false,
            outbox: VecDeque::new(),
            to_guest: Throttle::new(limits)?,
            from_guest: Throttle::new(limits)?,
            hangup: Hangup::new()?,
            chain: Chain::default(),
        })
    }

    /// Is written to when the host's end of the stream has gone, and what came from it is with the guest: nobody is there for it any more. Not
    /// when the guest has ended it.
    pub fn hangup(&self) -> io::Result<EventFd> {
        self.hangup.event()
    }
}

// === impl Vsock: from the guest ===

impl Vsock {
    fn take_from_guest(&mut self, memory: &Memory, queue: &mut VirtQueue) -> Result<Stop, DeviceError> {
        queue.disable_notifications(memory)?;
        for _ in 0..ROUND {
            if self.connection.is_congested() {
                return Ok(Stop::Congested);
            }
            if !self.from_guest.ready()? {
                return Ok(Stop::Throttled);
            }
            if queue.pop(memory, &mut self.chain)? {
                self.take(memory)?;
                queue.complete(memory, &self.chain, 0, Urgency::Later(self.chain.readable.length()))?;
            } else if !queue.enable_notifications(memory)? {
                return Ok(Stop::Empty);
            }
        }
        Ok(Stop::Round)
    }

    /// Takes the packet in `self.chain`.
    fn take(&mut self, memory: &Memory) -> Result<(), DeviceError> {
        let mut header = [0; HEADER];
        self.chain.readable.read(memory, 0, &mut header)?;
        // There is at least a header.
        let payload = self.chain.readable.length().saturating_sub(HEADER_LENGTH);
        self.from_guest.charge(payload);
        if let Received::Data(length) = self.connection.receive(&Header::decode(header), payload) {
            let sent = if self.outbox.is_empty() { self.send(memory, length)? } else { 0 };
            self.keep(memory, sent, length)?;
        }
        Ok(())
    }

    /// Sends from the packet's payload to the stream what it takes at once. Bytes sent.
    fn send(&mut self, memory: &Memory, length: u32) -> Result<u32, DeviceError> {
        let mut sent = 0;
        while sent < length && self.writable && self.connection.host().receives {
            let ranges = self.chain.readable.ranges(HEADER_LENGTH + sent, length - sent);
            match IoVectors::new(memory, ranges)?.send(self.stream.as_fd()) {
                // The connection has compared lengths; were it wrong, this would never end.
                Ok(0) => return Err(DeviceError::Malformed("a packet that is shorter than its length")),
                Ok(bytes) => sent += u32::try_from(bytes).unwrap_or(length).min(length - sent),
                Err(error) => self.sending_failed(&error),
            }
        }
        self.connection.forwarded(sent);
        Ok(sent)
    }

    /// Keeps the rest of the packet's payload until the stream takes it.
    fn keep(&mut self, memory: &Memory, from: u32, length: u32) -> Result<(), DeviceError> {
        if !self.connection.host().receives {
            self.connection.forwarded(length - from);
            return Ok(());
        }
        let mut bytes = [0; STEP as usize];
        let mut kept = from;
        while kept < length {
            let step = (length - kept).min(STEP);
            let Some(bytes) = bytes.get_mut(..step as usize) else { break };
            self.chain.readable.read(memory, HEADER_LENGTH + kept, bytes)?;
            self.outbox.extend(&*bytes);
            kept += step;
        }
        Ok(())
    }

    fn flush_outbox(&mut self) {
        while !self.outbox.is_empty() && self.writable {
            let (front, _) = self.outbox.as_slices();
            match send(&self.stream, front, SendFlags::NOSIGNAL) {
                Ok(bytes) => {
                    let bytes = bytes.min(self.outbox.len());
                    self.outbox.drain(..bytes);
                    self.connection.forwarded(u32::try_from(bytes).unwrap_or(u32::MAX));
                }
                Err(error) => self.sending_failed(&error.into()),
            }
        }
        if self.outbox.is_empty() && self.outbox.capacity() > KEEP {
            self.outbox = VecDeque::new();
        }
    }

    fn sending_failed(&mut self, error: &io::Error) {
        match error.kind() {
            io::ErrorKind::WouldBlock => self.writable = false,
            io::ErrorKind::Interrupted => {}
            // Whatever it is, it will not get better.
            _ => {
                self.connection.host_stopped_receiving();
                self.drop_outbox();
            }
        }
    }

    fn drop_outbox(&mut self) {
        // At most BUF_ALLOC.
        self.connection.forwarded(u32::try_from(self.outbox.len()).unwrap_or(u32::MAX));
        self.outbox = VecDeque::new();
    }

    /// Tells the host what the guest no longer does, when all that came before has been passed on.
    fn pass_on_ends(&mut self) {
        if self.outbox.is_empty() {
            self.connection.drained();
            if !self.connection.guest().sends && !self.write_shut {
                self.write_shut = true;
                // It fails if the host has gone, and knows.
                let _ = self.stream.shutdown(Shutdown::Write);
            }
        }
        if !self.connection.guest().receives && !self.read_shut {
            self.read_shut = true;
            let _ = self.stream.shutdown(Shutdown::Read);
        }
    }
}

// === impl Vsock: to the guest ===

impl Vsock {
    fn give_to_guest(&mut self, memory: &Memory, queue: &mut VirtQueue) -> Result<Work, DeviceError> {
        for _ in 0..ROUND {
            let packet = self.connection.has_packet();
            if !packet && !self.may_read()? {
                queue.disable_notifications(memory)?;
                return Ok(Work::Done);
            }
            if !queue.pop(memory, &mut self.chain)? {
                if queue.enable_notifications(memory)? {
                    continue;
                }
                return Ok(Work::Done);
            }
            let (header, payload) =
                if packet { (self.connection.next_packet(), 0) } else { self.read(memory)? };
            if let Some(header) = header {
                self.chain.writable.write(memory, 0, &header.encode())?;
                queue.complete(memory, &self.chain, HEADER_LENGTH + payload, Urgency::Now)?;
            } else {
                queue.undo_pop();
            }
        }
        Ok(Work::More)
    }

    /// Whether there may be data for the guest that it can take.
    fn may_read(&mut self) -> io::Result<bool> {
        Ok(self.readable && self.connection.credit() > 0 && self.to_guest.ready()?)
    }

    /// Reads from the stream into the buffer in `self.chain`. The header that belongs in front, or none if there is no data.
    fn read(&mut self, memory: &Memory) -> Result<(Option<Header>, u32), DeviceError> {
        let room = self.chain.writable.length().saturating_sub(HEADER_LENGTH);
        if room == 0 {
            return Err(DeviceError::Malformed("a buffer without room for data"));
        }
        let ranges = self.chain.writable.ranges(HEADER_LENGTH, room.min(self.connection.credit()));
        match IoVectors::new(memory, ranges)?.receive(self.stream.as_fd()).map(u32::try_from) {
            Ok(Ok(bytes)) if bytes > 0 => {
                self.to_guest.charge(bytes);
                return Ok((Some(self.connection.data(bytes)), bytes));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The end, or an error, which will not get better.
            _ => self.connection.host_stopped_sending(),
        }
        self.readable = false;
        Ok((None, 0))
    }
}

// === impl Vsock: the stream ===

impl Vsock {
    fn stream_ready(&mut self, events: EventSet) {
        let ended = events.intersects(EventSet::HANG_UP | EventSet::ERROR);
        self.readable |= ended || events.intersects(EventSet::IN | EventSet::READ_HANG_UP);
        self.writable |= ended || events.contains(EventSet::OUT);
        if ended && self.hangup.hung_up() && !self.write_shut {
            // It was not the guest that ended this direction.
            self.connection.host_stopped_receiving();
            self.drop_outbox();
        }
        // Here too: a device that is not running is not asked to process anything.
        self.settle_hangup();
    }

    fn settle_hangup(&mut self) {
        if self.read_shut && self.write_shut {
            return;
        }
        let guest_reads = self.connection.phase() == Phase::Connected && self.connection.guest().receives;
        // A guest that is done sending takes the end, too, and then ends the connection. Of the others nobody would hear the answer.
        let end_is_taken = !self.connection.host().sends && !self.write_shut;
        self.hangup.settle(guest_reads && !end_is_taken);
    }
}

impl Device for Vsock {
    fn id(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    fn queue_sizes(&self) -> &'static [u16] {
        QUEUE_SIZES
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn sources(&self) -> Vec<BorrowedFd<'_>> {
        let limits = [self.to_guest.source(), self.from_guest.source()];
        [self.stream.as_fd(), self.hangup.timer()].into_iter().chain(limits.into_iter().flatten()).collect()
    }

    fn interest(&self, source: usize) -> EventSet {
        match source {
            STREAM if self.outbox.is_empty() => EventSet::IN | EventSet::READ_HANG_UP,
            STREAM => EventSet::IN | EventSet::READ_HANG_UP | EventSet::OUT,
            _ => EventSet::IN,
        }
    }

    fn ready(&mut self, source: usize, events: EventSet) {
        match source {
            STREAM => self.stream_ready(events),
            HANGUP => self.hangup.expired(),
            _ => {}
        }
    }

    fn process(&mut self, rings: &mut Rings<'_>) -> Result<Work, DeviceError> {
        let memory = rings.memory;
        let [to_guest, from_guest, _] = rings.queues else {
            return Err(DeviceError::Malformed("not three queues"));
        };
        self.flush_outbox();
        let stop = self.take_from_guest(memory, from_guest)?;
        self.pass_on_ends();
        let work = self.give_to_guest(memory, to_guest)?;
        self.settle_hangup();
        Ok(match stop {
            Stop::Round => Work::More,
            Stop::Congested if !self.connection.is_congested() => Work::More,
            // When the stream takes more, when the timer goes off, or when the guest offers buffers.
            Stop::Congested | Stop::Throttled | Stop::Empty => work,
        })
    }

    fn reset(&mut self) {
        self.connection.guest_reset();
        self.drop_outbox();
        self.pass_on_ends();
    }

    fn save(&self) -> DeviceState {
        let outbox = self.outbox.iter().copied().collect();
        DeviceState::Vsock(Box::new(VsockState { connection: self.connection.clone(), outbox }))
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        let DeviceState::Vsock(state) = state else {
            return Err(RestoreError::Device("not a socket device"));
        };
        let buffered = u32::try_from(state.outbox.len()).unwrap_or(u32::MAX);
        if !state.connection.continues(&self.connection, buffered) {
            return Err(RestoreError::Impossible("a connection of another device, or with bytes lost"));
        }
        self.connection = state.connection.clone();
        self.outbox = state.outbox.iter().copied().collect();
        Ok(())
    }
}
