//! Time, injected: everything that persists, expires or retries asks a [`Clock`].

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The wall clock. It may jump; what must not jump uses the runtime's monotonic timers.
pub trait Clock: Send + Sync + 'static {
    /// Time since the Unix epoch, as the machine believes it now.
    fn now(&self) -> Duration;
}

/// The machine's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
    fn now(&self) -> Duration {
        // A clock set before 1970 reads as 1970: signatures then fail loudly, nothing panics.
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}
