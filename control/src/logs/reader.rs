//! Reading a function's logs, in this or another process, while they are being written or long after.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use types::{FunctionArn, KeyError, Keys, LogEvent};

use super::{
    format::{Frame, HEADER, SegmentCipher, SegmentKey},
    key_path, log_path, segments,
};

/// One line and the stream (environment) it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    pub stream: String,
    pub event: LogEvent,
}

/// Where reading goes on. The default is the oldest line there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogPosition {
    segment: u64,
    /// 0 before the header was seen.
    offset: u64,
    frame: u64,
}

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogBatch {
    pub records: Vec<LogRecord>,
    /// Where to read on.
    pub next: LogPosition,
    /// Nothing more was there; wait a little before reading on.
    pub at_end: bool,
    /// Segments of which a part could not be read: altered, or without their key.
    pub damaged: usize,
}

/// Why logs cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogReadError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Reads the logs of one function.
pub struct LogReader {
    directory: PathBuf,
    keys: Arc<dyn Keys>,
    function: FunctionArn,
}

impl fmt::Debug for LogReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogReader").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl LogReader {
    /// A reader of `function`'s logs below the log store's `directory`. A function that never printed has empty logs.
    #[must_use]
    pub fn open(directory: &Path, keys: Arc<dyn Keys>, function: &FunctionArn) -> Self {
        Self { directory: directory.join(function.name.as_str()), keys, function: function.clone() }
    }

    /// Reads on from a position: the rest of one segment (a few MiB) at most. Call it again until
    /// [`at_end`](LogBatch::at_end), and later again to follow. Blocks.
    pub fn read(&self, from: LogPosition) -> Result<LogBatch, LogReadError> {
        let segments = self.segments()?;
        let Some(segment) = segments.iter().copied().find(|segment| *segment >= from.segment) else {
            return Ok(LogBatch { records: Vec::new(), next: from, at_end: true, damaged: 0 });
        };
        let start =
            if segment == from.segment { from } else { LogPosition { segment, ..LogPosition::default() } };
        let mut batch = match self.read_segment(start) {
            // Retention was faster: what is next now?
            Err(LogReadError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                LogBatch { records: Vec::new(), next: start, at_end: true, damaged: 0 }
            }
            read => read?,
        };
        // A segment that has a successor is not written to any more: what is torn in it stays torn.
        if let Some(successor) = segments.iter().copied().find(|later| *later > segment) {
            batch.next = LogPosition { segment: successor, ..LogPosition::default() };
            batch.at_end = false;
        }
        Ok(batch)
    }

    /// The last `lines` lines, and where to read on. Blocks.
    pub fn tail(&self, lines: usize) -> Result<LogBatch, LogReadError> {
        let mut batch =
            LogBatch { records: Vec::new(), next: LogPosition::default(), at_end: true, damaged: 0 };
        let segments = self.segments()?;
        for (nth, segment) in segments.iter().rev().enumerate() {
            let read = match self.read_segment(LogPosition { segment: *segment, ..LogPosition::default() }) {
                Err(LogReadError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => break,
                read => read?,
            };
            if nth == 0 {
                batch.next = read.next;
            }
            batch.damaged += read.damaged;
            batch.records.splice(0..0, read.records);
            if batch.records.len() >= lines {
                break;
            }
        }
        batch.records.drain(..batch.records.len().saturating_sub(lines));
        Ok(batch)
    }

    fn segments(&self) -> Result<Vec<u64>, LogReadError> {
        match segments(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            segments => segments.map_err(|source| LogReadError::Io { path: self.directory.clone(), source }),
        }
    }

    /// Everything of one segment behind a position.
    fn read_segment(&self, from: LogPosition) -> Result<LogBatch, LogReadError> {
        let mut batch = LogBatch { records: Vec::new(), next: from, at_end: true, damaged: 0 };
        let path = log_path(&self.directory, from.segment);
        let io = |source| LogReadError::Io { path: path.clone(), source };
        let bytes = fs::read(&path).map_err(io)?;
        if bytes.len() < HEADER {
            return Ok(batch);
        }
        let Some(cipher) = self.cipher(from.segment)?.filter(|cipher| bytes.starts_with(cipher.header()))
        else {
            batch.damaged = 1;
            return Ok(batch);
        };
        let mut at = usize::try_from(from.offset).unwrap_or(usize::MAX).max(HEADER);
        loop {
            match cipher.open(batch.next.frame, bytes.get(at..).unwrap_or_default()) {
                Frame::Whole { records, size } => {
                    batch.records.extend(records);
                    at += size;
                    batch.next.offset = at as u64;
                    batch.next.frame += 1;
                }
                Frame::Torn => return Ok(batch),
                Frame::Damaged => {
                    batch.damaged = 1;
                    return Ok(batch);
                }
            }
        }
    }

    /// The segment's cipher; `None` if its key file is not one, or another function's.
    fn cipher(&self, segment: u64) -> Result<Option<SegmentCipher>, LogReadError> {
        let path = key_path(&self.directory, segment);
        let bytes = fs::read(&path).map_err(|source| LogReadError::Io { path, source })?;
        let Some(key) =
            SegmentKey::decode(&bytes).filter(|key| key.context().arn == self.function.to_string())
        else {
            return Ok(None);
        };
        match self.keys.unwrap(&key.wrapped(), &key.context()) {
            Ok(data_key) => Ok(Some(SegmentCipher::new(key.segment, &data_key))),
            Err(error @ KeyError::Unavailable(_)) => Err(error.into()),
            Err(error) => {
                tracing::warn!(function = %self.function, segment, %error, "the key of a log segment does not open");
                Ok(None)
            }
        }
    }
}
