//! When an asynchronous event is tried again, and when no more. Pure: what happened goes in, what to do comes out.
//!
//! ```text
//!   the function failed            after 1 min, then 2 min, as often as its policy says      ─► RetriesExhausted
//!   throttled, platform failed     after 1 s, 2 s, 4 s … 5 min; no attempt is counted         ─┐
//!   older than its policy allows   whichever of the two it was waiting for                   ─┴► EventAgeExceeded
//! ```
//! The figures are AWS's (developer guide, "How Lambda handles errors and retries with asynchronous invocation").

use std::time::Duration;

use types::EventInvokePolicy;

/// Waits after the first, second and any later attempt that failed.
const AFTER_FAILURE: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(120)];
const FIRST_DEFERRAL: Duration = Duration::from_secs(1);
const LONGEST_DEFERRAL: Duration = Duration::from_secs(300);
/// What waits in the queue waits for an eighth of its age: some 120 tries in six hours, where doubling from the first makes 80. (ours)
const PART_OF_AGE: u32 = 8;

/// The waits, all of them scaled alike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    scale: f64,
}

/// How far an event has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Progress {
    /// Since it was accepted.
    pub(crate) age: Duration,
    /// Attempts that failed.
    pub(crate) attempts: u32,
    /// Times that it could not be tried since the last attempt.
    pub(crate) deferrals: u32,
}

/// What came of the latest try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The function ran and failed. It is counted in `attempts` already.
    Failed,
    /// It did not run: throttled, or the platform failed. It is counted in `deferrals` already.
    NotTried,
}

/// What is to be done with the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    RetryAfter(Wait),
    GiveUp(Condition),
}

/// How long to wait before the next try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wait {
    pub(crate) in_memory: Duration,
    /// The queue remembers attempts, and not how often an event could not be tried: there it waits in proportion to its age.
    pub(crate) in_queue: Duration,
}

/// Why an event ended without success. `requestContext.condition` of its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum Condition {
    RetriesExhausted,
    EventAgeExceeded,
    /// Its function had been invoked too often in one chain. (ours: unrecorded)
    RecursiveInvocation,
    /// Its function was deleted. (ours)
    FunctionDeleted,
}

// === impl Schedule ===

impl Default for Schedule {
    fn default() -> Self {
        Self { scale: 1.0 }
    }
}

impl Schedule {
    /// Waits and ages are so many times as long as AWS's; for tests, which cannot wait for minutes.
    #[must_use]
    pub fn scaled(scale: f64) -> Self {
        Self { scale }
    }

    /// Whether an event is too old to be tried.
    pub(crate) fn is_too_old(self, age: Duration, policy: &EventInvokePolicy) -> bool {
        age >= self.oldest(policy)
    }

    pub(crate) fn next(self, outcome: Outcome, progress: Progress, policy: &EventInvokePolicy) -> Next {
        if outcome == Outcome::Failed && progress.attempts > policy.maximum_retry_attempts {
            return Next::GiveUp(Condition::RetriesExhausted);
        }
        let left = self.oldest(policy).saturating_sub(progress.age);
        if left.is_zero() {
            return Next::GiveUp(Condition::EventAgeExceeded);
        }
        let (in_memory, in_queue) = match outcome {
            Outcome::Failed => {
                let index = (progress.attempts.max(1) as usize - 1).min(AFTER_FAILURE.len() - 1);
                let wait = AFTER_FAILURE[index].mul_f64(self.scale);
                (wait, wait)
            }
            Outcome::NotTried => {
                let doublings = progress.deferrals.saturating_sub(1).min(16);
                let longest = LONGEST_DEFERRAL.mul_f64(self.scale);
                let wait = (FIRST_DEFERRAL * 2u32.pow(doublings)).mul_f64(self.scale).min(longest);
                (wait, (progress.age / PART_OF_AGE).clamp(wait, longest))
            }
        };
        // At the end of its age it is given up, not before and not later.
        Next::RetryAfter(Wait { in_memory: in_memory.min(left), in_queue: in_queue.min(left) })
    }

    fn oldest(self, policy: &EventInvokePolicy) -> Duration {
        policy.maximum_event_age.mul_f64(self.scale)
    }
}

// === impl Wait ===

impl Wait {
    /// As long, wherever it waits.
    pub(crate) fn anywhere(wait: Duration) -> Self {
        Self { in_memory: wait, in_queue: wait }
    }
}

// === impl Condition ===

impl Condition {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::RetriesExhausted => "RetriesExhausted",
            Self::EventAgeExceeded => "EventAgeExceeded",
            Self::RecursiveInvocation => "RecursiveInvocation",
            Self::FunctionDeleted => "FunctionDeleted",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy(retries: u32, age: u64) -> EventInvokePolicy {
        EventInvokePolicy {
            maximum_retry_attempts: retries,
            maximum_event_age: Duration::from_secs(age),
            ..EventInvokePolicy::default()
        }
    }

