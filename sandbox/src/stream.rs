//! A stream to an agent that wakes its task only for what it waits for.
//!
//! tokio's own `UnixStream` watches both directions at once. A Unix socket says "writable" each time its peer takes something
//! from it, so that a task waiting for an answer is woken when the agent has read the question: a wake-up for nothing in
//! most warm invocations. Here only reading is watched; writing is, while the socket is full.

use std::{
    io::{self, Write},
    os::unix::net::UnixStream,
};

use rustix::{
    buffer::spare_capacity,
    io::{Errno, read},
};
use tokio::io::{Interest, unix::AsyncFd};

/// See the module.
#[derive(Debug)]
pub(crate) struct AgentStream {
    readable: AsyncFd<UnixStream>,
}

impl AgentStream {
    /// Call within a tokio runtime.
    pub(crate) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { readable: watch(stream, Interest::READABLE)? })
    }

    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        let mut full: Option<AsyncFd<UnixStream>> = None;
        while !bytes.is_empty() {
            match self.readable.get_ref().write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let writable = match full.take() {
                        Some(watched) => watched,
                        None => watch(self.readable.get_ref().try_clone()?, Interest::WRITABLE)?,
                    };
                    writable.writable().await?.clear_ready();
                    full = Some(writable);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Appends what is there to `buffer`, which must have room, once there is something; 0 at the end of the stream. Cancel
    /// safe.
    pub(crate) async fn read_into(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        loop {
            let mut ready = self.readable.readable().await?;
            let room = buffer.capacity() - buffer.len();
            match read(self.readable.get_ref(), spare_capacity(buffer)) {
                Ok(count) => {
                    // Less than there was room for was all there was: the next call need not look before it waits. The end
                    // of the stream stays ready.
                    if count < room {
                        ready.clear_ready();
                    }
                    return Ok(count);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

#[expect(
    deprecated,
    reason = "its unsafe successor is for types that could name another descriptor each time; a UnixStream names its own"
)]
fn watch(stream: UnixStream, interest: Interest) -> io::Result<AsyncFd<UnixStream>> {
    AsyncFd::with_interest(stream, interest)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    const LARGE: usize = 3 << 20;

    #[tokio::test]
    async fn more_than_the_socket_holds_goes_through_whole_and_in_order() {
        let (ours, its) = UnixStream::pair().unwrap();
        let (ours, its) = (AgentStream::new(ours).unwrap(), AgentStream::new(its).unwrap());
        let sent: Vec<u8> = (0..LARGE).map(|at| (at % 251) as u8).collect();
        let receive = async {
            let mut got = Vec::new();
            while got.len() < LARGE {
                got.reserve(64 * 1024);
                assert!(its.read_into(&mut got).await.unwrap() > 0);
            }
            got
        };
        let (written, got) = tokio::join!(ours.write_all(&sent), receive);
        written.unwrap();
        assert!(got == sent);
        drop(ours);
        let mut rest = Vec::with_capacity(1);
        assert_eq!(its.read_into(&mut rest).await.unwrap(), 0);
        assert_eq!(its.read_into(&mut rest).await.unwrap(), 0, "the end is still the end");
    }

    #[tokio::test]
    async fn a_peer_that_reads_wakes_nobody_who_waits_to_read() {
        let (ours, its) = UnixStream::pair().unwrap();
        let ours = AgentStream::new(ours).unwrap();
        ours.write_all(b"question").await.unwrap();
        let mut answer = Vec::with_capacity(16);
        let mut reading = tokio_test::task::spawn(ours.read_into(&mut answer));
        assert!(reading.poll().is_pending());
        let mut question = [0; 8];
        (&its).read_exact(&mut question).unwrap();
        // What tokio heard of this later event it heard of all before it.
        let (mut other, its_other) = UnixStream::pair().unwrap();
        let its_other = AgentStream::new(its_other).unwrap();
        other.write_all(b".").unwrap();
        its_other.read_into(&mut Vec::with_capacity(1)).await.unwrap();
        assert!(!reading.is_woken(), "woken by the peer's reading");
        (&its).write_all(b"answer").unwrap();
        while !reading.is_woken() {
            tokio::task::yield_now().await;
        }
        assert!(matches!(reading.poll(), std::task::Poll::Ready(Ok(6))));
    }
}
