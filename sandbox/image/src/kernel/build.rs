//! Builds a guest kernel.
//!
//! ```text
//!  lock ─► there already? ─yes─► done
//!             │no
//!             ▼
//!   .kernel-partial/ ─ unpack ─ configure ─ compile ─ strip ─► rename to kernel-<id>
//! ```
//!
//! Killed at any point, the next build starts over from an empty `.kernel-partial`.

use std::{
    fmt,
    fs::{self, File},
    io::{self, BufRead, BufReader},
    num::NonZero,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::{GuestKernel, IMAGE, METADATA, Metadata, PREFIX, id, sha256};
use crate::{
    BuildError,
    error::IoContext,
    finish,
    lock::Lock,
    tools::{Tool, keep_tail},
};

const PACKAGE: &str = "linux-source-6.12";
const TARBALL: &str = "/usr/src/linux-source-6.12.tar.xz";
pub(super) const PARTIAL: &str = ".kernel-partial";
const LOCK: &str = ".kernel-lock";
const FRAGMENT: &str = "guest.config";
const STEPS: u32 = 4;
/// Kernels that stay: the one just built and the one before it.
const KEPT: usize = 2;
/// How often compiling says how far it is.
const REPORT_EVERY: Duration = Duration::from_secs(15);
/// What compiles, beyond the source; one line installs everything.
const INSTALL: &str =
    "apt-get install linux-source-6.12 bc binutils bison flex gcc libelf-dev make perl tar xz-utils";
const PROGRAMS: &[&str] = &["bc", "bison", "flex", "gcc", "make", "perl", "strip", "tar", "xz"];
/// objtool, a part of the build, reads object files by it.
const LIBELF: &[&str] = &["/usr/include/libelf.h", "/usr/include/gelf.h"];

/// What a kernel build is doing; printed by `Display` as one line for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelProgress {
    /// Another process builds a kernel; this one waits for it.
    Waiting,
    /// The installed kernel is what this program and the source package make; nothing is done.
    UpToDate { id: String },
    /// Step `number` of `of` begins.
    Step { number: u32, of: u32, what: &'static str },
    /// So many files have been compiled in so much time.
    Compiled { files: usize, elapsed: Duration },
    /// The kernel is installed.
    Done { id: String, bytes: u64, elapsed: Duration },
}

impl fmt::Display for KernelProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting => write!(f, "guest kernel: waiting for another build to end"),
            Self::UpToDate { id } => write!(f, "guest kernel: {id} is up to date"),
            Self::Step { number, of, what } => write!(f, "guest kernel: [{number}/{of}] {what}"),
            Self::Compiled { files, elapsed } => {
                write!(f, "guest kernel: {files} files compiled in {} s", elapsed.as_secs())
            }
            Self::Done { id, bytes, elapsed } => {
                let (megabytes, seconds) = (bytes / 1_000_000, elapsed.as_secs());
                write!(f, "guest kernel: {id} installed, {megabytes} MB, built in {seconds} s")
            }
        }
    }
}

/// Linux's source as a package of the distribution brings it.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) version: String,
    pub(super) tarball: PathBuf,
    /// Programs that its makefiles call; each must answer `--version`.
    pub(super) programs: &'static [&'static str],
    /// Files of libraries that it is built with.
    pub(super) headers: &'static [&'static str],
}

impl Source {
    /// The one this machine has installed.
    pub(super) fn installed() -> Result<Self, BuildError> {
        let missing = Tool { name: PACKAGE, install: INSTALL };
        let output = Command::new("dpkg-query").args(["--show", "--showformat=${Version}", PACKAGE]).output();
        let version = output.ok().filter(|output| output.status.success()).map(|output| output.stdout);
        let version = version.and_then(|text| String::from_utf8(text).ok()).unwrap_or_default();
        let tarball = PathBuf::from(TARBALL);
        // A package that is known but not installed has no version.
        if version.is_empty() || !tarball.is_file() {
            return Err(missing.missing());
        }
        Ok(Self { version, tarball, programs: PROGRAMS, headers: LIBELF })
    }

