//! The loop that moves bytes: between the invoker's stream, the runtime's connections, its pipes and the state machine.
//!
//! Order within one round of the loop matters:
//!
//! ```text
//!  pipes ─► connections ─► stream ─► listener ─► exit of the runtime ─► write to the invoker ─► write to connections
//! ```
//!
//! What a function printed before it answered lies in its pipe before the answer lies in its socket; reading pipes first puts
//! it before the answer in the stream, and a log tail is complete. An answer is with the invoker before the runtime reads 202.
//!
//! Everything for the invoker is written before anything more of the function's is read. So an invoker that does not read holds
//! up the function, and what the agent holds is bounded by one round: the largest answer, and a pipe's worth of log for each stream.

use std::{
    collections::BTreeSet,
    os::fd::{AsFd, OwnedFd},
};

use protocol::{InvokerFrame, LogStream, MAX_FRAME};
use rustix::{
    buffer::spare_capacity,
    event::{PollFd, PollFlags, Timespec, epoll, poll},
    io::{Errno, ioctl_fionbio, read, writev},
    net::{Shutdown, SocketFlags, accept_with, shutdown, sockopt::set_tcp_nodelay},
    process::{Pid, WaitOptions, wait},
    thread::sched_yield,
};

use crate::{
    boot::{AgentError, Booted, Context},
    runtime_api::{CONNECTIONS, Measure, RuntimeApi},
    stream::{Read, Stream},
};

/// Bytes read at a time.
const READ: usize = 64 * 1024;

/// Most bytes read of one descriptor in a round: a pipe can hold no more (`fs.pipe-max-size`), so what was printed before an
/// answer is read before it.
const ROUND: usize = 1024 * 1024;

/// While the function is at work, how often orphans that have ended are looked for.
const REAP_INTERVAL: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// And otherwise, after how many events.
const REAP_AFTER: u32 = 16;

/// Buffers larger than this are given back when they are empty.
const KEEP: usize = 64 * 1024;

const STREAM: u64 = 0;
const LISTENER: u64 = 1;
const STDOUT: u64 = 2;
const STDERR: u64 = 3;
const RUNTIME: u64 = 4;
/// Connections are counted from here.
const FIRST_CONNECTION: u64 = 16;

/// A descriptor for each connection, and the five above: one wait tells of all that is ready.
const EVENTS: usize = CONNECTIONS + 16;

pub(crate) struct Server {
    epoll: OwnedFd,
    stream: Stream,
    listener: OwnedFd,
    runtime: Pid,
    pidfd: Option<OwnedFd>,
    pipes: [Option<OwnedFd>; 2],
    sockets: Vec<Option<Socket>>,
    api: RuntimeApi,
    /// Connections that may have output.
    touched: BTreeSet<usize>,
    scratch: Vec<u8>,
    events_until_reaping: u32,
    /// The runtime has ended in this way, and the invoker does not know yet.
    exit_untold: Option<i32>,
}

/// A connection's descriptor.
struct Socket {
    fd: OwnedFd,
    /// It does not take more now: wait until it does, and read nothing of it until then.
    blocked: bool,
    /// The last answer has been sent, and so has the end.
    ended: bool,
}

/// Whether the loop goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    GoOn,
    Exit,
}

