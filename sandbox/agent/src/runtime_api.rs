//! The Lambda Runtime API, version 2018-06-01, as a state machine: bytes and frames in, bytes and frames out.
//!
//! ```text
//!             init/error                     Invoke              response or error: begins      … is complete
//!  InitFailed ◄───────── Starting ── next ──► Idle ──────► Busy ──────────────────────► Answering ───► Answered
//!                                              ▲            ▲                               │             │
//!                                              │            └── the connection broke ───────┘             │
//!                                              └───────────────────────── next ──────────────────────────┘
//! ```
//!
//! As AWS's runtime interface emulator does: of several `next` calls each waits for an event of its own; a `next` in `Busy` is
//! answered with the same event again (a runtime that was restarted asks so); in `InitFailed` and `Answering` it is
//! refused with 403.
//!
//! A buffered answer is passed on when it is complete, so that one that breaks off leaves no trace. A streamed answer is passed on
//! as it comes.

use std::{collections::VecDeque, fmt, rc::Rc};

use protocol::{AgentFrame, Invoke, LogStream, MAX_FRAME, ResponseMode, Usage};

use crate::{
    connection::{Collected, Connection, Exchange, Output, PIPELINED_LIMIT, Reply, Then},
    http::{Head, Malformed, Piece, Trailers},
};

/// Most connections at a time. Runtimes use one or two.
pub(crate) const CONNECTIONS: usize = 48;

/// What a frame may need beside its payload, bytes.
const FRAME_ROOM: usize = 64 * 1024;

const PREFIX: &str = "/2018-06-01/runtime/";

/// All connections of the runtime, and what they are about.
#[derive(Debug)]
pub(crate) struct RuntimeApi {
    session: Session,
    connections: Vec<Option<Connection>>,
}

/// The invocation, apart from how requests arrive.
#[derive(Debug)]
struct Session {
    phase: Phase,
    /// In `Busy` and `Answering`.
    event: Option<Event>,
    /// Connections whose `next` is not answered, oldest first.
    waiting: VecDeque<usize>,
    response_limit: usize,
    /// Encoded frames for the invoker.
    frames: Vec<u8>,
    meter: Option<Box<dyn Measure>>,
}

/// What the environment has used: asked just before the invoker is told of what it used it for.
pub(crate) trait Measure: fmt::Debug {
    fn usage(&mut self) -> Usage;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    InitFailed,
    Idle,
    Busy,
    Answering,
    Answered,
}

#[derive(Debug)]
struct Event {
    invoke: Invoke,
    /// Taken out of `invoke`.
    payload: Rc<Vec<u8>>,
}

/// The invoker sent an event that nobody asked for.
#[derive(Debug)]
pub(crate) struct NotIdle;

// === impl RuntimeApi ===

impl RuntimeApi {
    /// `response_limit`: largest answer in bytes; more than a frame can carry is cut to that. `meter`: where the invoker
    /// cannot see by itself what is used.
    pub(crate) fn new(response_limit: usize, meter: Option<Box<dyn Measure>>) -> Self {
        let session = Session {
            phase: Phase::Starting,
            event: None,
            waiting: VecDeque::new(),
            response_limit: response_limit.min(MAX_FRAME - FRAME_ROOM),
            frames: Vec::new(),
            meter,
        };
        Self { session, connections: (0..CONNECTIONS).map(|_| None).collect() }
    }

    /// A place for a new connection: a free one, or that of one that is only waiting to be closed.
    pub(crate) fn open(&mut self) -> Option<usize> {
        let over = |slot: &Option<Connection>| {
            slot.as_ref().is_some_and(|c| matches!(c.exchange, Exchange::Over) && c.output.is_empty())
        };
        let place = self.connections.iter().position(Option::is_none);
        let place = place.or_else(|| self.connections.iter().position(over))?;
        *self.connections.get_mut(place)? = Some(Connection::new());
        Some(place)
    }

    /// Bytes arrived on a connection.
    pub(crate) fn received(&mut self, place: usize, bytes: &[u8]) {
        if let Some(connection) = self.connections.get_mut(place).and_then(Option::as_mut) {
            self.session.read(place, connection, bytes);
        }
    }

    /// A connection is gone.
    pub(crate) fn closed(&mut self, place: usize) {
        if let Some(connection) = self.connections.get_mut(place).and_then(Option::take) {
            self.session.broken(place, &connection);
        }
    }

    /// What is to be written to a connection.
    pub(crate) fn output(&mut self, place: usize) -> Option<&mut Output> {
        self.connections.get_mut(place)?.as_mut().map(|connection| &mut connection.output)
    }

