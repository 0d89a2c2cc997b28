//! The driver of one [`EnvironmentPool`]: the task that owns it, feeds it and does what it says.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use types::{Clock, FunctionSpec, LogSink};

use crate::{
    InvokeError,
    attempt::{Job, answer_failed_init},
    capacity::Owner,
    config::Config,
    environment_task::{EnvironmentTask, StartFailure},
    launcher::{CodeCell, Launcher},
    metrics::FunctionMetrics,
    pool::{Action, EnvironmentId, EnvironmentPool, Input},
};

/// What reaches a pool.
pub(crate) enum PoolMessage {
    Request(Job),
    /// The caller of the job with this ticket is gone.
    Cancelled(u64),
    Answered(EnvironmentId),
    Idle(EnvironmentId),
    HasMemory(EnvironmentId),
    NoMemory(EnvironmentId, InvokeError),
    StartFailed(EnvironmentId, StartFailure),
    Gone(EnvironmentId),
    /// An environment broke before it could begin this job.
    Returned(Job),
    ShedOne,
    Surplus,
    Retire,
}

/// What every pool of a worker shares.
pub(crate) struct PoolContext {
    pub(crate) config: Config,
    pub(crate) launcher: Arc<Launcher>,
    pub(crate) logs: Arc<dyn LogSink>,
    pub(crate) clock: Arc<dyn Clock>,
}

pub(crate) struct PoolTask {
    context: Arc<PoolContext>,
    function: Arc<FunctionSpec>,
    memory: Owner,
    metrics: FunctionMetrics,
    code: Arc<CodeCell>,
    pool: EnvironmentPool<u64>,
    begun: Instant,
    jobs: HashMap<u64, Job>,
    environments: HashMap<EnvironmentId, mpsc::Sender<Job>>,
    failures: HashMap<EnvironmentId, StartFailure>,
    /// Environments that exist in any form, stopping ones included.
    live: usize,
    broken: usize,
    started_before: bool,
    sender: mpsc::UnboundedSender<PoolMessage>,
    actions: Vec<Action<u64>>,
}

impl PoolTask {
    pub(crate) fn new(
        context: Arc<PoolContext>,
        function: Arc<FunctionSpec>,
        memory: Owner,
        sender: mpsc::UnboundedSender<PoolMessage>,
    ) -> Self {
        Self {
            pool: EnvironmentPool::new(context.config.idle_timeout),
            context,
            metrics: FunctionMetrics::new(function.arn.name.as_str()),
            function,
            memory,
            code: Arc::default(),
            begun: Instant::now(),
            jobs: HashMap::new(),
            environments: HashMap::new(),
            failures: HashMap::new(),
            live: 0,
            broken: 0,
            started_before: false,
            sender,
            actions: Vec::new(),
        }
    }

    /// Runs until the pool is empty and `may_end` agrees (it says no if a request is on its way).
    pub(crate) async fn run(
        mut self,
        mut messages: mpsc::UnboundedReceiver<PoolMessage>,
        may_end: impl Fn(&mpsc::UnboundedReceiver<PoolMessage>) -> bool,
    ) {
        loop {
            let tick = self.pool.next_tick().map(|due| self.begun + due);
            tokio::select! {
                biased;
                message = messages.recv() => match message {
                    Some(message) => self.take(message),
                    None => return,
                },
                () = sleep_until(tick.unwrap_or(self.begun)), if tick.is_some() => self.feed(Input::Tick),
            }
            self.metrics.environments(self.pool.counts());
            if self.pool.is_empty() && self.live == 0 && may_end(&messages) {
                return;
            }
        }
    }

