//! The task that owns one environment.
//!
//! ```text
//!   memory ──► launch ──► init phase ──Idle──► ┌ idle ┐ ──Job──► attempt ──Idle──┐
//!      │          │           │                └──┬───┘◄─────────────────────────┘
//!      │          └─ failed ──┴─► StartFailed     └─ no more jobs, runtime gone, attempt broke it ──► stop ──► Gone
//!      └─ none: NoMemory; given up: Gone
//! ```
//!
//! It tells its pool every change; the pool decides. Log lines that come while the environment is idle are kept too.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use sandbox::{AgentFrame, Environment};
use tokio::{sync::mpsc, time::Instant};
use tracing::Instrument;
use types::{Clock, FunctionSpec, LogSink};

use crate::{
    InvokeError,
    attempt::{self, Job, Place, Verdict},
    capacity::Owner,
    failure::Failure,
    launcher::{CodeCell, Launcher},
    log_capture::LogCapture,
    metrics::FunctionMetrics,
    pool::EnvironmentId,
    pool_task::PoolMessage,
};

/// Why an environment never became ready.
#[derive(Debug, Clone)]
pub(crate) enum StartFailure {
    /// The platform's fault, or nobody's: no attempt was made.
    Platform(InvokeError),
    /// The function's fault: its caller gets this answer, and the log up to there.
    Function { failure: Failure, log: Bytes },
}

/// What the task works with.
pub(crate) struct EnvironmentTask {
    pub(crate) id: EnvironmentId,
    pub(crate) function: Arc<FunctionSpec>,
    pub(crate) metrics: FunctionMetrics,
    pub(crate) launcher: Arc<Launcher>,
    /// Of its memory.
    pub(crate) owner: Owner,
    pub(crate) code: Arc<CodeCell>,
    pub(crate) logs: Arc<dyn LogSink>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) init_timeout: Duration,
    /// Dropped by the pool when the environment is to stop.
    pub(crate) jobs: mpsc::Receiver<Job>,
    pub(crate) pool: mpsc::UnboundedSender<PoolMessage>,
}

impl EnvironmentTask {
    /// Runs until the environment is gone.
    pub(crate) async fn run(mut self) {
        let stream = log_stream(&self.function, self.clock.as_ref());
        let memory = tokio::select! {
            biased;
            // No job comes before it is idle: it is given up.
            _ = self.jobs.recv() => return self.tell(PoolMessage::Gone(self.id)),
            memory = self.launcher.reserve(&self.owner, &self.function) => match memory {
                Ok(memory) => memory,
                Err(error) => return self.tell(PoolMessage::NoMemory(self.id, error)),
            },
        };
        self.tell(PoolMessage::HasMemory(self.id));
        let mut environment = match self.launcher.launch(&self.function, &self.code, stream.clone()).await {
            Ok(environment) => environment,
            Err(error) => return self.tell_failed(StartFailure::Platform(error)),
        };
        let mut logs = LogCapture::new(self.logs.clone(), self.clock.clone(), self.function.clone(), stream);
        let begun = environment.started();
        match self.init(&mut environment, &mut logs).await {
            Ok(()) => {
                let took = begun.elapsed();
                self.metrics.init(took);
                self.serve(&mut environment, &mut logs, took).await;
                environment.stop().await;
                self.tell(PoolMessage::Gone(self.id));
            }
            Err(failure) => {
                logs.platform(format!(
                    "INIT_REPORT Init Duration: {:.2} ms\tPhase: init\tStatus: {}\tError Type: {}",
                    begun.elapsed().as_secs_f64() * 1e3,
                    failure.status().0,
                    failure.status().1
                ));
                let log = logs.tail();
                environment.stop().await;
                self.tell_failed(StartFailure::Function { failure, log });
            }
        }
        drop(memory);
    }

    /// Waits until the runtime asks for its first event.
    async fn init(&self, environment: &mut Environment, logs: &mut LogCapture) -> Result<(), Failure> {
        let deadline = Instant::from_std(environment.started()) + self.init_timeout;
        let mut reported = None;
        loop {
            let Ok(frame) = tokio::time::timeout_at(deadline, environment.recv()).await else {
                return Err(reported.unwrap_or(Failure::TimedOut(self.init_timeout)));
            };
            match frame {
                Ok(AgentFrame::Idle) => break,
                Ok(AgentFrame::Log { stream, bytes }) => logs.printed(stream, &bytes),
                // The runtime exits after it reported; what it reported says more than its exit code.
                Ok(AgentFrame::InitError { error_type, body }) => {
                    reported = Some(Failure::Reported { error_type, body: body.into() });
                }
                Ok(AgentFrame::RuntimeExited { status }) => {
                    return Err(reported.unwrap_or_else(|| attempt::ending(environment, Some(status))));
                }
                Ok(other) => tracing::debug!(?other, "a frame that the init phase has no use for"),
                Err(_) => return Err(reported.unwrap_or_else(|| attempt::ending(environment, None))),
            }
        }
        if let Err(error) = environment.end_init_boost() {
            tracing::error!(%error, function = %self.function.arn, "cannot set an environment's share of CPU");
        }
        Ok(())
    }

    /// Runs jobs until the pool wants no more or the environment breaks.
    async fn serve(&mut self, environment: &mut Environment, logs: &mut LogCapture, init: Duration) {
        let mut first_init = Some(init);
        loop {
            self.tell(PoolMessage::Idle(self.id));
            let job = loop {
                tokio::select! {
                    biased;
                    job = self.jobs.recv() => match job {
                        Some(job) => break job,
                        None => return,
                    },
                    frame = environment.recv() => match frame {
                        Ok(AgentFrame::Log { stream, bytes }) => logs.printed(stream, &bytes),
                        Ok(AgentFrame::RuntimeExited { .. }) | Err(_) => return self.close(),
                        Ok(other) => tracing::debug!(?other, "a frame that an idle environment has no use for"),
                    },
                }
            };
            let init = first_init.take();
            let span = tracing::info_span!(parent: &job.span, "environment", cold = init.is_some());
            let answered = || self.tell(PoolMessage::Answered(self.id));
            let place = Place { environment, logs, metrics: &self.metrics, clock: self.clock.as_ref() };
            let attempt = attempt::run(place, init, job, answered);
            let verdict = attempt.instrument(span).await;
            if verdict == Verdict::Broken {
                return self.close();
            }
        }
    }

    /// A job that was on its way when the environment broke goes back to the pool.
    fn close(&mut self) {
        self.jobs.close();
        while let Ok(job) = self.jobs.try_recv() {
            self.tell(PoolMessage::Returned(job));
        }
    }

    fn tell(&self, message: PoolMessage) {
        // A pool outlives its environments; if it is gone, the worker is stopping.
        let _ = self.pool.send(message);
    }

    fn tell_failed(&self, failure: StartFailure) {
        self.tell(PoolMessage::StartFailed(self.id, failure));
    }
}

/// `2026/11/22/[$LATEST]<32 hex>`, as Lambda names log streams.
fn log_stream(function: &FunctionSpec, clock: &dyn Clock) -> String {
    let date = jiff::Timestamp::UNIX_EPOCH
        .checked_add(jiff::SignedDuration::try_from(clock.now()).unwrap_or_default())
        .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
        .strftime("%Y/%m/%d");
    format!("{date}/[{}]{}", function.version, uuid::Uuid::new_v4().simple())
}
