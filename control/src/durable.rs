//! Files that are there whole or not at all, whatever moment the process or the machine dies.
//!
//! ```text
//!  create name.tmp ─► write ─► fsync file ─► rename to name ─► fsync directory
//!                                            └── the file exists from here on
//! ```
//! A `.tmp` that a crash left behind belongs to nobody; whoever owns the directory removes it at start.
//!
//! The steps go through [`Disk`], so that a test can stop the world at each of them.

use std::{
    ffi::OsString,
    fmt, fs,
    io::{self, BufWriter, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Ends the name of a file that is still being written.
pub(crate) const TEMPORARY_SUFFIX: &str = ".tmp";

/// The steps that change a directory. Every path is absolute or relative to the working directory, as in `std::fs`.
pub(crate) trait Disk: fmt::Debug + Send + Sync + 'static {
    /// Opens an empty file for writing, readable by its owner only.
    fn create(&self, path: &Path) -> io::Result<fs::File>;
    /// Returns when the file's bytes are on the medium.
    fn sync(&self, file: &fs::File) -> io::Result<()>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file; that it is gone already is success.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Returns when the directory's entries are on the medium.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
}

/// The real one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OsDisk;

impl Disk for OsDisk {
    fn create(&self, path: &Path) -> io::Result<fs::File> {
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
    }

    fn sync(&self, file: &fs::File) -> io::Result<()> {
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }
}

/// Writes a file so that afterwards `path` holds all of it, durably, or what it held before. `fill` writes the content.
pub(crate) fn write_file<E: From<io::Error>>(
    disk: &dyn Disk,
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<(), E> {
    let temporary = temporary_name(path);
    let written = write_temporary(disk, &temporary, fill)
        .and_then(|()| disk.rename(&temporary, path).map_err(E::from))
        .and_then(|()| disk.sync_directory(parent(path)).map_err(E::from));
    if written.is_err() {
        // Best effort: a leftover is swept at the next start.
        let _ = disk.remove(&temporary);
    }
    written
}

/// As [`write_file`], and afterwards overwrites the blocks of the file that was replaced, so that a key taken out of
/// it is not found in free space. A file system that writes copies (btrfs, or a log-structured device) defeats this.
pub(crate) fn replace_secret(disk: &dyn Disk, path: &Path, content: &[u8]) -> io::Result<()> {
    let replaced = match fs::OpenOptions::new().write(true).open(path) {
        Ok(file) => Some(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    write_file(disk, path, |out| out.write_all(content))?;
    match replaced {
        Some(file) => shred(&file),
        None => Ok(()),
    }
}

/// Overwrites a file with zeros and waits for the medium.
pub(crate) fn shred(mut file: &fs::File) -> io::Result<()> {
    let mut left = file.metadata()?.len();
    let zeros = [0_u8; 4096];
    while left > 0 {
        let step = left.min(zeros.len() as u64);
        file.write_all(&zeros[..usize::try_from(step).unwrap_or(zeros.len())])?;
        left -= step;
    }
    file.sync_all()
}

/// Makes a directory, and those above it, for its owner only.
pub(crate) fn create_private_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Opens, or makes, a file whose only use is to be locked. What it says (who holds it) is kept.
pub(crate) fn open_lock_file(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn write_temporary<E: From<io::Error>>(
    disk: &dyn Disk,
    temporary: &Path,
    fill: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<(), E> {
    let mut out = BufWriter::with_capacity(64 * 1024, disk.create(temporary)?);
    fill(&mut out)?;
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    Ok(disk.sync(&file)?)
}

fn temporary_name(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(TEMPORARY_SUFFIX);
    name.into()
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_content_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        write_file::<io::Error>(&OsDisk, &path, |out| out.write_all(b"old")).unwrap();
        let error = write_file(&OsDisk, &path, |out| {
            out.write_all(b"half of the ne")?;
            Err(io::Error::other("stop"))
        });
        assert_eq!(error.unwrap_err().to_string(), "stop");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_replaced_secret_is_overwritten_on_the_medium() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        replace_secret(&OsDisk, &path, b"first secret").unwrap();
        // A second name keeps the old file reachable, as a forensic look at free blocks would.
        let witness = directory.path().join("witness");
        fs::hard_link(&path, &witness).unwrap();
        replace_secret(&OsDisk, &path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::read(&witness).unwrap(), vec![0; b"first secret".len()]);
    }
}
