//! A device's doorbells, as the device thread hears them.
//!
//! ```text
//!            rings that find something                 more rings for nothing, one after the other, than IDLE_RINGS
//!  ┌───────────┐                                                                                          ┌──────┐
//!  │ listening ├─────────────────────────────────────────────────────────────────────────────────────────►│ deaf │
//!  └─────▲─────┘                                                                                          └──┬───┘
//!        └──────────────── a millisecond or more later; a ring meanwhile is heard now ───────────────────────┘
//! ```
//!
//! A ring costs the guest an instruction and the device thread a round. What a round does is bounded by the device's limits, if it has
//! any; a round in which there is nothing to do, or nothing may be done yet, would not be. A driver rings when it has added buffers, so that two
//! such rounds in a row are rare; a guest that rings all the time is served late, and nothing else comes of it.

use std::{os::fd::RawFd, time::Duration};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EventSet};

use super::event_loop::watch;
use crate::rate_limiter::{Rate, TokenBucket};

/// Rings that find nothing, each behind another one that found nothing, and are heard at once. A guest that exceeds it waits some milliseconds
/// at a time.
pub(super) const IDLE_RINGS: Rate = Rate::new(250, 256);

/// The unit of the time that epoll waits.
const MILLISECOND: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(super) struct Doorbells {
    /// They belong to the transport, which lives as long as this.
    descriptors: Vec<RawFd>,
    token: u64,
    idle: TokenBucket,
    /// The last ring has found nothing.
    was_idle: bool,
    deaf_until: Option<Duration>,
}

impl Doorbells {
    /// Listens, under `token`. The descriptors stay open for as long as this lives. Times are since any fixed moment, the same one throughout.
    pub(super) fn listen(epoll: &Epoll, token: u64, descriptors: Vec<RawFd>) -> std::io::Result<Self> {
        for descriptor in &descriptors {
            watch(epoll, ControlOperation::Add, *descriptor, EventSet::IN, token)?;
        }
        let idle = TokenBucket::new(IDLE_RINGS, Duration::ZERO);
        Ok(Self { descriptors, token, idle, was_idle: false, deaf_until: None })
    }

    /// One has rung, and the device has `found` something to do.
    pub(super) fn rang(&mut self, epoll: &Epoll, found: bool, now: Duration) {
        if !found && self.was_idle {
            self.idle.charge(1);
        }
        self.was_idle = !found;
        let wait = self.idle.wait(now);
        if !wait.is_zero() && self.watch(epoll, EventSet::empty()) {
            self.deaf_until = Some(now + wait.max(MILLISECOND));
        }
    }

    /// Until when nobody listens.
    pub(super) fn deaf_until(&self) -> Option<Duration> {
        self.deaf_until
    }

    /// Listens again if it is time.
    pub(super) fn listen_again(&mut self, epoll: &Epoll, now: Duration) {
        if self.deaf_until.is_some_and(|until| until <= now) {
            // A doorbell that has rung is ready, and is heard as soon as it is watched again.
            let listens = self.watch(epoll, EventSet::IN);
            self.deaf_until = (!listens).then_some(now + MILLISECOND);
        }
    }

    /// It fails only for want of memory, and is then tried again.
    fn watch(&self, epoll: &Epoll, events: EventSet) -> bool {
        let modify = |descriptor: &RawFd| {
            watch(epoll, ControlOperation::Modify, *descriptor, events, self.token).is_ok()
        };
        self.descriptors.iter().all(modify)
    }
}
