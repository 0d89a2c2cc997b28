//! The resources of one environment: memory, CPU and processes, in cgroups of version 1, 2 or a mix.
//!
//! ```text
//!  version 2                                version 1 (one tree per controller)
//!  /sys/fs/cgroup/                          /sys/fs/cgroup/memory/<our own>/
//!  └── waterwheel/      group               └── waterwheel/
//!      ├── env-1/       one Cgroup              ├── env-1/
//!      └── env-2/                               └── env-2/       and the same under cpu, cpuacct, pids
//! ```
//!
//! Under version 1 the group is made below the cgroup this process is in; under version 2, where a cgroup has processes or
//! children but not both, below the mount's root. Dropping a [`Cgroup`] kills what is left in it and removes it;
//! [`Hierarchy::sweep`] does so for what an earlier run left behind.

mod hierarchy;
mod kill;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

pub use hierarchy::Hierarchy;
use hierarchy::{Place, Version};

/// Memory that AWS gives one whole vCPU for, MB (AWS Lambda developer guide, "Configure Lambda function memory").
const MB_PER_VCPU: u64 = 1769;

/// Period of CPU quotas. Shorter than the kernel's default of 100 ms, so that a function with little CPU is not stopped for
/// long at a time.
const CPU_PERIOD_US: u64 = 20_000;

/// The kernel refuses a quota below this (`min_cfs_quota_period`).
const MIN_CPU_QUOTA_US: u64 = 1_000;

/// What an environment may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// RAM, page cache and tmpfs together; swap is off.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
    /// `None`: no bound.
    pub cpu_quota: Option<CpuQuota>,
    /// Weight against other environments when CPU is short; 1024 is everybody's default.
    pub cpu_shares: u64,
}

/// Microseconds of CPU time in each period of microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuQuota {
    pub quota_us: u64,
    pub period_us: u64,
}

/// CPU in proportion to memory, as Lambda gives it: one vCPU for each 1,769 MB.
#[must_use]
pub fn cpu_quota_for(memory_mb: u64) -> CpuQuota {
    let quota_us = (memory_mb * CPU_PERIOD_US / MB_PER_VCPU).max(MIN_CPU_QUOTA_US);
    CpuQuota { quota_us, period_us: CPU_PERIOD_US }
}

/// The cgroups of one environment, one per controller hierarchy.
#[derive(Debug)]
pub struct Cgroup {
    memory: Place,
    cpu: Place,
    cpuacct: Place,
    pids: Place,
    /// Kept open: it is read after every invocation.
    memory_peak: OnceLock<fs::File>,
    removed: bool,
}

impl Cgroup {
    /// Creates `group`/`name` in each hierarchy and sets `limits`. If a step fails, nothing is left behind.
    pub fn create(hierarchy: &Hierarchy, group: &str, name: &str, limits: Limits) -> io::Result<Self> {
        hierarchy.prepare(group)?;
        let mut cgroup = Self::locate(hierarchy, group, name);
        // Until all directories are this cgroup's own, dropping it must not touch them: a name may be another's.
        cgroup.removed = true;
        let directories = cgroup.procs_dirs();
        for (made, directory) in directories.iter().enumerate() {
            if let Err(error) = fs::create_dir(directory) {
                for earlier in directories.iter().take(made) {
                    kill::remove(earlier)?;
                }
                return Err(annotate(&error, "create cgroup", directory));
            }
        }
        cgroup.removed = false;
        cgroup.limit(limits)?;
        Ok(cgroup)
    }

    fn locate(hierarchy: &Hierarchy, group: &str, name: &str) -> Self {
        let below = |place: &Place| place.join(group).join(name);
        Self {
            memory: below(&hierarchy.memory),
            cpu: below(&hierarchy.cpu),
            cpuacct: below(&hierarchy.cpuacct),
            pids: below(&hierarchy.pids),
            memory_peak: OnceLock::new(),
            removed: false,
        }
    }

    /// Changes all limits.
    pub fn limit(&self, limits: Limits) -> io::Result<()> {
        self.set_memory(limits.memory_bytes)?;
        self.pids.write("pids.max", &limits.pids.to_string())?;
        self.set_cpu(limits.cpu_quota)?;
        self.set_cpu_shares(limits.cpu_shares)
    }

