//! The device thread: waits for doorbells and for the devices' descriptors, and has the devices see to them.
//!
//! ```text
//!   Running ──pause──► Pausing ──(the thread, between two rounds)──► Paused
//!      ▲                                                               │
//!      └───────────────────────────── resume ──────────────────────────┘      stop: the thread ends, from everywhere
//! ```
//!
//! Everything is watched edge-triggered and nothing is read to clear it: each ring of a doorbell (an eventfd) and each expiry of a timer is an edge of its
//! own, which saves a system call a time, and a stream that a device does not want to read wakes nobody twice.
//!
//! A device's lock is held for one bounded round of work at a time. A guest that rings for nothing is not listened to all the time
//! ([`doorbells`](super::doorbells)).
//!
//! A panic of a device ends the thread, which tells of it.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use vmm_sys_util::{
    epoll::{ControlOperation, Epoll, EpollEvent, EventSet},
    eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd},
};

use super::{Transport, device::Interrupts, doorbells::Doorbells};
use crate::{exit::panic_message, lock};

/// Events taken at a time.
const EVENTS: usize = 32;

/// Tokens: the transport's position, and below it the source's, or [`DOORBELL`].
const SHIFT: u32 = 8;
const DOORBELL: u64 = 0xff;
const CONTROL: u64 = u64::MAX;
/// In place of a transport's position.
const INTERRUPTS: u64 = 0xFFFF;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Running,
    Pausing,
    Paused,
    Stopping,
    /// The thread is no more.
    Ended,
}

#[derive(Debug)]
struct Shared {
    /// Wakes the thread to look at `mode`.
    control: EventFd,
    mode: Mutex<Mode>,
    changed: Condvar,
}

