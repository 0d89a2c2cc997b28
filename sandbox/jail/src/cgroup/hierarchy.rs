//! Where this machine has its controllers.

use std::{
    fs, io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use super::{annotate, kill};

/// Room for one number and a newline.
const NUMBER_BYTES: usize = 32;

/// Which files a controller has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

/// A directory of one controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) version: Version,
    pub(super) directory: PathBuf,
}

/// The directories below which cgroups can be made, by controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    pub(super) memory: Place,
    pub(super) cpu: Place,
    /// CPU accounting: a controller of its own in version 1.
    pub(super) cpuacct: Place,
    pub(super) pids: Place,
    /// Mount of version 2, where controllers must be enabled for children.
    unified: Option<PathBuf>,
}

/// Controllers of version 2 that an environment needs.
const CONTROLLERS_V2: [&str; 3] = ["cpu", "memory", "pids"];

impl Hierarchy {
    /// Looks at what is mounted, and at where in it this process is.
    pub fn detect() -> io::Result<Self> {
        Self::detect_at(Path::new("/"))
    }

    /// As [`Self::detect`], with `proc` and all mounts below `root`.
    pub fn detect_at(root: &Path) -> io::Result<Self> {
        let read = |path: &str| {
            let path = root.join(path);
            fs::read_to_string(&path).map_err(|error| annotate(&error, "read", &path))
        };
        let (mounts, own) = (read("proc/self/mountinfo")?, read("proc/self/cgroup")?);
        let mounts: Vec<Mount> = mounts.lines().filter_map(|line| Mount::parse(line, root)).collect();
        let unified =
            mounts.iter().find(|mount| mount.version == Version::V2).map(|mount| mount.point.clone());
        let place = |controller: &str| find(controller, &mounts, &own, unified.as_deref());
        let cpu = place("cpu")?;
        let cpuacct = if cpu.version == Version::V2 { cpu.clone() } else { place("cpuacct")? };
        Ok(Self { memory: place("memory")?, cpu, cpuacct, pids: place("pids")?, unified })
    }

    /// 1 or 2: the version that bounds memory.
    #[must_use]
    pub fn version(&self) -> u8 {
        match self.memory.version {
            Version::V1 => 1,
            Version::V2 => 2,
        }
    }

    /// The directories of `group`, one per hierarchy, whether they exist or not.
    #[must_use]
    pub fn directories(&self, group: &str) -> Vec<PathBuf> {
        let mut directories: Vec<PathBuf> =
            self.places().into_iter().map(|place| place.join(group).directory).collect();
        directories.sort();
        directories.dedup();
        directories
    }

    /// Kills and removes every cgroup in `group`, and `group` itself: what an earlier run left behind. Returns how many
    /// environments' cgroups there were.
    pub fn sweep(&self, group: &str) -> io::Result<usize> {
        let mut names = std::collections::BTreeSet::new();
        for place in self.places().map(|place| place.join(group)) {
            for name in children(&place.directory)? {
                let child = place.join(&name);
                kill::everything_in(&child)?;
                kill::remove(&child.directory)?;
                names.insert(name);
            }
            kill::remove(&place.directory)?;
        }
        Ok(names.len())
    }

    /// Makes `group` in every hierarchy, ready to have children with limits.
    pub(super) fn prepare(&self, group: &str) -> io::Result<()> {
        for place in self.places().map(|place| place.join(group)) {
            match fs::create_dir(&place.directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(annotate(&error, "create cgroup", &place.directory));
                }
                _ => {}
            }
            if place.version == Version::V2 {
                self.enable(&place)?;
            }
        }
        Ok(())
    }

    /// Enables the controllers that are found in version 2 in the mount's root and in `group`, so that its children have them.
    fn enable(&self, group: &Place) -> io::Result<()> {
        let Some(unified) = &self.unified else {
            return Ok(());
        };
        let root = Place { version: Version::V2, directory: unified.clone() };
        for parent in [&root, group] {
            let enabled = parent.read("cgroup.subtree_control")?;
            let available = parent.read("cgroup.controllers")?;
            for controller in CONTROLLERS_V2 {
                let has = |list: &str| list.split_whitespace().any(|name| name == controller);
                if has(&available) && !has(&enabled) {
                    parent.write("cgroup.subtree_control", &format!("+{controller}"))?;
                }
            }
        }
        Ok(())
    }

    fn places(&self) -> [&Place; 4] {
        [&self.memory, &self.cpu, &self.cpuacct, &self.pids]
    }
}

/// Names of the cgroups in `directory`; none if it does not exist.
fn children(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| annotate(&error, "list", directory))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

