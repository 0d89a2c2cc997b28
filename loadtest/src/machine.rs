//! What a figure was measured on.

use std::{fs, path::Path, process::Command};

use serde::Serialize;

/// The machine, as a report names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// Cores this process may use.
    pub cores: usize,
    pub cpu: String,
    pub kernel: String,
    /// File system and device that hold the measured data.
    pub disk: String,
}

impl Machine {
    /// Describes this machine; `data` is a path on the disk that matters.
    #[must_use]
    pub fn describe(data: &Path) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let data = data.canonicalize().unwrap_or_else(|_| data.to_path_buf());
        let uname = rustix::system::uname();
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: field(&cpuinfo, "model name").unwrap_or("unknown").to_owned(),
            kernel: uname.release().to_string_lossy().into_owned(),
            disk: disk(&mounts, &data).unwrap_or_else(|| "unknown".to_owned()),
        }
    }
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim())
}

/// `ext4 on /dev/vda` for the mount that holds `path`: the last of the longest mount points above it.
fn disk(mountinfo: &str, path: &Path) -> Option<String> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let point = left.split(' ').nth(4)?;
        let mut right = right.split(' ');
        let (kind, device) = (right.next()?, right.next()?);
        path.starts_with(point).then(|| (point.len(), format!("{kind} on {device}")))
    });
    mounts.max_by_key(|(length, _)| *length).map(|(_, text)| text)
}

/// The commit that is checked out here.
#[must_use]
pub fn commit() -> String {
    let output = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.ok().filter(|text| !text.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_is_the_innermost_mount() {
        let mounts = "22 1 254:0 / / rw - ext4 /dev/vda rw\n\
                      23 22 0:5 / /srv/data rw shared:1 - xfs /dev/vdb rw\n\
                      24 22 0:6 / /srv/other rw - tmpfs tmpfs rw\n";
        assert_eq!(disk(mounts, Path::new("/srv/data/x")).unwrap(), "xfs on /dev/vdb");
        assert_eq!(disk(mounts, Path::new("/srv/database")).unwrap(), "ext4 on /dev/vda");
        assert_eq!(disk("", Path::new("/")), None);
    }

    #[test]
    fn this_machine_has_a_name_for_everything() {
        let machine = Machine::describe(Path::new("."));
        assert!(machine.cores > 0);
        assert!(machine.kernel.contains('.') && machine.disk.contains(" on "), "{machine:?}");
    }
}
