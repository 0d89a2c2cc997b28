//! The kernel that microVMs boot: a small Linux, built on the machine that uses it.
//!
//! ```text
//!  kernel/x86_64.config  +  Debian's linux-source-6.12
//!            │  SHA-256 over the configuration and the package's version
//!            ▼
//!  DIR/kernel-<first 16 digits>/vmlinux        an uncompressed ELF file
//!                              /kernel.json    what it was built from
//! ```
//!
//! Kernels stand beside the runtimes, in the same directory. A build happens in `.kernel-partial` and is renamed when whole,
//! so that a directory of this name always holds a kernel that boots; the newest two stay, because a server may be about
//! to open the one that it found before.
//!
//! Nothing is downloaded: the source comes with a package that the administrator installs.

mod build;
#[cfg(test)]
mod tests;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

pub use build::KernelProgress;

use crate::{BuildError, error::IoContext};

/// Prefix of a kernel's directory; the identity follows.
const PREFIX: &str = "kernel-";
const IMAGE: &str = "vmlinux";
const METADATA: &str = "kernel.json";
/// Hexadecimal digits of the SHA-256 that name a kernel.
const ID_DIGITS: usize = 16;

/// A guest kernel that can be booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestKernel {
    /// The uncompressed ELF file, absolute.
    pub path: PathBuf,
    /// Version of the source package it was built from, such as `6.12.57-1`.
    pub source: String,
    /// Names the build: configuration and source.
    pub id: String,
    /// When it was built, seconds since the Unix epoch.
    pub built: u64,
    /// Size of the file.
    pub bytes: u64,
    /// Whether the configuration in this program is still the one it was built from.
    pub current: bool,
}

/// `kernel.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Metadata {
    /// SHA-256 (hexadecimal) of the configuration.
    configuration: String,
    /// Version of the source package.
    source: String,
    /// Seconds since the Unix epoch.
    built: u64,
}

// === impl GuestKernel ===

impl GuestKernel {
    /// The kernel to boot from those below `dir`: the newest of this program's configuration, or else the newest at all.
    #[must_use]
    pub fn find(dir: &Path) -> Option<Self> {
        Self::list(dir).into_iter().max_by_key(|kernel| (kernel.current, kernel.built))
    }

    /// Every kernel below `dir`, the newest first. A directory that does not exist holds none.
    #[must_use]
    pub fn list(dir: &Path) -> Vec<Self> {
        let Ok(entries) = fs::read_dir(dir) else {
            return Vec::new();
        };
        let mut kernels: Vec<_> = entries.flatten().filter_map(|entry| Self::read(&entry.path())).collect();
        kernels.sort_by(|a, b| (b.built, &b.id).cmp(&(a.built, &a.id)));
        kernels
    }

    /// Builds this program's kernel into `dir` unless it is there already.
    ///
    /// Needs the package `linux-source-6.12` and what compiles it; any user that may write to `dir` will do. One build
    /// runs at a time on a machine; a second one waits and then finds it done.
    pub fn build(dir: &Path, progress: &mut dyn FnMut(KernelProgress)) -> Result<Self, BuildError> {
        build::build(&build::Source::installed()?, configuration()?, dir, progress)
    }

    /// The kernel whose directory is `home`, if that is a kernel's directory and whole.
    fn read(home: &Path) -> Option<Self> {
        let id = home.file_name()?.to_str()?.strip_prefix(PREFIX)?.to_owned();
        let path = std::path::absolute(home.join(IMAGE)).ok()?;
        let whole = Metadata::read(home).and_then(|metadata| Ok((metadata, fs::metadata(&path)?.len())));
        let (metadata, bytes) = whole
            .inspect_err(|error| {
                tracing::warn!(kernel = %home.display(), %error, "guest kernel is not usable; rebuild it");
            })
            .ok()?;
        let current = configuration().is_ok_and(|text| sha256(text) == metadata.configuration);
        Some(Self { path, source: metadata.source, id, built: metadata.built, bytes, current })
    }
}

// === impl Metadata ===

impl Metadata {
    fn read(home: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(home.join(METADATA))?)?)
    }

    fn write(&self, home: &Path) -> Result<(), BuildError> {
        let path = home.join(METADATA);
        let text = serde_json::to_vec_pretty(self).context("write", &path)?;
        fs::write(&path, text).context("write", &path)
    }
}

/// What the kernel of this machine's architecture is made of.
fn configuration() -> Result<&'static str, BuildError> {
    match std::env::consts::ARCH {
        "x86_64" => Ok(include_str!("../kernel/x86_64.config")),
        architecture => Err(BuildError::KernelArchitecture { architecture }),
    }
}

/// The name of what `configuration` and `source` make.
fn id(configuration: &str, source: &str) -> String {
    let mut id = sha256(&format!("{source}\n{configuration}"));
    id.truncate(ID_DIGITS);
    id
}

fn sha256(text: &str) -> String {
    hex::encode(digest(&SHA256, text.as_bytes()))
}
