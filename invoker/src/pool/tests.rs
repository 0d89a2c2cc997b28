use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn run(pool: &mut EnvironmentPool<u32>, now: u64, input: Input<u32>) -> Vec<Action<u32>> {
    let mut actions = Vec::new();
    pool.handle(seconds(now), input, &mut actions);
    actions
}

const A: EnvironmentId = EnvironmentId(0);
const B: EnvironmentId = EnvironmentId(1);

#[test]
fn a_first_request_starts_an_environment_and_the_second_reuses_it() {
    let mut pool = EnvironmentPool::new(IDLE_TIMEOUT);
    assert_eq!(run(&mut pool, 0, Input::Request(1)), [Action::Start(A)]);
    assert_eq!(run(&mut pool, 1, Input::Idle(A)), [Action::Dispatch { request: 1, environment: A }]);
    assert_eq!(run(&mut pool, 2, Input::Idle(A)), []);
    assert_eq!(run(&mut pool, 3, Input::Request(2)), [Action::Dispatch { request: 2, environment: A }]);
}

#[test]
fn a_request_that_waits_for_a_cold_start_takes_a_warm_environment_that_frees_up_first() {
    let mut pool = EnvironmentPool::new(IDLE_TIMEOUT);
    run(&mut pool, 0, Input::Request(1));
    run(&mut pool, 1, Input::Idle(A));
    assert_eq!(run(&mut pool, 2, Input::Request(2)), [Action::Start(B)]);
    run(&mut pool, 2, Input::HasMemory(B));
    assert_eq!(run(&mut pool, 3, Input::Idle(A)), [Action::Dispatch { request: 2, environment: A }]);
    // The environment that was started for it is kept for the next one.
    assert_eq!(run(&mut pool, 4, Input::Idle(B)), []);
    assert_eq!(run(&mut pool, 5, Input::Request(3)), [Action::Dispatch { request: 3, environment: B }]);
}

#[test]
fn a_caller_that_asks_again_at_once_gets_the_environment_that_answered_it() {
    let mut pool = EnvironmentPool::new(IDLE_TIMEOUT);
    run(&mut pool, 0, Input::Request(1));
    run(&mut pool, 1, Input::Idle(A));
    assert_eq!(run(&mut pool, 2, Input::Answered(A)), []);
    assert_eq!(run(&mut pool, 2, Input::Request(2)), []);
    assert_eq!(run(&mut pool, 2, Input::Idle(A)), [Action::Dispatch { request: 2, environment: A }]);
}

#[test]
fn a_function_that_goes_on_after_its_answer_is_not_waited_for() {
    let mut pool = EnvironmentPool::new(IDLE_TIMEOUT);
    run(&mut pool, 0, Input::Request(1));
    run(&mut pool, 1, Input::Idle(A));
    run(&mut pool, 2, Input::Answered(A));
    assert_eq!(pool.next_tick(), None, "nobody counts on it yet");
    run(&mut pool, 2, Input::Request(2));
    let due = pool.next_tick().unwrap();
    assert_eq!(due, seconds(2) + FINISHING_GRACE);
    let mut actions = Vec::new();
    pool.handle(due, Input::Tick, &mut actions);
    assert_eq!(actions, [Action::Start(B)]);
    assert_eq!(pool.next_tick(), None);
}

#[test]
fn a_failed_start_costs_one_request_and_tells_it_why() {
    let mut pool = EnvironmentPool::new(IDLE_TIMEOUT);
    run(&mut pool, 0, Input::Request(1));
    run(&mut pool, 0, Input::Request(2));
    assert_eq!(run(&mut pool, 1, Input::StartFailed(A)), [Action::Fail { request: 1, environment: A }]);
    assert_eq!(run(&mut pool, 2, Input::Idle(B)), [Action::Dispatch { request: 2, environment: B }]);
}

