//! What the kernel counts: memory, processor time and context switches of processes, and who started whom.

use std::{collections::BTreeMap, fs, io, str::FromStr, time::Duration};

/// Memory of one process, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident, shared pages counted whole.
    pub rss: u64,
    /// Proportional: a page shared by n processes counts 1/n in each, so a sum over processes counts it once.
    pub pss: u64,
}

/// Memory of process `pid`. Needs root, or to be its owner.
pub fn memory(pid: u32) -> io::Result<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    Ok(Memory { rss: kib_field(&text, "Rss:")? * 1024, pss: kib_field(&text, "Pss:")? * 1024 })
}

fn kib_field(text: &str, field: &str) -> io::Result<u64> {
    text.lines()
        .find_map(|line| kib(line, field))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("no {field} in smaps_rollup")))
}

fn kib(line: &str, field: &str) -> Option<u64> {
    line.strip_prefix(field)?.trim().strip_suffix(" kB")?.trim().parse().ok()
}

/// A monitor of a virtual machine, and the machine's memory in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MonitorMemory {
    /// Size of the guest's memory, bytes.
    pub guest: u64,
    /// Of everything else in the process.
    pub beyond: Memory,
}

/// Memory of the monitor `pid`, whose guest has at least `guest_at_least` bytes: the one mapping of that size is the guest's,
/// because nothing else in a monitor comes near.
pub fn monitor_memory(pid: u32, guest_at_least: u64) -> io::Result<MonitorMemory> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    parse_monitor(&text, guest_at_least)
        .map_err(|reason| io::Error::new(io::ErrorKind::InvalidData, format!("process {pid}: {reason}")))
}

fn parse_monitor(smaps: &str, guest_at_least: u64) -> Result<MonitorMemory, String> {
    let mut found = MonitorMemory::default();
    let mut in_guest = false;
    for line in smaps.lines() {
        // The first of each mapping's fields.
        if let Some(size) = kib(line, "Size:") {
            in_guest = size * 1024 >= guest_at_least;
            if in_guest && found.guest > 0 {
                return Err("two mappings are as large as the guest's memory".to_owned());
            }
            if in_guest {
                found.guest = size * 1024;
            }
        }
        if !in_guest {
            found.beyond.rss += kib(line, "Rss:").unwrap_or(0) * 1024;
            found.beyond.pss += kib(line, "Pss:").unwrap_or(0) * 1024;
        }
    }
    if found.guest == 0 {
        return Err(format!("no mapping has {guest_at_least} bytes: where is the guest's memory?"));
    }
    Ok(found)
}

/// Context switches, voluntary and not, of all threads that process `pid` has now.
pub fn context_switches(pid: u32) -> io::Result<u64> {
    let mut total = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end between the listing and here.
        let Ok(text) = fs::read_to_string(thread?.path().join("status")) else {
            continue;
        };
        total += text
            .lines()
            .filter_map(|line| line.split_once("ctxt_switches:")?.1.trim().parse::<u64>().ok())
            .sum::<u64>();
    }
    Ok(total)
}

/// Processor time that process `pid` has had until now, its ended threads' included; the kernel counts in hundredths of seconds.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let ticks =
        stat_field(&stat, 14).zip(stat_field(&stat, 15)).map(|(user, system): (u64, u64)| user + system);
    let ticks = ticks.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no times in stat"))?;
    Ok(Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second()))
}

/// Processor time of a process and of all below it, from a moment on. What ended meanwhile is not in it.
#[derive(Debug)]
pub struct TreeTime {
    root: u32,
    before: BTreeMap<u32, Duration>,
}

impl TreeTime {
    pub fn start(root: u32) -> io::Result<Self> {
        Ok(Self { root, before: tree_times(root)? })
    }

    pub fn elapsed(&self) -> io::Result<Duration> {
        let now = tree_times(self.root)?;
        let of = |(pid, time): (u32, Duration)| {
            time.saturating_sub(self.before.get(&pid).copied().unwrap_or_default())
        };
        Ok(now.into_iter().map(of).sum())
    }
}

fn tree_times(root: u32) -> io::Result<BTreeMap<u32, Duration>> {
    // One that has ended since it was listed has no time.
    Ok(tree(root)?.into_iter().filter_map(|pid| Some((pid, cpu_time(pid).ok()?))).collect())
}

/// The most memory that process `pid` has had resident, bytes.
pub fn peak_memory(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let peak = status.lines().find_map(|line| kib(line, "VmHWM:"));
    peak.map(|peak| peak * 1024)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no VmHWM in status"))
}