    fn seconds(next: Next) -> u64 {
        match next {
            Next::RetryAfter(wait) => wait.in_memory.as_secs(),
            Next::GiveUp(condition) => panic!("{condition:?}"),
        }
    }

    #[test]
    fn a_function_that_fails_is_tried_after_one_minute_and_after_two_and_no_more() {
        let policy = EventInvokePolicy::default();
        let failed = |attempts| {
            Schedule::default().next(Outcome::Failed, Progress { attempts, ..Progress::default() }, &policy)
        };
        assert_eq!(seconds(failed(1)), 60);
        assert_eq!(seconds(failed(2)), 120);
        assert_eq!(failed(3), Next::GiveUp(Condition::RetriesExhausted));
    }

    #[test]
    fn what_could_not_be_tried_waits_from_a_second_to_five_minutes() {
        let wait = |deferrals| {
            let progress = Progress { deferrals, ..Progress::default() };
            seconds(Schedule::default().next(Outcome::NotTried, progress, &EventInvokePolicy::default()))
        };
        let waits: Vec<_> = (1..=11).map(wait).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(wait(u32::MAX), 300);
    }

    #[test]
    fn what_waits_in_the_queue_waits_longer_the_older_it_is() {
        let wait = |age, deferrals| {
            let progress = Progress { age: Duration::from_secs(age), deferrals, attempts: 0 };
            let next = Schedule::default().next(Outcome::NotTried, progress, &EventInvokePolicy::default());
            let Next::RetryAfter(wait) = next else { panic!("{next:?}") };
            wait.in_queue.as_secs()
        };
        assert_eq!([0, 16, 80, 2_400, 20_000].map(|age| wait(age, 1)), [1, 2, 10, 300, 300]);
        assert_eq!(wait(16, 9), 256, "and no shorter than it would have in memory");
    }

    #[test]
    fn an_event_is_given_up_at_the_end_of_its_age() {
        let (schedule, policy) = (Schedule::default(), policy(2, 90));
        let at = |age, attempts| {
            let progress = Progress { age: Duration::from_secs(age), attempts, deferrals: 0 };
            schedule.next(Outcome::Failed, progress, &policy)
        };
        assert_eq!(seconds(at(10, 1)), 60);
        assert_eq!(seconds(at(70, 2)), 20, "no longer than it may become old");
        assert_eq!(at(90, 2), Next::GiveUp(Condition::EventAgeExceeded));
        assert_eq!(at(90, 3), Next::GiveUp(Condition::RetriesExhausted), "the function had the last word");
        assert!(schedule.is_too_old(Duration::from_secs(90), &policy));
        assert!(!schedule.is_too_old(Duration::from_millis(89_999), &policy));
    }

    /// The schedule against a clock: what a documented reading of it gives for any function.
    fn run(
        schedule: Schedule,
        policy: &EventInvokePolicy,
        outcomes: &[Outcome],
        in_queue: bool,
    ) -> (Vec<Duration>, Condition) {
        let (mut progress, mut tried) = (Progress::default(), Vec::new());
        for outcome in outcomes.iter().cycle() {
            if schedule.is_too_old(progress.age, policy) {
                return (tried, Condition::EventAgeExceeded);
            }
            tried.push(progress.age);
            match outcome {
                Outcome::Failed => (progress.attempts, progress.deferrals) = (progress.attempts + 1, 0),
                Outcome::NotTried => progress.deferrals += 1,
            }
            match schedule.next(*outcome, progress, policy) {
                Next::RetryAfter(wait) if in_queue => {
                    progress.age += wait.in_queue;
                    progress.deferrals = 0;
                }
                Next::RetryAfter(wait) => progress.age += wait.in_memory,
                Next::GiveUp(condition) => return (tried, condition),
            }
        }
        unreachable!("every event ends")
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_event_ends_in_time_and_with_as_many_attempts_as_allowed(
            retries in 0u32..=2,
            age in 60u64..=21_600,
            scale in prop_oneof![Just(1.0), 0.001f64..2.0],
            failed in prop::collection::vec(any::<bool>(), 1..8),
            in_queue: bool,
        ) {
            let outcomes: Vec<_> =
                failed.iter().map(|failed| if *failed { Outcome::Failed } else { Outcome::NotTried }).collect();
            let policy = policy(retries, age);
            let (tried, condition) = run(Schedule::scaled(scale), &policy, &outcomes, in_queue);
            let oldest = policy.maximum_event_age.mul_f64(scale);
            prop_assert!(tried.iter().all(|at| *at < oldest));
            let count = |wanted| outcomes.iter().cycle().take(tried.len()).filter(|o| **o == wanted).count();
            prop_assert!(count(Outcome::Failed) <= retries as usize + 1);
            prop_assert_eq!(condition == Condition::RetriesExhausted, count(Outcome::Failed) == retries as usize + 1);
            prop_assert!(tried.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
}
