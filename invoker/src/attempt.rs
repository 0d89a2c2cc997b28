//! One invocation in one environment, from its START line to its REPORT line.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use sandbox::{AgentFrame, Environment, Invoke, InvokerFrame};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};
use types::{Clock, limits};

use crate::{
    FunctionError, InvokeError, InvokeOutcome, InvokeRequest,
    failure::Failure,
    log_capture::{LogCapture, Report},
    metrics::FunctionMetrics,
    service::ConcurrencySlot,
};

/// Where the outcome of an invocation goes.
pub(crate) type Reply = oneshot::Sender<Result<InvokeOutcome, InvokeError>>;

/// A request on its way to an environment, and where its outcome goes.
pub(crate) struct Job {
    /// Names the job in its pool.
    pub(crate) ticket: u64,
    pub(crate) request: InvokeRequest,
    pub(crate) reply: Reply,
    /// Held until the invocation has ended, whether or not its caller still waits.
    pub(crate) slot: ConcurrencySlot,
    /// The invocation as traces show it; what happens in the environment is a part of it.
    pub(crate) span: tracing::Span,
}

/// Whether the environment may run another invocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Reusable,
    Broken,
}

/// What the runtime answered.
struct Answer {
    content_type: String,
    chunks: Vec<Bytes>,
    /// In all chunks.
    bytes: usize,
}

/// How far an invocation has come.
#[derive(Default)]
struct Progress {
    answer: Option<Answer>,
    /// The answer, or the failure, is whole.
    done: bool,
    failure: Option<Failure>,
}

/// Where invocations run, one at a time.
pub(crate) struct Place<'a> {
    pub(crate) environment: &'a mut Environment,
    pub(crate) logs: &'a mut LogCapture,
    pub(crate) metrics: &'a FunctionMetrics,
    pub(crate) clock: &'a dyn Clock,
}

/// Runs one invocation. `init` is the duration of the init phase if this is the environment's first. `answered` is called
/// just before the caller gets its answer while the runtime is not back yet.
pub(crate) async fn run(place: Place<'_>, init: Option<Duration>, job: Job, answered: impl Fn()) -> Verdict {
    let Job { request, reply, slot, .. } = job;
    let begun = Instant::now();
    place.logs.start(request.request_id);
    let event = InvokerFrame::Invoke(event(&request, place.clock));
    let mut attempt = Attempt { place, request, reply: Some(reply), progress: Progress::default() };
    let verdict = match attempt.place.environment.send(&event).await {
        Ok(()) => attempt.follow(begun, answered).await,
        Err(_) => attempt.broken(None),
    };
    attempt.finish(begun.elapsed(), init);
    drop(slot);
    verdict
}

/// An invocation under way.
struct Attempt<'a> {
    place: Place<'a>,
    request: InvokeRequest,
    /// Taken when the caller gets its answer.
    reply: Option<Reply>,
    progress: Progress,
}

impl Attempt<'_> {
    /// Takes frames until the runtime asks for its next event, or the environment or the time is at its end.
    async fn follow(&mut self, begun: Instant, answered: impl Fn()) -> Verdict {
        let deadline = begun + self.request.function.timeout;
        loop {
            let Ok(frame) = timeout_at(deadline, self.place.environment.recv()).await else {
                if !self.progress.done {
                    self.progress.failure = Some(Failure::TimedOut(self.request.function.timeout));
                }
                return Verdict::Broken;
            };
            match frame {
                Ok(AgentFrame::Idle) => return Verdict::Reusable,
                Ok(AgentFrame::Log { stream, bytes }) => self.place.logs.printed(stream, &bytes),
                Ok(AgentFrame::RuntimeExited { status }) => return self.broken(Some(status)),
                Ok(frame) => self.progress.take(frame),
                Err(_) => return self.broken(None),
            }
            // The caller need not wait for the runtime to come back for its next event, unless it wants the whole log.
            if self.progress.done
                && !self.request.log_tail
                && let Some(reply) = self.reply.take()
            {
                answered();
                self.progress.answer_to(&self.request, None, reply);
            }
        }
    }

    /// The runtime is gone, with this exit status if it is known.
    fn broken(&mut self, status: Option<i32>) -> Verdict {
        if !self.progress.done {
            self.progress.failure = Some(ending(self.place.environment, status));
        }
        Verdict::Broken
    }

    /// Writes what the log and the metrics say of the invocation, and answers a caller that still waits.
    fn finish(mut self, duration: Duration, init: Option<Duration>) {
        let (request, failure) = (&self.request, self.progress.failure.as_ref());
        if let Some(line) = failure.and_then(|failure| failure.log_line(request.request_id)) {
            self.place.logs.platform(line);
        }
        self.place.logs.end(&Report {
            request: request.request_id,
            duration,
            init,
            memory_peak: self.place.environment.memory_peak(),
            failure: failure.map(Failure::status),
            xray: &request.trace.xray,
        });
        self.place.metrics.invocation(duration, failure.map(Failure::cause));
        if let Some(reply) = self.reply.take() {
            let tail = request.log_tail.then(|| self.place.logs.tail());
            self.progress.answer_to(request, tail, reply);
        }
    }
}

