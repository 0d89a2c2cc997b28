//! What the checker is told. A line goes into the pipe in one piece, before the caller goes on: what was said before a kill is said.

use std::{
    fmt,
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use queue::{ReadError, WriteError};

/// Of a call that cannot be carried out now; then it is asked for again.
const PAUSE: Duration = Duration::from_millis(1);

/// Which promise is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    None,
    /// Events are said to be accepted before they are handed in.
    EarlyAccept,
    /// Acks are said to be durable before they are.
    EarlyAck,
}

impl Lie {
    pub(crate) fn parse(word: &str) -> Option<Self> {
        match word {
            "early-accept" => Some(Self::EarlyAccept),
            "early-ack" => Some(Self::EarlyAck),
            _ => None,
        }
    }
}

/// The number of a call: what is said before it and after it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call(u64);

pub(crate) struct Tell {
    to: File,
    calls: AtomicU64,
    pub(crate) lie: Lie,
}

impl Tell {
    pub(crate) fn new(lie: Lie) -> io::Result<Self> {
        // Without the buffer that the standard library puts before it.
        let to = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        Ok(Self { to, calls: AtomicU64::new(0), lie })
    }

    /// Lines are shorter than what a pipe takes in one piece (4096 bytes), so that they do not mix.
    pub(crate) fn line(&self, line: fmt::Arguments<'_>) {
        if (&self.to).write_all(format!("{line}\n").as_bytes()).is_err() {
            // Nobody listens any more.
            std::process::exit(3);
        }
    }

    pub(crate) fn begin(&self, what: fmt::Arguments<'_>) -> Call {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        self.line(format_args!("begin {number} {what}"));
        Call(number)
    }

    pub(crate) fn end(&self, call: Call, outcome: fmt::Arguments<'_>) {
        self.line(format_args!("end {} {outcome}", call.0));
    }

    /// Makes a call that promises something when it returns. `early`: says so before.
    pub(crate) async fn promised(
        &self,
        what: String,
        early: bool,
        call: impl Future<Output = Result<(), WriteError>>,
    ) -> Result<(), WriteError> {
        let number = self.begin(format_args!("{what}"));
        if early {
            self.end(number, format_args!("ok"));
        }
        let result = call.await;
        if !early {
            match &result {
                Ok(()) => self.end(number, format_args!("ok")),
                Err(error) => self.not(number, error).await,
            }
        }
        result
    }

    /// A call was not carried out, or nobody knows whether it was.
    async fn not(&self, call: Call, error: &WriteError) {
        match error {
            WriteError::Refused(why) => return self.end(call, format_args!("refused {why}")),
            WriteError::NoSpace => self.end(call, format_args!("full")),
            WriteError::Io(_) | WriteError::Key(_) => self.end(call, format_args!("failed {error}")),
        }
        tokio::time::sleep(PAUSE).await;
    }

    pub(crate) async fn not_read(&self, call: Call, error: &ReadError) {
        match error {
            ReadError::Write(error) => self.not(call, error).await,
            // None of the others is an answer to a lease, or there would be no draining.
            _ => {
                self.end(call, format_args!("failed {error}"));
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
