//! A live environment: frames in, frames out, and the means to end it.

use std::{io, os::unix::net::UnixStream, sync::Arc, time::Instant};

use jail::cgroup::{Cgroup, CpuQuota, cpu_quota_for};
use protocol::{AgentFrame, DecodeError, Decoder, InvokerFrame, Usage};
use rustix::event::Timespec;
use tokio::sync::Notify;
use types::{MemorySize, limits};

use crate::{Code, StartError, guest::JailProcess, stream::AgentStream, uids::UidLease};

/// Room made for each read: most frames of a warm invocation arrive in one.
const READ_BYTES: usize = 32 * 1024;
/// Buffers that grew beyond this for one large payload are given back.
const KEEP_BYTES: usize = 256 * 1024;

/// How long an environment whose stream has ended may take to say why.
const LAST_WORDS_TIMEOUT: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };

/// The environment is gone, or its agent no longer speaks the protocol: nothing more will come.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentGone {
    #[error("the agent closed its stream")]
    Closed,
    #[error("the agent's stream failed")]
    Stream(#[from] io::Error),
    #[error("the agent sent what is not a frame")]
    Protocol(#[from] DecodeError),
}

/// One environment, owned by one task. Dropping it ends it.
#[derive(Debug)]
pub struct Environment {
    stream: AgentStream,
    decoder: Decoder,
    out: Vec<u8>,
    cpu_after_init: CpuQuota,
    started: Instant,
    remains: Option<Remains>,
    /// What the agent said last of memory, where only it can see it.
    usage: Option<Usage>,
    /// The stream has ended, and not because we asked for it.
    lost: bool,
    /// To be told when the init phase is over.
    init_over: Arc<Notify>,
}

/// What must be cleared away when an environment ends. Dropping it does so too, in the order of the fields, but blocks and
/// tells nobody what went wrong.
#[derive(Debug)]
pub(crate) struct Remains {
    pub(crate) jail: JailProcess,
    pub(crate) cgroup: Cgroup,
    /// Held so that the code stays in memory as long as it is mounted, and the uids are not given to another.
    pub(crate) code: Option<Arc<Code>>,
    pub(crate) uids: UidLease,
}

impl Environment {
    /// `memory` is the function's, and gives it its share of CPU. Call within a tokio runtime.
    pub(crate) fn new(
        stream: UnixStream,
        memory: MemorySize,
        remains: Remains,
        init_over: Arc<Notify>,
    ) -> Result<Self, StartError> {
        Ok(Self {
            stream: AgentStream::new(stream).map_err(StartError::Spawn)?,
            decoder: Decoder::new(),
            out: Vec::new(),
            cpu_after_init: cpu_quota_for(u64::from(memory.0)),
            started: Instant::now(),
            remains: Some(remains),
            usage: None,
            lost: false,
            init_over,
        })
    }

    /// When the agent could begin to start the runtime: the init phase counts from here.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The init phase begins only now: what was before was not the function's (a kernel's boot).
    pub(crate) fn init_begins(&mut self) {
        self.started = Instant::now();
    }

    /// Sends one frame.
    pub async fn send(&mut self, frame: &InvokerFrame) -> Result<(), EnvironmentGone> {
        self.out.clear();
        frame.encode(&mut self.out);
        self.stream.write_all(&self.out).await?;
        if self.out.capacity() > KEEP_BYTES {
            self.out = Vec::new();
        }
        Ok(())
    }

    /// Waits for the agent's next frame about the function. Cancel safe: what has arrived stays for the next call.
    pub async fn recv(&mut self) -> Result<AgentFrame, EnvironmentGone> {
        loop {
            match AgentFrame::decode(&mut self.decoder)? {
                Some(AgentFrame::Usage(usage)) => {
                    self.usage = Some(usage);
                    continue;
                }
                Some(frame) => return Ok(frame),
                None => {}
            }
            let buffer = self.decoder.buffer();
            if buffer.is_empty() && buffer.capacity() > KEEP_BYTES {
                *buffer = Vec::new();
            }
            buffer.reserve(READ_BYTES);
            let read = self.stream.read_into(buffer).await;
            self.lost = !matches!(read, Ok(1..));
            if read? == 0 {
                return Err(EnvironmentGone::Closed);
            }
        }
    }

    /// The init phase is over: from now on the environment gets CPU in proportion to its memory.
    pub fn end_init_boost(&self) -> io::Result<()> {
        self.init_over.notify_one();
        self.remains.as_ref().map_or(Ok(()), |remains| remains.cgroup.set_cpu(Some(self.cpu_after_init)))
    }

    /// Most memory the environment has used, bytes; 0 if the kernel does not say. The agent knows better than the cgroup,
    /// which counts what the environment's walls take too, where it says anything.
    #[must_use]
    pub fn memory_peak(&self) -> u64 {
        let by_cgroup = || self.remains.as_ref().and_then(|remains| remains.cgroup.memory_peak().ok());
        self.usage.map(|usage| usage.memory_peak).or_else(by_cgroup).unwrap_or(0)
    }

    /// Whether the kernel ended a process of this environment because its memory was used up.
    #[must_use]
    pub fn out_of_memory(&self) -> bool {
        let by_cgroup = || self.remains.as_ref().and_then(|remains| remains.cgroup.oom_kills().ok());
        self.usage.is_some_and(|usage| usage.out_of_memory) || by_cgroup().is_some_and(|kills| kills > 0)
    }

    /// Asks the agent to end the environment, then makes sure of it, within [`limits::SHUTDOWN_TIMEOUT`] and what the
    /// kernel needs. Nothing of the environment is left when this returns.
    pub async fn stop(mut self) {
        let lost = self.lost;
        let ended = async {
            if self.send(&InvokerFrame::Shutdown).await.is_ok() {
                while self.recv().await.is_ok() {}
            }
        };
        let _ = tokio::time::timeout(limits::SHUTDOWN_TIMEOUT, ended).await;
        // What ended since was asked to.
        self.lost = lost;
        self.end().await;
    }

    /// Ends the environment at once.
    pub(crate) async fn end(mut self) {
        let lost = self.lost;
        if let Some(remains) = self.remains.take() {
            let _ = tokio::task::spawn_blocking(move || remains.clear_and_tell(lost)).await;
        }
    }

    /// Ends an environment whose stream has ended, and returns what its programs said last. They get a moment to say it.
    pub(crate) async fn last_words(mut self) -> String {
        let Some(remains) = self.remains.take() else {
            return String::new();
        };
        let clear = || {
            remains.jail.let_end(LAST_WORDS_TIMEOUT);
            remains.clear()
        };
        tokio::task::spawn_blocking(clear).await.unwrap_or_default()
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        // Its init phase may never have come to an end.
        self.init_over.notify_one();
        let Some(remains) = self.remains.take() else {
            return;
        };
        // Ending processes and removing a cgroup may wait for the kernel: not on a task's thread.
        let lost = self.lost;
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || remains.clear_and_tell(lost))),
            Err(_) => remains.clear_and_tell(lost),
        }
    }
}

impl Remains {
    /// As [`Self::clear`]. If the environment was `lost`, its programs get a moment to say why, and the log has it.
    fn clear_and_tell(self, lost: bool) {
        if lost {
            self.jail.let_end(LAST_WORDS_TIMEOUT);
        }
        let words = self.clear();
        if lost && !words.is_empty() {
            tracing::warn!(words, "an environment ended by itself");
        }
    }

    /// Ends every process, removes the cgroup, and returns the jail's last words. Blocks for as long as the kernel needs.
    pub(crate) fn clear(mut self) -> String {
        self.jail.kill();
        if let Err(error) = self.cgroup.kill() {
            tracing::error!(%error, "an environment's processes could not be ended");
        }
        let words = self.jail.last_words();
        if let Err(error) = self.cgroup.remove() {
            tracing::error!(%error, "an environment's cgroup could not be removed");
        }
        drop((self.code, self.uids));
        words
    }
}
