//! One connection of the runtime: where it is in a request, and what is to be written to it.

use std::{io::IoSlice, rc::Rc};

use crate::http::Parser;

/// Most bytes kept of requests sent before the answer to an earlier one.
pub(crate) const PIPELINED_LIMIT: usize = 64 * 1024;

#[derive(Debug, Default)]
pub(crate) struct Connection {
    pub(crate) parser: Parser,
    pub(crate) exchange: Exchange,
    pub(crate) output: Output,
    pub(crate) keep_alive: bool,
    /// Arrived while an earlier request is being answered.
    pub(crate) pipelined: Vec<u8>,
}

/// What the request being read, or waiting for its answer, is.
#[derive(Debug, Default)]
pub(crate) enum Exchange {
    /// Between requests.
    #[default]
    None,
    /// Its body means nothing; when it has passed, this happens.
    Skip(Then),
    /// `next`, until there is an event.
    Waiting,
    /// A body being collected.
    Collect { what: Collected, body: Vec<u8> },
    /// A body too large to collect, being counted.
    TooLarge { bytes: u64, invocation: bool },
    /// A streamed answer on its way through.
    Stream,
    /// The last answer has been given; what still arrives is ignored until the runtime closes.
    Over,
}

/// What follows a skipped body.
#[derive(Debug)]
pub(crate) enum Then {
    Next,
    Reply(Reply),
}

/// What a collected body is.
#[derive(Debug)]
pub(crate) enum Collected {
    Response { content_type: String },
    Error { error_type: String, xray_cause: Option<String> },
    InitError { error_type: String },
}

/// An answer with a short body.
#[derive(Debug)]
pub(crate) struct Reply {
    status: &'static str,
    content_type: &'static str,
    body: String,
}

/// Bytes for the runtime. An event's payload is shared, not copied: it may be large.
#[derive(Debug, Default)]
pub(crate) struct Output {
    bytes: Vec<u8>,
    payload: Option<Rc<Vec<u8>>>,
    sent: usize,
}

// === impl Connection ===

impl Connection {
    pub(crate) fn new() -> Self {
        Self { keep_alive: true, ..Self::default() }
    }

    /// Answers the request and gets ready for the next one.
    pub(crate) fn reply(&mut self, reply: &Reply) {
        let Reply { status, content_type, body } = reply;
        self.output.head(status, content_type, body.len(), self.keep_alive);
        self.output.bytes.extend_from_slice(b"\r\n");
        self.output.bytes.extend_from_slice(body.as_bytes());
        self.exchange = if self.keep_alive { Exchange::None } else { Exchange::Over };
    }

    /// Whether another request may be read now.
    pub(crate) fn can_read(&self) -> bool {
        !matches!(self.exchange, Exchange::Waiting) && self.output.payload.is_none()
    }
}

// === impl Reply ===

impl Reply {
    pub(crate) fn accepted() -> Self {
        Self {
            status: "202 Accepted",
            content_type: "application/json",
            body: r#"{"status":"OK"}"#.to_owned(),
        }
    }

    /// `message` and `kind` are ours and need no escaping.
    fn error(status: &'static str, kind: &str, message: &str) -> Self {
        let body = format!(r#"{{"errorMessage":"{message}","errorType":"{kind}"}}"#);
        Self { status, content_type: "application/json", body }
    }

    pub(crate) fn invalid_request_id() -> Self {
        Self::error("400 Bad Request", "InvalidRequestID", "Invalid request ID")
    }

    pub(crate) fn invalid_response_mode() -> Self {
        Self::error("400 Bad Request", "InvalidFunctionResponseMode", "Invalid function response mode")
    }

    pub(crate) fn malformed() -> Self {
        Self::error("400 Bad Request", "InvalidRequest", "Malformed HTTP request")
    }

    pub(crate) fn invalid_transition(from: &str, to: &str) -> Self {
        let message = format!(
            "State transition from {from} to {to} failed for runtime. Error: State transition is not allowed"
        );
        Self::error("403 Forbidden", "InvalidStateTransition", &message)
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        let message = format!("Exceeded maximum allowed payload size ({limit} bytes).");
        Self::error("413 Request Entity Too Large", "RequestEntityTooLarge", &message)
    }

    pub(crate) fn not_found() -> Self {
        Self { status: "404 Not Found", content_type: "text/plain", body: "404 page not found\n".to_owned() }
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self { status: "405 Method Not Allowed", content_type: "text/plain", body: String::new() }
    }
}

// === impl Output ===

impl Output {
    /// Begins an answer; header fields may follow, then an empty line and the body.
    pub(crate) fn head(&mut self, status: &str, content_type: &str, length: usize, keep_alive: bool) {
        for part in ["HTTP/1.1 ", status, "\r\nContent-Type: ", content_type, "\r\nContent-Length: "] {
            self.bytes.extend_from_slice(part.as_bytes());
        }
        self.bytes.extend_from_slice(length.to_string().as_bytes());
        self.bytes.extend_from_slice(if keep_alive { b"\r\n" } else { b"\r\nConnection: close\r\n" });
    }

    /// Adds a header field. Values come from whoever invoked: a line break in one must not start a header of its own.
    pub(crate) fn field(&mut self, name: &str, value: &str) {
        if value.is_empty() {
            return;
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.extend_from_slice(b": ");
        self.bytes.extend(value.bytes().map(|byte| if byte.is_ascii_control() { b' ' } else { byte }));
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// Ends the header and adds the body.
    pub(crate) fn payload(&mut self, payload: Rc<Vec<u8>>) {
        self.bytes.extend_from_slice(b"\r\n");
        self.payload = Some(payload);
    }

    /// Tells a runtime that asked first to send its body.
    pub(crate) fn continue_now(&mut self) {
        self.bytes.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.payload.is_none()
    }

    /// What is left to write.
    pub(crate) fn slices(&self) -> [IoSlice<'_>; 2] {
        let payload = self.payload.as_ref().map(|payload| payload.as_slice()).unwrap_or_default();
        let bytes = self.bytes.get(self.sent..).unwrap_or_default();
        let payload = payload.get(self.sent.saturating_sub(self.bytes.len())..).unwrap_or_default();
        [IoSlice::new(bytes), IoSlice::new(payload)]
    }

    /// Notes that so much has been written.
    pub(crate) fn advance(&mut self, bytes: usize) {
        self.sent += bytes;
        let payload = self.payload.as_ref().map_or(0, |payload| payload.len());
        if self.sent >= self.bytes.len() + payload {
            self.bytes.clear();
            self.payload = None;
            self.sent = 0;
        }
    }
}