    /// All output of a connection has been written: requests that came meanwhile are read.
    pub(crate) fn drained(&mut self, place: usize) {
        self.received(place, &[]);
    }

    /// Whether the last answer on this connection has been given.
    pub(crate) fn is_over(&self, place: usize) -> bool {
        let connection = self.connections.get(place).and_then(Option::as_ref);
        connection.is_some_and(|connection| matches!(connection.exchange, Exchange::Over))
    }

    /// An event for the function. Returns the connection it goes out on, if one is waiting.
    pub(crate) fn invoke(&mut self, mut invoke: Invoke) -> Result<Option<usize>, NotIdle> {
        if self.session.phase != Phase::Idle {
            return Err(NotIdle);
        }
        let payload = Rc::new(std::mem::take(&mut invoke.payload));
        self.session.event = Some(Event { invoke, payload });
        self.session.phase = Phase::Busy;
        let Some(place) = self.session.waiting.pop_front() else {
            return Ok(None);
        };
        if let Some(connection) = self.connections.get_mut(place).and_then(Option::as_mut) {
            self.session.deliver(connection);
        }
        Ok(Some(place))
    }

    pub(crate) fn log(&mut self, stream: LogStream, bytes: &[u8]) {
        self.session.send(&AgentFrame::Log { stream, bytes: bytes.to_vec() });
    }

    pub(crate) fn runtime_exited(&mut self, status: i32) {
        self.session.send_usage();
        self.session.send(&AgentFrame::RuntimeExited { status });
    }

    /// Encoded frames for the invoker; the caller takes what it has written.
    pub(crate) fn frames(&mut self) -> &mut Vec<u8> {
        &mut self.session.frames
    }

    /// Whether an answer is on its way: begun, and not complete.
    pub(crate) fn is_answering(&self) -> bool {
        self.session.phase == Phase::Answering
    }

    /// Whether the function is at work: starting up or on an event.
    pub(crate) fn is_active(&self) -> bool {
        !matches!(self.session.phase, Phase::Idle | Phase::InitFailed)
    }
}

// === impl Session ===

impl Session {
    fn send(&mut self, frame: &AgentFrame) {
        frame.encode(&mut self.frames);
    }

    fn read(&mut self, place: usize, connection: &mut Connection, bytes: &[u8]) {
        let mut earlier = std::mem::take(&mut connection.pipelined);
        let mut input = if earlier.is_empty() {
            bytes
        } else {
            earlier.extend_from_slice(bytes);
            earlier.as_slice()
        };
        while !matches!(connection.exchange, Exchange::Over) {
            if !connection.can_read() {
                self.pipeline(place, connection, input);
                return;
            }
            match connection.parser.next(&mut input) {
                Ok(None) => return,
                Ok(Some(Piece::Head(head))) => self.begin(connection, head),
                Ok(Some(Piece::Body(bytes))) => self.body(connection, bytes),
                Ok(Some(Piece::End(trailers))) => self.end(place, connection, trailers),
                Err(malformed) => self.malformed(place, connection, malformed),
            }
        }
    }

    /// Keeps requests that came too early, within bounds.
    fn pipeline(&mut self, place: usize, connection: &mut Connection, input: &[u8]) {
        if input.len() > PIPELINED_LIMIT {
            self.malformed(place, connection, Malformed::TooLarge);
        } else {
            connection.pipelined = input.to_vec();
        }
    }

    fn malformed(&mut self, place: usize, connection: &mut Connection, _: Malformed) {
        self.broken(place, connection);
        connection.keep_alive = false;
        connection.reply(&Reply::malformed());
    }

    /// What was being said on a connection will not be finished.
    fn broken(&mut self, place: usize, connection: &Connection) {
        match &connection.exchange {
            Exchange::Waiting => self.waiting.retain(|waiting| *waiting != place),
            Exchange::Collect { what: Collected::Response { .. } | Collected::Error { .. }, .. } => {
                self.phase = Phase::Busy;
            }
            Exchange::TooLarge { bytes, invocation: true } => self.too_large(*bytes),
            Exchange::Stream => {
                let error_type = Some("Runtime.TruncatedResponse".to_owned());
                self.send(&AgentFrame::ResponseEnd { error_type, error_body: None });
                self.answered();
            }
            _ => {}
        }
    }

    fn begin(&mut self, connection: &mut Connection, head: Head) {
        connection.keep_alive = head.keep_alive;
        let (continues, length) = (head.expects_continue, head.length);
        connection.exchange = self.route(head);
        if let (Exchange::Collect { what, body }, Some(length)) = (&mut connection.exchange, length) {
            match usize::try_from(length) {
                Ok(length) if length <= self.response_limit => body.reserve_exact(length),
                _ => {
                    let invocation = !matches!(what, Collected::InitError { .. });
                    connection.exchange = Exchange::TooLarge { bytes: 0, invocation };
                }
            }
        }
        if continues && length != Some(0) {
            connection.output.continue_now();
        }
    }

