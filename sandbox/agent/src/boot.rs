//! From user 0 of a fresh environment to an agent that can do nothing but serve.
//!
//! ```text
//!  read Start ─► listen ─► no core dumps ─► empty bounding set ─► start runtime as its user ─► own user, no capabilities ─► Hello
//!                   └──────────────┴──────── StartFailed ──────────────────┘
//! ```
//!
//! The runtime is started before the agent gives up user 0, because afterwards nobody could give the runtime its user; it
//! starts up while the agent does the rest.

use std::{
    fmt,
    io::{self, Write},
    net::{SocketAddr, TcpListener},
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::{Command, Stdio},
};

use protocol::{AgentFrame, Decoder, InvokerFrame, Start, VERSION};
use rustix::{
    fs::{Gid, Uid},
    io::{Errno, fcntl_dupfd_cloexec, ioctl_fionbio},
    net::{SendFlags, send},
    process::{
        DumpableBehavior, Pid, PidfdFlags, Signal, pidfd_open, set_dumpable_behavior,
        set_parent_process_death_signal,
    },
    thread::{
        CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
        clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
        set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    },
};

use crate::guest::Meter;

/// Where a runtime looks for its API unless told otherwise.
const DEFAULT_ADDRESS: &str = "127.0.0.1:9001";

/// Tells a runtime its API's address; so it tells the agent too.
const ADDRESS_VARIABLE: &str = "AWS_LAMBDA_RUNTIME_API";

/// Makes whoever inherits it the kernel's first choice when the environment is out of memory: the agent must outlive the
/// function to report it.
const KILL_FIRST: &str = "1000";
const KILL_LAST: &str = "0";

/// Bytes read at a time while the `Start` frame arrives.
const READ: usize = 16 * 1024;

/// A started environment.
#[derive(Debug)]
pub(crate) struct Booted {
    /// The stream of frames.
    pub(crate) stream: OwnedFd,
    /// What has arrived behind `Start`.
    pub(crate) decoder: Decoder,
    pub(crate) listener: OwnedFd,
    pub(crate) runtime: Runtime,
    /// Largest answer of the function, bytes.
    pub(crate) response_limit: usize,
    /// In a guest: what is used of its memory.
    pub(crate) meter: Option<Meter>,
}

/// The runtime process and what it prints to.
#[derive(Debug)]
pub(crate) struct Runtime {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// Something that must not happen to an agent.
#[derive(Debug)]
pub(crate) enum AgentError {
    System {
        step: &'static str,
        source: io::Error,
    },
    /// The invoker's frames are not what an invoker sends.
    Protocol(String),
    /// Privileges are left that should be gone.
    StillPrivileged(&'static str),
    /// This variable of an init is missing or not understood.
    CommandLine(&'static str),
}

impl fmt::Display for AgentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System { step, source } => write!(f, "cannot {step}: {source}"),
            Self::Protocol(what) => write!(f, "unexpected frame from the invoker: {what}"),
            Self::StillPrivileged(what) => write!(f, "privileges are left after the drop: {what}"),
            Self::CommandLine(variable) => write!(f, "the kernel command line has no usable {variable}"),
        }
    }
}

/// Names the step that failed.
pub(crate) trait Context<T> {
    fn step(self, step: &'static str) -> Result<T, AgentError>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn step(self, step: &'static str) -> Result<T, AgentError> {
        self.map_err(|error| AgentError::System { step, source: error.into() })
    }
}

/// The stream that the jail has left.
pub(crate) fn inherited_stream() -> Result<OwnedFd, AgentError> {
    // As a network daemon gets its connection: then no descriptor need be conjured from a number.
    fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).step("take over standard input")
}

/// Boots. `None`: the invoker went away or the runtime cannot be started, and has been told so.
pub(crate) fn boot(stream: OwnedFd, is_guest: bool) -> Result<Option<Booted>, AgentError> {
    let mut decoder = Decoder::new();
    let Some(start) = read_start(&stream, &mut decoder)? else {
        return Ok(None);
    };
    let mut meter = is_guest.then(Meter::open).transpose().step("open the kernel's counters")?;
    match start_runtime(&start) {
        Ok((listener, runtime)) => {
            if let Some(meter) = &mut meter {
                meter.watch(runtime.pid).step("open the runtime's counters")?;
            }
            give_up_privileges(&start)?;
            tell(&stream, &AgentFrame::Hello { version: VERSION })?;
            let response_limit = usize::try_from(start.response_limit).unwrap_or(usize::MAX);
            Ok(Some(Booted { stream, decoder, listener, runtime, response_limit, meter }))
        }
        Err(reason) => {
            tell(&stream, &AgentFrame::StartFailed { reason })?;
            Ok(None)
        }
    }
}

fn read_start(stream: &OwnedFd, decoder: &mut Decoder) -> Result<Option<Start>, AgentError> {
    loop {
        match InvokerFrame::decode(decoder).map_err(|error| AgentError::Protocol(error.to_string()))? {
            Some(InvokerFrame::Start(start)) if start.version == VERSION => return Ok(Some(start)),
            Some(InvokerFrame::Start(start)) => {
                let reason = format!("the agent speaks version {VERSION}, the invoker {}", start.version);
                tell(stream, &AgentFrame::StartFailed { reason })?;
                return Ok(None);
            }
            Some(InvokerFrame::Shutdown) => return Ok(None),
            Some(InvokerFrame::Invoke(_)) => {
                return Err(AgentError::Protocol("Invoke before Start".to_owned()));
            }
            None => {}
        }
        let mut bytes = [0; READ];
        match rustix::io::read(stream, &mut bytes) {
            Ok(0) => return Ok(None),
            Ok(read) => decoder.extend(bytes.get(..read).unwrap_or_default()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).step("read from the invoker"),
        }
    }
}

