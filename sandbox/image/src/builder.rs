//! Builds a runtime: root file system, runtime client, manifest.
//!
//! ```text
//!  lock ─► up to date? ─yes─► done
//!             │no
//!             ▼
//!   .partial/ ─ extract packages ─ finish root ─ Python ─ seal modes ─► rename to root-<digest>
//!                                                                         │
//!              root-<digest>.erofs (rename), if mkfs.erofs is there ◄─────┘
//!                                             │
//!                                      runtime.json (rename)
//!                                             │
//!                                      remove all roots but this one and the one before
//! ```
//!
//! Killed at any point, the next build starts over from an empty `.partial`, and the catalogue has seen nothing. The image,
//! which only microVMs need, is made by itself where an up-to-date runtime lacks it.

use std::{
    fmt,
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    BuildError, InstalledRuntime, Manifest, Package, Recipe, RuntimeCatalog, erofs,
    error::IoContext,
    finish,
    lock::Lock,
    manifest::digest,
    python, sources,
    tools::{LDCONFIG, MMDEBSTRAP, PIP},
};

const PARTIAL: &str = ".partial";
const STEPS: u32 = 6;
const MAKING_IMAGE: &str = "making the image for microVMs";

/// What a build is doing; printed by `Display` as one line for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Another process builds the same runtime; this one waits for it.
    Waiting { runtime: String },
    /// The installed runtime is what its recipe says; nothing is done.
    UpToDate { runtime: String },
    /// Step `number` of `of` begins.
    Step { runtime: String, number: u32, of: u32, what: &'static str },
    /// The runtime is good for process isolation only, until its image can be made.
    NoImage { runtime: String, why: String },
    /// The runtime is installed.
    Done { runtime: String, bytes: u64, packages: usize },
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting { runtime } => write!(f, "{runtime}: waiting for another build to end"),
            Self::UpToDate { runtime } => write!(f, "{runtime}: up to date"),
            Self::Step { runtime, number, of, what } => write!(f, "{runtime}: [{number}/{of}] {what}"),
            Self::NoImage { runtime, why } => {
                write!(f, "{runtime}: no image for microVMs: {why}, then build it again")
            }
            Self::Done { runtime, bytes, packages } => {
                write!(f, "{runtime}: installed, {packages} packages, {} MB", bytes / 1_000_000)
            }
        }
    }
}

