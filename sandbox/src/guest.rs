//! The programs that run inside environments, carried in this binary and handed over as sealed memory files.

use std::{io, os::fd::OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

static AGENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/agent"));
static JAIL: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/jail"));

/// Memory files of the guest programs, made once per worker; nobody can change them any more.
#[derive(Debug)]
pub(crate) struct GuestPrograms {
    pub(crate) agent: OwnedFd,
    pub(crate) jail: OwnedFd,
}

impl GuestPrograms {
    pub(crate) fn load() -> io::Result<Self> {
        Ok(Self { agent: sealed("agent", AGENT)?, jail: sealed("jail", JAIL)? })
    }
}

/// A memory file with `content` that can be executed but not changed.
fn sealed(name: &str, content: &[u8]) -> io::Result<OwnedFd> {
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