    fn take(&mut self, message: PoolMessage) {
        match message {
            // Its caller may have gone while it was on its way back.
            PoolMessage::Returned(job) if job.reply.is_closed() => drop(job),
            PoolMessage::Request(job) | PoolMessage::Returned(job) => {
                let ticket = job.ticket;
                self.jobs.insert(ticket, job);
                self.feed(Input::Request(ticket));
            }
            // A job that runs already runs to its end.
            PoolMessage::Cancelled(ticket) => {
                if self.jobs.remove(&ticket).is_some() {
                    self.feed(Input::Cancelled(ticket));
                }
            }
            PoolMessage::Answered(id) => self.feed(Input::Answered(id)),
            PoolMessage::Idle(id) => self.feed(Input::Idle(id)),
            PoolMessage::HasMemory(id) => {
                self.count_start();
                self.feed(Input::HasMemory(id));
            }
            PoolMessage::NoMemory(id, error) => {
                self.fail(id, StartFailure::Platform(error), Input::NoMemory(id));
            }
            PoolMessage::StartFailed(id, failure) => self.fail(id, failure, Input::StartFailed(id)),
            PoolMessage::Gone(id) => {
                // An environment that the pool did not tell to stop broke.
                if self.forget(id) {
                    self.broken += 1;
                }
                self.feed(Input::Gone(id));
            }
            PoolMessage::ShedOne => self.feed(Input::ShedOne),
            PoolMessage::Surplus => self.feed(Input::Surplus),
            PoolMessage::Retire => self.feed(Input::Retire),
        }
    }

    fn fail(&mut self, id: EnvironmentId, failure: StartFailure, input: Input<u64>) {
        self.forget(id);
        self.failures.insert(id, failure);
        self.feed(input);
        self.failures.remove(&id);
    }

    /// Returns whether the environment was still in use by the pool.
    fn forget(&mut self, id: EnvironmentId) -> bool {
        self.live = self.live.saturating_sub(1);
        self.environments.remove(&id).is_some()
    }

    fn feed(&mut self, input: Input<u64>) {
        let now: Duration = self.begun.elapsed();
        let mut actions = std::mem::take(&mut self.actions);
        self.pool.handle(now, input, &mut actions);
        for action in actions.drain(..) {
            self.perform(action);
        }
        self.actions = actions;
    }

    fn perform(&mut self, action: Action<u64>) {
        match action {
            Action::Start(id) => self.start(id),
            Action::Dispatch { request, environment } => {
                let Some(job) = self.jobs.remove(&request) else {
                    return;
                };
                let unsent = match self.environments.get(&environment) {
                    Some(jobs) => jobs.try_send(job).err().map(mpsc::error::TrySendError::into_inner),
                    None => Some(job),
                };
                // The environment broke a moment ago and will say so; the job waits for another.
                if let Some(job) = unsent {
                    let _ = self.sender.send(PoolMessage::Returned(job));
                }
            }
            Action::Fail { request, environment } => {
                let Some(job) = self.jobs.remove(&request) else {
                    return;
                };
                match self.failures.get(&environment) {
                    Some(StartFailure::Function { failure, log }) => {
                        self.metrics.invocation(Duration::ZERO, Some(failure.cause()));
                        answer_failed_init(job, failure, Some(log.clone()));
                    }
                    Some(StartFailure::Platform(error)) => drop(job.reply.send(Err(error.clone()))),
                    None => drop(job),
                }
            }
            // Without its sender the environment's task ends what it does and stops.
            Action::Stop(id) => drop(self.environments.remove(&id)),
        }
    }

    fn count_start(&mut self) {
        let cause = match (self.started_before, self.broken) {
            (false, _) => "first",
            (true, 0) => "concurrency",
            (true, _) => {
                self.broken -= 1;
                "replacement"
            }
        };
        self.started_before = true;
        self.metrics.cold_start(cause);
    }

    fn start(&mut self, id: EnvironmentId) {
        let (sender, jobs) = mpsc::channel(1);
        self.environments.insert(id, sender);
        self.live += 1;
        let task = EnvironmentTask {
            id,
            function: self.function.clone(),
            metrics: self.metrics.clone(),
            launcher: self.context.launcher.clone(),
            owner: self.memory.clone(),
            code: self.code.clone(),
            logs: self.context.logs.clone(),
            clock: self.context.clock.clone(),
            init_timeout: self.context.config.init_timeout,
            jobs,
            pool: self.sender.clone(),
        };
        tokio::spawn(task.run());
    }
}
