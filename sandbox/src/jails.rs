//! Jails, prepared ahead.
//!
//! ```text
//!   prepare ──► cgroup, jail joins it, namespaces, filter ──► waits for its files      (15 ms and more, mostly the kernel's)
//!   admit   ──► the function's limits, its root and code  ──► the agent runs            (a few ms)
//! ```
//!
//! Nothing about a prepared jail depends on who will use it, and nobody has: it becomes one function's environment once, and
//! never another's. A few wait at any time; each one taken is replaced when its environment's init phase is over, so that making
//! the next does not slow this one down.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream as StdUnixStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jail::{
    Controls, Files, JailSpec, Program,
    cgroup::{Cgroup, Hierarchy, Limits},
};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
use tokio::sync::Notify;
use types::{MemorySize, limits};

use crate::{
    Code, StartError,
    environment::Remains,
    guest::{GuestPrograms, spawn_jail},
    uids::{UidLease, UidPool},
};

/// Processes and threads an environment may have (developer guide: 1,024).
const MAX_PIDS: u64 = 1024;
/// Memory beyond the function's own that its cgroup may use: the agent and kernel memory for pages and sockets.
const AGENT_MEMORY: u64 = 8 * 1024 * 1024;

/// Makes jails and keeps some ready.
#[derive(Debug)]
pub(crate) struct Jails {
    hierarchy: Hierarchy,
    group: String,
    uids: Arc<UidPool>,
    programs: GuestPrograms,
    /// How many are to wait.
    ahead: usize,
    waiting: Mutex<Waiting>,
    /// Held while jails are prepared ahead.
    refilling: Mutex<()>,
    /// Told when an environment's init phase is over.
    replace: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Waiting {
    jails: Vec<PreparedJail>,
    /// Nobody will take any more.
    closed: bool,
}

/// A jail that waits for its files.
#[derive(Debug)]
pub(crate) struct PreparedJail {
    remains: Option<Remains>,
    stream: StdUnixStream,
    documents: OwnedFd,
}

impl Jails {
    pub(crate) fn new(hierarchy: Hierarchy, group: String, uid_base: u32, ahead: usize) -> io::Result<Self> {
        Ok(Self {
            hierarchy,
            group,
            uids: Arc::new(UidPool::new(uid_base)),
            programs: GuestPrograms::load()?,
            ahead,
            waiting: Mutex::default(),
            refilling: Mutex::default(),
            replace: Arc::default(),
        })
    }

    /// Takes a prepared jail. `None`: all are taken.
    pub(crate) fn take(&self) -> Option<PreparedJail> {
        self.waiting().jails.pop()
    }

    /// Prepares one. Blocks for as long as the kernel needs.
    pub(crate) fn prepare(&self) -> Result<PreparedJail, StartError> {
        let uids = UidPool::lease(&self.uids);
        let name = format!("environment-{}", uids.agent());
        let any = limits_of(MemorySize(limits::MAX_MEMORY_MB));
        let cgroup = Cgroup::create(&self.hierarchy, &self.group, &name, any).map_err(StartError::Cgroup)?;
        let spec = JailSpec {
            files: None,
            // As Lambda shows it: a link-local address, the same everywhere.
            hostname: "169.254.100.1".to_owned(),
            cgroups: cgroup.procs_dirs(),
            program: Program::Agent,
            controls: Controls::default(),
        };
        self.spawn(&spec, cgroup, uids).map_err(StartError::Spawn)
    }

    fn spawn(&self, spec: &JailSpec, cgroup: Cgroup, uids: UidLease) -> io::Result<PreparedJail> {
        let (stream, its_stream) = StdUnixStream::pair()?;
        stream.set_nonblocking(true)?;
        // Keeps documents apart, as a stream would not.
        let (documents, its_documents) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        send_document(&documents, spec)?;
        let jail =
            spawn_jail(&self.programs.jail, its_documents, &self.programs.agent, its_stream, Vec::new())?;
        let remains = Some(Remains { jail, cgroup, code: None, uids });
        Ok(PreparedJail { remains, stream, documents })
    }

