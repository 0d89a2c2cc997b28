//! Going into the jail: the supervisor outside, and what PID 1 does before it becomes the agent.

use std::{
    ffi::CStr,
    fs::File,
    io::{Read, Seek, Write},
    os::fd::{AsFd, FromRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    net::{AddressFamily, SendFlags, SocketFlags, SocketType},
    process::{
        Pid, PidfdFlags, Resource, Rlimit, Signal, WaitOptions, getpid, getppid, getrlimit, pidfd_open,
        pidfd_send_signal, set_parent_process_death_signal, setrlimit, setsid, waitpid,
    },
    thread::UnshareFlags,
};

use serde::de::DeserializeOwned;

use crate::{Files, JailSpec, Program, monitor, mounts, privileges, seccomp};

/// Largest document of the driver's, bytes: a few paths.
const DOCUMENT_BYTES: usize = 64 * 1024;

pub(crate) const SPEC: i32 = 3;
const PROGRAM: i32 = 4;
const STREAM: i32 = 5;

/// Most open files of a process (AWS, "Lambda quotas": file descriptors 1,024).
const OPEN_FILES: u64 = 1024;

/// glibc keeps freed memory of up to 32 MiB once a large block has been freed, unless these are fixed: then an agent that
/// has passed 6 MB through is as small as before.
const AGENT_ENVIRONMENT: &CStr =
    c"GLIBC_TUNABLES=glibc.malloc.mmap_threshold=131072:glibc.malloc.trim_threshold=131072";

/// Why an environment has no jail.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    #[error("cannot read the jail's specification: {0}")]
    Spec(String),
    #[error("cannot {step}: {errno}")]
    Step { step: &'static str, errno: Errno },
    #[error("cannot {step} {path}: {errno}")]
    Path { step: &'static str, path: PathBuf, errno: Errno },
    #[error("root {root} has no directory {target}: create it in the runtime image")]
    MountPoint { root: PathBuf, target: PathBuf },
    #[error("cannot build the system-call filter: {0}")]
    Filter(String),
}

/// Names the step that failed.
pub(crate) trait Context<T> {
    fn step(self, step: &'static str) -> Result<T, JailError>;
    fn at(self, step: &'static str, path: &Path) -> Result<T, JailError>;
}

impl<T> Context<T> for rustix::io::Result<T> {
    fn step(self, step: &'static str) -> Result<T, JailError> {
        self.map_err(|errno| JailError::Step { step, errno })
    }

    fn at(self, step: &'static str, path: &Path) -> Result<T, JailError> {
        self.map_err(|errno| JailError::Path { step, path: path.to_owned(), errno })
    }
}

/// Does what the crate's picture shows. In the supervisor: returns PID 1's exit code, or 128 + the signal that ended it.
/// In PID 1: returns only if a step failed.
///
/// # Safety
///
/// The process has one thread, and descriptors 3, 4 and 5 are the caller's to give away.
pub unsafe fn run() -> Result<u8, JailError> {
    // SAFETY: the caller gives these descriptors away; one that is not open answers EBADF at its first use.
    let (mut documents, program, stream) =
        unsafe { (File::from_raw_fd(SPEC), OwnedFd::from_raw_fd(PROGRAM), OwnedFd::from_raw_fd(STREAM)) };
    // A memory file stands where its writer left it; a socket cannot seek and need not.
    let _ = documents.rewind();
    let spec: JailSpec = read_document(&mut documents)?;
    if spec.controls.cgroups {
        join_cgroups(&spec.cgroups)?;
    }
    // Of this process, for PID 1 to see whether it is still there; and of the driver, for this process.
    let supervisor = pidfd_open(getpid(), PidfdFlags::empty()).step("open the supervisor's pidfd")?;
    let driver =
        getppid().map(|pid| pidfd_open(pid, PidfdFlags::empty())).transpose().step("find the driver")?;
    if spec.controls.pid_namespace {
        unshare(UnshareFlags::NEWPID).step("make a pid namespace")?;
    }
    // SAFETY: the process has one thread (the caller's promise), so the child may do whatever its parent may.
    let child = unsafe { libc::fork() };
    match Pid::from_raw(child) {
        Some(_) if child < 0 => Err(JailError::Step { step: "fork", errno: last_errno() }),
        Some(child) => {
            // Held here, the stream would stay open when the agent is gone, and nobody would notice.
            drop((documents, program, stream));
            supervise(child, driver.as_ref())
        }
        None => {
            drop(driver);
            become_program(spec, documents, &supervisor, &program, stream)
        }
    }
}

/// Reads one JSON document: a memory file holds one, and a socket keeps each that was sent to it apart.
fn read_document<T: DeserializeOwned>(from: &mut File) -> Result<T, JailError> {
    let mut json = vec![0; DOCUMENT_BYTES];
    let bytes = from.read(&mut json).map_err(|error| JailError::Spec(error.to_string()))?;
    let json = json.get(..bytes).unwrap_or_default();
    serde_json::from_slice(json).map_err(|error| JailError::Spec(error.to_string()))
}

fn join_cgroups(directories: &[PathBuf]) -> Result<(), JailError> {
    for directory in directories {
        let procs = directory.join("cgroup.procs");
        // "0" is the writer, in cgroups of both versions.
        let joined = File::options().write(true).open(&procs).and_then(|mut file| file.write_all(b"0"));
        joined
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
            .at("join cgroup", &procs)?;
    }
    Ok(())
}

fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    // SAFETY: only CLONE_FILES can break the ownership of descriptors, and no caller passes it.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

pub(crate) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Waits for PID 1, and ends it if the driver is gone.
fn supervise(child: Pid, driver: Option<&OwnedFd>) -> Result<u8, JailError> {
    let child_fd = pidfd_open(child, PidfdFlags::empty()).step("open pidfd of PID 1")?;
    let mut watched = vec![PollFd::new(&child_fd, PollFlags::IN)];
    // The driver as a process: a parent-death signal would follow the *thread* that spawned us.
    watched.extend(driver.map(|driver| PollFd::new(driver, PollFlags::IN)));
    loop {
        match poll(&mut watched, None) {
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(errno) => {
                return Err(JailError::Step { step: "wait for PID 1", errno });
            }
        }
    }
    if watched.get(1).is_some_and(|driver| !driver.revents().is_empty()) {
        // It may have ended by itself meanwhile.
        let _ = pidfd_send_signal(&child_fd, Signal::KILL);
    }
    let status = waitpid(Some(child), WaitOptions::empty()).step("wait for PID 1")?;
    let (_, status) = status.ok_or(JailError::Step { step: "wait for PID 1", errno: Errno::CHILD })?;
    let code = status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
    Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
}

/// PID 1: puts up the walls and becomes the program.
fn become_program(
    spec: JailSpec,
    documents: File,
    supervisor: &OwnedFd,
    program: &OwnedFd,
    stream: OwnedFd,
) -> Result<u8, JailError> {
    die_with(supervisor)?;
    setsid().step("start a session")?;
    let controls = &spec.controls;
    let mut namespaces = UnshareFlags::NEWNS | UnshareFlags::NEWCGROUP;
    namespaces.set(UnshareFlags::NEWNET, controls.network_namespace);
    namespaces.set(UnshareFlags::NEWIPC | UnshareFlags::NEWUTS, controls.ipc_and_uts_namespaces);
    unshare(namespaces).step("make namespaces")?;
    if controls.ipc_and_uts_namespaces {
        rustix::system::sethostname(spec.hostname.as_bytes()).step("set the host name")?;
    }
    if controls.resource_limits {
        limit_resources()?;
    }
    match spec.program.clone() {
        Program::Agent => become_agent(spec, documents, program, stream),
        Program::Monitor { uid, spec: document, keep } => {
            if controls.resource_limits {
                monitor::limit_resources()?;
            }
            monitor::enter_empty_root(controls)?;
            monitor::hand_over(documents, stream, document, &keep)?;
            monitor::become_user(uid, controls)?;
            // Becoming another user has taken it back.
            die_with(supervisor)?;
            Err(JailError::Step { step: "execute the monitor", errno: execute(program, c"monitor") })
        }
    }
}

fn become_agent(
    spec: JailSpec,
    mut documents: File,
    program: &OwnedFd,
    stream: OwnedFd,
) -> Result<u8, JailError> {
    let controls = &spec.controls;
    if controls.network_namespace {
        loopback_up().step("start the loopback interface")?;
    }
    let filter = controls.seccomp.then(seccomp::filter).transpose().map_err(JailError::Filter)?;
    // All that is the same for every environment is done: a prepared jail waits here for what makes it one function's.
    let files = match spec.files {
        Some(files) => files,
        None => read_document::<Files>(&mut documents)?,
    };
    mounts::enter_root(&files, controls)?;
    hand_over_descriptors(stream).step("hand over descriptors")?;
    privileges::drop_all_but_the_agents(controls)?;
    if let Some(filter) = filter {
        seccompiler::apply_filter(&filter).map_err(|error| JailError::Filter(error.to_string()))?;
    }
    Err(JailError::Step { step: "execute the agent", errno: execute(program, c"agent") })
}

/// Arranges that PID 1 is killed when the supervisor ends.
fn die_with(supervisor: &OwnedFd) -> Result<(), JailError> {
    set_parent_process_death_signal(Some(Signal::KILL)).step("ask for the parent-death signal")?;
    // The supervisor may have ended before the line above.
    let mut watched = [PollFd::new(supervisor, PollFlags::IN)];
    let ended = poll(&mut watched, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 }));
    match ended.step("look for the supervisor")? {
        0 => Ok(()),
        _ => Err(JailError::Step { step: "go on without a supervisor", errno: Errno::SRCH }),
    }
}

/// Sets `IFF_UP` on `lo`, by one rtnetlink message and its acknowledgement.
fn loopback_up() -> rustix::io::Result<()> {
    // struct nlmsghdr { u32 len; u16 type; u16 flags; u32 seq; u32 pid; }
    // struct ifinfomsg { u8 family; u8 pad; u16 type; i32 index; u32 flags; u32 change; }     (linux/rtnetlink.h)
    const LENGTH: u32 = 32;
    const RTM_NEWLINK: u16 = 16;
    const NLM_F_REQUEST_ACK: u16 = 1 | 4;
    const LOOPBACK_INDEX: u32 = 1; // always the first interface of a network namespace
    const IFF_UP: u32 = 1;
    const ERROR_AT: usize = 16; // behind the answer's nlmsghdr: i32, 0 or minus an errno

    let mut message = Vec::new();
    message.extend_from_slice(&LENGTH.to_ne_bytes());
    message.extend_from_slice(&RTM_NEWLINK.to_ne_bytes());
    message.extend_from_slice(&NLM_F_REQUEST_ACK.to_ne_bytes());
    message.extend_from_slice(&[0; 12]); // seq, pid, family, pad, type
    for field in [LOOPBACK_INDEX, IFF_UP, IFF_UP] {
        message.extend_from_slice(&field.to_ne_bytes());
    }
    let socket =
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    rustix::net::send(&socket, &message, SendFlags::empty())?;
    let mut answer = [0u8; 128];
    let bytes = rustix::io::read(&socket, &mut answer)?;
    let error =
        answer.get(..bytes).and_then(|answer| answer.get(ERROR_AT..)).and_then(<[u8]>::first_chunk::<4>);
    match error.map(|error| i32::from_ne_bytes(*error)) {
        Some(0) => Ok(()),
        Some(errno) => Err(Errno::from_raw_os_error(-errno)),
        None => Err(Errno::PROTO),
    }
}

fn limit_resources() -> Result<(), JailError> {
    let limits =
        [(Resource::Nofile, OPEN_FILES), (Resource::Core, 0), (Resource::Nice, 0), (Resource::Rtprio, 0)];
    for (resource, limit) in limits {
        // A hard limit below ours stays: raising it needs a privilege the driver may not have.
        let limit = getrlimit(resource).maximum.map_or(limit, |hard| hard.min(limit));
        setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) }).step("limit resources")?;
    }
    Ok(())
}

/// The stream becomes standard input and the driver's pipe standard output; everything else closes at `execve`.
fn hand_over_descriptors(stream: OwnedFd) -> rustix::io::Result<()> {
    rustix::stdio::dup2_stdin(&stream)?;
    rustix::stdio::dup2_stdout(std::io::stderr().as_fd())?;
    drop(stream);
    close_at_execve()
}

/// Every descriptor from the jail's document on.
pub(crate) fn close_at_execve() -> rustix::io::Result<()> {
    // SAFETY: marking descriptors close-on-exec takes none away from their owners.
    let result = unsafe {
        libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_uint)
    };
    if result < 0 { Err(last_errno()) } else { Ok(()) }
}

/// Returns only if it fails.
fn execute(program: &OwnedFd, name: &CStr) -> Errno {
    use std::os::fd::AsRawFd;
    let arguments = [name.as_ptr(), std::ptr::null()];
    let environment = [AGENT_ENVIRONMENT.as_ptr(), std::ptr::null()];
    // SAFETY: the empty path and both arrays are NUL- or null-terminated and live until the call returns.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    last_errno()
}