/// `pid` and every process below it, in order of their ids.
pub fn tree(pid: u32) -> io::Result<Vec<u32>> {
    let mut children = BTreeMap::<u32, Vec<u32>>::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if let Some(parent) = parent(id) {
            children.entry(parent).or_default().push(id);
        }
    }
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        found.extend(children.get(pid).into_iter().flatten());
        next += 1;
    }
    found.sort_unstable();
    Ok(found)
}

fn parent(pid: u32) -> Option<u32> {
    stat_field(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?, 4)
}

/// A field of `/proc/PID/stat`, by its number in proc(5); the third is the first behind the name.
fn stat_field<T: FromStr>(stat: &str, number: usize) -> Option<T> {
    // The name in parentheses may itself hold spaces and parentheses.
    stat.rsplit_once(") ")?.1.split(' ').nth(number.checked_sub(3)?)?.parse().ok()
}

/// Arguments of process `pid`, joined by spaces; empty for one that is gone.
#[must_use]
pub fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim_end_matches('\0').replace('\0', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{BufRead, BufReader, Write},
        process::{Command, Stdio},
    };

    #[test]
    fn touched_memory_is_resident() {
        let own = std::process::id();
        let before = memory(own).unwrap();
        let hoard = std::hint::black_box(vec![1_u8; 64 << 20]);
        let after = memory(own).unwrap();
        assert!(after.rss >= before.rss + (60 << 20) && after.pss >= before.pss + (60 << 20));
        // The two are counted at different times.
        assert!(peak_memory(own).unwrap() >= after.rss - (1 << 20));
        drop(hoard);
    }

    #[test]
    fn a_busy_process_has_processor_time() {
        let own = std::process::id();
        let (before, tree) = (cpu_time(own).unwrap(), TreeTime::start(own).unwrap());
        let begin = std::time::Instant::now();
        while cpu_time(own).unwrap() < before + Duration::from_millis(50) {
            assert!(begin.elapsed() < Duration::from_secs(60), "no time is counted");
        }
        assert!(tree.elapsed().unwrap() >= Duration::from_millis(50));
        assert!(begin.elapsed() >= Duration::from_millis(5), "more is counted than has gone by on all cores");
    }

    /// Two fields of the same beginning (`Pss_Dirty`) and a name with a blank are as the kernel has them.
    const SMAPS: &str = "00400000-00452000 r-xp 00000000 00:01 5 /memfd:monitor (deleted)\n\
                         Size:                328 kB\nRss:                 300 kB\nPss:                  30 kB\n\
                         Pss_Dirty:             0 kB\nVmFlags: rd ex\n\
                         7f0000000000-7f0010000000 rw-p 00000000 00:00 0\n\
                         Size:             262144 kB\nRss:               90000 kB\nPss:               90000 kB\n\
                         7f0010001000-7f0010002000 rw-p 00000000 00:00 0\n\
                         Size:                  4 kB\nRss:                   4 kB\nPss:                   4 kB\n";

    #[test]
    fn a_guests_memory_is_told_apart_from_its_monitors() {
        let found = parse_monitor(SMAPS, 256 << 20).unwrap();
        let beyond = Memory { rss: 304 << 10, pss: 34 << 10 };
        assert_eq!(found, MonitorMemory { guest: 256 << 20, beyond });
        assert!(parse_monitor(SMAPS, 257 << 20).unwrap_err().contains("no mapping"));
        assert!(parse_monitor(SMAPS, 100 << 10).unwrap_err().contains("two mappings"));
    }

    #[test]
    fn a_process_that_waits_for_input_switches_once_a_line_and_is_found_in_the_tree() {
        let script = "while read line; do echo $line; done";
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        let mut exchange = |times: u32| {
            for _ in 0..times {
                writeln!(input, "x").unwrap();
                line.clear();
                output.read_line(&mut line).unwrap();
            }
        };
        exchange(1);
        let before = context_switches(child.id()).unwrap();
        exchange(100);
        let switches = context_switches(child.id()).unwrap() - before;
        assert!((50..1000).contains(&switches), "{switches}");
        assert!(tree(std::process::id()).unwrap().contains(&child.id()));
        assert_eq!(command_line(child.id()), format!("sh -c {script}"));
        drop(input);
        child.wait().unwrap();
        assert!(!tree(std::process::id()).unwrap().contains(&child.id()));
    }
}
