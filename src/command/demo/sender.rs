//! Sends every event until it is answered 202, whatever becomes of the server meanwhile.
//!
//! ```text
//!   next number ─► connection 1 ─┐                ┌─ 202 ─────────────► accepted(number, request id)
//!               ─► connection 2 ─┼─ signed Invoke ┼─ no answer, 429, 5xx ─► the same event again
//!               ─► …            ─┘                └─ anything else ───► an error: the demo has failed
//! ```
//! An event whose answer did not arrive may have been accepted all the same: it is sent again, and may run twice.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Method, StatusCode};
use tokio::{
    runtime::Handle,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinSet,
    time::sleep,
};

use crate::command::client::{Client, Connection, refusal};

const CONNECTIONS: usize = 8;
/// Before an event is sent again. A server that is down refuses at once.
const AGAIN: Duration = Duration::from_millis(50);

/// A promise: the server answered 202.
pub(super) struct Accepted {
    pub(super) number: u32,
    pub(super) request_id: String,
}

/// Sends until it is dropped.
pub(super) struct Sender {
    /// At most as many messages as there are numbers.
    answers: UnboundedReceiver<anyhow::Result<Accepted>>,
    unanswered: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

/// What the tasks share.
struct Sending {
    client: Arc<Client>,
    path: String,
    next: AtomicU32,
    end: u32,
    unanswered: Arc<AtomicU64>,
}

// === impl Sender ===

impl Sender {
    /// Begins to send the events of these numbers.
    pub(super) fn start(runtime: &Handle, client: Arc<Client>, function: &str, numbers: Range<u32>) -> Self {
        let unanswered = Arc::new(AtomicU64::new(0));
        let sending = Arc::new(Sending {
            client,
            path: format!("/2015-03-31/functions/{function}/invocations"),
            next: AtomicU32::new(numbers.start),
            end: numbers.end,
            unanswered: unanswered.clone(),
        });
        let (accepted, answers) = unbounded_channel();
        let mut tasks = JoinSet::new();
        for _ in 0..CONNECTIONS {
            tasks.spawn_on(sending.clone().run(accepted.clone()), runtime);
        }
        Self { answers, unanswered, _tasks: tasks }
    }

    /// The next promise; none after the last number.
    ///
    /// *Dropped:* nothing is missed.
    pub(super) async fn next(&mut self) -> Option<anyhow::Result<Accepted>> {
        self.answers.recv().await
    }

    /// Events that went out and got no answer, and so were sent again.
    pub(super) fn unanswered(&self) -> u64 {
        self.unanswered.load(Ordering::Relaxed)
    }
}

/// The payload of an event.
pub(super) fn payload(number: u32) -> String {
    format!(r#"{{"order": {number}}}"#)
}

// === impl Sending ===

impl Sending {
    async fn run(self: Arc<Self>, accepted: UnboundedSender<anyhow::Result<Accepted>>) {
        let mut connection = None;
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.end {
                return;
            }
            let answer = self.until_answered(number, &mut connection).await;
            // Nobody listens: the demo has ended.
            if accepted.send(answer).is_err() {
                return;
            }
        }
    }

    async fn until_answered(
        &self,
        number: u32,
        connection: &mut Option<Connection>,
    ) -> anyhow::Result<Accepted> {
        loop {
            match self.send(number, connection).await {
                Ok(Some(request_id)) => return Ok(Accepted { number, request_id }),
                Ok(None) => {}
                Err(error) => return Err(error.context(format!("order {number} was not accepted"))),
            }
            sleep(AGAIN).await;
        }
    }

    /// `None`: it was not accepted, as far as one can know here, and may be another time.
    async fn send(&self, number: u32, kept: &mut Option<Connection>) -> anyhow::Result<Option<String>> {
        let headers = [("x-amz-invocation-type", "Event")];
        let request = self.client.signed(Method::POST, &self.path, &headers, Bytes::from(payload(number)))?;
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => match self.client.connect().await {
                Ok(connection) => connection,
                Err(_) => return Ok(None),
            },
        };
        let Ok(answer) = connection.exchange(request).await else {
            self.unanswered.fetch_add(1, Ordering::Relaxed);
            return Ok(None);
        };
        *kept = Some(connection);
        let status = answer.status();
        if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
            return Ok(None);
        }
        if status != StatusCode::ACCEPTED {
            bail!("the server answered {}", refusal(&answer));
        }
        let id = answer.headers().get("x-amzn-requestid").context("a 202 without a request id")?;
        Ok(Some(id.to_str().context("a request id that is no text")?.to_owned()))
    }
}