impl Server {
    pub(crate) fn new(booted: Booted) -> Result<Self, AgentError> {
        let Booted { stream, decoder, listener, runtime, response_limit, meter } = booted;
        ioctl_fionbio(&stream, true).step("make the stream non-blocking")?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).step("create an epoll")?;
        // Only looking takes nothing away: of what is there it is told once.
        let edges = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &stream, epoll::EventData::new_u64(STREAM), edges).step("watch the stream")?;
        let watched = [
            (listener.as_fd(), LISTENER),
            (runtime.stdout.as_fd(), STDOUT),
            (runtime.stderr.as_fd(), STDERR),
            (runtime.pidfd.as_fd(), RUNTIME),
        ];
        for (descriptor, token) in watched {
            epoll::add(&epoll, descriptor, epoll::EventData::new_u64(token), epoll::EventFlags::IN)
                .step("watch a descriptor")?;
        }
        Ok(Self {
            epoll,
            // A guest is what is metered.
            stream: Stream::new(stream, decoder, meter.is_some()),
            listener,
            runtime: runtime.pid,
            pidfd: Some(runtime.pidfd),
            pipes: [Some(runtime.stdout), Some(runtime.stderr)],
            sockets: (0..CONNECTIONS).map(|_| None).collect(),
            api: RuntimeApi::new(response_limit, meter.map(|meter| Box::new(meter) as Box<dyn Measure>)),
            touched: BTreeSet::new(),
            scratch: vec![0; READ],
            events_until_reaping: REAP_AFTER,
            exit_untold: None,
        })
    }

    /// Serves until the invoker says `Shutdown` or goes away.
    pub(crate) fn run(mut self) -> Result<(), AgentError> {
        let mut events = Vec::with_capacity(EVENTS);
        // Frames may have come right behind Start.
        let mut next = self.frames()?;
        while next == Next::GoOn {
            let timeout = self.api.is_active().then_some(&REAP_INTERVAL);
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout) {
                Ok(0) => {
                    self.tell_exit(true);
                    self.reap();
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).step("wait for events"),
            }
            next = self.round(&events)?;
        }
        Ok(())
    }

    fn round(&mut self, events: &[epoll::Event]) -> Result<Next, AgentError> {
        let mut ready = BTreeSet::new();
        ready.extend(events.iter().map(|event| event.data.u64()));
        self.drain_pipes(ready.contains(&STDOUT), ready.contains(&STDERR));
        for token in ready.range(FIRST_CONNECTION..) {
            if let Ok(place) = usize::try_from(token - FIRST_CONNECTION) {
                self.connection_ready(place);
            }
        }
        if ready.contains(&STREAM) && self.read_stream()? == Next::Exit {
            return Ok(Next::Exit);
        }
        if ready.contains(&LISTENER) {
            self.accept();
        }
        if ready.contains(&RUNTIME) {
            self.reap();
        } else {
            self.tell_exit(false);
        }
        let tells = !self.api.frames().is_empty();
        if self.write_stream()? == Next::Exit {
            return Ok(Next::Exit);
        }
        // Where we share a CPU with those who wait for the answer, they go first: the runtime's next step can wait for them,
        // not they for it. In scheduler traces of one CPU the caller's wait for it fell from about 0.1 ms to 0.02 ms.
        if tells && !self.touched.is_empty() {
            sched_yield();
        }
        while let Some(place) = self.touched.pop_first() {
            self.write_connection(place);
        }
        // Output that has gone may have let pipelined requests in.
        self.write_stream()
    }

    // --- the invoker

    fn read_stream(&mut self) -> Result<Next, AgentError> {
        loop {
            let read = self.stream.read().step("read from the invoker")?;
            let next = match read {
                Read::End => Next::Exit,
                Read::Nothing => return Ok(Next::GoOn),
                Read::More | Read::Last => self.frames()?,
            };
            if next == Next::Exit || read == Read::Last {
                return Ok(next);
            }
        }
    }

    fn frames(&mut self) -> Result<Next, AgentError> {
        loop {
            let frame = InvokerFrame::decode(&mut self.stream.decoder);
            match frame.map_err(|error| AgentError::Protocol(error.to_string()))? {
                None => break,
                Some(InvokerFrame::Shutdown) => return Ok(Next::Exit),
                Some(InvokerFrame::Start(_)) => {
                    return Err(AgentError::Protocol("a second Start".to_owned()));
                }
                Some(InvokerFrame::Invoke(invoke)) => {
                    let place = self.api.invoke(invoke);
                    let place = place.map_err(|_| AgentError::Protocol("Invoke without Idle".to_owned()))?;
                    self.touched.extend(place);
                    self.events_until_reaping -= 1;
                    if self.events_until_reaping == 0 {
                        self.events_until_reaping = REAP_AFTER;
                        self.reap();
                    }
                }
            }
        }
        self.stream.settle().step("read from the invoker")?;
        Ok(Next::GoOn)
    }

    /// Writes everything, however long the invoker takes. `Shutdown` and the end of the stream are noticed meanwhile.
    fn write_stream(&mut self) -> Result<Next, AgentError> {
        // Waiting for the invoker may bring a frame whose handling adds more.
        while !self.api.frames().is_empty() {
            let mut frames = std::mem::take(self.api.frames());
            let mut rest = frames.as_slice();
            while !rest.is_empty() {
                match self.stream.send(rest) {
                    Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => {
                        if self.wait_for_invoker()? == Next::Exit {
                            return Ok(Next::Exit);
                        }
                    }
                    Err(Errno::PIPE | Errno::CONNRESET) => return Ok(Next::Exit),
                    Err(errno) => return Err(errno).step("write to the invoker"),
                }
            }
            self.stream.take_out().step("read from the invoker")?;
            if self.api.frames().is_empty() && frames.capacity() <= KEEP {
                frames.clear();
                *self.api.frames() = frames;
            }
        }
        Ok(Next::GoOn)
    }

    fn wait_for_invoker(&mut self) -> Result<Next, AgentError> {
        // What was only looked at would end the wait at once.
        self.stream.take_out().step("read from the invoker")?;
        let mut watched = [PollFd::new(&self.stream, PollFlags::IN | PollFlags::OUT)];
        match poll(&mut watched, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).step("wait for the invoker"),
        }
        let [watched] = watched;
        if watched.revents().contains(PollFlags::IN) { self.read_stream() } else { Ok(Next::GoOn) }
    }

    // --- what the function prints

    fn drain_pipes(&mut self, stdout: bool, stderr: bool) {
        let streams = [(stdout, LogStream::Stdout), (stderr, LogStream::Stderr)];
        for (pipe, (_, stream)) in self.pipes.iter_mut().zip(streams).filter(|(_, (ready, _))| *ready) {
            let mut total = 0;
            while let Some(fd) = pipe.as_ref().filter(|_| total < ROUND) {
                match read(fd, self.scratch.as_mut_slice()) {
                    // Nobody has it open for writing any more. Closing takes it out of the epoll.
                    Ok(0) => *pipe = None,
                    Ok(bytes) => {
                        self.api.log(stream, self.scratch.get(..bytes).unwrap_or_default());
                        total += bytes;
                        if bytes < READ {
                            break;
                        }
                    }
                    Err(Errno::INTR) => {}
                    Err(_) => break,
                }
            }
        }
    }

    // --- connections

    fn accept(&mut self) {
        while let Ok(fd) = accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            // Refused, a connection is closed at once.
            let Some(place) = self.api.open() else { continue };
            // A place that only waited to be closed is closed here.
            if let Some(socket) = self.sockets.get_mut(place) {
                *socket = None;
            }
            // Answers are written whole; waiting to send more at once would only delay them.
            let _ = set_tcp_nodelay(&fd, true);
            let watched = epoll::add(&self.epoll, &fd, token(place), epoll::EventFlags::IN);
            match (watched, self.sockets.get_mut(place)) {
                (Ok(()), Some(socket)) => {
                    *socket = Some(Socket { fd, blocked: false, ended: false });
                }
                _ => self.api.closed(place),
            }
        }
    }

    fn connection_ready(&mut self, place: usize) {
        let Some(Some(socket)) = self.sockets.get(place) else {
            return;
        };
        if socket.blocked {
            self.touched.insert(place);
            return;
        }
        self.read_connection(place, ROUND);
    }

    fn read_connection(&mut self, place: usize, limit: usize) {
        let mut total = 0;
        while total < limit {
            let Some(Some(socket)) = self.sockets.get(place) else {
                return;
            };
            match read(&socket.fd, self.scratch.as_mut_slice()) {
                Ok(0) => return self.close(place),
                Ok(bytes) => {
                    self.api.received(place, self.scratch.get(..bytes).unwrap_or_default());
                    self.touched.insert(place);
                    total += bytes;
                    // What it answers goes out before more is read of a connection that does not read.
                    if bytes < READ || self.api.output(place).is_some_and(|output| !output.is_empty()) {
                        return;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => return self.close(place),
            }
        }
    }

    fn write_connection(&mut self, place: usize) {
        let Some(Some(socket)) = self.sockets.get_mut(place) else {
            return;
        };
        let was_blocked = socket.blocked;
        let mut progress = false;
        while let Some(output) = self.api.output(place).filter(|output| !output.is_empty()) {
            match writev(&socket.fd, &output.slices()) {
                Ok(written) => {
                    output.advance(written);
                    progress = output.is_empty();
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    socket.blocked = true;
                    if !was_blocked {
                        let _ = epoll::modify(&self.epoll, &socket.fd, token(place), epoll::EventFlags::OUT);
                    }
                    return;
                }
                Err(_) => return self.close(place),
            }
        }
        socket.blocked = false;
        if was_blocked {
            let _ = epoll::modify(&self.epoll, &socket.fd, token(place), epoll::EventFlags::IN);
        }
        if self.api.is_over(place) && !socket.ended {
            // Not closed yet: unread requests would turn the close into a reset that destroys the answer on its way.
            socket.ended = true;
            let _ = shutdown(&socket.fd, Shutdown::Write);
        } else if progress {
            self.api.drained(place);
            if self.api.output(place).is_some_and(|output| !output.is_empty()) {
                self.touched.insert(place);
            }
        }
    }

    fn close(&mut self, place: usize) {
        if let Some(socket) = self.sockets.get_mut(place) {
            *socket = None;
        }
        self.api.closed(place);
    }

    // --- processes

    /// Collects children that have ended: orphans of the environment, and one day the runtime.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid != self.runtime || self.pidfd.is_none() {
                continue;
            }
            self.pidfd = None;
            // What it had printed and sent before it ended is still told.
            self.drain_pipes(true, true);
            for place in 0..CONNECTIONS {
                self.read_connection(place, MAX_FRAME);
            }
            let signal = status.terminating_signal().map(|signal| -signal);
            self.exit_untold = Some(status.exit_status().or(signal).unwrap_or_default());
        }
        self.tell_exit(false);
    }

    /// Reports the runtime's end. An answer that it had sent may still be on its way through the kernel: its connection ends
    /// behind it, unless a child of the runtime's holds it open; then quiet means that no more is coming.
    fn tell_exit(&mut self, quiet: bool) {
        if !quiet && self.api.is_answering() {
            return;
        }
        if let Some(status) = self.exit_untold.take() {
            self.api.runtime_exited(status);
        }
    }
}

fn token(place: usize) -> epoll::EventData {
    epoll::EventData::new_u64(FIRST_CONNECTION + u64::try_from(place).unwrap_or_default())
}