    fn route(&mut self, head: Head) -> Exchange {
        let skip = |reply| Exchange::Skip(Then::Reply(reply));
        let path = head.target.split('?').next().unwrap_or_default();
        let Some(path) = path.strip_prefix(PREFIX) else {
            return skip(Reply::not_found());
        };
        let mut path = path.split('/');
        let expected = match (path.next(), path.next(), path.next(), path.next()) {
            (Some("invocation"), Some("next"), None, None) => "GET",
            (Some("init"), Some("error"), None, None) => "POST",
            (Some("invocation"), Some(_), Some("response" | "error"), None) => "POST",
            _ => return skip(Reply::not_found()),
        };
        if head.method != expected {
            return skip(Reply::method_not_allowed());
        }
        let target = head.target.clone();
        let path = target.split('?').next().and_then(|path| path.strip_prefix(PREFIX)).unwrap_or_default();
        match path.strip_prefix("invocation/").and_then(|rest| rest.split_once('/')) {
            Some((id, "response")) => self.begin_response(id, head),
            Some((id, _)) => self.begin_error(id, head),
            None if expected == "GET" => Exchange::Skip(Then::Next),
            None => self.begin_init_error(head),
        }
    }

    fn begin_response(&mut self, id: &str, head: Head) -> Exchange {
        if !self.claim(id) {
            return Exchange::Skip(Then::Reply(Reply::invalid_request_id()));
        }
        let content_type = head.content_type.unwrap_or_else(|| "application/json".to_owned());
        match head.response_mode.as_deref() {
            None => Exchange::Collect { what: Collected::Response { content_type }, body: Vec::new() },
            Some("streaming") => {
                let (request_id, mode) = (id.to_owned(), ResponseMode::Streaming);
                self.send(&AgentFrame::ResponseHead { request_id, content_type, mode });
                Exchange::Stream
            }
            Some(_) => {
                let error_type = "Runtime.InvalidResponseModeHeader".to_owned();
                let request_id = id.to_owned();
                self.send(&AgentFrame::InvocationError {
                    request_id,
                    error_type,
                    xray_cause: None,
                    body: Vec::new(),
                });
                self.answered();
                Exchange::Skip(Then::Reply(Reply::invalid_response_mode()))
            }
        }
    }

    fn begin_error(&mut self, id: &str, head: Head) -> Exchange {
        if !self.claim(id) {
            return Exchange::Skip(Then::Reply(Reply::invalid_request_id()));
        }
        let (error_type, xray_cause) = (head.error_type.unwrap_or_default(), head.xray_cause);
        Exchange::Collect { what: Collected::Error { error_type, xray_cause }, body: Vec::new() }
    }

    fn begin_init_error(&mut self, head: Head) -> Exchange {
        if self.phase != Phase::Starting {
            return Exchange::Skip(Then::Reply(Reply::invalid_transition(self.phase.name(), "InitError")));
        }
        let error_type = head.error_type.unwrap_or_default();
        Exchange::Collect { what: Collected::InitError { error_type }, body: Vec::new() }
    }

    /// Takes the right to answer the event.
    fn claim(&mut self, id: &str) -> bool {
        let is_current = self.event.as_ref().is_some_and(|event| event.invoke.request_id == id);
        let claimed = is_current && self.phase == Phase::Busy;
        if claimed {
            self.phase = Phase::Answering;
        }
        claimed
    }

    fn body(&mut self, connection: &mut Connection, bytes: &[u8]) {
        match &mut connection.exchange {
            Exchange::Collect { body, .. } if body.len() + bytes.len() <= self.response_limit => {
                body.extend_from_slice(bytes);
            }
            Exchange::Collect { what, body } => {
                let invocation = !matches!(what, Collected::InitError { .. });
                connection.exchange = Exchange::TooLarge { bytes: count(body) + count(bytes), invocation };
            }
            Exchange::TooLarge { bytes: counted, .. } => *counted += count(bytes),
            Exchange::Stream => self.send(&AgentFrame::ResponseChunk { bytes: bytes.to_vec() }),
            Exchange::None | Exchange::Skip(_) | Exchange::Waiting | Exchange::Over => {}
        }
    }