#[test]
fn memory_that_does_not_come_free_costs_only_who_has_waited_for_it() {
    let mut pool = EnvironmentPool::new(IDLE_TIMEOUT);
    run(&mut pool, 0, Input::Request(1));
    run(&mut pool, 1, Input::Idle(A));
    assert_eq!(run(&mut pool, 2, Input::Request(2)), [Action::Start(B)]);
    run(&mut pool, 3, Input::Request(3));
    // A warm environment serves one after the other; who waits at the end came last.
    run(&mut pool, 4, Input::Idle(A));
    run(&mut pool, 5, Input::Request(4));
    run(&mut pool, 6, Input::Idle(A));
    const D: EnvironmentId = EnvironmentId(3);
    assert_eq!(run(&mut pool, 7, Input::NoMemory(B)), []);
    assert_eq!(run(&mut pool, 8, Input::NoMemory(EnvironmentId(2))), [Action::Start(D)]);
    assert_eq!(run(&mut pool, 13, Input::NoMemory(D)), [Action::Fail { request: 4, environment: D }]);
}

#[test]
fn a_start_that_waits_for_memory_is_given_up_when_nobody_waits_for_it() {
    let mut pool = EnvironmentPool::new(IDLE_TIMEOUT);
    run(&mut pool, 0, Input::Request(1));
    run(&mut pool, 1, Input::Idle(A));
    run(&mut pool, 2, Input::Request(2));
    assert_eq!(
        run(&mut pool, 3, Input::Idle(A)),
        [Action::Dispatch { request: 2, environment: A }, Action::Stop(B)]
    );
    // One that has its memory is nearly there, and is kept.
    const C: EnvironmentId = EnvironmentId(2);
    assert_eq!(run(&mut pool, 4, Input::Request(3)), [Action::Start(C)]);
    run(&mut pool, 5, Input::HasMemory(C));
    assert_eq!(run(&mut pool, 6, Input::Idle(A)), [Action::Dispatch { request: 3, environment: A }]);
    assert_eq!(run(&mut pool, 7, Input::Idle(C)), []);
    assert_eq!(run(&mut pool, 8, Input::Request(4)), [Action::Dispatch { request: 4, environment: C }]);
}

#[test]
fn idle_environments_stop_after_the_timeout_and_not_before() {
    let mut pool = EnvironmentPool::new(IDLE_TIMEOUT);
    run(&mut pool, 0, Input::Request(1));
    run(&mut pool, 1, Input::Idle(A));
    run(&mut pool, 10, Input::Idle(A));
    assert_eq!(pool.next_tick(), Some(seconds(70)));
    assert_eq!(run(&mut pool, 69, Input::Tick), []);
    assert_eq!(run(&mut pool, 70, Input::Tick), [Action::Stop(A)]);
    assert!(pool.is_empty());
}

#[test]
fn a_retired_pool_finishes_its_work_and_empties() {
    let mut pool = EnvironmentPool::new(IDLE_TIMEOUT);
    run(&mut pool, 0, Input::Request(1));
    run(&mut pool, 1, Input::Idle(A));
    assert_eq!(run(&mut pool, 2, Input::Retire), []);
    assert_eq!(run(&mut pool, 3, Input::Idle(A)), [Action::Stop(A)]);
    assert!(pool.is_empty());
}

#[test]
fn short_memory_takes_the_environment_that_was_idle_longest() {
    let mut pool = EnvironmentPool::new(IDLE_TIMEOUT);
    run(&mut pool, 0, Input::Request(1));
    run(&mut pool, 0, Input::Request(2));
    run(&mut pool, 0, Input::HasMemory(B));
    run(&mut pool, 1, Input::Idle(A));
    run(&mut pool, 1, Input::Idle(B));
    run(&mut pool, 2, Input::Idle(B));
    run(&mut pool, 3, Input::Idle(A));
    assert_eq!(run(&mut pool, 4, Input::ShedOne), [Action::Stop(B)]);
    assert_eq!(run(&mut pool, 5, Input::ShedOne), [Action::Stop(A)]);
    assert_eq!(run(&mut pool, 6, Input::ShedOne), []);
}