fn find(controller: &str, mounts: &[Mount], own: &str, unified: Option<&Path>) -> io::Result<Place> {
    let v1 = mounts.iter().find(|mount| {
        mount.version == Version::V1 && mount.options.split(',').any(|option| option == controller)
    });
    if let Some(mount) = v1 {
        return Ok(Place { version: Version::V1, directory: mount.directory_of(own_path(own, controller)) });
    }
    let offers = |mount: &&Path| {
        fs::read_to_string(mount.join("cgroup.controllers"))
            .is_ok_and(|list| list.split_whitespace().any(|name| name == controller))
    };
    let directory = unified.filter(offers).map(Path::to_owned);
    directory.map(|directory| Place { version: Version::V2, directory }).ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, format!("no cgroup controller {controller} is mounted"))
    })
}

/// Path of this process in the hierarchy of a version 1 controller (`id:controllers:path` lines of /proc/self/cgroup).
fn own_path<'a>(own: &'a str, controller: &str) -> &'a str {
    own.lines()
        .filter_map(|line| line.split_once(':')?.1.split_once(':'))
        .find(|(controllers, _)| controllers.split(',').any(|name| name == controller))
        .map_or("/", |(_, path)| path)
}

/// A cgroup mount.
struct Mount {
    version: Version,
    point: PathBuf,
    /// What of the hierarchy is mounted: `/` unless a container runtime mounts a part.
    part: String,
    options: String,
}

impl Mount {
    /// Reads a line of mountinfo, `id parent dev part point options [tags] - type source super-options` (proc(5)).
    fn parse(line: &str, root: &Path) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        let version = match after.next()? {
            "cgroup" => Version::V1,
            "cgroup2" => Version::V2,
            _ => return None,
        };
        let options = after.nth(1)?.to_owned();
        let mut before = before.split(' ').skip(3);
        let (part, point) = (before.next()?.to_owned(), before.next()?);
        Some(Self { version, point: root.join(point.trim_start_matches('/')), part, options })
    }

    /// The directory of cgroup `path`, which is the mount point itself where `path` is what is mounted.
    fn directory_of(&self, path: &str) -> PathBuf {
        let below = path.strip_prefix(self.part.trim_end_matches('/')).unwrap_or(path);
        let below = below.trim_start_matches('/');
        if below.is_empty() { self.point.clone() } else { self.point.join(below) }
    }
}

// === impl Place ===

impl Place {
    pub(super) fn join(&self, name: &str) -> Self {
        Self { version: self.version, directory: self.directory.join(name) }
    }

    pub(super) fn read(&self, file: &str) -> io::Result<String> {
        let path = self.directory.join(file);
        fs::read_to_string(&path).map_err(|error| annotate(&error, "read", &path))
    }

    pub(super) fn write(&self, file: &str, value: &str) -> io::Result<()> {
        use std::io::Write;
        let path = self.directory.join(file);
        // Never create: a misspelt file must not pass where the directory is an ordinary one.
        let written =
            fs::File::options().write(true).open(&path).and_then(|mut open| open.write_all(value.as_bytes()));
        written.map_err(|error| annotate(&error, &format!("write {value:?} to"), &path))
    }

    pub(super) fn write_if_present(&self, file: &str, value: &str) -> io::Result<()> {
        match self.write(file, value) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    pub(super) fn number(&self, file: &str) -> io::Result<u64> {
        let text = self.read(file)?;
        text.trim().parse().map_err(|_| self.unexpected(file, &text))
    }

    /// The number in a file that stays open in `kept`: one system call instead of five.
    pub(super) fn number_kept(&self, kept: &OnceLock<fs::File>, file: &str) -> io::Result<u64> {
        let open = if let Some(open) = kept.get() {
            open
        } else {
            let path = self.directory.join(file);
            let opened = fs::File::open(&path).map_err(|error| annotate(&error, "read", &path))?;
            kept.get_or_init(|| opened)
        };
        let mut text = [0; NUMBER_BYTES];
        let length = open.read_at(&mut text, 0)?;
        let text = String::from_utf8_lossy(text.get(..length).unwrap_or_default());
        text.trim().parse().map_err(|_| self.unexpected(file, &text))
    }

    /// The number behind `key` in a file of `key number` lines.
    pub(super) fn keyed(&self, file: &str, key: &str) -> io::Result<u64> {
        let text = self.read(file)?;
        text.lines()
            .filter_map(|line| line.split_once(' '))
            .find(|(name, _)| *name == key)
            .and_then(|(_, number)| number.trim().parse().ok())
            .ok_or_else(|| self.unexpected(file, &text))
    }

    fn unexpected(&self, file: &str, text: &str) -> io::Error {
        let path = self.directory.join(file);
        io::Error::new(io::ErrorKind::InvalidData, format!("{} reads {text:?}", path.display()))
    }
}
