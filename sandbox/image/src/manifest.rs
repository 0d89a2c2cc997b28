//! `runtime.json`: what an installed runtime is and what is in it.

use std::{fs, io, path::Path};

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

/// File name of the manifest in a runtime's directory.
pub(crate) const FILE: &str = "runtime.json";

/// One installed runtime. Written last, by rename: where it stands, the root it names is whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The identifier as the API spells it.
    pub name: String,
    /// Identity of this build: SHA-256 (hexadecimal) over the recipe's digest and every package with its version.
    pub digest: String,
    /// [`crate::Recipe::digest`] of the recipe it was built from.
    pub recipe_digest: String,
    /// Directory of the root file system, beside this file.
    pub root: String,
    pub command: Vec<String>,
    pub directory: String,
    pub variables: Vec<(String, String)>,
    /// Seconds since the Unix epoch.
    pub built: u64,
    /// Sum of the sizes of its files.
    pub bytes: u64,
    pub packages: Vec<Package>,
}

/// Something installed in a root file system.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Package {
    /// `debian` or `python`.
    pub origin: String,
    pub name: String,
    pub version: String,
}

impl Manifest {
    /// Reads the manifest in `dir`. `Ok(None)` if there is none.
    pub(crate) fn read(dir: &Path) -> io::Result<Option<Self>> {
        let bytes = match fs::read(dir.join(FILE)) {
            Ok(bytes) => bytes,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let manifest: Self = serde_json::from_slice(&bytes)?;
        // The name becomes a path below `dir`.
        if !manifest.root.starts_with("root-") || manifest.root.contains('/') {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("root is {:?}", manifest.root)));
        }
        Ok(Some(manifest))
    }

    /// Puts the manifest into `dir`, replacing the one there in one step.
    pub(crate) fn write(&self, dir: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        let partial = dir.join(".runtime.json.partial");
        fs::write(&partial, text)?;
        fs::File::open(&partial)?.sync_all()?;
        fs::rename(partial, dir.join(FILE))
    }
}

/// Identity of a build: the recipe and what its packages turned out to be.
pub(crate) fn digest(recipe_digest: &str, packages: &[Package]) -> String {
    let mut context = Context::new(&SHA256);
    context.update(recipe_digest.as_bytes());
    for Package { origin, name, version } in packages {
        context.update(format!("\n{origin} {name} {version}").as_bytes());
    }
    hex::encode(context.finish())
}
