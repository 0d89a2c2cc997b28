//! How many pollers a partition has. Pure.
//!
//! ```text
//!   more       each has over 2,000 events before it, or the oldest event was over a second old when it was leased
//!   fewer      they have less than 200 each, and events are young
//! ```
//! One poller leases and opens some hundred thousand small events a second; more of them use more processors, and keep large
//! events from holding up small ones. Every partition has one: it waits, and costs nothing.

use std::time::Duration;

const MANY: u64 = 2_000;
const FEW: u64 = 200;
const OLD: Duration = Duration::from_secs(1);

/// How many there should be.
pub(crate) fn pollers(now: usize, depth: u64, age: Duration, most: usize) -> usize {
    let each = depth / now.max(1) as u64;
    let wanted = if each > MANY || (age > OLD && each > FEW) {
        now + 1
    } else if each < FEW && age <= OLD {
        now.saturating_sub(1)
    } else {
        now
    };
    wanted.clamp(1, most.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const YOUNG: Duration = Duration::from_millis(5);

    #[test]
    fn depth_and_age_bring_pollers_and_calm_takes_them_away() {
        assert_eq!(pollers(0, 0, YOUNG, 4), 1, "one waits always");
        assert_eq!(pollers(1, 5_000, YOUNG, 4), 2);
        assert_eq!(pollers(2, 5_000, YOUNG, 4), 3);
        assert_eq!(pollers(3, 5_000, YOUNG, 4), 3, "enough for these");
        assert_eq!(pollers(4, 1_000_000, YOUNG, 4), 4);
        assert_eq!(pollers(1, 500, Duration::from_secs(2), 4), 2, "old events");
        assert_eq!(pollers(1, 10, Duration::from_secs(2), 4), 1, "a few old ones are no reason");
        assert_eq!(pollers(3, 100, YOUNG, 4), 2);
    }
}
