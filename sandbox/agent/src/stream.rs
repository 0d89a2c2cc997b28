//! The stream to the invoker, read so that an event costs a guest no packet of its own.
//!
//! ```text
//!  ready ─► look at what is there ─► frames whole? ── no ──► take it out at once, and look again
//!                                        └ yes ─► … the function works … ─► send ─► take it out
//! ```
//! Whenever a reader leaves nothing in a vsock's buffer, Linux tells the host of the room that it has made: a packet, whose doorbell
//! is an exit of the virtual CPU. So a guest only looks at an event, and takes it out right behind the first bytes that it sends
//! afterwards, while the host is still busy with these and needs no second doorbell.
//!
//! What is only looked at would be ready for ever: the stream is watched edge-triggered, and looked at until there is no more.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use protocol::Decoder;
use rustix::{
    buffer::spare_capacity,
    io::{Errno, read},
    net::{RecvFlags, SendFlags, recv, send},
};

/// Bytes read at a time.
const READ: usize = 64 * 1024;
/// Most of a large event.
const LARGE_READ: usize = 1024 * 1024;
/// A buffer larger than this is given back when it is empty.
const KEEP: usize = 2 * READ;

pub(crate) struct Stream {
    fd: OwnedFd,
    /// What has been read and is no whole frame yet, once the frames are taken.
    pub(crate) decoder: Decoder,
    /// Looks before it reads.
    looks: bool,
    /// Bytes that were looked at, and are still in the socket.
    seen: usize,
}

/// What reading found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Read {
    /// Whole frames, perhaps, and that there may be more.
    More,
    /// The same, and that there is no more now.
    Last,
    /// No more now.
    Nothing,
    End,
}

impl Stream {
    /// Goes on with a stream that does not block, and what has been read of it. `looks` is for a guest's.
    pub(crate) fn new(fd: OwnedFd, decoder: Decoder, looks: bool) -> Self {
        Self { fd, decoder, looks, seen: 0 }
    }

    /// Reads once, into the decoder. Whoever has taken the frames tells [`Stream::settle`].
    pub(crate) fn read(&mut self) -> Result<Read, Errno> {
        self.take_out()?;
        let buffer = self.decoder.buffer();
        // A large event comes in few reads; a small one needs no large buffer.
        let room = READ.max(buffer.len().min(LARGE_READ));
        buffer.reserve(room);
        // Reserving may give more room than was asked for.
        let room = buffer.capacity() - buffer.len();
        let flags = if self.looks { RecvFlags::PEEK } else { RecvFlags::empty() };
        match recv(&self.fd, spare_capacity(buffer), flags) {
            Ok((0, _)) => Ok(Read::End),
            Ok((bytes, _)) => {
                self.seen = if self.looks { bytes } else { 0 };
                Ok(if bytes < room { Read::Last } else { Read::More })
            }
            Err(Errno::INTR) => Ok(Read::More),
            Err(Errno::AGAIN) => Ok(Read::Nothing),
            Err(Errno::CONNRESET) => Ok(Read::End),
            Err(errno) => Err(errno),
        }
    }

    /// All whole frames have been taken. What begins another one is taken out now: the host may need the room to send the rest.
    pub(crate) fn settle(&mut self) -> Result<(), Errno> {
        let buffer = self.decoder.buffer();
        if !buffer.is_empty() {
            return self.take_out();
        }
        if buffer.capacity() > KEEP {
            *buffer = Vec::new();
        }
        Ok(())
    }

    /// Takes out of the socket what has only been looked at.
    pub(crate) fn take_out(&mut self) -> Result<(), Errno> {
        if self.seen == 0 {
            return Ok(());
        }
        let mut scratch = [0; 4096];
        while self.seen > 0 {
            let bytes = self.seen.min(scratch.len());
            match read(&self.fd, scratch.get_mut(..bytes).unwrap_or_default()) {
                // It was there; a reset is noticed by the next read.
                Ok(0) | Err(Errno::AGAIN | Errno::CONNRESET) => self.seen = 0,
                Ok(taken) => self.seen -= taken.min(self.seen),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Sends what fits. How much, or `AGAIN`.
    pub(crate) fn send(&self, bytes: &[u8]) -> Result<usize, Errno> {
        send(&self.fd, bytes, SendFlags::NOSIGNAL)
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use protocol::{Invoke, InvokerFrame};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    fn pair(looks: bool) -> (Stream, OwnedFd) {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap();
        (Stream::new(ours, Decoder::new(), looks), theirs)
    }

    fn event(payload: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let invoke = Invoke {
            request_id: String::new(),
            deadline_ms: 0,
            invoked_function_arn: String::new(),
            xray_trace_id: String::new(),
            traceparent: None,
            client_context: None,
            cognito_identity: None,
            tenant_id: None,
            payload: vec![b'x'; payload],
        };
        InvokerFrame::Invoke(invoke).encode(&mut bytes);
        bytes
    }

    /// Bytes that are still in the socket.
    fn left(stream: &Stream) -> u64 {
        rustix::io::ioctl_fionread(stream).unwrap()
    }

    fn frames(stream: &mut Stream) -> usize {
        let mut count = 0;
        while InvokerFrame::decode(&mut stream.decoder).unwrap().is_some() {
            count += 1;
        }
        stream.settle().unwrap();
        count
    }

    #[test]
    fn a_whole_frame_stays_in_the_socket_until_it_is_taken_out() {
        let (mut stream, host) = pair(true);
        let event = event(1000);
        send(&host, &event, SendFlags::empty()).unwrap();
        assert_eq!(stream.read().unwrap(), Read::Last);
        assert_eq!((frames(&mut stream), left(&stream)), (1, event.len() as u64));
        stream.take_out().unwrap();
        assert_eq!(left(&stream), 0);
        assert_eq!(stream.read().unwrap(), Read::Nothing);
    }

    #[test]
    fn what_was_looked_at_is_not_read_twice() {
        let (mut stream, host) = pair(true);
        for _ in 0..3 {
            send(&host, &event(10), SendFlags::empty()).unwrap();
            assert_eq!(stream.read().unwrap(), Read::Last);
            assert_eq!(frames(&mut stream), 1);
        }
        drop(host);
        assert_eq!(stream.read().unwrap(), Read::End);
    }

    #[test]
    fn a_part_of_a_frame_makes_room_for_the_rest() {
        let (mut stream, host) = pair(true);
        let event = event(1000);
        let (first, rest) = event.split_at(500);
        send(&host, first, SendFlags::empty()).unwrap();
        assert_eq!(stream.read().unwrap(), Read::Last);
        assert_eq!((frames(&mut stream), left(&stream)), (0, 0));
        send(&host, rest, SendFlags::empty()).unwrap();
        assert_eq!(stream.read().unwrap(), Read::Last);
        assert_eq!(frames(&mut stream), 1);
    }

    #[test]
    fn one_that_does_not_look_leaves_nothing() {
        let (mut stream, host) = pair(false);
        send(&host, &event(1000), SendFlags::empty()).unwrap();
        assert_eq!(stream.read().unwrap(), Read::Last);
        assert_eq!((frames(&mut stream), left(&stream)), (1, 0));
    }
}
