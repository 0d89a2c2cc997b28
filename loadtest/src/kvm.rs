//! What KVM counts of a virtual machine, whoever monitors it.
//!
//! ```text
//!  /sys/kernel/debug/kvm/PID-FD/exits      all exits of its vCPUs, those included that the kernel handles by itself
//!                        …/mmio_exits      and other events (Linux, Documentation/virt/kvm/api.rst, "statistics")
//!  /sys/kernel/tracing/events/kvm/kvm_exit/hist      exits of all machines, by the processor's reason
//! ```
//!
//! Neither needs the monitor's help, so two monitors are measured alike. A machine is known by the directory that appears when
//! it is made: the number in its name is of the machine's outermost process namespace, and cannot be looked up in another.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// Where debugfs is mounted.
pub const DEBUGFS: &str = "/sys/kernel/debug";
/// Where tracefs is mounted.
pub const TRACEFS: &str = "/sys/kernel/tracing";

/// The reason of an exit that the guest has no part in: something interrupted the processor it runs on.
pub const HOST_INTERRUPT: &str = "host_interrupt";

/// Totals by KVM's own names. `exits` is the sum; the others are of several kinds and do not add up to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Counters(pub BTreeMap<String, u64>);

/// The machines that exist at one moment.
#[derive(Debug)]
pub struct Machines {
    directory: PathBuf,
    known: BTreeSet<PathBuf>,
}

/// One machine's directory.
#[derive(Debug, Clone)]
pub struct MachineCounters(PathBuf);

/// Exits of all machines since the last reset, by the processor's reason.
#[derive(Debug)]
pub struct Reasons {
    event: PathBuf,
}

// === impl Counters ===

impl Counters {
    /// The total called `name`; 0 if this kernel does not count it.
    #[must_use]
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// What was counted since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let less = |(name, now): (&String, &u64)| (name.clone(), now.saturating_sub(before.get(name)));
        Self(self.0.iter().map(less).collect())
    }
}

// === impl Machines ===

impl Machines {
    /// Those that exist now.
    pub fn now() -> io::Result<Self> {
        Self::below(&Path::new(DEBUGFS).join("kvm"))
    }

    fn below(directory: &Path) -> io::Result<Self> {
        Ok(Self { directory: directory.to_owned(), known: machines(directory)? })
    }

    /// The one that has been made since.
    pub fn appeared(&self) -> io::Result<MachineCounters> {
        let now = machines(&self.directory)?;
        let mut new = now.difference(&self.known);
        match (new.next(), new.next()) {
            (Some(only), None) => Ok(MachineCounters(only.clone())),
            (None, _) => Err(io::Error::new(io::ErrorKind::NotFound, "no virtual machine was made")),
            _ => Err(io::Error::other("several virtual machines were made: which is it?")),
        }
    }
}

fn machines(directory: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.insert(entry.path());
        }
    }
    Ok(found)
}

// === impl MachineCounters ===

impl MachineCounters {
    /// All totals. `exits` is read first: it is the one that matters, and the guest may be running.
    pub fn read(&self) -> io::Result<Counters> {
        let exits = number(&self.0.join("exits"))?;
        let mut counters = BTreeMap::from([("exits".to_owned(), exits)]);
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            // Directories are of single vCPUs; what is not a number is a histogram.
            if entry.file_type()?.is_file()
                && let Ok(value) = number(&entry.path())
            {
                counters.entry(entry.file_name().to_string_lossy().into_owned()).or_insert(value);
            }
        }
        Ok(Counters(counters))
    }
}

fn number(path: &Path) -> io::Result<u64> {
    fs::read_to_string(path)?.trim().parse().map_err(io::Error::other)
}

// === impl Reasons ===

impl Reasons {
    /// Begins to count.
    pub fn count() -> io::Result<Self> {
        let event = Path::new(TRACEFS).join("events/kvm/kvm_exit");
        fs::write(event.join("trigger"), "hist:keys=exit_reason")?;
        Ok(Self { event })
    }

    /// Begins anew.
    pub fn reset(&self) -> io::Result<()> {
        let mut trigger = fs::File::options().append(true).open(self.event.join("trigger"))?;
        trigger.write_all(b"hist:keys=exit_reason:clear")
    }

    /// Exits by reason since then.
    pub fn read(&self) -> io::Result<Counters> {
        let amd = fs::read_to_string("/proc/cpuinfo")?.contains(" svm");
        Ok(reasons(&fs::read_to_string(self.event.join("hist"))?, amd))
    }
}

