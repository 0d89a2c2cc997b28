//! How much a device may do in a second: token buckets over operations and bytes.
//!
//! ```text
//!            per_second
//!                │ refill, up to
//!          ┌─────▼─────┐
//!   burst ─┤           │
//!          │  level    │    a request is let in when each bucket holds at least one token; it is charged for what it
//!       0 ─┤───────────├─   turned out to cost, and the level may fall below zero (a debt) by that one request
//!          │   debt    │
//!          └───────────┘
//! ```
//!
//! Charging afterwards means that a request of any size passes in the end, that nobody needs to know a request's size before it
//! is done, and that over any stretch of time `t` no more passes than `burst + t × per_second` and one request.
//!
//! Levels are whole numbers of billionths of a token, so nothing is lost to rounding however often a bucket is asked. The time
//! is given by the caller; there is no clock in here, and the limiter does not sleep: it says how long it will be.

use std::{num::NonZeroU64, time::Duration};

use serde::{Deserialize, Serialize};

/// Billionths of a token in a token: one token a second is one such part a nanosecond.
const PARTS: u128 = 1_000_000_000;

/// What a bucket lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Tokens that come back in a second.
    pub per_second: NonZeroU64,
    /// Tokens that the bucket holds when it is full, as it is at first.
    pub burst: NonZeroU64,
}

impl Rate {
    /// At least one of each.
    pub const fn new(per_second: u64, burst: u64) -> Self {
        Self { per_second: at_least_one(per_second), burst: at_least_one(burst) }
    }
}

const fn at_least_one(value: u64) -> NonZeroU64 {
    match NonZeroU64::new(value) {
        Some(value) => value,
        None => NonZeroU64::MIN,
    }
}

/// The limits of a device; `None` is unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Requests (block, rng) or packets in each direction (vsock).
    #[serde(default)]
    pub operations: Option<Rate>,
    /// Bytes of data, without headers; for vsock in each direction.
    #[serde(default)]
    pub bytes: Option<Rate>,
}

impl Limits {
    /// Nothing is limited.
    pub fn unlimited(&self) -> bool {
        self.operations.is_none() && self.bytes.is_none()
    }
}

/// One bucket.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    rate: Rate,
    /// In billionths of a token; negative: a debt.
    level: i128,
    /// When the level was right.
    updated: Duration,
}

impl TokenBucket {
    /// A full bucket. `now` is the time since any fixed moment, here and below.
    pub fn new(rate: Rate, now: Duration) -> Self {
        Self { rate, level: parts(rate.burst.get()), updated: now }
    }

    /// How long until there is a token: zero if there is one.
    pub fn wait(&mut self, now: Duration) -> Duration {
        self.refill(now);
        let missing = parts(1).saturating_sub(self.level);
        let Ok(missing) = u128::try_from(missing) else { return Duration::ZERO };
        let nanoseconds = missing.div_ceil(u128::from(self.rate.per_second.get()));
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }

    /// Takes `tokens` out, whether they are there or not.
    pub fn charge(&mut self, tokens: u64) {
        self.level = self.level.saturating_sub(parts(tokens));
    }

    /// A clock that goes backwards brings nothing and takes nothing.
    fn refill(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.updated);
        self.updated = self.updated.max(now);
        let gained = elapsed.as_nanos().saturating_mul(u128::from(self.rate.per_second.get()));
        let gained = i128::try_from(gained).unwrap_or(i128::MAX);
        self.level = self.level.saturating_add(gained).min(parts(self.rate.burst.get()));
    }
}

/// Never too large: 2^64 × 10^9 is less than 2^94.
fn parts(tokens: u64) -> i128 {
    i128::try_from(u128::from(tokens) * PARTS).unwrap_or(i128::MAX)
}

/// The two buckets of a device.
#[derive(Debug, Clone)]
pub struct RateLimiter {
    operations: Option<TokenBucket>,
    bytes: Option<TokenBucket>,
}

impl RateLimiter {
    /// A limiter whose buckets are full.
    pub fn new(limits: Limits, now: Duration) -> Self {
        let bucket = |rate: Option<Rate>| rate.map(|rate| TokenBucket::new(rate, now));
        Self { operations: bucket(limits.operations), bytes: bucket(limits.bytes) }
    }

    /// How long until the next request may begin: zero means now.
    pub fn wait(&mut self, now: Duration) -> Duration {
        let buckets = [&mut self.operations, &mut self.bytes];
        buckets.into_iter().flatten().map(|bucket| bucket.wait(now)).max().unwrap_or_default()
    }

