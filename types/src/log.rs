//! Where the lines that functions print go.

use std::time::Duration;

use crate::FunctionArn;

/// One line a function (or the platform on its behalf) printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEvent {
    /// Time since the Unix epoch at which the line reached us.
    pub at: Duration,
    /// The line, without its newline, as printed: not necessarily UTF-8.
    pub line: Vec<u8>,
}

/// Takes the lines that functions print.
///
/// `append` returns at once and does no I/O on the caller's task; lines of one stream keep their order. A sink that
/// cannot keep up bounds its memory and counts what it dropped; it never blocks an invocation.
pub trait LogSink: Send + Sync + 'static {
    /// Appends lines to `stream` (one environment's, named as Lambda names them: `2026/11/22/[$LATEST]<32 hex>`).
    fn append(&self, function: &FunctionArn, stream: &str, events: Vec<LogEvent>);
}