    /// Finds out before unpacking a gigabyte that something is missing.
    fn check_tools(&self) -> Result<(), BuildError> {
        for &name in self.programs {
            Tool { name, install: INSTALL }.run(Command::new(name).arg("--version"))?;
        }
        if self.headers.iter().any(|header| !Path::new(header).exists()) {
            return Err(Tool { name: "libelf-dev", install: INSTALL }.missing());
        }
        Ok(())
    }
}

/// Builds what `source` and `configuration` make into `dir`, unless it is there already.
pub(super) fn build(
    source: &Source,
    configuration: &str,
    dir: &Path,
    progress: &mut dyn FnMut(KernelProgress),
) -> Result<GuestKernel, BuildError> {
    let started = Instant::now();
    fs::create_dir_all(dir).context("create", dir)?;
    let _lock = lock(dir, progress)?;
    let id = id(configuration, &source.version);
    let home = dir.join(format!("{PREFIX}{id}"));
    if home.is_dir()
        && let Some(kernel) = GuestKernel::read(&home)
    {
        progress(KernelProgress::UpToDate { id });
        return Ok(kernel);
    }
    source.check_tools()?;
    let partial = dir.join(PARTIAL);
    finish::remove(&partial)?;
    let result = compile(source, configuration, &partial, progress).and_then(|()| place(&partial, &home));
    // The unpacked source is large; what went wrong is in the error.
    finish::remove(&partial)?;
    result?;
    remove_old_kernels(dir, &home)?;
    let kernel = GuestKernel::read(&home).ok_or(BuildError::Incomplete { path: home })?;
    progress(KernelProgress::Done { id, bytes: kernel.bytes, elapsed: started.elapsed() });
    Ok(kernel)
}

pub(super) fn lock(dir: &Path, progress: &mut dyn FnMut(KernelProgress)) -> Result<Lock, BuildError> {
    Lock::take(&dir.join(LOCK), || progress(KernelProgress::Waiting))
}

/// Leaves the finished `vmlinux` and its metadata in `partial/out`.
fn compile(
    source: &Source,
    configuration: &str,
    partial: &Path,
    progress: &mut dyn FnMut(KernelProgress),
) -> Result<(), BuildError> {
    let mut number = 0;
    let mut step = |what, progress: &mut dyn FnMut(KernelProgress)| {
        number += 1;
        progress(KernelProgress::Step { number, of: STEPS, what });
    };
    let (tree, out) = (partial.join("source"), partial.join("out"));
    for directory in [&tree, &out] {
        fs::create_dir_all(directory).context("create", directory)?;
    }

    step("unpacking Linux", progress);
    let mut tar = Command::new("tar");
    tar.arg("--extract").arg("--file").arg(&source.tarball).arg("--directory").arg(&tree);
    Tool { name: "tar", install: INSTALL }.run(tar.arg("--strip-components=1"))?;

    step("configuring", progress);
    let fragment = tree.join(FRAGMENT);
    fs::write(&fragment, configuration).context("write", &fragment)?;
    // `allnoconfig` says no to everything that the fragment does not name.
    let mut configure = make(&tree);
    configure.arg(format!("KCONFIG_ALLCONFIG={FRAGMENT}")).arg("allnoconfig");
    Tool { name: "make", install: INSTALL }.run(&mut configure)?;
    let accepted = tree.join(".config");
    check_accepted(configuration, &fs::read_to_string(&accepted).context("read", &accepted)?)?;

    step("compiling (some minutes)", progress);
    compile_files(&tree, progress)?;

    step("putting the kernel in place", progress);
    let image = tree.join(IMAGE);
    let mut strip = Command::new("strip");
    strip.arg("--strip-debug").arg("-o").arg(out.join(IMAGE)).arg(&image);
    Tool { name: "strip", install: INSTALL }.run(&mut strip)?;
    // The file system's own clock: the file was made a moment ago.
    let built = u64::try_from(fs::metadata(&image).context("read", &image)?.mtime()).unwrap_or_default();
    Metadata { configuration: sha256(configuration), source: source.version.clone(), built }.write(&out)
}