#[test]
fn short_memory_leaves_a_function_the_environment_that_it_uses_all_the_time() {
    let mut pool = EnvironmentPool::new(IDLE_TIMEOUT);
    let moment = IN_USE / 20;
    let mut now = Duration::ZERO;
    run(&mut pool, 0, Input::Request(0));
    run(&mut pool, 0, Input::Idle(A));
    run(&mut pool, 0, Input::Idle(A));
    for request in 1..100 {
        pool.handle(now, Input::Request(request), &mut Vec::new());
        pool.handle(now, Input::Idle(A), &mut Vec::new());
        now += moment;
        let mut actions = Vec::new();
        pool.handle(now, Input::ShedOne, &mut actions);
        assert_eq!(actions, []);
    }
    let mut actions = Vec::new();
    pool.handle(now + IN_USE, Input::ShedOne, &mut actions);
    assert_eq!(actions, [Action::Stop(A)]);
}

#[test]
fn who_has_more_than_a_share_gives_back_what_is_idle_next_though_requests_wait() {
    let mut pool = EnvironmentPool::new(IDLE_TIMEOUT);
    run(&mut pool, 0, Input::Request(1));
    run(&mut pool, 0, Input::Request(2));
    run(&mut pool, 0, Input::HasMemory(B));
    run(&mut pool, 1, Input::Idle(A));
    run(&mut pool, 1, Input::Idle(B));
    const C: EnvironmentId = EnvironmentId(2);
    assert_eq!(run(&mut pool, 2, Input::Request(3)), [Action::Start(C)]);
    assert_eq!(run(&mut pool, 3, Input::Surplus), []);
    assert_eq!(run(&mut pool, 4, Input::Idle(B)), [Action::Stop(B)]);
    assert_eq!(
        run(&mut pool, 5, Input::Idle(A)),
        [Action::Dispatch { request: 3, environment: A }, Action::Stop(C)]
    );
}

/// What a pool may be doing with an environment, as seen from outside only.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Seen {
    WaitsForMemory,
    Starting,
    Busy(u32),
    /// Its request has ended.
    Answered,
    Idle,
}

/// Plays the world around a pool: it does what the pool asks and checks that it may.
#[derive(Default)]
struct World {
    environments: BTreeMap<EnvironmentId, Seen>,
    waiting: Vec<u32>,
    next_request: u32,
    ended: Vec<u32>,
}

impl World {
    fn perform(&mut self, actions: Vec<Action<u32>>) {
        for action in actions {
            match action {
                Action::Start(environment) => {
                    assert!(
                        self.environments.insert(environment, Seen::WaitsForMemory).is_none(),
                        "an id came twice"
                    );
                }
                Action::Dispatch { request, environment } => {
                    assert_eq!(self.waiting.first(), Some(&request), "not the oldest request");
                    self.waiting.remove(0);
                    let before = self.environments.insert(environment, Seen::Busy(request));
                    assert_eq!(before, Some(Seen::Idle), "dispatched to an environment that was not idle");
                }
                Action::Fail { request, environment } => {
                    assert_eq!(self.waiting.first(), Some(&request), "not the oldest request");
                    assert!(!self.environments.contains_key(&environment));
                    self.ended.push(self.waiting.remove(0));
                }
                Action::Stop(environment) => {
                    let seen = self.environments.remove(&environment).unwrap();
                    assert!(matches!(seen, Seen::Idle | Seen::WaitsForMemory), "stopped while in use");
                    assert!(seen == Seen::Idle || self.waiting.is_empty(), "not started for whoever waits");
                }
            }
        }
        let hungry = self.environments.values().filter(|seen| **seen == Seen::WaitsForMemory).count();
        assert!(hungry == 0 || !self.waiting.is_empty(), "memory is asked for and nobody waits");
        let starting = hungry + self.environments.values().filter(|seen| **seen == Seen::Starting).count();
        let idle = self.environments.values().filter(|seen| **seen == Seen::Idle).count();
        let answered = self.environments.values().filter(|seen| **seen == Seen::Answered).count();
        assert!(starting + answered >= self.waiting.len(), "a request waits for nothing");
        assert!(self.waiting.is_empty() || idle == 0, "a request waits beside an idle environment");
    }