    /// Clears away those that have ended while they waited, and prepares jails until enough wait. Blocks.
    pub(crate) fn refill(&self) {
        let _refilling = self.refilling.lock().unwrap_or_else(PoisonError::into_inner);
        let ended: Vec<_> = self.waiting().jails.extract_if(.., PreparedJail::has_ended).collect();
        drop(ended);
        while self.is_short() {
            match self.prepare() {
                Ok(jail) => self.keep(jail),
                Err(error) => {
                    // The next start tries by itself, and its caller learns why it fails.
                    tracing::warn!(error = &error as &dyn std::error::Error, "no jail could be prepared");
                    return;
                }
            }
        }
    }

    fn is_short(&self) -> bool {
        let waiting = self.waiting();
        !waiting.closed && waiting.jails.len() < self.ahead
    }

    fn keep(&self, jail: PreparedJail) {
        let mut waiting = self.waiting();
        if !waiting.closed {
            waiting.jails.push(jail);
        }
    }

    /// Ends those that wait; no more are prepared. Blocks for as long as the kernel needs.
    pub(crate) fn close(&self) {
        let jails = {
            let mut waiting = self.waiting();
            waiting.closed = true;
            std::mem::take(&mut waiting.jails)
        };
        drop(jails);
        self.replace_taken();
        // One that is being prepared right now finds nobody to keep it and is ended there.
        drop(self.refilling.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.waiting().closed
    }

    /// An environment's init phase is over: there is time to replace the jail it took.
    pub(crate) fn replace_taken(&self) {
        self.replace.notify_one();
    }

    /// What an environment tells when its init phase is over.
    pub(crate) fn init_over(&self) -> Arc<Notify> {
        self.replace.clone()
    }

    pub(crate) async fn replacing(&self) {
        self.replace.notified().await;
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PreparedJail {
    /// The users of this environment: the agent's and the function's.
    pub(crate) fn uids(&self) -> (u32, u32) {
        self.remains.as_ref().map_or((0, 0), |remains| (remains.uids.agent(), remains.uids.function()))
    }

    /// Whether somebody killed it.
    fn has_ended(&mut self) -> bool {
        self.remains.as_mut().is_none_or(|remains| remains.jail.has_ended())
    }

    /// Makes it one function's. `remains.code` stays with what is left to clear away.
    pub(crate) fn admit(
        mut self,
        memory: MemorySize,
        files: &Files,
        code: Arc<Code>,
    ) -> Result<(StdUnixStream, Remains), StartError> {
        let stream = self.stream.try_clone().map_err(StartError::Spawn)?;
        let Some(mut remains) = self.remains.take() else {
            return Err(StartError::Spawn(io::Error::other("a prepared jail was used twice")));
        };
        remains.code = Some(code);
        if let Err(error) = remains.cgroup.limit(limits_of(memory)) {
            remains.clear();
            return Err(StartError::Cgroup(error));
        }
        match send_document(&self.documents, files) {
            Ok(()) => Ok((stream, remains)),
            // Nobody reads any more: the jail has ended, and said why if it could.
            Err(_) => Err(StartError::Setup { diagnostics: remains.clear() }),
        }
    }
}

impl Drop for PreparedJail {
    fn drop(&mut self) {
        if let Some(remains) = self.remains.take() {
            remains.clear();
        }
    }
}

/// At first without a CPU limit, so that the init phase is not slowed down (as on Lambda).
fn limits_of(memory: MemorySize) -> Limits {
    Limits {
        memory_bytes: memory.bytes() + AGENT_MEMORY,
        pids: MAX_PIDS,
        cpu_quota: None,
        cpu_shares: u64::from(memory.0),
    }
}

fn send_document(to: &OwnedFd, document: &impl serde::Serialize) -> io::Result<()> {
    let json = serde_json::to_vec(document)?;
    // One message is sent whole or not at all.
    send(to, &json, SendFlags::NOSIGNAL)?;
    Ok(())
}
