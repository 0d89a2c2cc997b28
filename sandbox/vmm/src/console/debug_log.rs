//! The guest's console on the monitor's stderr, while debugging: written by a thread of its own.
//!
//! ```text
//!  vCPU threads ── line ──► rate ──► queue (WAITING lines) ──► the thread ── write, may wait ──► stderr
//!                             └─────────┴─ too much: left out and counted ─► "console: 12 lines left out"
//! ```
//!
//! Whoever reads stderr may be slow, or may not read at all; a virtual CPU waits for nobody.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    lock,
    rate_limiter::{Rate, TokenBucket},
};

/// Bytes: a boot at the highest log level fits into the burst.
const RATE: Rate = Rate::new(64 * 1024, 1024 * 1024);

/// Lines that wait to be written, at most.
const WAITING: usize = 1024;

/// How long the end of the machine waits for lines to be written.
const FLUSH: Duration = Duration::from_millis(200);

/// Where lines are handed over. When it is dropped nothing more is written.
#[derive(Debug)]
pub struct DebugLog {
    shared: Arc<Shared>,
    started: Instant,
    bucket: TokenBucket,
    /// Lines since the last that was taken.
    left_out: u64,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<String>,
    /// The thread has a line in hand.
    writing: bool,
    /// There will be no more.
    closed: bool,
}

impl DebugLog {
    /// Starts the thread. `first` runs on it before everything else: its system-call filter. If that fails, nothing is written.
    pub fn start(
        to: impl Write + Send + 'static,
        first: impl FnOnce() -> Result<(), String> + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let queue = Arc::clone(&shared);
        std::thread::Builder::new().name("console".to_owned()).spawn(move || match first() {
            Ok(()) => queue.write_all(to),
            Err(_) => lock(&queue.queue).close(),
        })?;
        let bucket = TokenBucket::new(RATE, Duration::ZERO);
        Ok(Self { shared, started: Instant::now(), bucket, left_out: 0 })
    }

    /// Hands a line over, or counts it as left out. It does not wait for the reader.
    pub(super) fn say(&mut self, line: &str) {
        let mut queue = lock(&self.shared.queue);
        let room = queue.lines.len() + 1 < WAITING && !queue.closed;
        if !room || !self.bucket.wait(self.started.elapsed()).is_zero() {
            self.left_out = self.left_out.saturating_add(1);
            return;
        }
        let left_out = std::mem::take(&mut self.left_out);
        if left_out > 0 {
            queue.lines.push_back(format!("console: {left_out} lines left out\n"));
        }
        let line = format!("console: {line}\n");
        self.bucket.charge(line.len() as u64);
        queue.lines.push_back(line);
        drop(queue);
        self.shared.changed.notify_all();
    }

    /// Takes no more lines, and returns when all are written, or after a short while: then the rest is left out.
    pub(super) fn finish(&self) {
        let mut queue = lock(&self.shared.queue);
        queue.closed = true;
        self.shared.changed.notify_all();
        let deadline = Instant::now() + FLUSH;
        while queue.writing || !queue.lines.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.shared.changed.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        queue.close();
    }
}

impl Drop for DebugLog {
    fn drop(&mut self) {
        lock(&self.shared.queue).close();
        self.shared.changed.notify_all();
    }
}

impl Queue {
    fn close(&mut self) {
        self.closed = true;
        self.lines.clear();
    }
}

impl Shared {
    fn write_all(&self, mut to: impl Write) {
        while let Some(line) = self.next() {
            // Nobody is left to tell.
            let _ = to.write_all(line.as_bytes());
        }
    }

    /// The next line, when there is one; `None`: there will be none.
    fn next(&self) -> Option<String> {
        let mut queue = lock(&self.queue);
        queue.writing = false;
        self.changed.notify_all();
        loop {
            if let Some(line) = queue.lines.pop_front() {
                queue.writing = true;
                return Some(line);
            }
            if queue.closed {
                return None;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        os::unix::net::UnixStream,
    };

    use super::*;

    #[test]
    fn a_reader_that_does_not_read_holds_nobody_up_and_hears_what_it_has_missed() {
        let (reader, writer) = UnixStream::pair().unwrap();
        let mut log = DebugLog::start(writer, || Ok(())).unwrap();
        let started = Instant::now();
        // Less than the rate allows, more than the stream and the queue hold.
        for number in 0..4000 {
            log.say(&format!("{number:0>200}"));
        }
        assert!(started.elapsed() < Duration::from_secs(5));
        assert!(log.left_out > 0 && lock(&log.shared.queue).lines.len() <= WAITING);
        let mut lines = BufReader::new(reader).lines().map(Result::unwrap);
        let mut accounted = 0;
        let mut next = || {
            let line = lines.next().unwrap();
            let words: Vec<_> = line.split(' ').collect();
            match words[..] {
                [_, number] => {
                    assert_eq!(number.parse(), Ok(accounted), "in order, and none is missing");
                    accounted += 1;
                }
                [_, number, "lines", "left", "out"] => accounted += number.parse::<u64>().unwrap(),
                _ => panic!("{line}"),
            }
            accounted
        };
        // There is room again as soon as the reader has read some.
        (0..WAITING / 2).for_each(|_| {
            next();
        });
        let full = |queue: &mut Queue| queue.lines.len() + 1 >= WAITING;
        drop(log.shared.changed.wait_while(lock(&log.shared.queue), full).unwrap());
        log.say("4000");
        while next() < 4001 {}
    }

    #[test]
    fn the_end_waits_for_what_was_said_but_not_for_a_reader_that_does_not_read() {
        let (reader, writer) = UnixStream::pair().unwrap();
        let mut log = DebugLog::start(writer, || Ok(())).unwrap();
        log.say("the last");
        log.finish();
        log.say("too late");
        drop(log);
        let lines: Vec<_> = BufReader::new(reader).lines().map(Result::unwrap).collect();
        assert_eq!(lines, ["console: the last"]);
        let (_reader, writer) = UnixStream::pair().unwrap();
        let mut log = DebugLog::start(writer, || Ok(())).unwrap();
        (0..4000).for_each(|_| log.say(&"x".repeat(200)));
        let started = Instant::now();
        log.finish();
        assert!(started.elapsed() < FLUSH * 10);
    }
}
