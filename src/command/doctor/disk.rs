//! The disk below the data directory, and whether memory may reach one.

use std::{
    fs, io,
    os::unix::fs::FileExt as _,
    path::Path,
    time::{Duration, Instant},
};

use rustix::fs::{FallocateFlags, fallocate, fdatasync};

use super::Finding;

const BLOCK: usize = 4096;
const WRITES: usize = 100;
/// Above this a durable answer takes longer than most functions.
const SLOW: Duration = Duration::from_millis(10);

/// How long a durable write takes in the data directory, or in the nearest directory above that exists.
pub(super) fn sync_speed(data_dir: &Path) -> Finding {
    const TOPIC: &str = "disk";
    let existing = data_dir.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    let place = existing.display();
    let mut times = match measure(existing) {
        Ok(times) => times,
        Err(error) => {
            let meaning =
                "functions and keys are kept there; run as a user that can write it, or name another";
            return Finding::missing(TOPIC, format!("no durable write in {place}: {error}"), meaning)
                .required();
        }
    };
    times.sort_unstable();
    let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    let fact = format!("a synced write of 4 KiB in {place} takes {p50:.1?} (p50), {p99:.1?} (p99)");
    if p50 > SLOW {
        Finding::warn(
            TOPIC,
            fact,
            "creating and updating functions will feel slow; an SSD answers in under 1 ms",
        )
    } else {
        Finding::ok(TOPIC, fact, "changes to functions are durable without being slow")
    }
}

/// Times of `WRITES` synced writes to a preallocated file, which leaves no name behind.
fn measure(dir: &Path) -> io::Result<Vec<Duration>> {
    let file = tempfile::tempfile_in(dir)?;
    let length = (BLOCK * WRITES) as u64;
    // Not every file system can preallocate; plain writes do the same, and are not measured.
    if fallocate(&file, FallocateFlags::empty(), 0, length).is_err() {
        file.write_all_at(&vec![0; BLOCK * WRITES], 0)?;
    }
    file.sync_all()?;
    (0..WRITES)
        .map(|i| {
            let start = Instant::now();
            file.write_all_at(&[0x5a; BLOCK], (i * BLOCK) as u64)?;
            fdatasync(&file)?;
            Ok(start.elapsed())
        })
        .collect()
}

/// Whether what is in memory only may be written to a swap device.
pub(super) fn swap() -> Finding {
    judge_swap(&fs::read_to_string("/proc/swaps").unwrap_or_default())
}

fn judge_swap(swaps: &str) -> Finding {
    const TOPIC: &str = "swap";
    let devices: Vec<&str> =
        swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    if devices.is_empty() {
        return Finding::ok(TOPIC, "off", "what is in memory only stays there");
    }
    Finding::warn(
        TOPIC,
        format!("on: {}", devices.join(", ")),
        "the server's memory (keys, code, payloads) may reach that disk; switch swap off, or encrypt it",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::doctor::Mark;

    #[test]
    fn every_write_is_measured_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(measure(dir.path()).unwrap().len(), WRITES);
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
        let finding = sync_speed(&dir.path().join("not/yet"));
        assert!(finding.fact.contains(&format!("in {} takes", dir.path().display())), "{finding:?}");
        assert!(!dir.path().join("not").exists());
    }

    #[test]
    fn a_place_that_takes_no_file_is_named_and_required() {
        let finding = sync_speed(Path::new("/proc/waterwheel"));
        assert_eq!((finding.mark, finding.required), (Mark::Missing, true));
        assert!(finding.fact.starts_with("no durable write in /proc: "), "{finding:?}");
    }

    #[test]
    fn swap_devices_are_named() {
        let header = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
        assert_eq!(judge_swap(header).mark, Mark::Ok);
        let finding = judge_swap(&format!("{header}/dev/sda2   partition\t8\t0\t-2\n"));
        assert_eq!((finding.mark, finding.fact.as_str()), (Mark::Warn, "on: /dev/sda2"));
    }
}
