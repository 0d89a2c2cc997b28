//! The pool of one deployment's environments, as a state machine without I/O.
//!
//! ```text
//!                 Request                         Started / Idle
//!                    │                                  │
//!          ┌─────────▼─────────┐   oldest waits   ┌─────▼────┐
//!          │ waiting (FIFO)    ├──────Dispatch───►│  busy    │──Idle──► idle (most recent first) ──expired──► Stop
//!          └─────────┬─────────┘                  └──────────┘
//!                    │ more waiting than starting
//!                    └──────Start──► starting ──Started──► …        ──StartFailed──► Fail(oldest waiting)
//!                                        └─ nobody waits, and no memory yet ──► Stop
//! ```
//!
//! Rules:
//! - An environment runs one invocation at a time, and only invocations of this deployment.
//! - A request takes an idle environment if there is one, else it waits. It is not bound to the environment that was started
//!   for it: whichever becomes free first takes the oldest request, so a slow cold start delays nobody who could run warm.
//! - There are never more environments starting than requests waiting for them.
//! - An environment whose caller has its answer is free in a moment, when the runtime asks for its next event: a request
//!   waits for it, up to [`FINISHING_GRACE`], before another is started. So a caller that asks again at once finds it warm.
//! - A failed start costs the oldest waiting request, which learns why; the others still have starts of their own. One that found no
//!   memory costs it only if it has waited as long: if warm environments serve whoever comes, the oldest has just come.
//! - A start that waits for memory when no request waits any more is given up: no other function loses an idle environment to it.
//! - A pool that has more than its share when memory is short gives an environment back as soon as one is idle, also if requests wait.
//! - A retired pool serves whom it has accepted, starts no environment to keep, and empties.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::Hash,
    time::Duration,
};

/// A function's last environment is not taken from it for another's sake within this time of its last use.
const IN_USE: Duration = Duration::from_secs(1);
/// How long a request counts on an environment that has answered and is not idle yet. Less than a cold start costs, so that
/// counting in vain (a function that goes on after its answer) does not even double the wait.
pub(crate) const FINISHING_GRACE: Duration = Duration::from_millis(30);

/// Names an environment within its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct EnvironmentId(pub(crate) u64);

/// What happens to a pool. `R` names a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input<R> {
    /// A request wants an environment.
    Request(R),
    /// The caller of a waiting request is gone.
    Cancelled(R),
    /// An environment has answered its caller and will be idle soon.
    Answered(EnvironmentId),
    /// An environment finished its init phase, or its invocation, and can take the next one.
    Idle(EnvironmentId),
    /// Memory is set aside for an environment: now it starts.
    HasMemory(EnvironmentId),
    /// No memory came free for an environment in time. It never was.
    NoMemory(EnvironmentId),
    /// An environment could not be started, or failed in its init phase. It is gone.
    StartFailed(EnvironmentId),
    /// An environment that had been started is gone, or must not be used again.
    Gone(EnvironmentId),
    /// Time has passed.
    Tick,
    /// Memory is short: give back the environment that has been idle longest, but not the last one if it was in use a moment ago:
    /// whoever wants more memory all the time would take every calm function's only environment between two of its invocations.
    ShedOne,
    /// Memory is short, and this pool has more than its share: the next environment that is idle is given back, whoever waits for it.
    Surplus,
    /// The deployment was replaced or deleted, or the worker stops.
    Retire,
}

/// What a pool wants done, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action<R> {
    Start(EnvironmentId),
    Dispatch {
        request: R,
        environment: EnvironmentId,
    },
    /// Answer the request with the reason for which this environment's start failed.
    Fail {
        request: R,
        environment: EnvironmentId,
    },
    /// It is idle, or still waits for memory.
    Stop(EnvironmentId),
}

#[derive(Debug)]
struct Start {
    since: Duration,
    has_memory: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct EnvironmentPool<R> {
    idle_timeout: Duration,
    retired: bool,
    surplus: bool,
    next_id: u64,
    /// Oldest first, each with the time it came.
    waiting: VecDeque<(R, Duration)>,
    starting: BTreeMap<EnvironmentId, Start>,
    busy: HashMap<EnvironmentId, R>,
    /// Those of `busy` that have answered, each with the time until which a request may count on it.
    finishing: HashMap<EnvironmentId, Duration>,
    /// Least recently used first, each with the time it became idle.
    idle: VecDeque<(EnvironmentId, Duration)>,
}

impl<R: Copy + Eq + Hash> EnvironmentPool<R> {
    /// A pool without environments. An environment that was idle for `idle_timeout` is stopped.
    pub(crate) fn new(idle_timeout: Duration) -> Self {
        Self {
            idle_timeout,
            retired: false,
            surplus: false,
            next_id: 0,
            waiting: VecDeque::new(),
            starting: BTreeMap::new(),
            busy: HashMap::new(),
            finishing: HashMap::new(),
            idle: VecDeque::new(),
        }
    }