    /// The directories whose `cgroup.procs` a process must join, for [`crate::JailSpec::cgroups`].
    #[must_use]
    pub fn procs_dirs(&self) -> Vec<PathBuf> {
        let mut directories: Vec<PathBuf> =
            self.places().into_iter().map(|place| place.directory.clone()).collect();
        directories.sort();
        directories.dedup(); // Version 2 is one directory; version 1 often mounts cpu and cpuacct together.
        directories
    }

    /// Changes the CPU quota; `None` takes it away. Functions get more while they start than afterwards.
    pub fn set_cpu(&self, quota: Option<CpuQuota>) -> io::Result<()> {
        match (self.cpu.version, quota) {
            (Version::V1, None) => self.cpu.write("cpu.cfs_quota_us", "-1"),
            (Version::V1, Some(CpuQuota { quota_us, period_us })) => {
                self.cpu.write("cpu.cfs_period_us", &period_us.to_string())?;
                self.cpu.write("cpu.cfs_quota_us", &quota_us.to_string())
            }
            (Version::V2, None) => self.cpu.write("cpu.max", "max"),
            (Version::V2, Some(CpuQuota { quota_us, period_us })) => {
                self.cpu.write("cpu.max", &format!("{quota_us} {period_us}"))
            }
        }
    }

    /// Most memory in use at one time so far, bytes. Before Linux 5.19, version 2 only knows the present.
    pub fn memory_peak(&self) -> io::Result<u64> {
        let file = match self.memory.version {
            Version::V1 => "memory.max_usage_in_bytes",
            Version::V2 => "memory.peak",
        };
        match self.memory.number_kept(&self.memory_peak, file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.memory_current(),
            peak => peak,
        }
    }

    /// Memory in use, bytes.
    pub fn memory_current(&self) -> io::Result<u64> {
        self.memory.number(match self.memory.version {
            Version::V1 => "memory.usage_in_bytes",
            Version::V2 => "memory.current",
        })
    }

    /// Processes that the kernel has killed because the limit was reached.
    pub fn oom_kills(&self) -> io::Result<u64> {
        let file = match self.memory.version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        self.memory.keyed(file, "oom_kill")
    }

    /// CPU time used so far.
    pub fn cpu_usage(&self) -> io::Result<Duration> {
        match self.cpuacct.version {
            Version::V1 => self.cpuacct.number("cpuacct.usage").map(Duration::from_nanos),
            Version::V2 => self.cpuacct.keyed("cpu.stat", "usage_usec").map(Duration::from_micros),
        }
    }

    /// Kills every process in the cgroup and waits until they are gone, for at most five seconds.
    pub fn kill(&self) -> io::Result<()> {
        // No fork outruns the killing.
        let _ = self.pids.write("pids.max", "0");
        kill::everything_in(&self.pids)
    }

    /// Kills what is left, and removes the directories.
    pub fn remove(mut self) -> io::Result<()> {
        self.remove_directories()
    }

    fn remove_directories(&mut self) -> io::Result<()> {
        if self.removed {
            return Ok(());
        }
        self.kill()?;
        for directory in self.procs_dirs() {
            kill::remove(&directory)?;
        }
        self.removed = true;
        Ok(())
    }

    fn set_memory(&self, bytes: u64) -> io::Result<()> {
        let bytes = bytes.to_string();
        match self.memory.version {
            Version::V1 => {
                self.memory.write("memory.limit_in_bytes", &bytes)?;
                // Memory and swap together no more than memory: no swap. Absent where swap is not accounted.
                self.memory.write_if_present("memory.memsw.limit_in_bytes", &bytes)?;
                self.memory.write_if_present("memory.swappiness", "0")
            }
            Version::V2 => {
                self.memory.write("memory.max", &bytes)?;
                self.memory.write_if_present("memory.swap.max", "0")
            }
        }
    }

    fn set_cpu_shares(&self, shares: u64) -> io::Result<()> {
        // Shares 2..=262144, 1024 by default. The kernel's documentation maps them to weights 1..=10000 linearly.
        let shares = shares.clamp(2, 262_144);
        match self.cpu.version {
            Version::V1 => self.cpu.write("cpu.shares", &shares.to_string()),
            Version::V2 => {
                let weight = 1 + (shares - 2) * 9_999 / 262_142;
                self.cpu.write("cpu.weight", &weight.to_string())
            }
        }
    }

    fn places(&self) -> [&Place; 4] {
        [&self.memory, &self.cpu, &self.cpuacct, &self.pids]
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Nobody is left to tell; what stays is swept at the next start.
        let _ = self.remove_directories();
    }
}

/// Adds what was being done to an error of the system.
fn annotate(error: &io::Error, step: &str, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {step} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
