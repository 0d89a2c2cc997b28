//! How much memory the guest uses: what a cgroup tells of a jail, from inside.
//!
//! Two measures, each of which misses something:
//!
//! ```text
//!   VmHWM of the runtime's process        its highest resident set; misses its children and files in /tmp
//!   memory that is not available now,     sees those; misses what was given back before it was looked at, which is
//!     but was before the runtime started    whenever an event has been answered
//! ```
//!
//! The larger of the two, at its highest so far, is the peak. The files are opened while the agent is still user 0 (`/proc`
//! shows a user its own processes only) and read from their beginning each time.

use std::{fs::File, io, os::unix::fs::FileExt};

use protocol::Usage;
use rustix::process::Pid;

use crate::runtime_api::Measure;

/// `/proc/vmstat` is the longest file, a few KiB.
const READ: usize = 16 * 1024;

const KIB: u64 = 1024;

/// Reads the kernel's counters.
#[derive(Debug)]
pub(crate) struct Meter {
    meminfo: File,
    vmstat: File,
    runtime: Option<File>,
    /// Bytes available before the runtime started.
    available: u64,
    peak: u64,
}

impl Meter {
    /// Before the runtime is started.
    pub(crate) fn open() -> io::Result<Self> {
        let meminfo = File::open("/proc/meminfo")?;
        let available = in_kib(&read(&meminfo), "MemAvailable:") * KIB;
        Ok(Self { meminfo, vmstat: File::open("/proc/vmstat")?, runtime: None, available, peak: 0 })
    }

    /// After the runtime has been started, by who may see its process.
    pub(crate) fn watch(&mut self, runtime: Pid) -> io::Result<()> {
        self.runtime = Some(File::open(format!("/proc/{}/status", runtime.as_raw_nonzero()))?);
        Ok(())
    }
}

impl Measure for Meter {
    fn usage(&mut self) -> Usage {
        let taken = self.available.saturating_sub(in_kib(&read(&self.meminfo), "MemAvailable:") * KIB);
        let resident = self.runtime.as_ref().map_or(0, |status| in_kib(&read(status), "VmHWM:") * KIB);
        self.peak = self.peak.max(taken).max(resident);
        let out_of_memory = in_kib(&read(&self.vmstat), "oom_kill ") > 0;
        if out_of_memory {
            // All of it was used, and who used it is no longer there to be measured.
            self.peak = self.peak.max(self.available);
        }
        Usage { memory_peak: self.peak, out_of_memory }
    }
}

/// What there is to read; nothing if it cannot be read, as of a process that is gone.
fn read(file: &File) -> String {
    let mut bytes = vec![0; READ];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, u64::try_from(filled).unwrap_or(u64::MAX)) {
            Ok(0) | Err(_) => break,
            Ok(read) => filled += read,
        }
    }
    bytes.truncate(filled);
    String::from_utf8(bytes).unwrap_or_default()
}

/// The number in the line that begins with `label`, 0 if there is none.
fn in_kib(text: &str, label: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(label));
    value.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_their_label() {
        let meminfo = "MemTotal:         163840 kB\nMemAvailable:     151552 kB\n";
        assert_eq!(in_kib(meminfo, "MemAvailable:"), 151_552);
        assert_eq!(in_kib("oom_kill_something 9\noom_kill 2\n", "oom_kill "), 2);
        assert_eq!(in_kib("", "VmHWM:"), 0);
    }

    #[test]
    fn a_process_is_measured_at_its_highest_and_remembered_when_it_is_gone() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("start a process");
        let mut meter = Meter::open().expect("open /proc");
        meter.watch(Pid::from_child(&child)).expect("see the process");
        let alive = meter.usage().memory_peak;
        assert!(alive > 100 * KIB, "{alive}");
        child.kill().and_then(|()| child.wait()).expect("end the process");
        assert!(meter.usage().memory_peak >= alive);
    }
}