    fn end(&mut self, place: usize, connection: &mut Connection, trailers: Trailers) {
        let reply = match std::mem::take(&mut connection.exchange) {
            Exchange::Skip(Then::Next) => return self.next(place, connection),
            Exchange::Skip(Then::Reply(reply)) => reply,
            Exchange::Collect { what, body } => {
                self.collected(what, body);
                Reply::accepted()
            }
            Exchange::TooLarge { bytes, invocation } => {
                if invocation {
                    self.too_large(bytes);
                }
                Reply::too_large(self.response_limit)
            }
            Exchange::Stream => {
                let Trailers { error_type, error_body } = trailers;
                self.send(&AgentFrame::ResponseEnd { error_type, error_body });
                self.answered();
                Reply::accepted()
            }
            Exchange::None | Exchange::Waiting | Exchange::Over => return,
        };
        connection.reply(&reply);
    }

    fn collected(&mut self, what: Collected, body: Vec<u8>) {
        let request_id = self.event.as_ref().map(|event| event.invoke.request_id.clone()).unwrap_or_default();
        match what {
            Collected::Response { content_type } => {
                let mode = ResponseMode::Buffered;
                self.send(&AgentFrame::ResponseHead { request_id, content_type, mode });
                self.send(&AgentFrame::ResponseChunk { bytes: body });
                self.send(&AgentFrame::ResponseEnd { error_type: None, error_body: None });
                self.answered();
            }
            Collected::Error { error_type, xray_cause } => {
                self.send(&AgentFrame::InvocationError { request_id, error_type, xray_cause, body });
                self.answered();
            }
            // Another connection may have asked for an event while this one was talking.
            Collected::InitError { error_type } if self.phase == Phase::Starting => {
                self.send(&AgentFrame::InitError { error_type, body });
                self.phase = Phase::InitFailed;
            }
            Collected::InitError { .. } => {}
        }
    }

    fn too_large(&mut self, bytes: u64) {
        let request_id = self.event.as_ref().map(|event| event.invoke.request_id.clone()).unwrap_or_default();
        self.send(&AgentFrame::ResponseTooLarge { request_id, bytes });
        self.answered();
    }

    fn send_usage(&mut self) {
        if let Some(usage) = self.meter.as_mut().map(|meter| meter.usage()) {
            self.send(&AgentFrame::Usage(usage));
        }
    }

    fn answered(&mut self) {
        self.phase = Phase::Answered;
        self.event = None;
    }

    fn next(&mut self, place: usize, connection: &mut Connection) {
        match self.phase {
            Phase::Busy => self.deliver(connection),
            Phase::Answering | Phase::InitFailed => {
                connection.reply(&Reply::invalid_transition(self.phase.name(), "Ready"));
            }
            Phase::Starting | Phase::Answered | Phase::Idle => {
                if self.phase != Phase::Idle {
                    self.send_usage();
                    self.send(&AgentFrame::Idle);
                    self.phase = Phase::Idle;
                }
                connection.exchange = Exchange::Waiting;
                self.waiting.push_back(place);
            }
        }
    }

    /// Answers `next` with the event.
    fn deliver(&mut self, connection: &mut Connection) {
        let Some(Event { invoke, payload }) = &self.event else {
            return;
        };
        let output = &mut connection.output;
        output.head("200 OK", "application/json", payload.len(), connection.keep_alive);
        output.field("Lambda-Runtime-Aws-Request-Id", &invoke.request_id);
        output.field("Lambda-Runtime-Deadline-Ms", &invoke.deadline_ms.to_string());
        output.field("Lambda-Runtime-Invoked-Function-Arn", &invoke.invoked_function_arn);
        output.field("Lambda-Runtime-Trace-Id", &invoke.xray_trace_id);
        // Not AWS's: the same trace for runtimes that speak W3C.
        output.field("traceparent", invoke.traceparent.as_deref().unwrap_or_default());
        output.field("Lambda-Runtime-Client-Context", invoke.client_context.as_deref().unwrap_or_default());
        output
            .field("Lambda-Runtime-Cognito-Identity", invoke.cognito_identity.as_deref().unwrap_or_default());
        output.field("Lambda-Runtime-Aws-Tenant-Id", invoke.tenant_id.as_deref().unwrap_or_default());
        output.payload(Rc::clone(payload));
        connection.exchange = if connection.keep_alive { Exchange::None } else { Exchange::Over };
    }
}

impl Phase {
    /// Its name in AWS's messages.
    fn name(self) -> &'static str {
        match self {
            Self::Starting => "Started",
            Self::InitFailed => "InitError",
            Self::Idle => "Ready",
            Self::Busy => "Running",
            Self::Answering => "InvocationResponse",
            Self::Answered => "ResponseSent",
        }
    }
}

fn count(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
