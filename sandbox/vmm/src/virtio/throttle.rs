//! A device's rate limiter, with the clock and the timer that it lives on.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    time::{Duration, Instant},
};

use vmm_sys_util::timerfd::TimerFd;

use crate::rate_limiter::{Limits, RateLimiter};

/// Lets requests through while there are tokens, and wakes the device when they are back. Without limits it costs nothing: no
/// descriptor, no look at the clock.
#[derive(Debug, Default)]
pub(super) struct Throttle(Option<Limited>);

#[derive(Debug)]
struct Limited {
    limiter: RateLimiter,
    /// Becomes readable when it goes off. It is watched edge-triggered and never read: each time it goes off is an edge.
    timer: TimerFd,
    start: Instant,
}

impl Throttle {
    pub(super) fn new(limits: Limits) -> io::Result<Self> {
        if limits.unlimited() {
            return Ok(Self(None));
        }
        let limiter = RateLimiter::new(limits, Duration::ZERO);
        Ok(Self(Some(Limited { limiter, timer: TimerFd::new()?, start: Instant::now() })))
    }

    /// Whether a request may begin now. If not, the timer goes off when it may.
    pub(super) fn ready(&mut self) -> io::Result<bool> {
        let Some(Limited { limiter, timer, start }) = &mut self.0 else { return Ok(true) };
        let wait = limiter.wait(start.elapsed());
        if wait.is_zero() {
            return Ok(true);
        }
        timer.reset(wait, None)?;
        Ok(false)
    }

    /// A request was done.
    pub(super) fn charge(&mut self, bytes: u32) {
        if let Some(limited) = &mut self.0 {
            limited.limiter.charge(bytes);
        }
    }

    /// The timer, for those who watch it.
    pub(super) fn source(&self) -> Option<BorrowedFd<'_>> {
        let limited = self.0.as_ref()?;
        // SAFETY: the timer owns the descriptor, which stays open for as long as `self` is borrowed.
        Some(unsafe { BorrowedFd::borrow_raw(limited.timer.as_raw_fd()) })
    }
}
