//! The sink: bounded buffers, and the thread that empties them.

use std::{
    collections::HashMap,
    fmt, io,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use types::{FunctionArn, Keys, LogEvent, LogSink};

use super::{
    format::{EVENT_OVERHEAD, LINE_BYTES},
    writer::Writer,
};
use crate::{durable, metrics};

/// A line waits at most this long for others to be written with.
const WRITE_INTERVAL: Duration = Duration::from_millis(200);
/// A function with this much waiting is written at once, bytes.
const WRITE_BYTES: usize = 64 * 1024;
const MIB: u64 = 1024 * 1024;

/// How the log store is set up.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// Where segments lie. Made, for its owner only, if it is missing.
    pub directory: PathBuf,
    /// Bytes on disk for each function's logs; the oldest go first.
    pub retention_bytes: u64,
    /// Bytes waiting to be written for each function, and for all together. As much again may be in the middle of being
    /// written. What comes on top is dropped and counted.
    pub buffer_bytes: usize,
    pub total_buffer_bytes: usize,
}

impl LogConfig {
    /// A configuration with the default bounds: 64 MiB on disk, 1 MiB and 64 MiB in memory.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            retention_bytes: 64 * MIB,
            buffer_bytes: usize::try_from(MIB).unwrap_or(usize::MAX),
            total_buffer_bytes: usize::try_from(64 * MIB).unwrap_or(usize::MAX),
        }
    }
}

/// The sink for what functions print. Clones are one and the same; the last one dropped writes what is waiting.
#[derive(Clone)]
pub struct LogStore(Arc<Owner>);

impl fmt::Debug for LogStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogStore").field("config", &self.0.config).finish_non_exhaustive()
    }
}

struct Owner {
    config: LogConfig,
    inbox: Arc<Inbox>,
    thread: Option<thread::JoinHandle<()>>,
}

/// What callers leave for the owning thread.
#[derive(Default)]
struct Inbox {
    waiting: Mutex<Waiting>,
    woken: Condvar,
}

#[derive(Default)]
struct Waiting {
    buffers: HashMap<FunctionArn, Buffer>,
    /// Bytes in all buffers.
    bytes: usize,
    /// A buffer has reached [`WRITE_BYTES`].
    urgent: bool,
    requests: Vec<Request>,
    stop: bool,
}

/// Lines of one function, in the order they came.
#[derive(Default)]
pub(super) struct Buffer {
    pub(super) events: Vec<(Arc<str>, LogEvent)>,
    bytes: usize,
    /// Lines there was no room for, and the stream and moment of the last of them.
    pub(super) dropped: u64,
    pub(super) last_dropped: Option<(Arc<str>, Duration)>,
}

enum Request {
    Flush(oneshot::Sender<io::Result<()>>),
    Rewrap(oneshot::Sender<io::Result<usize>>),
}

// === impl LogStore ===

impl LogStore {
    /// Starts the owning thread.
    ///
    /// # Errors
    ///
    /// When the directory cannot be made or the thread not be started.
    pub fn open(config: LogConfig, keys: Arc<dyn Keys>) -> io::Result<Self> {
        durable::create_private_directory(&config.directory)?;
        let inbox = Arc::<Inbox>::default();
        let mut writer = Writer::new(config.directory.clone(), config.retention_bytes, keys);
        let shared = Arc::clone(&inbox);
        let thread =
            thread::Builder::new().name("log-writer".into()).spawn(move || own(&shared, &mut writer))?;
        Ok(Self(Arc::new(Owner { config, inbox, thread: Some(thread) })))
    }

    /// Returns when every line appended before the call is on the medium, or was dropped and counted.
    ///
    /// # Errors
    ///
    /// When the disk refuses. What it refused is dropped and counted.
    pub async fn flush(&self) -> io::Result<()> {
        self.request(Request::Flush).await
    }

    /// Wraps the data key of every segment anew under the current wrapping key, and returns how many. Segments whose key does not
    /// open any more stay as they are.
    ///
    /// # Errors
    ///
    /// When the disk or the key service refuses; those done by then are done.
    pub async fn rewrap_all(&self) -> io::Result<usize> {
        self.request(Request::Rewrap).await
    }

    async fn request<T>(
        &self,
        make: impl FnOnce(oneshot::Sender<io::Result<T>>) -> Request,
    ) -> io::Result<T> {
        let (reply, answer) = oneshot::channel();
        self.0.inbox.lock().requests.push(make(reply));
        self.0.inbox.woken.notify_one();
        answer.await.map_err(|_| io::Error::other("the log writer has stopped"))?
    }
}

impl LogSink for LogStore {
    fn append(&self, function: &FunctionArn, stream: &str, events: Vec<LogEvent>) {
        if events.is_empty() {
            return;
        }
        let stream: Arc<str> = stream.into();
        let mut dropped = 0;
        let mut waiting = self.0.inbox.lock();
        let idle = waiting.buffers.is_empty();
        let room = self.0.config.total_buffer_bytes.saturating_sub(waiting.bytes);
        let buffer = waiting.buffers.entry(function.clone()).or_default();
        let mut added = 0;
        for event in events {
            let size = EVENT_OVERHEAD + stream.len() + event.line.len().min(LINE_BYTES);
            if buffer.bytes + size > self.0.config.buffer_bytes || added + size > room {
                buffer.dropped += 1;
                buffer.last_dropped = Some((Arc::clone(&stream), event.at));
                dropped += 1;
                continue;
            }
            buffer.bytes += size;
            added += size;
            buffer.events.push((Arc::clone(&stream), event));
        }
        let urgent = buffer.bytes >= WRITE_BYTES;
        let wake = idle || urgent && !waiting.urgent;
        waiting.bytes += added;
        waiting.urgent |= urgent;
        metrics::log_buffered(waiting.bytes);
        drop(waiting);
        if dropped > 0 {
            metrics::log_dropped("buffer_full", dropped);
        }
        if wake {
            self.0.inbox.woken.notify_one();
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.inbox.lock().stop = true;
        self.inbox.woken.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there was reported there.
            let _ = thread.join();
        }
    }
}

// === the owning thread ===

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is something to do, and a little longer for more of it.
    fn next(&self) -> Waiting {
        let mut waiting = self.lock();
        while waiting.buffers.is_empty() && waiting.requests.is_empty() && !waiting.stop {
            waiting = self.woken.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        let since = Instant::now();
        while !waiting.urgent && waiting.requests.is_empty() && !waiting.stop {
            let Some(left) = WRITE_INTERVAL.checked_sub(since.elapsed()).filter(|left| !left.is_zero())
            else {
                break;
            };
            waiting = self.woken.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let stop = waiting.stop;
        metrics::log_buffered(0);
        std::mem::replace(&mut *waiting, Waiting { stop, ..Waiting::default() })
    }
}

fn own(inbox: &Inbox, writer: &mut Writer) {
    loop {
        let waiting = inbox.next();
        for (function, buffer) in waiting.buffers {
            writer.write(&function, buffer);
        }
        for request in waiting.requests {
            // Who asked may have gone.
            match request {
                Request::Flush(reply) => drop(reply.send(writer.sync())),
                Request::Rewrap(reply) => drop(reply.send(writer.rewrap_all())),
            }
        }
        if waiting.stop {
            if let Err(error) = writer.sync() {
                tracing::error!(%error, "function logs could not be written to the medium");
            }
            return;
        }
    }
}