    /// One request was done, and moved this many bytes.
    pub fn charge(&mut self, bytes: u32) {
        if let Some(bucket) = &mut self.operations {
            bucket.charge(1);
        }
        if let Some(bucket) = &mut self.bytes {
            bucket.charge(u64::from(bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_passes_at_once_and_then_the_rate_holds() {
        let mut bucket = TokenBucket::new(Rate::new(10, 3), Duration::ZERO);
        for _ in 0..3 {
            assert_eq!(bucket.wait(Duration::ZERO), Duration::ZERO);
            bucket.charge(1);
        }
        assert_eq!(bucket.wait(Duration::ZERO), Duration::from_millis(100));
        assert_eq!(bucket.wait(Duration::from_millis(40)), Duration::from_millis(60));
        assert_eq!(bucket.wait(Duration::from_millis(100)), Duration::ZERO);
    }

    #[test]
    fn a_request_larger_than_the_bucket_passes_and_is_paid_for_afterwards() {
        let mut bucket = TokenBucket::new(Rate::new(1000, 100), Duration::ZERO);
        bucket.charge(5100);
        assert_eq!(bucket.wait(Duration::ZERO), Duration::from_millis(5001));
    }

    #[test]
    fn a_clock_that_goes_backwards_changes_nothing() {
        let mut bucket = TokenBucket::new(Rate::new(1, 1), Duration::from_secs(10));
        bucket.charge(1);
        assert_eq!(bucket.wait(Duration::from_secs(5)), Duration::from_secs(1));
        assert_eq!(bucket.wait(Duration::from_secs(10)), Duration::from_secs(1));
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let mut bucket = TokenBucket::new(Rate::new(u64::MAX, u64::MAX), Duration::ZERO);
        for _ in 0..4 {
            bucket.charge(u64::MAX);
        }
        assert!(bucket.wait(Duration::ZERO) > Duration::ZERO);
        assert_eq!(bucket.wait(Duration::MAX), Duration::ZERO);
    }

    #[test]
    fn both_buckets_must_have_tokens() {
        let limits = Limits { operations: Some(Rate::new(1, 1)), bytes: Some(Rate::new(100, 1000)) };
        let mut limiter = RateLimiter::new(limits, Duration::ZERO);
        limiter.charge(10);
        assert_eq!(limiter.wait(Duration::ZERO), Duration::from_secs(1));
        assert_eq!(limiter.wait(Duration::from_secs(1)), Duration::ZERO);
        limiter.charge(2000);
        assert_eq!(limiter.wait(Duration::from_secs(1)), Duration::from_millis(10_010));
    }

    /// The model: the level is replayed from the beginning, a nanosecond-exact sum over the whole history.
    fn model(rate: Rate, history: &[(u64, u64)], now: u64) -> i128 {
        let capacity = i128::from(rate.burst.get()) * 1_000_000_000;
        let (mut level, mut at) = (capacity, 0);
        for &(when, tokens) in history.iter().chain([&(now, 0)]) {
            level = capacity.min(level + i128::from(when - at) * i128::from(rate.per_second.get()));
            level -= i128::from(tokens) * 1_000_000_000;
            at = when;
        }
        level
    }

    proptest! {
        #[test]
        fn behaves_like_the_model(
            per_second in 1..u64::from(u32::MAX), burst in 1..u64::from(u32::MAX),
            steps in prop::collection::vec((0..3_000_000_000u64, 0..5_000_000u64), 1..60),
        ) {
            let rate = Rate::new(per_second, burst);
            let mut bucket = TokenBucket::new(rate, Duration::ZERO);
            let (mut now, mut history) = (0, Vec::new());
            for (pause, tokens) in steps {
                now += pause;
                let wait = bucket.wait(Duration::from_nanos(now)).as_nanos();
                let level = model(rate, &history, now);
                prop_assert_eq!(wait == 0, level >= 1_000_000_000, "let in exactly when there is a token");
                if wait > 0 {
                    let wait = i128::try_from(wait).unwrap();
                    let then = |wait| level + wait * i128::from(per_second);
                    prop_assert!(then(wait) >= 1_000_000_000, "after the wait there is a token");
                    prop_assert!(then(wait - 1) < 1_000_000_000, "and not before");
                } else {
                    bucket.charge(tokens);
                    history.push((now, tokens));
                }
            }
        }

        #[test]
        fn never_more_than_the_burst_the_rate_and_one_request(
            per_second in 1..100_000u64, burst in 1..100_000u64,
            steps in prop::collection::vec((0..1_000_000_000u64, 1..200_000u64), 1..100),
        ) {
            let mut bucket = TokenBucket::new(Rate::new(per_second, burst), Duration::ZERO);
            let (mut now, mut passed, mut largest) = (0, 0u128, 0u128);
            for (pause, tokens) in steps {
                now += pause;
                if bucket.wait(Duration::from_nanos(now)).is_zero() {
                    bucket.charge(tokens);
                    passed += u128::from(tokens);
                    largest = largest.max(u128::from(tokens));
                }
                let allowed = u128::from(burst) + u128::from(now) * u128::from(per_second) / 1_000_000_000 + largest;
                prop_assert!(passed <= allowed, "{passed} passed, {allowed} were allowed");
            }
        }
    }
}