/// Sends a frame while the stream still blocks.
pub(crate) fn tell(stream: &OwnedFd, frame: &AgentFrame) -> Result<(), AgentError> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        match send(stream, rest, SendFlags::NOSIGNAL) {
            Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            // Nobody is there to be told any more.
            Err(Errno::PIPE | Errno::CONNRESET) => return Ok(()),
            Err(errno) => return Err(errno).step("write to the invoker"),
        }
    }
    Ok(())
}

/// Listens, then starts the runtime. An error is the reason that the invoker is told.
fn start_runtime(start: &Start) -> Result<(OwnedFd, Runtime), String> {
    let listener = listen(&start.variables)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|errno| format!("cannot hide memory: {errno}"))?;
    empty_bounding_set().map_err(|errno| format!("cannot empty the bounding set: {errno}"))?;
    // Where there is no /proc, the kernel chooses by size, and the agent is small.
    let _ = prefer_to_kill(KILL_FIRST);
    let runtime = spawn(start);
    let _ = prefer_to_kill(KILL_LAST);
    Ok((listener, runtime?))
}

fn listen(variables: &[(String, String)]) -> Result<OwnedFd, String> {
    let configured = variables.iter().find(|(name, _)| name == ADDRESS_VARIABLE);
    let address = configured.map_or(DEFAULT_ADDRESS, |(_, address)| address.as_str());
    let parsed: SocketAddr =
        address.parse().map_err(|_| format!("{ADDRESS_VARIABLE}={address} is not an address and a port"))?;
    if !parsed.ip().is_loopback() {
        return Err(format!("{ADDRESS_VARIABLE}={address} is not a loopback address"));
    }
    let listener =
        TcpListener::bind(parsed).map_err(|error| format!("cannot listen on {address}: {error}"))?;
    listener.set_nonblocking(true).map_err(|error| format!("cannot listen on {address}: {error}"))?;
    Ok(listener.into())
}

fn spawn(start: &Start) -> Result<Runtime, String> {
    let (program, arguments) = start.command.split_first().ok_or("the runtime's command is empty")?;
    let failed = |error: io::Error| format!("cannot start {program} in {}: {error}", start.directory);
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(start.variables.iter().map(|(name, value)| (name, value)))
        .current_dir(&start.directory)
        .uid(start.function_uid)
        .gid(start.function_uid)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err("the runtime has no pipes".to_owned());
    };
    let (stdout, stderr) = (OwnedFd::from(stdout), OwnedFd::from(stderr));
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or("the runtime has no pid")?;
    let runtime = pidfd_open(pid, PidfdFlags::empty()).and_then(|pidfd| {
        ioctl_fionbio(&stdout, true)?;
        ioctl_fionbio(&stderr, true)?;
        Ok(Runtime { pid, pidfd, stdout, stderr })
    });
    runtime.map_err(|errno| failed(errno.into()))
}

fn prefer_to_kill(score: &str) -> io::Result<()> {
    std::fs::File::options().write(true).open("/proc/self/oom_score_adj")?.write_all(score.as_bytes())
}

/// Then no program started from here, whatever its file says, gets capabilities.
fn empty_bounding_set() -> rustix::io::Result<()> {
    for capability in every_capability() {
        if capability_is_in_bounding_set(capability)? {
            remove_capability_from_bounding_set(capability)?;
        }
    }
    Ok(())
}

/// Every capability this kernel knows.
fn every_capability() -> impl Iterator<Item = CapabilitySet> {
    (0..u64::BITS)
        .map(|bit| CapabilitySet::from_bits_retain(1 << bit))
        .take_while(|capability| capability_is_in_bounding_set(*capability).is_ok())
}

/// Becomes `agent_uid` for good, and looks whether it is true.
fn give_up_privileges(start: &Start) -> Result<(), AgentError> {
    let (uid, gid) = (Uid::from_raw(start.agent_uid), Gid::from_raw(start.agent_uid));
    set_thread_groups(&[]).step("leave all groups")?;
    set_thread_res_gid(gid, gid, gid).step("change group")?;
    set_thread_res_uid(uid, uid, uid).step("change user")?;
    clear_ambient_capability_set().step("clear ambient capabilities")?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
        .step("drop capabilities")?;
    // Changing user has reset these two.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).step("hide memory")?;
    set_parent_process_death_signal(Some(Signal::KILL)).step("ask for the parent-death signal")?;
    verify(uid, gid)
}

fn verify(uid: Uid, gid: Gid) -> Result<(), AgentError> {
    use rustix::process::{getegid, geteuid, getgid, getgroups, getuid};
    let sets = capabilities(None).step("read capabilities")?;
    let checks = [
        ("user", getuid() == uid && geteuid() == uid),
        ("group", getgid() == gid && getegid() == gid),
        ("supplementary groups", getgroups().step("read groups")?.is_empty()),
        ("capabilities", (sets.effective | sets.permitted | sets.inheritable).is_empty()),
        (
            "bounding set",
            every_capability().all(|capability| capability_is_in_bounding_set(capability) == Ok(false)),
        ),
        ("user 0 can be regained", uid.is_root() || set_thread_res_uid(None, Uid::ROOT, None).is_err()),
    ];
    match checks.into_iter().find(|(_, holds)| !holds) {
        Some((what, _)) => Err(AgentError::StillPrivileged(what)),
        None => Ok(()),
    }
}
