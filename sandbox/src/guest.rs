//! The programs around and inside environments, carried in this binary and handed over as sealed memory files.

use std::{
    io,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt},
    },
    path::Path,
    process::{Child, Command, Stdio},
};

use command_fds::{CommandFdExt, FdMapping};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

pub(crate) static AGENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/agent"));
static JAIL: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/jail"));
static MONITOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/vmm"));

/// Descriptors on which the jail finds what it needs; its half of the contract is in `jail::enter`.
const SPEC_FD: i32 = 3;
const PROGRAM_FD: i32 = 4;
const STREAM_FD: i32 = 5;
/// And what its program needs besides.
const FURTHER_FDS: i32 = 6;

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

/// Starts a jail around `program`.
pub(crate) fn spawn_jail(
    jail: &OwnedFd,
    documents: OwnedFd,
    program: &OwnedFd,
    stream: UnixStream,
    further: Vec<OwnedFd>,
) -> io::Result<Child> {
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
    command.spawn()
}