fn event(request: &InvokeRequest, clock: &dyn Clock) -> Invoke {
    let deadline = clock.now() + request.function.timeout;
    Invoke {
        request_id: request.request_id.to_string(),
        deadline_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
        invoked_function_arn: request.invoked_arn.clone(),
        xray_trace_id: request.trace.header(),
        traceparent: Some(request.trace.traceparent.clone()),
        client_context: request.client_context.clone(),
        cognito_identity: None,
        tenant_id: None,
        payload: request.payload.to_vec(),
    }
}

/// Why a runtime, or the whole environment, is gone.
pub(crate) fn ending(environment: &Environment, status: Option<i32>) -> Failure {
    if environment.out_of_memory() {
        return Failure::OutOfMemory;
    }
    status.map_or(Failure::EnvironmentLost, |status| Failure::Exited { status })
}

impl Progress {
    /// Takes a frame that belongs to the answer.
    fn take(&mut self, frame: AgentFrame) {
        match frame {
            AgentFrame::ResponseHead { content_type, .. } if !self.done => {
                self.answer = Some(Answer { content_type, chunks: Vec::new(), bytes: 0 });
            }
            AgentFrame::ResponseChunk { bytes } if !self.done => self.take_chunk(bytes.into()),
            AgentFrame::ResponseEnd { error_type, error_body } if !self.done => {
                self.done = true;
                self.failure = error_type.map(|error_type| Failure::Reported {
                    error_type,
                    body: error_body.unwrap_or_default().into(),
                });
            }
            AgentFrame::InvocationError { error_type, body, .. } if !self.done => {
                self.done = true;
                self.failure = Some(Failure::Reported { error_type, body: body.into() });
            }
            AgentFrame::ResponseTooLarge { .. } if !self.done => {
                self.done = true;
                self.failure = Some(Failure::ResponseTooLarge);
            }
            // A runtime that reports an init error while it runs an event failed on that event.
            AgentFrame::InitError { error_type, body } if !self.done => {
                self.done = true;
                self.failure = Some(Failure::Reported { error_type, body: body.into() });
            }
            other => tracing::debug!(?other, "a frame that the invocation has no use for"),
        }
    }

    /// The agent bounds buffered answers, but not streamed ones, and in a virtual machine its word is the guest's.
    fn take_chunk(&mut self, chunk: Bytes) {
        let Some(answer) = &mut self.answer else { return };
        answer.bytes = answer.bytes.saturating_add(chunk.len());
        if answer.bytes > limits::SYNC_RESPONSE_BYTES {
            self.answer = None;
            self.done = true;
            self.failure = Some(Failure::ResponseTooLarge);
        } else if !chunk.is_empty() {
            answer.chunks.push(chunk);
        }
    }

    /// Answers the caller, if it still waits.
    fn answer_to(&self, request: &InvokeRequest, log_tail: Option<Bytes>, reply: Reply) {
        let (content_type, chunks, function_error) = match (&self.failure, &self.answer) {
            (Some(failure), _) => {
                let body = failure.body(request.request_id);
                ("application/json".to_owned(), vec![body], Some(FunctionError::Unhandled))
            }
            (None, Some(answer)) => (answer.content_type.clone(), answer.chunks.clone(), None),
            (None, None) => ("application/json".to_owned(), Vec::new(), None),
        };
        let outcome = InvokeOutcome {
            executed_version: request.function.version,
            function_error,
            log_tail,
            content_type,
            body: futures::stream::iter(chunks).map(Ok).boxed(),
        };
        // Nobody waits any more: the function ran all the same.
        let _ = reply.send(Ok(outcome));
    }
}

/// An answer to a request whose environment failed in its init phase.
pub(crate) fn answer_failed_init(job: Job, failure: &Failure, logs: Option<Bytes>) {
    let progress = Progress { answer: None, done: true, failure: Some(failure.clone()) };
    let tail = if job.request.log_tail { logs } else { None };
    progress.answer_to(&job.request, tail, job.reply);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_never_ends_is_cut_off_at_the_limit() {
        let mut progress = Progress::default();
        let head = AgentFrame::ResponseHead {
            request_id: "r".to_owned(),
            content_type: "text/plain".to_owned(),
            mode: sandbox::ResponseMode::Streaming,
        };
        progress.take(head);
        let chunk = || AgentFrame::ResponseChunk { bytes: vec![b'x'; limits::SYNC_RESPONSE_BYTES / 2] };
        progress.take(chunk());
        progress.take(AgentFrame::ResponseChunk { bytes: Vec::new() });
        progress.take(chunk());
        assert!(!progress.done && progress.answer.as_ref().is_some_and(|answer| answer.chunks.len() == 2));
        progress.take(AgentFrame::ResponseChunk { bytes: b"x".to_vec() });
        assert!(progress.done && progress.answer.is_none());
        assert!(matches!(progress.failure, Some(Failure::ResponseTooLarge)));
        progress.take(chunk());
        assert!(progress.answer.is_none(), "nothing more is kept");
    }
}
