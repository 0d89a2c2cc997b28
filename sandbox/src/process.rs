//! Process isolation: the agent in a jail on this machine's own kernel.
//!
//! ```text
//!   start() ──► cgroup, jail (descriptors: spec, agent program, stream) ──► agent = PID 1 ──► runtime
//!      │                                                                      ▲
//!      └── Start frame ──────────── Unix socket ──────────────────────────────┘
//!          ◄─ Hello
//! ```
//!
//! The jail watches this process and ends its environment when this process ends, however that happens; only the cgroup is
//! left then, and the next start of the worker removes it.

use std::{
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{net::UnixStream as StdUnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use command_fds::{CommandFdExt, FdMapping};
use futures::future::BoxFuture;
use image::RuntimeCatalog;
use jail::{
    Bind, Controls, JailSpec,
    cgroup::{Cgroup, Hierarchy, Limits, cpu_quota_for},
};
use protocol::{AgentFrame, InvokerFrame, Start};
use rustix::fs::{MemfdFlags, memfd_create};
use tokio::net::UnixStream;
use types::{MemorySize, limits};

use crate::{
    Environment, EnvironmentSpec, Isolation, StartError, environment::Remains, guest::GuestPrograms,
    variables,
};

/// Descriptors on which the jail finds what it needs; its half of the contract is in `jail::enter`.
const SPEC_FD: i32 = 3;
const PROGRAM_FD: i32 = 4;
const STREAM_FD: i32 = 5;

/// Processes and threads an environment may have (developer guide: 1,024).
const MAX_PIDS: u64 = 1024;
/// Memory beyond the function's own that its cgroup may use: the agent and kernel memory for pages and sockets.
const AGENT_MEMORY: u64 = 8 * 1024 * 1024;
/// Users an environment takes: the agent's and the function's.
const UIDS_PER_ENVIRONMENT: u32 = 2;

/// Bounds of process isolation.
#[derive(Debug, Clone)]
pub struct ProcessIsolationConfig {
    /// Name of the cgroup that all environments of this worker live under. Environments found in it at start are leftovers of
    /// a run that was killed, and are removed.
    pub cgroup: String,
    /// First of the user (and group) ids that environments run as. No two live environments share one.
    pub uid_base: u32,
    /// Time from the jail's start to the agent's first word.
    pub setup_timeout: Duration,
}

/// See the module.
#[derive(Debug)]
pub struct ProcessIsolation {
    config: ProcessIsolationConfig,
    runtimes: RuntimeCatalog,
    hierarchy: Arc<Hierarchy>,
    uids: Arc<UidPool>,
    programs: Arc<GuestPrograms>,
}

impl ProcessIsolation {
    /// Prepares the worker: removes what a killed run left over.
    pub fn open(config: ProcessIsolationConfig, runtimes: RuntimeCatalog) -> io::Result<Self> {
        let hierarchy = Hierarchy::detect()?;
        hierarchy.sweep(&config.cgroup)?;
        Ok(Self {
            uids: Arc::new(UidPool::new(config.uid_base)),
            config,
            runtimes,
            hierarchy: Arc::new(hierarchy),
            programs: Arc::new(GuestPrograms::load()?),
        })
    }

    async fn start_environment(&self, spec: EnvironmentSpec) -> Result<Environment, StartError> {
        let function = &spec.function;
        let runtime_name = function.runtime.as_str();
        let runtime = self
            .runtimes
            .get(runtime_name)
            .ok_or_else(|| StartError::RuntimeNotInstalled { runtime: runtime_name.to_owned() })?;
        let uids = UidPool::lease(&self.uids);
        let start = InvokerFrame::Start(Start {
            version: protocol::VERSION,
            command: runtime.command.clone(),
            directory: runtime.directory.clone(),
            variables: variables::for_runtime(&spec, &runtime),
            function_uid: uids.function(),
            agent_uid: uids.agent(),
            response_limit: u32::try_from(limits::SYNC_RESPONSE_BYTES).unwrap_or(u32::MAX),
        });

        let cpu = cpu_quota_for(u64::from(function.memory.0));
        let (hierarchy, group, programs) =
            (self.hierarchy.clone(), self.config.cgroup.clone(), self.programs.clone());
        let (ours, remains) = tokio::task::spawn_blocking(move || {
            let cgroup = make_cgroup(&hierarchy, &group, spec.function.memory, &uids)?;
            let (ours, theirs) = StdUnixStream::pair().map_err(StartError::Spawn)?;
            ours.set_nonblocking(true).map_err(StartError::Spawn)?;
            let jail = jail_spec(&spec, runtime.root, &cgroup);
            let jail = spawn_jail(&programs, &jail, theirs).map_err(StartError::Spawn)?;
            Ok((ours, Remains { jail, cgroup, code: spec.code, uids }))
        })
        .await
        .map_err(|error| StartError::Spawn(io::Error::other(error)))??;
        let stream = UnixStream::from_std(ours).map_err(StartError::Spawn)?;
        self.greet(Environment::new(stream, cpu, remains), &start).await
    }

    /// Tells the agent what to start and waits until it has.
    async fn greet(
        &self,
        mut environment: Environment,
        start: &InvokerFrame,
    ) -> Result<Environment, StartError> {
        let answer = async {
            environment.send(start).await.ok()?;
            environment.recv().await.ok()
        };
        match tokio::time::timeout(self.config.setup_timeout, answer).await {
            Err(_) => Err(StartError::TimedOut(self.config.setup_timeout)),
            Ok(Some(AgentFrame::Hello { version: protocol::VERSION })) => Ok(environment),
            Ok(Some(AgentFrame::StartFailed { reason })) => Err(StartError::Runtime(reason)),
            Ok(_) => Err(StartError::Setup { diagnostics: environment.last_words().await }),
        }
    }
}

impl Isolation for ProcessIsolation {
    fn start(&self, spec: EnvironmentSpec) -> BoxFuture<'_, Result<Environment, StartError>> {
        Box::pin(self.start_environment(spec))
    }

    fn runtimes(&self) -> Vec<String> {
        self.runtimes.list().into_iter().map(|runtime| runtime.name).collect()
    }
}

/// Makes the cgroup; at first without a CPU limit, so that the init phase is not slowed down (as on Lambda).
fn make_cgroup(
    hierarchy: &Hierarchy,
    group: &str,
    memory: MemorySize,
    uids: &UidLease,
) -> Result<Cgroup, StartError> {
    let limits = Limits {
        memory_bytes: memory.bytes() + AGENT_MEMORY,
        pids: MAX_PIDS,
        cpu_quota: None,
        cpu_shares: u64::from(memory.0),
    };
    Cgroup::create(hierarchy, group, &format!("environment-{}", uids.agent()), limits)
        .map_err(StartError::Cgroup)
}

fn jail_spec(spec: &EnvironmentSpec, root: PathBuf, cgroup: &Cgroup) -> JailSpec {
    JailSpec {
        root,
        binds: vec![Bind {
            source: spec.code.path().to_owned(),
            target: "/var/task".into(),
            read_only: true,
        }],
        tmp_bytes: spec.function.ephemeral_storage.bytes(),
        // As Lambda shows it: a link-local address, the same everywhere.
        hostname: "169.254.100.1".to_owned(),
        cgroups: cgroup.procs_dirs(),
        controls: Controls::default(),
    }
}

fn spawn_jail(programs: &GuestPrograms, spec: &JailSpec, stream: StdUnixStream) -> io::Result<Child> {
    let mapping = |parent_fd: OwnedFd, child_fd| FdMapping { parent_fd, child_fd };
    let program = programs.jail.as_raw_fd();
    let mut command = Command::new(Path::new("/proc/self/fd").join(program.to_string()));
    command
        .arg0("waterwheel-jail")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
        .fd_mappings(vec![
            mapping(spec_file(spec)?, SPEC_FD),
            mapping(programs.agent.try_clone()?, PROGRAM_FD),
            mapping(stream.into(), STREAM_FD),
        ])
        .map_err(io::Error::other)?;
    command.spawn()
}

/// The spec as a memory file, read from its beginning.
fn spec_file(spec: &JailSpec) -> io::Result<OwnedFd> {
    let file = std::fs::File::from(memfd_create("jail-spec", MemfdFlags::CLOEXEC)?);
    serde_json::to_writer(&file, spec)?;
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
    Ok(file.into())
}

/// User ids for environments: each live one has its own, so that nothing the kernel counts by user is shared.
#[derive(Debug)]
pub(crate) struct UidPool {
    base: u32,
    /// Which slots are taken; a freed one is used again first.
    taken: Mutex<Vec<bool>>,
}

/// The user ids of one environment, until dropped.
#[derive(Debug)]
pub(crate) struct UidLease {
    pool: Arc<UidPool>,
    slot: usize,
}

impl UidPool {
    fn new(base: u32) -> Self {
        Self { base, taken: Mutex::default() }
    }

    fn lease(pool: &Arc<Self>) -> UidLease {
        let mut taken = pool.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = taken.iter().position(|taken| !taken).unwrap_or_else(|| {
            taken.push(false);
            taken.len() - 1
        });
        taken[slot] = true;
        UidLease { pool: pool.clone(), slot }
    }
}

impl UidLease {
    fn agent(&self) -> u32 {
        let slot = u32::try_from(self.slot).unwrap_or(u32::MAX);
        self.pool.base.saturating_add(slot.saturating_mul(UIDS_PER_ENVIRONMENT))
    }

    fn function(&self) -> u32 {
        self.agent().saturating_add(1)
    }
}

impl Drop for UidLease {
    fn drop(&mut self) {
        let mut taken = self.pool.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken[self.slot] = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_environments_never_share_a_user() {
        let pool = Arc::new(UidPool::new(1000));
        let (first, second) = (UidPool::lease(&pool), UidPool::lease(&pool));
        assert_eq!((first.agent(), first.function()), (1000, 1001));
        assert_eq!((second.agent(), second.function()), (1002, 1003));
        drop(first);
        assert_eq!(UidPool::lease(&pool).agent(), 1000);
    }
}
