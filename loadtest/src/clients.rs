//! Many callers at once: keep-alive connections over which the same request goes again and again.
//!
//! ```text
//!   one thread ─┬─ connection ── request ─► answer ─► request ─► …
//!               └─ connection ── …
//! ```
//! The request is made once, signature included, so that what is compared is the server's work and not the client's; one thread drives
//! all connections, because a thread for each would take more from the server than the requests do.

use std::{cell::RefCell, io, net::SocketAddr, time::Duration};

use futures::future::try_join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, MissedTickBehavior, interval_at},
};

use crate::latency::Latencies;

const MAX_HEADERS: usize = 64;

/// Connections to one server, and what they send.
#[derive(Debug, Clone, Copy)]
pub struct Callers<'a> {
    pub address: SocketAddr,
    /// A whole request, head and body.
    pub request: &'a [u8],
    /// What every answer must have.
    pub status: u16,
    pub connections: usize,
}

/// What was answered.
#[derive(Debug, Clone)]
pub struct Answered {
    pub count: u64,
    /// From the first request to the last answer; connecting does not count.
    pub elapsed: Duration,
    pub latencies: Latencies,
}

impl Callers<'_> {
    /// Each connection sends its next request when it has its answer, as long as `more` says so: a closed loop.
    pub fn call(self, more: impl Fn() -> bool) -> io::Result<Answered> {
        self.run(None, more)
    }

    /// Each connection sends a request every `interval`, late ones at once; they begin spread over it.
    pub fn call_every(self, interval: Duration, more: impl Fn() -> bool) -> io::Result<Answered> {
        self.run(Some(interval), more)
    }

    fn run(self, pace: Option<Duration>, more: impl Fn() -> bool) -> io::Result<Answered> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let streams = try_join_all((0..self.connections).map(|_| self.connect())).await?;
            let latencies = RefCell::new(Latencies::new());
            let begin = Instant::now();
            let calls = (0..).zip(streams).map(async |(number, stream)| {
                let mut connection = Connection { stream, input: Vec::with_capacity(4096) };
                let mut pace = pace.map(|pace| {
                    let mut ticks = interval_at(begin + pace * number / self.connections as u32, pace);
                    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
                    ticks
                });
                loop {
                    if let Some(ticks) = &mut pace {
                        ticks.tick().await;
                    }
                    if !more() {
                        return Ok::<_, io::Error>(());
                    }
                    let sent = Instant::now();
                    connection.exchange(self.request, self.status).await?;
                    latencies.borrow_mut().record(sent.elapsed());
                }
            });
            try_join_all(calls).await?;
            let (elapsed, latencies) = (begin.elapsed(), latencies.into_inner());
            Ok(Answered { count: latencies.count(), elapsed, latencies })
        })
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Connection {
    async fn exchange(&mut self, request: &[u8], status: u16) -> io::Result<()> {
        self.stream.write_all(request).await?;
        loop {
            if let Some(answer) = whole_answer(&self.input)? {
                if answer.status != status {
                    let text = String::from_utf8_lossy(&self.input).into_owned();
                    return Err(io::Error::other(format!(
                        "answered {} instead of {status}: {text}",
                        answer.status
                    )));
                }
                self.input.drain(..answer.length);
                return Ok(());
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Whole {
    status: u16,
    /// Head and body.
    length: usize,
}

/// The answer that `input` begins with, once all of it is there. Only bodies with a length are understood; a function's error is told
/// as status 500, which no caller asks for.
fn whole_answer(input: &[u8]) -> io::Result<Option<Whole>> {
    let invalid = |reason: &str| io::Error::new(io::ErrorKind::InvalidData, reason.to_owned());
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(input).map_err(|error| invalid(&error.to_string()))?;
    let httparse::Status::Complete(head) = parsed else { return Ok(None) };
    let header = |name: &str| response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
    let length = header("content-length").ok_or_else(|| invalid("the answer has no length"))?;
    let length: Option<usize> = std::str::from_utf8(length.value).ok().and_then(|text| text.parse().ok());
    let length = head + length.ok_or_else(|| invalid("the answer's length is no number"))?;
    let failed = header("x-amz-function-error").is_some();
    let status = if failed { 500 } else { response.code.unwrap_or_default() };
    Ok((input.len() >= length).then_some(Whole { status, length }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        cell::Cell,
        io::{Read, Write},
        net::TcpListener,
        sync::atomic::{AtomicUsize, Ordering},
        thread,
    };

    /// Answers every request of eight bytes on any connection, in two pieces; counts connections.
    fn server(answer: &'static [u8], connections: &'static AtomicUsize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                connections.fetch_add(1, Ordering::Relaxed);
                thread::spawn(move || {
                    while stream.read_exact(&mut [0; 8]).is_ok() {
                        let (first, second) = answer.split_at(answer.len() / 2);
                        stream.write_all(first).unwrap();
                        stream.write_all(second).unwrap();
                    }
                });
            }
        });
        address
    }

    fn some(count: u64) -> impl Fn() -> bool {
        let left = Cell::new(count);
        move || {
            let more = left.get() > 0;
            left.set(left.get().saturating_sub(1));
            more
        }
    }

    #[test]
    fn as_many_requests_are_answered_as_are_wanted_over_as_many_connections() {
        static CONNECTIONS: AtomicUsize = AtomicUsize::new(0);
        let address = server(b"HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\nok", &CONNECTIONS);
        let callers = Callers { address, request: b"requests", status: 202, connections: 3 };
        let answered = callers.call(some(100)).unwrap();
        assert_eq!((answered.count, CONNECTIONS.load(Ordering::Relaxed)), (100, 3));
        let answered = callers.call_every(Duration::from_millis(6), some(10)).unwrap();
        assert_eq!(answered.count, 10);
        // Ten over three connections, two milliseconds apart.
        assert!(answered.elapsed >= Duration::from_millis(18), "{:?}", answered.elapsed);
    }

    #[test]
    fn any_other_answer_is_an_error() {
        static CONNECTIONS: AtomicUsize = AtomicUsize::new(0);
        for answer in [
            &b"HTTP/1.1 429 Slow down\r\ncontent-length: 0\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\nX-Amz-Function-Error: Unhandled\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            b"SMTP\r\n\r\n",
        ] {
            let address = server(answer, &CONNECTIONS);
            let callers = Callers { address, request: b"requests", status: 200, connections: 1 };
            assert!(callers.call(some(1)).is_err(), "{}", String::from_utf8_lossy(answer));
        }
    }
}