/// `make` for Linux's tree, with nothing of the caller's own environment, so that the same input makes the same kernel.
fn make(tree: &Path) -> Command {
    let mut command = Command::new("make");
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("LC_ALL", "C");
    command.envs([
        ("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970"),
        ("KBUILD_BUILD_USER", "waterwheel"),
        ("KBUILD_BUILD_HOST", "localhost"),
        ("KBUILD_BUILD_VERSION", "1"),
    ]);
    command.current_dir(tree).arg(format!("ARCH={}", std::env::consts::ARCH));
    command
}

/// Fails if Linux did not take a line of the configuration: an option that is gone, or that misses another one.
pub(super) fn check_accepted(configuration: &str, accepted: &str) -> Result<(), BuildError> {
    let refused: Vec<_> = configuration.lines().filter(|line| !is_accepted(line, accepted)).collect();
    if refused.is_empty() {
        return Ok(());
    }
    Err(BuildError::KernelConfiguration { lines: refused.join(", ") })
}

fn is_accepted(line: &str, accepted: &str) -> bool {
    let has = |wanted: &str| accepted.lines().any(|line| line == wanted);
    match line.strip_prefix("# ").and_then(|text| text.strip_suffix(" is not set")) {
        // Linux does not mention what it does not offer; that is off as well.
        Some(option) => has(line) || !accepted.contains(&format!("\n{option}=")),
        None => !line.starts_with("CONFIG_") || has(line),
    }
}

/// Runs the compilers and reports now and then how many files they have done.
fn compile_files(tree: &Path, progress: &mut dyn FnMut(KernelProgress)) -> Result<(), BuildError> {
    let jobs = std::thread::available_parallelism().map_or(1, NonZero::get);
    let (reader, writer) = io::pipe().context("make a pipe in", tree)?;
    let errors = writer.try_clone().context("make a pipe in", tree)?;
    let mut command = make(tree);
    command.arg(format!("--jobs={jobs}")).arg(IMAGE);
    let mut child =
        command.stdin(Stdio::null()).stdout(writer).stderr(errors).spawn().context("start make in", tree)?;
    // It holds the pipe's other end, which would never be seen to close.
    drop(command);
    let started = Instant::now();
    let (mut files, mut reported, mut tail) = (0, Duration::ZERO, Vec::new());
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.context("read make's output in", tree)?;
        files += usize::from(line.starts_with(b"  CC ") || line.starts_with(b"  AS "));
        tail.extend_from_slice(&line);
        tail.push(b'\n');
        keep_tail(&mut tail);
        if started.elapsed() - reported >= REPORT_EVERY {
            reported = started.elapsed();
            progress(KernelProgress::Compiled { files, elapsed: reported });
        }
    }
    let status = child.wait().context("wait for make in", tree)?;
    if status.success() {
        return Ok(());
    }
    let output = String::from_utf8_lossy(&tail).trim().to_owned();
    Err(BuildError::ToolFailed { tool: "make", status: status.to_string(), output })
}

fn place(partial: &Path, home: &Path) -> Result<(), BuildError> {
    let out = partial.join("out");
    for name in [IMAGE, METADATA] {
        let path = out.join(name);
        File::open(&path).and_then(|file| file.sync_all()).context("sync", &path)?;
    }
    // Only a directory that is not whole can stand there: a whole one would have been called up to date.
    finish::remove(home)?;
    fs::rename(&out, home).context("rename", &out)
}

fn remove_old_kernels(dir: &Path, current: &Path) -> Result<(), BuildError> {
    let others =
        GuestKernel::list(dir).into_iter().filter_map(|kernel| kernel.path.parent().map(Path::to_owned));
    let current = std::path::absolute(current).context("find", current)?;
    for home in others.filter(|home| *home != current).skip(KEPT - 1) {
        finish::remove(&home)?;
    }
    Ok(())
}
