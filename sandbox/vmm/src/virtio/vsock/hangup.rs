//! When the monitor hears that nobody is at the host's end of the stream any more.
//!
//! ```text
//!            HUP: neither side          the guest is to take                    it has, or has gone;
//!            sends any more             what the host said last                 or a second has passed
//!  ┌──────┐               ┌─────────┐                          ┌───────────┐                           ┌──────┐
//!  │ Open ├──────────────►│ HungUp  ├─────────────────────────►│ Lingering ├──────────────────────────►│ Told │
//!  └──────┘               └────┬────┘                          └───────────┘                           └───▲──┘
//!                              └──────────────── there is nothing that it is to take ──────────────────────┘
//! ```
//!
//! A Unix stream hangs up when both of its directions have ended, while bytes that came before may still wait to be read. Whoever is
//! told stops the machine, so the guest gets them first. A guest that does not take them is not waited for longer than [`LINGER`].

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    time::Duration,
};

use vmm_sys_util::{
    eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd},
    timerfd::TimerFd,
};

/// How long a guest has to take what the host said last.
pub(super) const LINGER: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    HungUp,
    Lingering,
    Told,
}

#[derive(Debug)]
pub(super) struct Hangup {
    stage: Stage,
    event: EventFd,
    /// Watched edge-triggered, and never read: it goes off once.
    timer: TimerFd,
}

impl Hangup {
    pub(super) fn new() -> io::Result<Self> {
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        Ok(Self { stage: Stage::Open, event, timer: TimerFd::new()? })
    }

    /// What is written to when it is told.
    pub(super) fn event(&self) -> io::Result<EventFd> {
        self.event.try_clone()
    }

    /// Readable when the guest has had its time.
    pub(super) fn timer(&self) -> BorrowedFd<'_> {
        // SAFETY: the timer owns the descriptor, which stays open for as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.timer.as_raw_fd()) }
    }

    /// The stream has hung up. Whether that is news.
    pub(super) fn hung_up(&mut self) -> bool {
        let news = self.stage == Stage::Open;
        if news {
            self.stage = Stage::HungUp;
        }
        news
    }

    /// The guest has had its time.
    pub(super) fn expired(&mut self) {
        if self.stage == Stage::Lingering {
            self.tell();
        }
    }

    /// Tells of a stream that has hung up, unless the guest is to take something first.
    pub(super) fn settle(&mut self, guest_is_to_take: bool) {
        match self.stage {
            Stage::Open | Stage::Told => {}
            Stage::Lingering if guest_is_to_take => {}
            // Without a timer nobody would ever be told.
            Stage::HungUp if guest_is_to_take && self.timer.reset(LINGER, None).is_ok() => {
                self.stage = Stage::Lingering;
            }
            Stage::HungUp | Stage::Lingering => self.tell(),
        }
    }

    fn tell(&mut self) {
        self.stage = Stage::Told;
        // It fails when the counter is full, and then it has been told.
        let _ = self.event.write(1);
    }
}
