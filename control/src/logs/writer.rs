//! Segments as the owning thread writes them.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use types::{FunctionArn, KeyError, Keys, LogEvent};
use uuid::Uuid;

use super::{
    format::{self, EVENT_OVERHEAD, FRAME_BYTES, HEADER, LINE_BYTES, SegmentCipher, SegmentKey},
    key_path, log_path, segments,
    store::Buffer,
};
use crate::{
    durable::{self, OsDisk},
    metrics,
};

/// A segment ends at this size, bytes, or at an eighth of what is retained.
const SEGMENT_BYTES: u64 = 8 * 1024 * 1024;
/// Segments kept open for writing; beyond, those not written to just now are ended. Bounds memory, not files: a segment's file is
/// open only while it is written to.
const OPEN_SEGMENTS: usize = 4096;

pub(super) struct Writer {
    directory: PathBuf,
    retention_bytes: u64,
    keys: Arc<dyn Keys>,
    open: HashMap<FunctionArn, Segment>,
    /// Files written to since the last [`sync`](Self::sync).
    unsynced: HashSet<PathBuf>,
    /// A line was lost to a failure since the last [`sync`](Self::sync).
    lost: Option<io::Error>,
}

/// A segment that is being written. It ends with the first error: a frame's number is never used twice.
struct Segment {
    path: PathBuf,
    cipher: SegmentCipher,
    frames: u64,
    bytes: u64,
}

impl Writer {
    pub(super) fn new(directory: PathBuf, retention_bytes: u64, keys: Arc<dyn Keys>) -> Self {
        Self { directory, retention_bytes, keys, open: HashMap::new(), unsynced: HashSet::new(), lost: None }
    }

    /// Writes one function's lines. What cannot be written is dropped and counted.
    pub(super) fn write(&mut self, function: &FunctionArn, mut buffer: Buffer) {
        if let Some((stream, at)) = buffer.last_dropped.take() {
            let line = format!(
                "[waterwheel] {} log lines were dropped: they came faster than they are written",
                buffer.dropped
            );
            buffer.events.push((stream, LogEvent { at, line: line.into_bytes() }));
        }
        let mut rest = buffer.events.as_slice();
        while !rest.is_empty() {
            let mut frame = Vec::with_capacity(FRAME_BYTES.min(64 * 1024));
            let mut count = 0;
            for (stream, event) in rest {
                let size = EVENT_OVERHEAD + stream.len() + event.line.len().min(LINE_BYTES);
                if count > 0 && frame.len() + size > FRAME_BYTES {
                    break;
                }
                format::encode(&mut frame, stream, event);
                count += 1;
            }
            if let Err(error) = self.write_frame(function, frame) {
                tracing::error!(%function, lines = rest.len(), %error, "lines of a function could not be written");
                metrics::log_dropped("write_failed", rest.len() as u64);
                self.open.remove(function);
                self.lost = Some(error);
                return;
            }
            rest = &rest[count..];
        }
    }

    /// Waits until all that was written is on the medium.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        for path in self.unsynced.drain() {
            match fs::File::open(&path).and_then(|file| file.sync_data()) {
                // Retention was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => self.lost = Some(error),
                Ok(()) => {}
            }
        }
        self.lost.take().map_or(Ok(()), Err)
    }

    pub(super) fn rewrap_all(&self) -> io::Result<usize> {
        let mut count = 0;
        for function in fs::read_dir(&self.directory)? {
            let directory = function?.path();
            for segment in segments(&directory)? {
                count += usize::from(self.rewrap(&key_path(&directory, segment))?);
            }
        }
        Ok(count)
    }

    fn rewrap(&self, path: &Path) -> io::Result<bool> {
        let Some(key) = SegmentKey::decode(&fs::read(path)?) else {
            return Ok(false);
        };
        match self.keys.rewrap(&key.wrapped(), &key.context()) {
            Ok(wrapped) => {
                durable::replace_secret(&OsDisk, path, &key.with_wrap(&wrapped).encode()).map(|()| true)
            }
            Err(KeyError::Unavailable(why)) => Err(io::Error::other(why)),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the key of a log segment does not open");
                Ok(false)
            }
        }
    }

    fn write_frame(&mut self, function: &FunctionArn, frame: Vec<u8>) -> io::Result<()> {
        let limit = SEGMENT_BYTES.min(self.retention_bytes / 8);
        if self.open.get(function).is_none_or(|segment| segment.bytes >= limit) {
            self.make_room();
            let segment = self.begin(function, limit)?;
            self.open.insert(function.clone(), segment);
        }
        let segment = self.open.get_mut(function).ok_or(io::ErrorKind::NotFound)?;
        let bytes = segment.cipher.seal(segment.frames, frame);
        let mut file = fs::OpenOptions::new().append(true).open(&segment.path)?;
        file.write_all(&bytes)?;
        segment.frames += 1;
        segment.bytes += bytes.len() as u64;
        self.unsynced.insert(segment.path.clone());
        metrics::log_written(bytes.len() as u64);
        Ok(())
    }

    fn make_room(&mut self) {
        if self.open.len() >= OPEN_SEGMENTS {
            let unsynced = &self.unsynced;
            self.open.retain(|_, segment| unsynced.contains(&segment.path));
        }
        if self.open.len() >= OPEN_SEGMENTS {
            self.open.clear();
        }
    }

    /// Begins a function's next segment; its key is durable before its first line.
    fn begin(&self, function: &FunctionArn, limit: u64) -> io::Result<Segment> {
        let directory = self.directory.join(function.name.as_str());
        durable::create_private_directory(&directory)?;
        let existing = segments(&directory)?;
        sweep(&directory, &existing)?;
        retain(&directory, &existing, self.retention_bytes.saturating_sub(limit))?;
        let number = existing.last().map_or(0, |last| last + 1);
        let id = Uuid::new_v4();
        let unwrapped = SegmentKey::new(function, id, &types::WrappedDataKey(Vec::new()));
        let (key, wrapped) = self.keys.generate(&unwrapped.context()).map_err(io::Error::other)?;
        let encoded = unwrapped.with_wrap(&wrapped).encode();
        durable::write_file(&OsDisk, &key_path(&directory, number), |out| out.write_all(&encoded))?;
        let cipher = SegmentCipher::new(id, &key);
        let path = log_path(&directory, number);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(cipher.header())?;
        Ok(Segment { path, cipher, frames: 0, bytes: HEADER as u64 })
    }
}

/// Removes keys whose segment is gone, and half-written keys.
fn sweep(directory: &Path, existing: &[u64]) -> io::Result<()> {
    for file in fs::read_dir(directory)? {
        let path = file?.path();
        let of_segment =
            super::number_of(&path).is_some_and(|number| existing.binary_search(&number).is_ok());
        if !of_segment || path.extension().is_none_or(|extension| extension != "key" && extension != "log") {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Removes the oldest segments until the others fit.
fn retain(directory: &Path, existing: &[u64], bytes: u64) -> io::Result<()> {
    let mut sizes = Vec::with_capacity(existing.len());
    for number in existing {
        sizes.push((*number, fs::metadata(log_path(directory, *number))?.len()));
    }
    let mut total: u64 = sizes.iter().map(|(_, size)| size).sum();
    for (number, size) in sizes {
        if total <= bytes {
            break;
        }
        fs::remove_file(log_path(directory, number))?;
        // With the key overwritten, free blocks hold nothing that opens.
        let key = key_path(directory, number);
        durable::shred(&fs::OpenOptions::new().write(true).open(&key)?)?;
        fs::remove_file(key)?;
        total -= size;
    }
    Ok(())
}
