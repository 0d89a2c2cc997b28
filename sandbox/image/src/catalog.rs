//! The runtimes installed on this machine.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{Recipe, erofs, manifest::Manifest};

/// A directory of built runtimes. Cheap to clone; every question is answered from the directory as it is now, so that a
/// runtime built while a server runs is found without a restart.
#[derive(Debug, Clone)]
pub struct RuntimeCatalog {
    dir: PathBuf,
}

/// A runtime that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledRuntime {
    /// The identifier as the API spells it.
    pub name: String,
    /// Its root file system, absolute; to be mounted read-only.
    pub root: PathBuf,
    /// The same file system as an erofs image, for microVMs; `None` where the build had no tool to make it.
    pub image: Option<PathBuf>,
    /// Program and arguments that start it, paths inside the root.
    pub command: Vec<String>,
    /// Working directory inside the root.
    pub directory: String,
    /// Variables every function of this runtime sees, before its own.
    pub variables: Vec<(String, String)>,
    /// When it was built, seconds since the Unix epoch.
    pub built: u64,
    /// Size of its files.
    pub bytes: u64,
    /// Identity of the build (see [`crate::Manifest::digest`]): environments of another build are out of date.
    pub digest: String,
    /// Whether the recipe in this program is still the one it was built from.
    pub current: bool,
}

impl RuntimeCatalog {
    /// The runtimes below `dir`. A directory that does not exist holds none.
    #[must_use]
    pub fn open(dir: &Path) -> Self {
        // Mounts need absolute paths whatever the working directory becomes.
        Self { dir: std::path::absolute(dir).unwrap_or_else(|_| dir.to_path_buf()) }
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Every runtime that can be built here, installed or not.
    #[must_use]
    pub fn known(&self) -> &'static [Recipe] {
        Recipe::known()
    }

    /// Every installed runtime, by name.
    #[must_use]
    pub fn list(&self) -> Vec<InstalledRuntime> {
        let Ok(entries) = fs::read_dir(&self.dir) else {
            return Vec::new();
        };
        let mut names: Vec<_> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names.iter().filter_map(|name| self.get(name)).collect()
    }

    /// The runtime called `name`, if it is installed and whole.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<InstalledRuntime> {
        if name.is_empty() || name.starts_with('.') || name.contains('/') {
            return None;
        }
        let dir = self.dir.join(name);
        let manifest = match Manifest::read(&dir) {
            Ok(manifest) => manifest?,
            Err(error) => {
                tracing::warn!(runtime = name, %error, "runtime manifest is not usable; rebuild the runtime");
                return None;
            }
        };
        let root = dir.join(&manifest.root);
        if manifest.name != name || !root.is_dir() {
            tracing::warn!(runtime = name, root = %root.display(), "runtime is not whole; rebuild it");
            return None;
        }
        Some(InstalledRuntime::new(manifest, root))
    }
}

impl InstalledRuntime {
    pub(crate) fn new(manifest: Manifest, root: PathBuf) -> Self {
        let current =
            Recipe::named(&manifest.name).is_some_and(|recipe| recipe.digest() == manifest.recipe_digest);
        let image = Some(erofs::path_of(&root)).filter(|image| image.is_file());
        Self {
            name: manifest.name,
            root,
            image,
            command: manifest.command,
            directory: manifest.directory,
            variables: manifest.variables,
            built: manifest.built,
            bytes: manifest.bytes,
            digest: manifest.digest,
            current,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(name: &str) -> Manifest {
        Manifest {
            name: name.to_owned(),
            digest: "d1".to_owned(),
            recipe_digest: "old".to_owned(),
            root: "root-d1".to_owned(),
            command: vec!["/var/task/bootstrap".to_owned()],
            directory: "/var/task".to_owned(),
            variables: vec![("LANG".to_owned(), "C".to_owned())],
            built: 7,
            bytes: 11,
            packages: Vec::new(),
        }
    }

    fn install(dir: &Path, name: &str) -> PathBuf {
        let runtime = dir.join(name);
        fs::create_dir_all(runtime.join("root-d1")).unwrap();
        manifest(name).write(&runtime).unwrap();
        runtime
    }

    #[test]
    fn an_installed_runtime_is_found_without_reopening_the_catalogue() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = RuntimeCatalog::open(&dir.path().join("runtimes"));
        assert_eq!(catalog.list(), []);
        let runtime = install(catalog.dir(), "python3.11");
        let found = catalog.get("python3.11").unwrap();
        assert_eq!(found.root, runtime.join("root-d1"));
        assert!(!found.current, "it was built from another recipe");
        assert_eq!(found.image, None);
        assert_eq!(catalog.list(), [found]);
        assert_eq!(catalog.get("python3.12"), None);
        let image = runtime.join("root-d1.erofs");
        fs::write(&image, "image").unwrap();
        assert_eq!(catalog.get("python3.11").unwrap().image, Some(image));
    }

    #[test]
    fn names_that_are_paths_find_nothing() {
        let dir = tempfile::tempdir().unwrap();
        install(dir.path(), "python3.11");
        fs::create_dir(dir.path().join("inner")).unwrap();
        let catalog = RuntimeCatalog::open(&dir.path().join("inner"));
        for name in ["../python3.11", "..", ".", "", "/etc"] {
            assert_eq!(catalog.get(name), None, "{name}");
        }
    }

    #[test]
    fn a_damaged_runtime_is_not_offered() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = RuntimeCatalog::open(dir.path());
        fs::write(install(dir.path(), "garbage").join("runtime.json"), "{").unwrap();
        fs::remove_dir(install(dir.path(), "rootless").join("root-d1")).unwrap();
        let escaping = Manifest { root: "root-/../../..".to_owned(), ..manifest("escaping") };
        escaping.write(&install(dir.path(), "escaping")).unwrap();
        manifest("another").write(&install(dir.path(), "renamed")).unwrap();
        assert_eq!(catalog.list(), []);
    }
}
