//! A wall clock that never jumps while the process lives.

use std::{sync::Arc, time::Duration};

use queue::BootClock;
use types::Clock;

/// The wall clock as it was when the process began, and the time that has passed since. Ages count by it, so that nobody who sets the
/// machine's clock makes events old, or young.
#[derive(Clone)]
pub struct SteadyClock {
    boot: Arc<dyn BootClock>,
    /// What the wall clock said at boot.
    booted: Duration,
}

impl SteadyClock {
    #[must_use]
    pub fn new(wall: &dyn Clock, boot: Arc<dyn BootClock>) -> Self {
        Self { booted: wall.now().saturating_sub(boot.since_boot()), boot }
    }
}

impl Clock for SteadyClock {
    fn now(&self) -> Duration {
        self.booted + self.boot.since_boot()
    }
}

impl std::fmt::Debug for SteadyClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SteadyClock").field("booted", &self.booted).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Time {
        wall: Mutex<Duration>,
        boot: Mutex<Duration>,
    }

    impl Clock for Time {
        fn now(&self) -> Duration {
            *self.wall.lock().unwrap()
        }
    }

    impl BootClock for Time {
        fn since_boot(&self) -> Duration {
            *self.boot.lock().unwrap()
        }
    }

    #[test]
    fn a_jump_of_the_wall_clock_is_not_seen() {
        let hour = Duration::from_secs(3600);
        let time = Arc::new(Time { wall: Mutex::new(hour * 500_000), boot: Mutex::new(hour) });
        let clock = SteadyClock::new(&*time, time.clone());
        assert_eq!(clock.now(), hour * 500_000);
        *time.wall.lock().unwrap() += hour;
        assert_eq!(clock.now(), hour * 500_000);
        *time.boot.lock().unwrap() += Duration::from_secs(1);
        assert_eq!(clock.now(), hour * 500_000 + Duration::from_secs(1));
    }
}