impl Drop for Reasons {
    fn drop(&mut self) {
        let _ = fs::write(self.event.join("trigger"), "!hist:keys=exit_reason");
    }
}

/// Of lines such as `{ exit_reason:        120 } hitcount:         57`.
fn reasons(hist: &str, amd: bool) -> Counters {
    let entry = |line: &str| {
        let (key, count) = line.strip_prefix("{ exit_reason:")?.split_once("} hitcount:")?;
        Some((reason_name(key.trim().parse().ok()?, amd), count.trim().parse::<u64>().ok()?))
    };
    let mut counters = BTreeMap::new();
    for (name, count) in hist.lines().filter_map(entry) {
        *counters.entry(name).or_insert(0) += count;
    }
    Counters(counters)
}

/// Names that Intel and AMD have in common, for what a guest of ours does; a rare one is told by its number.
///
/// AMD64 Architecture Programmer's Manual, volume 2, appendix C; Intel 64 Software Developer's Manual, volume 3, appendix C.
fn reason_name(reason: u32, amd: bool) -> String {
    let name = match (amd, reason) {
        // A page of its memory that the guest touches first, or a device's register.
        (true, 0x400) | (false, 48 | 49) => "memory",
        (true, 0x7b) | (false, 30) => "port",
        (true, 0x7c) | (false, 31 | 32) => "msr",
        (true, 0x72) | (false, 10) => "cpuid",
        (true, 0x78) | (false, 12) => "halt",
        (true, 0x81) | (false, 18) => "hypercall",
        (true, 0x60) | (false, 1) => HOST_INTERRUPT,
        // The guest is ready to take an interrupt.
        (true, 0x64) | (false, 7) => "interrupt_window",
        (true, 0x40..=0x5f) | (false, 0) => "exception",
        (true, 0x00..=0x1f) | (false, 28) => "control_register",
        _ => return format!("reason_{reason:#x}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(pairs: &[(&str, u64)]) -> Counters {
        Counters(pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect())
    }

    #[test]
    fn a_machine_is_the_directory_that_appeared_and_its_totals_are_its_numbers() {
        let debugfs = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let directory = debugfs.path().join(name);
            fs::create_dir_all(directory.join("vcpu0")).unwrap();
            for (file, text) in [("exits", "12\n"), ("mmio_exits", "3\n"), ("halt_poll_hist", "1 2\n")] {
                fs::write(directory.join(file), text).unwrap();
            }
        };
        make("100-9");
        fs::write(debugfs.path().join("exits"), "99").unwrap();
        let before = Machines::below(debugfs.path()).unwrap();
        assert_eq!(before.appeared().unwrap_err().kind(), io::ErrorKind::NotFound);
        make("200-9");
        let machine = before.appeared().unwrap();
        assert_eq!(machine.read().unwrap(), counters(&[("exits", 12), ("mmio_exits", 3)]));
        make("300-9");
        assert!(before.appeared().unwrap_err().to_string().contains("several"));
    }

    #[test]
    fn differences_go_by_name() {
        let (before, after) = (counters(&[("exits", 5)]), counters(&[("exits", 7), ("halt_exits", 2)]));
        assert_eq!(after.since(&before), counters(&[("exits", 2), ("halt_exits", 2)]));
        assert_eq!(after.get("nothing"), 0);
    }

    #[test]
    fn reasons_have_one_name_on_both_makes() {
        let amd = "# event histogram\n#\n# trigger info: hist:keys=exit_reason:vals=hitcount\n#\n\n\
                   { exit_reason:        120 } hitcount:         57\n\
                   { exit_reason:       1024 } hitcount:        300\n\
                   { exit_reason:         78 } hitcount:          4\n\
                   { exit_reason:         65 } hitcount:          1\n\
                   { exit_reason:        140 } hitcount:          2\n\n\
                   Totals:\n    Hits: 364\n";
        let named = counters(&[("halt", 57), ("memory", 300), ("exception", 5), ("reason_0x8c", 2)]);
        assert_eq!(reasons(amd, true), named);
        let intel = "{ exit_reason:         48 } hitcount:          9\n{ exit_reason:         49 } hitcount:          1\n";
        assert_eq!(reasons(intel, false), counters(&[("memory", 10)]));
    }
}
