//! Names, limits, settings of the guest's kernel, and its randomness.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::fd::OwnedFd,
};

use rustix::{
    fs::{Mode, OFlags, openat},
    process::{Resource, Rlimit, setrlimit},
};

use crate::boot::{AgentError, Context};

/// As Lambda shows it: a link-local address, the same everywhere.
const HOSTNAME: &str = "169.254.100.1";

/// Most open files of a process, and most processes and threads of the function (AWS, "Lambda quotas": 1,024 each).
const OPEN_FILES: u64 = 1024;
const PROCESSES: u64 = 1024;

/// Bytes of the host's randomness: a whole key of the kernel's generator.
const SEED: usize = 32;

/// Settings of the kernel, below `/proc/sys`. One that this kernel does not have it need not have.
const SETTINGS: [(&str, &str); 3] = [
    ("kernel/dmesg_restrict", "1"),
    ("kernel/kptr_restrict", "2"),
    // As in a jail, on a machine with more memory than any function: who asks for too much gets it, and is killed when
    // it uses it. Else Python would raise MemoryError in one isolation and be killed in the other.
    ("vm/overcommit_memory", "1"),
];

/// How long what was used must stay in memory, milliseconds. When the kernel cannot keep that, it ends the process that uses
/// most, where it would otherwise take programs' pages away and read them from the image again, for minutes
/// (Linux, Documentation/admin-guide/mm/multigen_lru.rst, "Thrashing prevention").
const KEPT_MS: &[u8] = b"1000";
const KEPT_SETTING: &str = "kernel/mm/lru_gen/min_ttl_ms";

/// Mixes the host's randomness into the kernel's pool. The kernel's own thread for the device does so too, but when it
/// likes; here it has happened before the function starts.
pub(super) fn reseed() -> io::Result<()> {
    let mut seed = [0u8; SEED];
    File::open("/dev/hwrng")?.read_exact(&mut seed)?;
    File::options().write(true).open("/dev/urandom")?.write_all(&seed)
}

/// Has the kernel end a process rather than thrash. `sysfs` is one that is mounted nowhere: the function has none.
pub(super) fn prevent_thrashing(sysfs: &OwnedFd) -> io::Result<()> {
    let setting = openat(sysfs, KEPT_SETTING, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(setting, KEPT_MS)?;
    Ok(())
}

/// Needs `/proc`, writable.
pub(super) fn name_and_limits() -> Result<(), AgentError> {
    rustix::system::sethostname(HOSTNAME.as_bytes()).step("set the host name")?;
    let limits = [
        (Resource::Nofile, OPEN_FILES),
        (Resource::Nproc, PROCESSES),
        (Resource::Core, 0),
        (Resource::Nice, 0),
        (Resource::Rtprio, 0),
    ];
    for (resource, limit) in limits {
        setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) }).step("limit resources")?;
    }
    rustix::thread::set_no_new_privs(true).step("set no_new_privs")
}

pub(super) fn kernel() -> io::Result<()> {
    for (name, value) in SETTINGS {
        match fs::write(format!("/proc/sys/{name}"), value) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            written => written?,
        }
    }
    Ok(())
}