    /// Takes one input at `now` (any monotonic time) and appends what is to be done to `actions`.
    pub(crate) fn handle(&mut self, now: Duration, input: Input<R>, actions: &mut Vec<Action<R>>) {
        match input {
            Input::Request(request) => self.waiting.push_back((request, now)),
            Input::Cancelled(request) => self.waiting.retain(|(waiting, _)| *waiting != request),
            Input::Answered(environment) => {
                if self.busy.contains_key(&environment) {
                    self.finishing.insert(environment, now + FINISHING_GRACE);
                }
            }
            Input::Idle(environment) => {
                self.finishing.remove(&environment);
                if self.starting.remove(&environment).is_some() || self.busy.remove(&environment).is_some() {
                    self.idle.push_back((environment, now));
                }
            }
            Input::HasMemory(environment) => {
                if let Some(start) = self.starting.get_mut(&environment) {
                    start.has_memory = true;
                }
            }
            Input::NoMemory(environment) => {
                if let Some(start) = self.starting.remove(&environment)
                    && self.waiting.front().is_some_and(|(_, since)| *since <= start.since)
                {
                    self.fail_oldest(environment, actions);
                }
            }
            Input::StartFailed(environment) => {
                if self.starting.remove(&environment).is_some() {
                    self.fail_oldest(environment, actions);
                }
            }
            Input::Gone(environment) => {
                self.starting.remove(&environment);
                self.busy.remove(&environment);
                self.finishing.remove(&environment);
                self.idle.retain(|(idle, _)| *idle != environment);
            }
            Input::Tick => {}
            Input::ShedOne => {
                let spare = |since| self.idle.len() > 1 || now.saturating_sub(since) >= IN_USE;
                if self.idle.front().is_some_and(|(_, since)| spare(*since))
                    && let Some((environment, _)) = self.idle.pop_front()
                {
                    actions.push(Action::Stop(environment));
                }
            }
            Input::Surplus => self.surplus = true,
            Input::Retire => self.retired = true,
        }
        self.settle(now, actions);
    }

    fn fail_oldest(&mut self, environment: EnvironmentId, actions: &mut Vec<Action<R>>) {
        if let Some((request, _)) = self.waiting.pop_front() {
            actions.push(Action::Fail { request, environment });
        }
    }

    /// Matches waiting requests with idle environments, starts what is missing, stops what is not needed any more.
    fn settle(&mut self, now: Duration, actions: &mut Vec<Action<R>>) {
        if self.surplus
            && let Some((environment, _)) = self.idle.pop_front()
        {
            self.surplus = false;
            actions.push(Action::Stop(environment));
        }
        while !self.waiting.is_empty()
            && let Some((environment, _)) = self.idle.pop_back()
            && let Some((request, _)) = self.waiting.pop_front()
        {
            self.busy.insert(environment, request);
            actions.push(Action::Dispatch { request, environment });
        }
        let mut coming = self.starting.len() + self.finishing.values().filter(|until| **until > now).count();
        while coming < self.waiting.len() {
            coming += 1;
            let environment = EnvironmentId(self.next_id);
            self.next_id += 1;
            self.starting.insert(environment, Start { since: now, has_memory: false });
            actions.push(Action::Start(environment));
        }
        if self.waiting.is_empty() {
            let unneeded = self.starting.extract_if(.., |_, start| !start.has_memory);
            actions.extend(unneeded.map(|(environment, _)| Action::Stop(environment)));
        }
        let expiry = if self.retired { Duration::ZERO } else { self.idle_timeout };
        while let Some((environment, since)) = self.idle.front().copied()
            && now.saturating_sub(since) >= expiry
        {
            self.idle.pop_front();
            actions.push(Action::Stop(environment));
        }
    }

    /// When the next [`Input::Tick`] is due, if any.
    pub(crate) fn next_tick(&self) -> Option<Duration> {
        let expiry = self.idle.front().map(|(_, since)| *since + self.idle_timeout);
        // Whoever counts on an environment must notice when it takes too long.
        let grace = self.finishing.values().min().filter(|_| self.starting.len() < self.waiting.len());
        expiry.into_iter().chain(grace.copied()).min()
    }

    /// Whether nothing waits, runs, starts or idles here.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.starting.is_empty() && self.busy.is_empty() && self.idle.is_empty()
    }

    /// Environments by what they do: starting, busy, idle.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        (self.starting.len(), self.busy.len(), self.idle.len())
    }
}

#[cfg(test)]
mod tests;