/// Builds `recipe` into the catalogue directory `dir` unless it is there already, and returns the installed runtime.
///
/// Needs root, `mmdebstrap` and, for Python, `pip`; takes the packages from the archives this machine's apt uses.
/// One build of a runtime runs at a time on a machine; a second one waits and then finds it done.
pub fn build(
    recipe: &Recipe,
    dir: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<InstalledRuntime, BuildError> {
    let catalog = RuntimeCatalog::open(dir);
    let home = catalog.dir().join(&recipe.name);
    fs::create_dir_all(&home).context("create", &home)?;
    let _lock = lock(recipe, &home, progress)?;
    if let Some(mut installed) = catalog.get(&recipe.name).filter(|installed| installed.current) {
        if installed.image.is_none() {
            progress(Progress::Step { runtime: recipe.name.clone(), number: 1, of: 1, what: MAKING_IMAGE });
            installed.image = make_image(recipe, &installed.root, progress)?;
        }
        progress(Progress::UpToDate { runtime: recipe.name.clone() });
        return Ok(installed);
    }
    let uid = rustix::process::geteuid();
    if !uid.is_root() {
        return Err(BuildError::NotRoot { uid: uid.as_raw() });
    }
    let manifest = build_root(recipe, &home, progress)?;
    let root = home.join(&manifest.root);
    progress(Progress::Done {
        runtime: recipe.name.clone(),
        bytes: manifest.bytes,
        packages: manifest.packages.len(),
    });
    Ok(InstalledRuntime::new(manifest, root))
}

/// Makes the image beside `root`. A machine without the tool can still run functions in process isolation.
fn make_image(
    recipe: &Recipe,
    root: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Option<PathBuf>, BuildError> {
    let image = erofs::path_of(root);
    match erofs::make(root, &image) {
        Ok(()) => Ok(Some(image)),
        Err(missing @ BuildError::ToolMissing { .. }) => {
            progress(Progress::NoImage { runtime: recipe.name.clone(), why: missing.to_string() });
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn lock(recipe: &Recipe, home: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Lock, BuildError> {
    Lock::take(&home.join(".lock"), || progress(Progress::Waiting { runtime: recipe.name.clone() }))
}

fn build_root(
    recipe: &Recipe,
    home: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Manifest, BuildError> {
    let mut number = 0;
    let mut step = |what| {
        number += 1;
        progress(Progress::Step { runtime: recipe.name.clone(), number, of: STEPS, what });
    };
    let root = home.join(PARTIAL);
    finish::remove(&root)?;

    step("downloading and unpacking packages");
    let mut packages = extract(recipe, home, &root)?;

    step("finishing the root file system");
    finish::finish(&root)?;
    LDCONFIG.run(Command::new("ldconfig").arg("-r").arg(&root).env("PATH", system_path()))?;
    place_runtime_files(recipe, &root)?;

    step("installing the runtime client");
    packages.extend(python::install(recipe, &root)?);

    step("compiling the runtime's modules");
    python::compile(recipe, &root)?;

    step("putting the runtime in place");
    packages.sort();
    let bytes = finish::seal(&root)?;
    step(MAKING_IMAGE);
    place(recipe, home, &root, packages, bytes, progress)
}

/// Unpacks the packages into `root` and returns what they were.
fn extract(recipe: &Recipe, home: &Path, root: &Path) -> Result<Vec<Package>, BuildError> {
    let mut command = Command::new(MMDEBSTRAP.name);
    command
        .args([
            "--variant=extract",
            "--mode=root",
            "--format=directory",
            "--quiet",
            "--aptopt=Acquire::Retries \"3\"",
        ])
        // The archive's cache tells afterwards which versions were taken; `finish` removes it.
        .args(["--skip=cleanup/apt/cache", "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr"])
        .arg(format!("--include={}", recipe.packages.join(",")))
        .arg(&recipe.suite)
        .arg(root);
    for proxy in proxies() {
        command.arg(format!("--aptopt={proxy}"));
    }
    let sources_file = home.join(".sources");
    if let Some(text) = sources::debian_sources(Path::new("/etc/apt"), &recipe.suite) {
        fs::write(&sources_file, text).context("write", &sources_file)?;
        command.arg(&sources_file);
    }
    MMDEBSTRAP.run(&mut command)?;
    finish::remove(&sources_file)?;
    let archives = root.join("var/cache/apt/archives");
    let mut packages = Vec::new();
    for entry in fs::read_dir(&archives).context("read", &archives)? {
        let name = entry.context("read", &archives)?.file_name();
        packages.extend(debian_package(&name.to_string_lossy()));
    }
    if packages.is_empty() {
        return Err(BuildError::Incomplete { path: archives });
    }
    Ok(packages)
}

/// The proxies this machine's apt goes through, as apt's own configuration lines.
fn proxies() -> Vec<String> {
    let Ok(output) = Command::new("apt-config").arg("dump").output() else {
        return Vec::new();
    };
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|line| {
            let key = line.split(' ').next().unwrap_or_default();
            key.starts_with("Acquire::") && (key.contains("::Proxy") || key.contains("::proxy"))
        })
        .map(str::to_owned)
        .collect()
}

/// `libattr1_1%3a2.5.1-4_amd64.deb`: apt escapes the colon behind an epoch.
fn debian_package(file: &str) -> Option<Package> {
    let mut parts = file.strip_suffix(".deb")?.splitn(3, '_');
    let (name, version) = (parts.next()?, parts.next()?);
    parts.next()?;
    Some(Package { origin: "debian".to_owned(), name: name.to_owned(), version: version.replace("%3a", ":") })
}

/// `ldconfig` is in `/sbin`, which a user's path may lack.
fn system_path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

fn place_runtime_files(recipe: &Recipe, root: &Path) -> Result<(), BuildError> {
    for file in recipe.runtime_files() {
        finish::write(&root.join("var/runtime").join(file.name), file.text, file.mode)?;
    }
    Ok(())
}

/// Makes the finished `root` the current one.
fn place(
    recipe: &Recipe,
    home: &Path,
    root: &Path,
    packages: Vec<Package>,
    bytes: u64,
    progress: &mut dyn FnMut(Progress),
) -> Result<Manifest, BuildError> {
    let digest = digest(recipe.digest(), &packages);
    let root_name = format!("root-{}", &digest[..16]);
    // The file system's own clock: this directory was changed a moment ago.
    let built = u64::try_from(fs::metadata(root).context("read", root)?.ctime()).unwrap_or_default();
    let manifest = Manifest {
        name: recipe.name.clone(),
        digest,
        recipe_digest: recipe.digest().to_owned(),
        root: root_name.clone(),
        command: recipe.command.clone(),
        directory: recipe.directory.clone(),
        variables: recipe.variables.clone(),
        built,
        bytes,
        packages,
    };
    let previous = Manifest::read(home).ok().flatten().map(|manifest| manifest.root);
    let place = home.join(&root_name);
    // Only a root without a manifest can stand there: the catalogue would have called it up to date.
    finish::remove(&place)?;
    let handle = File::open(root).context("open", root)?;
    rustix::fs::syncfs(&handle).context("sync", root)?;
    fs::rename(root, &place).context("rename", root)?;
    // First: a server that runs goes on with the former root and image until both new ones are there.
    make_image(recipe, &place, progress)?;
    manifest.write(home).context("write the manifest in", home)?;
    remove_old_roots(home, &root_name, previous.as_deref())?;
    Ok(manifest)
}

fn remove_old_roots(home: &Path, current: &str, previous: Option<&str>) -> Result<(), BuildError> {
    for entry in fs::read_dir(home).context("read", home)? {
        let entry = entry.context("read", home)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let root = erofs::root_name(&name);
        if root.starts_with("root-") && root != current && Some(root) != previous {
            finish::remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Whether the programs a build needs are here; `Err` names the first that is not and how to install it.
///
/// [`build`] finds out by itself; this is for telling a user beforehand.
pub fn check_tools() -> Result<(), BuildError> {
    MMDEBSTRAP.run(Command::new(MMDEBSTRAP.name).arg("--version"))?;
    python::pip(&["--version"]).map(drop).map_err(|_| PIP.missing())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_names_come_from_the_archives_file_names() {
        let package = debian_package("libattr1_1%3a2.5.1-4_amd64.deb").unwrap();
        assert_eq!((package.name.as_str(), package.version.as_str()), ("libattr1", "1:2.5.1-4"));
        assert_eq!(debian_package("partial"), None);
        assert_eq!(debian_package("lock.deb"), None);
    }

    #[test]
    fn a_runtime_that_is_up_to_date_is_not_built_again() {
        let dir = tempfile::tempdir().unwrap();
        let recipe = Recipe::named("provided.al2023").unwrap();
        let home = dir.path().join(&recipe.name);
        let partial = home.join(PARTIAL);
        fs::create_dir_all(&partial).unwrap();
        let manifest = place(recipe, &home, &partial, Vec::new(), 5, &mut |_| {}).unwrap();
        let image = erofs::path_of(&home.join(&manifest.root));
        fs::write(&image, "image").unwrap();
        let mut seen = Vec::new();
        let installed = build(recipe, dir.path(), &mut |progress| seen.push(progress)).unwrap();
        assert_eq!(seen, [Progress::UpToDate { runtime: recipe.name.clone() }]);
        assert_eq!((installed.digest, installed.bytes), (manifest.digest, 5));
        assert_eq!(installed.image, Some(image));
        assert!(installed.built > 1_700_000_000);
    }

    #[test]
    fn a_rebuild_keeps_the_root_before_it_and_no_older_one() {
        let dir = tempfile::tempdir().unwrap();
        let recipe = Recipe::named("provided.al2023").unwrap();
        let mut roots = Vec::new();
        for version in ["1", "2", "3"] {
            let partial = dir.path().join(PARTIAL);
            fs::create_dir_all(&partial).unwrap();
            let package = Package { origin: "debian".into(), name: "bash".into(), version: version.into() };
            roots.push(place(recipe, dir.path(), &partial, vec![package], 0, &mut |_| {}).unwrap().root);
            fs::write(erofs::path_of(&dir.path().join(roots.last().unwrap())), "image").unwrap();
        }
        for path in [|root: PathBuf| root, |root: PathBuf| erofs::path_of(&root)] {
            let there: Vec<_> = roots.iter().map(|root| path(dir.path().join(root)).exists()).collect();
            assert_eq!(there, [false, true, true]);
        }
        assert_eq!(Manifest::read(dir.path()).unwrap().unwrap().root, roots[2]);
    }

    #[test]
    fn a_second_build_waits_for_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let recipe = Recipe::named("provided.al2023").unwrap();
        let held = lock(recipe, dir.path(), &mut |_| {}).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let waiter = std::thread::spawn({
            let home = dir.path().to_owned();
            move || lock(recipe, &home, &mut |progress| tell.send(progress).unwrap()).map(drop)
        });
        assert_eq!(told.recv().unwrap(), Progress::Waiting { runtime: recipe.name.clone() });
        drop(held);
        waiter.join().unwrap().unwrap();
    }
}
