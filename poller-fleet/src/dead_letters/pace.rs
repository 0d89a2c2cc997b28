//! So many a second, in small portions. What was not used in time is not made up for.

use std::{num::NonZeroU32, time::Duration};

use tokio::time::{Instant, sleep_until};

/// Most events of a portion.
const PORTION: u32 = 64;
/// Portions of a second, unless that makes them smaller than one event.
const PORTIONS_A_SECOND: u32 = 10;

#[derive(Debug)]
pub(super) struct Pace {
    per_second: NonZeroU32,
    next: Instant,
}

impl Pace {
    pub(super) fn new(per_second: NonZeroU32) -> Self {
        Self { per_second, next: Instant::now() }
    }

    /// How many may go at once.
    pub(super) fn portion(&self) -> usize {
        (self.per_second.get() / PORTIONS_A_SECOND).clamp(1, PORTION) as usize
    }

    /// Waits until so many may go. `false`: that is only after `deadline`.
    pub(super) async fn wait(&mut self, events: usize, deadline: Instant) -> bool {
        if self.next.max(Instant::now()) >= deadline {
            return false;
        }
        sleep_until(self.next).await;
        let takes = Duration::from_secs_f64(events as f64 / f64::from(self.per_second.get()));
        self.next = self.next.max(Instant::now()) + takes;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pace_is_kept_and_lost_time_is_not_made_up_for() {
        let mut pace = Pace::new(NonZeroU32::new(100).unwrap());
        let (began, deadline) = (Instant::now(), Instant::now() + Duration::from_secs(60));
        assert_eq!(pace.portion(), 10);
        for _ in 0..20 {
            assert!(pace.wait(10, deadline).await);
        }
        assert_eq!(began.elapsed().as_millis(), 1_900);
        tokio::time::sleep(Duration::from_secs(10)).await;
        let late = Instant::now();
        for _ in 0..3 {
            assert!(pace.wait(10, deadline).await);
        }
        assert_eq!(late.elapsed().as_millis(), 200);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_what_comes_after_the_deadline() {
        let mut pace = Pace::new(NonZeroU32::MIN);
        let deadline = Instant::now() + Duration::from_millis(1_500);
        let began = Instant::now();
        assert!(pace.wait(1, deadline).await && pace.wait(1, deadline).await);
        assert!(!pace.wait(1, deadline).await);
        assert_eq!(began.elapsed().as_millis(), 1_000);
    }
}