    fn pick(&self, index: prop::sample::Index) -> Option<EnvironmentId> {
        let ids: Vec<_> = self.environments.keys().copied().collect();
        (!ids.is_empty()).then(|| ids[index.index(ids.len())])
    }
}

#[derive(Debug, Clone)]
enum Step {
    Request,
    Cancel(prop::sample::Index),
    Answer(prop::sample::Index),
    Advance(prop::sample::Index),
    Break(prop::sample::Index),
    Memory(prop::sample::Index),
    Wait(u64),
    Shed,
    Surplus,
    Retire,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Request),
        1 => any::<prop::sample::Index>().prop_map(Step::Cancel),
        4 => any::<prop::sample::Index>().prop_map(Step::Answer),
        8 => any::<prop::sample::Index>().prop_map(Step::Advance),
        3 => any::<prop::sample::Index>().prop_map(Step::Break),
        4 => any::<prop::sample::Index>().prop_map(Step::Memory),
        2 => (0u64..100).prop_map(Step::Wait),
        1 => Just(Step::Shed),
        1 => Just(Step::Surplus),
        1 => Just(Step::Retire),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_request_ends_once_and_no_environment_is_shared(steps in prop::collection::vec(step(), 0..120)) {
        let mut pool = EnvironmentPool::new(IDLE_TIMEOUT);
        let mut world = World::default();
        let mut now = 0;
        let mut accepted = 0;
        for step in steps {
            let input = match step {
                Step::Request => {
                    world.next_request += 1;
                    accepted += 1;
                    world.waiting.push(world.next_request);
                    Input::Request(world.next_request)
                }
                Step::Cancel(index) => {
                    if world.waiting.is_empty() { continue }
                    let request = world.waiting.remove(index.index(world.waiting.len()));
                    world.ended.push(request);
                    Input::Cancelled(request)
                }
                Step::Answer(index) => {
                    let Some(id) = world.pick(index) else { continue };
                    if let Some(Seen::Busy(request)) = world.environments.get(&id).copied() {
                        world.environments.insert(id, Seen::Answered);
                        world.ended.push(request);
                    }
                    Input::Answered(id)
                }
                Step::Advance(index) => {
                    let Some(id) = world.pick(index) else { continue };
                    if let Some(Seen::Busy(request)) = world.environments.insert(id, Seen::Idle) {
                        world.ended.push(request);
                    }
                    Input::Idle(id)
                }
                Step::Break(index) => {
                    let Some(id) = world.pick(index) else { continue };
                    match world.environments.remove(&id) {
                        Some(Seen::WaitsForMemory) => Input::NoMemory(id),
                        Some(Seen::Starting) => Input::StartFailed(id),
                        Some(Seen::Busy(request)) => { world.ended.push(request); Input::Gone(id) }
                        _ => Input::Gone(id),
                    }
                }
                Step::Memory(index) => {
                    let Some(id) = world.pick(index) else { continue };
                    if let Some(seen @ Seen::WaitsForMemory) = world.environments.get_mut(&id) {
                        *seen = Seen::Starting;
                    }
                    Input::HasMemory(id)
                }
                Step::Wait(duration) => { now += duration; Input::Tick }
                Step::Shed => Input::ShedOne,
                Step::Surplus => Input::Surplus,
                Step::Retire => Input::Retire,
            };
            // An environment that was idle already and is reported idle again stays as it was.
            world.perform(run(&mut pool, now, input));
        }
        // Let everything that is under way come to its end: the pool must empty.
        world.perform(run(&mut pool, now, Input::Retire));
        while let Some((&id, &seen)) = world.environments.iter().find(|(_, seen)| **seen != Seen::Idle) {
            if let Seen::Busy(request) = seen { world.ended.push(request); }
            world.environments.insert(id, Seen::Idle);
            world.perform(run(&mut pool, now, Input::Idle(id)));
        }
        prop_assert!(pool.is_empty());
        prop_assert!(world.environments.is_empty());
        world.ended.sort_unstable();
        world.ended.dedup();
        prop_assert_eq!(world.ended.len(), accepted);
    }
}