/// The running thread. When dropped it stops without being waited for.
#[derive(Debug)]
pub struct EventLoop {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl EventLoop {
    /// Starts the thread. `hook` runs on it first, before it touches anything: that is the place to restrict it. If it says
    /// no, the thread ends there. `panicked` is told what a device has panicked with. `interrupts` takes them on.
    pub fn start(
        transports: Vec<Arc<Mutex<Transport>>>,
        interrupts: Box<dyn Interrupts>,
        hook: impl FnOnce() -> bool + Send + 'static,
        panicked: impl FnOnce(String) + Send + 'static,
    ) -> io::Result<Self> {
        let control = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let shared = Arc::new(Shared { control, mode: Mutex::new(Mode::Running), changed: Condvar::new() });
        let epoll = Epoll::new()?;
        watch(&epoll, ControlOperation::Add, shared.control.as_raw_fd(), EventSet::IN, CONTROL)?;
        for (token, descriptor) in (INTERRUPTS << SHIFT..).zip(interrupts.events()) {
            watch(&epoll, ControlOperation::Add, descriptor, EventSet::IN, token)?;
        }
        let watched =
            (0u64..).zip(transports).map(|(position, transport)| Watched::new(&epoll, position, transport));
        let watched = watched.collect::<io::Result<_>>()?;
        let shared_here = Arc::clone(&shared);
        let mut worker = Worker { epoll, shared: shared_here, watched, interrupts, started: Instant::now() };
        let thread = thread::Builder::new().name("devices".to_owned()).spawn(move || {
            // A device that has panicked is not called again: the machine ends.
            let work = AssertUnwindSafe(|| {
                if hook() {
                    worker.run();
                }
            });
            if let Err(panic) = catch_unwind(work) {
                panicked(panic_message(panic.as_ref()));
            }
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Returns when no device does anything any more. What arrives meanwhile is not lost.
    pub fn pause(&self) {
        let mut mode = lock(&self.shared.mode);
        if *mode != Mode::Running {
            return;
        }
        *mode = Mode::Pausing;
        self.shared.wake();
        while *mode == Mode::Pausing {
            mode = self.shared.changed.wait(mode).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Devices go on.
    pub fn resume(&self) {
        let mut mode = lock(&self.shared.mode);
        if *mode == Mode::Paused {
            *mode = Mode::Running;
            self.shared.changed.notify_all();
        }
    }

    /// Ends the thread and waits until it has ended.
    pub fn stop(mut self) {
        self.shared.stop();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported when it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for EventLoop {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

impl Shared {
    fn wake(&self) {
        // It fails when the counter is full, and then the thread has been woken.
        let _ = self.control.write(1);
    }

    fn stop(&self) {
        let mut mode = lock(&self.mode);
        if *mode != Mode::Ended {
            *mode = Mode::Stopping;
            self.changed.notify_all();
            self.wake();
        }
    }

    /// On the thread: does what was asked for. Whether to go on.
    fn obey(&self) -> bool {
        let mut mode = lock(&self.mode);
        if *mode == Mode::Pausing {
            *mode = Mode::Paused;
            self.changed.notify_all();
        }
        while *mode == Mode::Paused {
            mode = self.changed.wait(mode).unwrap_or_else(PoisonError::into_inner);
        }
        // It may have been asked to pause again before it saw that it was to go on; that request has rung the bell too.
        *mode != Mode::Stopping
    }
}

/// A transport, and what its device's descriptors are watched for.
struct Watched {
    transport: Arc<Mutex<Transport>>,
    doorbells: Doorbells,
    /// The descriptors belong to the device, which lives as long as the transport.
    sources: Vec<(RawFd, EventSet)>,
    position: u64,
}

impl Watched {
    fn new(epoll: &Epoll, position: u64, transport: Arc<Mutex<Transport>>) -> io::Result<Self> {
        let guard = lock(&transport);
        let doorbells = guard.doorbells().iter().map(AsRawFd::as_raw_fd).collect();
        let doorbells = Doorbells::listen(epoll, position << SHIFT | DOORBELL, doorbells)?;
        let device = guard.device();
        let mut sources = Vec::new();
        for (source, descriptor) in device.sources().into_iter().enumerate() {
            sources.push((descriptor.as_raw_fd(), device.interest(source)));
        }
        for (token, &(descriptor, interest)) in (0u64..DOORBELL).zip(&sources) {
            watch(epoll, ControlOperation::Add, descriptor, interest, position << SHIFT | token)?;
        }
        drop(guard);
        Ok(Self { transport, doorbells, sources, position })
    }

    fn serve(&mut self, epoll: &Epoll, event: &EpollEvent, started: Instant) {
        let mut transport = lock(&self.transport);
        match event.data() & DOORBELL {
            DOORBELL => {
                let found = transport.doorbell_rang();
                self.doorbells.rang(epoll, found, started.elapsed());
            }
            source => {
                let source = usize::try_from(source).unwrap_or(usize::MAX);
                transport.source_ready(source, EventSet::from_bits_truncate(event.events()));
            }
        }
        for (source, (descriptor, interest)) in self.sources.iter_mut().enumerate() {
            let wanted = transport.device().interest(source);
            let token = self.position << SHIFT | u64::try_from(source).unwrap_or(DOORBELL);
            // It was added, and the descriptor is open: it cannot fail for want of anything but memory, and is then tried again.
            if wanted != *interest
                && watch(epoll, ControlOperation::Modify, *descriptor, wanted, token).is_ok()
            {
                *interest = wanted;
            }
        }
    }
}

struct Worker {
    epoll: Epoll,
    shared: Arc<Shared>,
    watched: Vec<Watched>,
    interrupts: Box<dyn Interrupts>,
    /// All times are since then.
    started: Instant,
}

impl Worker {
    fn run(&mut self) {
        let mut events = [EpollEvent::default(); EVENTS];
        loop {
            let timeout = self.timeout();
            // The only error that can be is that a signal came first.
            let count = self.epoll.wait(timeout, &mut events).unwrap_or(0);
            let mut control = false;
            for event in events.iter().take(count) {
                control |= event.data() == CONTROL;
                if event.data() >> SHIFT == INTERRUPTS {
                    self.interrupts.signalled(usize::try_from(event.data() & DOORBELL).unwrap_or(usize::MAX));
                }
                let position = usize::try_from(event.data() >> SHIFT).unwrap_or(usize::MAX);
                if let Some(watched) = self.watched.get_mut(position) {
                    watched.serve(&self.epoll, event, self.started);
                }
            }
            if control && !self.shared.obey() {
                return;
            }
        }
    }

    /// Listens to the doorbells whose time has come. Milliseconds until the next ones, or -1: there are none.
    fn timeout(&mut self) -> i32 {
        if self.watched.iter().all(|watched| watched.doorbells.deaf_until().is_none()) {
            return -1;
        }
        let now = self.started.elapsed();
        for watched in &mut self.watched {
            watched.doorbells.listen_again(&self.epoll, now);
        }
        let next = self.watched.iter().filter_map(|watched| watched.doorbells.deaf_until()).min();
        next.map_or(-1, |until| {
            let wait = until.saturating_sub(now) + Duration::from_micros(999);
            i32::try_from(wait.as_millis()).unwrap_or(i32::MAX)
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        *lock(&self.shared.mode) = Mode::Ended;
        self.shared.changed.notify_all();
    }
}

pub(super) fn watch(
    epoll: &Epoll,
    operation: ControlOperation,
    descriptor: RawFd,
    events: EventSet,
    token: u64,
) -> io::Result<()> {
    epoll.ctl(operation, descriptor, EpollEvent::new(events | EventSet::EDGE_TRIGGERED, token))
}

#[cfg(test)]
mod tests;
