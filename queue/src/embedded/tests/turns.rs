//! Tasks that run one at a time, in an order that a seed decides.
//!
//! ```text
//!   task 0   ───╮ write        ╭── sync ─╮                ╭── answer
//!   task 1      ╰── lease ─╮   │         │          wakes │
//!   task 2                 ╰───╯         ╰─ append ─ waits ╌╌╌╌╌
//! ```
//! Each task has a thread, so that it can be stopped in the middle of a commit; but only one thread ever runs, and it hands its turn
//! over at storage calls, at looks at a clock, at calls of the key service, and when what it awaits is not ready. Who comes next is
//! drawn. A thread that holds the queue's lock keeps its turn: there another one could only wait for it. If all wait, a
//! wake-up was lost, and that is a failure.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::pin,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Wake, Waker},
};

use crate::{
    seal::audit,
    testing::{self, Random, SharedRandom},
};

/// A turn is handed over at one in so many places where it could be.
const KEEP: u64 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Ready,
    Waiting,
    Ended,
}

#[derive(Debug)]
struct Task {
    status: Status,
    /// Woken since it last began to wait.
    woken: bool,
}

struct State {
    holder: usize,
    tasks: Vec<Task>,
    random: Random,
    handed_over: u64,
    /// What went wrong: everybody gives up.
    failure: Option<Box<dyn Any + Send>>,
}

pub(super) struct Turns {
    state: Mutex<State>,
    changed: Vec<Condvar>,
    /// Whether nobody holds a lock that others need.
    free: Box<dyn Fn() -> bool + Send + Sync>,
}

/// Unwinds the threads of those that did nothing wrong.
struct GivenUp;

/// What a task does; it is told how to wait.
pub(super) type Body<'a> = Box<dyn FnOnce(&Waiter) + Send + 'a>;

/// By which a task waits for futures.
pub(super) struct Waiter {
    turns: Arc<Turns>,
    task: usize,
}

/// Runs the tasks to their ends; returns how often a turn was handed over. Salts and ids come from `salts`.
pub(super) fn run(
    random: Random,
    salts: &SharedRandom,
    free: Box<dyn Fn() -> bool + Send + Sync>,
    bodies: Vec<Body<'_>>,
) -> u64 {
    let tasks = bodies.iter().map(|_| Task { status: Status::Ready, woken: false }).collect();
    let state = Mutex::new(State { holder: 0, tasks, random, handed_over: 0, failure: None });
    let changed = bodies.iter().map(|_| Condvar::new()).collect();
    let turns = Arc::new(Turns { state, changed, free });
    let ledger = audit::ledger();
    std::thread::scope(|scope| {
        for (task, body) in bodies.into_iter().enumerate() {
            let waiter = Waiter { turns: turns.clone(), task };
            let (salts, ledger) = (salts.clone(), ledger.clone());
            scope.spawn(move || {
                audit::go_on_with(ledger);
                testing::seed(Some(salts));
                let turns = waiter.turns.clone();
                testing::on_pause(Some(Arc::new(move || turns.pause(task))));
                let ended = catch_unwind(AssertUnwindSafe(|| {
                    drop(waiter.turns.until_turn(task, waiter.turns.state()));
                    body(&waiter);
                }));
                testing::on_pause(None);
                waiter.turns.end(task, ended.err());
            });
        }
    });
    let mut state = turns.state();
    if let Some(failure) = state.failure.take() {
        resume_unwind(failure);
    }
    state.handed_over
}

impl Waiter {
    /// Runs a future; others run while it waits.
    pub(super) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let waker = Waker::from(Arc::new(TaskWaker { turns: self.turns.clone(), task: self.task }));
        let mut context = Context::from_waker(&waker);
        loop {
            match future.as_mut().poll(&mut context) {
                Poll::Ready(value) => return value,
                Poll::Pending => self.turns.wait(self.task),
            }
        }
    }
}

struct TaskWaker {
    turns: Arc<Turns>,
    task: usize,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        let task = &mut self.turns.state().tasks[self.task];
        task.woken = true;
        if task.status == Status::Waiting {
            task.status = Status::Ready;
        }
    }
}

impl Turns {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place where another task may go on.
    fn pause(&self, task: usize) {
        if !(self.free)() {
            return;
        }
        let mut state = self.state();
        if state.random.below(KEEP) == 0 {
            self.hand_over(&mut state);
        }
        drop(self.until_turn(task, state));
    }

    fn wait(&self, task: usize) {
        let mut state = self.state();
        if !std::mem::take(&mut state.tasks[task].woken) {
            state.tasks[task].status = Status::Waiting;
        }
        self.hand_over(&mut state);
        let mut state = self.until_turn(task, state);
        state.tasks[task].woken = false;
    }

    fn end(&self, task: usize, cause: Option<Box<dyn Any + Send>>) {
        let mut state = self.state();
        state.tasks[task].status = Status::Ended;
        match cause {
            None => self.hand_over(&mut state),
            Some(cause) if cause.is::<GivenUp>() => {}
            Some(cause) => self.fail(&mut state, cause),
        }
    }

    fn hand_over(&self, state: &mut State) {
        let ready: Vec<usize> =
            (0..state.tasks.len()).filter(|task| state.tasks[*task].status == Status::Ready).collect();
        if ready.is_empty() {
            if state.tasks.iter().any(|task| task.status == Status::Waiting) {
                self.fail(state, Box::new("everybody waits: a wake-up was lost"));
            }
            return;
        }
        let next = ready[state.random.below(ready.len() as u64) as usize];
        if next != state.holder {
            state.handed_over += 1;
            state.holder = next;
            self.changed[next].notify_one();
        }
    }

    fn fail(&self, state: &mut State, cause: Box<dyn Any + Send>) {
        state.failure.get_or_insert(cause);
        self.changed.iter().for_each(Condvar::notify_one);
    }

    fn until_turn<'a>(&self, task: usize, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        while state.holder != task && state.failure.is_none() {
            state = self.changed[task].wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.failure.is_some() && !std::thread::panicking() {
            drop(state);
            resume_unwind(Box::new(GivenUp));
        }
        state
    }
}

#[test]
fn a_lost_wake_up_is_found() {
    let salts = Random(0).shared();
    let tasks: Vec<Body<'_>> = vec![
        Box::new(|_: &Waiter| {}),
        Box::new(|waiter: &Waiter| waiter.wait(std::future::pending::<()>())),
    ];
    let stuck = catch_unwind(AssertUnwindSafe(|| run(Random(0), &salts, Box::new(|| true), tasks)));
    assert_eq!(stuck.unwrap_err().downcast_ref(), Some(&"everybody waits: a wake-up was lost"));
}
