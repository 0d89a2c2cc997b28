//! The two clocks of the queue. Ages count by the wall clock, because they outlive the machine's running; leases and waits
//! go by the time since the machine was started, sleep included, because that never jumps.

use std::{sync::Arc, time::Duration};

use types::Clock;

use crate::log::{Now, millis};

/// Time since the machine was started, as the kernel counts it (CLOCK_BOOTTIME).
pub trait BootClock: Send + Sync + 'static {
    fn since_boot(&self) -> Duration;
}

/// The machine's own.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemBootClock;

impl BootClock for SystemBootClock {
    fn since_boot(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(time.tv_sec.try_into().unwrap_or_default(), time.tv_nsec.try_into().unwrap_or_default())
    }
}

#[derive(Clone)]
pub(crate) struct Clocks {
    pub(crate) wall: Arc<dyn Clock>,
    pub(crate) boot: Arc<dyn BootClock>,
}

impl Clocks {
    pub(crate) fn now(&self) -> Now {
        Now { boot: self.boot.since_boot(), wall_ms: millis(self.wall.now()) }
    }
}

impl std::fmt::Debug for Clocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clocks")
    }
}
