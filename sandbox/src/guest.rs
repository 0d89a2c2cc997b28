//! The programs around and inside environments, carried in this binary and handed over as sealed memory files.

use std::{
    io::{self, Read},
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt},
    },
    path::Path,
    process::{Child, Command, Stdio},
};

use command_fds::{CommandFdExt, FdMapping};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    process::{Pid, PidfdFlags, pidfd_open},
};

pub(crate) static AGENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/agent"));
static JAIL: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/jail"));
static MONITOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/vmm"));

/// Descriptors on which the jail finds what it needs; its half of the contract is in `jail::enter`.
const SPEC_FD: i32 = 3;
const PROGRAM_FD: i32 = 4;
const STREAM_FD: i32 = 5;
/// And what its program needs besides.
const FURTHER_FDS: i32 = 6;

/// Most of a jail's last words that are kept.
const LAST_WORDS_BYTES: u64 = 4096;

/// Memory files of the guest programs, made once per worker; nobody can change them any more.
#[derive(Debug)]
pub(crate) struct GuestPrograms {
    pub(crate) agent: OwnedFd,
    pub(crate) jail: OwnedFd,
    pub(crate) monitor: OwnedFd,
}

impl GuestPrograms {
    pub(crate) fn load() -> io::Result<Self> {
        Ok(Self {
            agent: sealed("agent", AGENT)?,
            jail: sealed("jail", JAIL)?,
            monitor: sealed("monitor", MONITOR)?,
        })
    }
}

/// A memory file with `content` that can be executed but not changed.
pub(crate) fn sealed(name: &str, content: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know EXEC and do not need it.
    let file = memfd_create(name, flags | MemfdFlags::EXEC).or_else(|_| memfd_create(name, flags))?;
    let mut rest = content;
    while !rest.is_empty() {
        let written = rustix::io::write(&file, rest)?;
        rest = rest.get(written..).unwrap_or_default();
    }
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}

/// A jail's first process. Dropping it ends the jail and leaves no zombie, whatever was under way with it.
#[derive(Debug)]
pub(crate) struct JailProcess(Child);

impl JailProcess {
    /// PID 1 dies with the jail (it asked the kernel for that), and the whole pid namespace with PID 1.
    pub(crate) fn kill(&mut self) {
        // Fails only for one that has ended.
        let _ = self.0.kill();
    }

    /// Waits until it has ended by itself, for at most `timeout`.
    pub(crate) fn let_end(&self, timeout: Timespec) {
        let pidfd = pidfd_open(Pid::from_child(&self.0), PidfdFlags::empty());
        if let Ok(pidfd) = pidfd {
            let _ = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout));
        }
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(Some(_)) | Err(_))
    }

    /// Waits until it has ended, and returns what it and its program said last.
    pub(crate) fn last_words(mut self) -> String {
        let _ = self.0.wait();
        let mut words = Vec::new();
        if let Some(stderr) = self.0.stderr.take() {
            let _ = stderr.take(LAST_WORDS_BYTES).read_to_end(&mut words);
        }
        String::from_utf8_lossy(&words).trim().to_owned()
    }
}

impl Drop for JailProcess {
    fn drop(&mut self) {
        self.kill();
        let _ = self.0.wait();
    }
}

/// Starts a jail around `program`.
pub(crate) fn spawn_jail(
    jail: &OwnedFd,
    documents: OwnedFd,
    program: &OwnedFd,
    stream: UnixStream,
    further: Vec<OwnedFd>,
) -> io::Result<JailProcess> {
    let mapping = |parent_fd: OwnedFd, child_fd| FdMapping { parent_fd, child_fd };
    let mut mappings = vec![
        mapping(documents, SPEC_FD),
        mapping(program.try_clone()?, PROGRAM_FD),
        mapping(stream.into(), STREAM_FD),
    ];
    mappings.extend(further.into_iter().zip(FURTHER_FDS..).map(|(fd, number)| mapping(fd, number)));
    // The jail itself too: its number here may be one that something else gets there.
    let itself = mappings.iter().map(|mapping| mapping.child_fd).max().unwrap_or(STREAM_FD) + 1;
    mappings.push(mapping(jail.try_clone()?, itself));
    let mut command = Command::new(Path::new("/proc/self/fd").join(itself.to_string()));
    command
        .arg0("waterwheel-jail")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command.fd_mappings(mappings).map_err(io::Error::other)?;
    command.spawn().map(JailProcess)
}
