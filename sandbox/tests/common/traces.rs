//! What environments could leave behind on a machine, told by the kernel.
//!
//! ```text
//!   Traces::now() ─► … environments come and go … ─► left_since(&before): what there is now and was not then
//! ```
//!
//! Kernel threads are left out: they come and go as the kernel likes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use super::Group;

/// `PF_KTHREAD` (Linux, include/linux/sched.h).
const KERNEL_THREAD: u64 = 0x0020_0000;

/// See the module.
#[derive(Debug)]
pub(crate) struct Traces {
    /// Every process, zombies too: number, start time, name.
    processes: BTreeSet<String>,
    /// Of this process and of the machine's first.
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    /// Unix sockets in this thread's network namespace.
    sockets: BTreeSet<String>,
    files: BTreeSet<String>,
    /// Open descriptors of this process, memory files among them: how many of each kind.
    descriptors: BTreeMap<String, usize>,
    /// Resident memory of this process, and that of all memory files and tmpfs on the machine; KiB.
    resident: u64,
    shared: u64,
}

impl Traces {
    /// Of `groups`, and of everything below `directories`.
    pub(crate) fn now(groups: &[&Group], directories: &[&Path]) -> Self {
        let lines = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let mounts = ["/proc/self/mountinfo", "/proc/1/mountinfo"].map(lines).concat();
        let groups = groups.iter().flat_map(|group| group.cgroups());
        Self {
            processes: pids().filter_map(process).collect(),
            mounts: mounts.lines().map(str::to_owned).collect(),
            cgroups: groups.map(|directory| directory.display().to_string()).collect(),
            sockets: lines("/proc/thread-self/net/unix").lines().map(str::to_owned).collect(),
            files: directories.iter().flat_map(|directory| files(directory)).collect(),
            descriptors: descriptors(),
            resident: field("/proc/self/status", "VmRSS:"),
            shared: field("/proc/meminfo", "Shmem:"),
        }
    }

    /// What was not there `before`, a line each.
    pub(crate) fn left_since(&self, before: &Self) -> Vec<String> {
        let sets = [
            ("process", &self.processes, &before.processes),
            ("mount", &self.mounts, &before.mounts),
            ("cgroup", &self.cgroups, &before.cgroups),
            ("socket", &self.sockets, &before.sockets),
            ("file", &self.files, &before.files),
        ];
        let mut left = Vec::new();
        for (kind, now, then) in sets {
            left.extend(now.difference(then).map(|what| format!("{kind} {what}")));
        }
        for (kind, count) in &self.descriptors {
            let then = before.descriptors.get(kind).copied().unwrap_or_default();
            if *count > then {
                left.push(format!("descriptor {kind}: {count}, {then} before"));
            }
        }
        left
    }

    /// Memory that has come since `before`, KiB: this process's, and that in memory files and tmpfs.
    pub(crate) fn growth_since(&self, before: &Self) -> (u64, u64) {
        (self.resident.saturating_sub(before.resident), self.shared.saturating_sub(before.shared))
    }
}

fn pids() -> impl Iterator<Item = u32> {
    let names = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name());
    names.filter_map(|name| name.to_str()?.parse().ok())
}

/// `None` for one that is gone, and for the kernel's.
fn process(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, tail) = stat.rsplit_once(')')?;
    // proc_pid_stat(5): behind the name, the state is field 3, flags are field 9, the start time is field 22.
    let fields: Vec<&str> = tail.split_whitespace().collect();
    let flags: u64 = fields[9 - 3].parse().ok()?;
    let name = head.split_once('(')?.1;
    (flags & KERNEL_THREAD == 0).then(|| format!("{pid} {name}, started at {}", fields[22 - 3]))
}

fn files(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut todo = vec![PathBuf::from(directory)];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            found.push(entry.path().display().to_string());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                todo.push(entry.path());
            }
        }
    }
    found
}

/// What descriptors lead to, without the numbers that tell sockets and the like apart.
fn descriptors() -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/fd").unwrap().flatten() {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        let kind = target.display().to_string();
        let kind = kind.split_once(":[").map_or(kind.as_str(), |(kind, _)| kind).to_owned();
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}

/// A number of a file with lines such as `VmRSS:  4096 kB`.
fn field(path: &str, name: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
