//! A directory on a real disk.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{
        Advice, FallocateFlags, FlockOperation, OFlags, RenameFlags, fadvise, fallocate, fdatasync, flock,
        renameat_with,
    },
    io::Errno,
};

use super::{Preparation, Storage, StorageFile};

/// Zeros are written this much at a time: whoever syncs another file meanwhile waits for no more than that.
const ZEROS: usize = 1024 * 1024;
/// What is written past the page cache begins, ends and lies in memory at multiples of this.
const PAGE: usize = 4096;

/// Files are for their owner only: names and sizes tell something too.
const MODE: u32 = 0o600;

#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    /// For syncing, and for its lock; opened once, so that running out of descriptors does not stop the log.
    handle: File,
}

impl Directory {
    /// Opens the directory for this process alone, until it is dropped.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let handle = File::open(path)?;
        match flock(&handle, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {
                let message = format!("another process has the queue in {} open", path.display());
                Err(io::Error::new(io::ErrorKind::ResourceBusy, message))
            }
            locked => {
                locked?;
                Ok(Self { path: path.to_owned(), handle })
            }
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Closing is not enough: a process that another thread is just starting has the directory open, too.
        let _ = flock(&self.handle, FlockOperation::Unlock);
    }
}

impl Directory {
    /// Past the page cache, where the file system can: nobody will read the zeros, and copying them is most of the work.
    fn write_zeros(&self, name: &str, file: &File, bytes: u64) -> io::Result<()> {
        let direct = OFlags::DIRECT.bits().cast_signed();
        let mut direct = OpenOptions::new().write(true).custom_flags(direct).open(self.path.join(name)).ok();
        let buffer = vec![0; ZEROS + PAGE];
        let zeros = buffer.get(buffer.as_ptr().align_offset(PAGE)..).unwrap_or_default();
        let mut at = 0;
        while at < bytes {
            let length = usize::try_from(bytes - at).unwrap_or(ZEROS).min(ZEROS);
            let zeros = zeros.get(..length).unwrap_or_default();
            if let Some(file) = direct.as_ref().filter(|_| length.is_multiple_of(PAGE)) {
                match file.write_all_at(zeros, at) {
                    // The file system says so only now.
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                        direct = None;
                        continue;
                    }
                    written => written?,
                }
            } else {
                file.write_all_at(zeros, at)?;
                fdatasync(file)?;
            }
            at += length as u64;
        }
        Ok(fdatasync(file)?)
    }
}

impl Storage for Directory {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            // A name that is not UTF-8 is not ours.
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn create(&self, name: &str, bytes: u64, preparation: Preparation) -> io::Result<Arc<dyn StorageFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(MODE)
            .open(self.path.join(name))?;
        if bytes > 0 {
            fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
        }
        if preparation == Preparation::Written {
            self.write_zeros(name, &file, bytes)?;
        }
        Ok(Arc::new(DiskFile(file)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.path.join(name))?;
        Ok(Arc::new(DiskFile(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn exchange(&self, one: &str, other: &str) -> io::Result<()> {
        match renameat_with(&self.handle, one, &self.handle, other, RenameFlags::EXCHANGE) {
            // The file system, or the kernel, cannot.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => self.rename(one, other),
            exchanged => Ok(exchanged?),
        }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.handle.sync_all()
    }
}

#[derive(Debug)]
pub(super) struct DiskFile(File);

impl From<File> for DiskFile {
    fn from(file: File) -> Self {
        Self(file)
    }
}

impl StorageFile for DiskFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.0.read_at(rest, offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(fdatasync(&self.0)?)
    }

    fn forget_cached(&self) -> io::Result<()> {
        // Only clean pages can be dropped: whoever opens a log has written nothing to it yet.
        Ok(fadvise(&self.0, 0, None, Advice::DontNeed)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_made_read_renamed_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let storage = Directory::open(directory.path()).unwrap();
        for preparation in [Preparation::Allocated, Preparation::Written] {
            let file = storage.create("a", 3 * 1024 * 1024 / 2, preparation).unwrap();
            assert_eq!(file.bytes().unwrap(), 3 * 1024 * 1024 / 2);
            file.write_at(5, b"hello").unwrap();
            file.sync().unwrap();
            file.forget_cached().unwrap();
            let mut buffer = [1; 8];
            assert_eq!(file.read_at(4, &mut buffer).unwrap(), 8);
            assert_eq!(&buffer, b"\0hello\0\0");
            assert_eq!(file.read_at(3 * 1024 * 1024 / 2 - 3, &mut buffer).unwrap(), 3, "the end of the file");
            let taken = storage.create("a", 1, preparation).err().map(|error| error.kind());
            assert_eq!(taken, Some(io::ErrorKind::AlreadyExists));
            storage.rename("a", "b").unwrap();
            storage.create("c", 1, preparation).unwrap();
            storage.exchange("c", "b").unwrap();
            assert_eq!(storage.open("b").unwrap().bytes().unwrap(), 1);
            storage.exchange("b", "c").unwrap();
            storage.remove("c").unwrap();
            assert_eq!(storage.exchange("b", "c").unwrap_err().kind(), io::ErrorKind::NotFound);
            storage.sync_directory().unwrap();
            assert_eq!(storage.list().unwrap(), ["b"]);
            assert_eq!(storage.open("b").unwrap().bytes().unwrap(), 3 * 1024 * 1024 / 2);
            storage.remove("b").unwrap();
            assert!(storage.open("b").is_err());
        }
    }

    #[test]
    fn a_directory_is_one_processs() {
        let directory = tempfile::tempdir().unwrap();
        let first = Directory::open(directory.path()).unwrap();
        let second = Directory::open(directory.path()).err().map(|error| error.kind());
        assert_eq!(second, Some(io::ErrorKind::ResourceBusy));
        drop(first);
        Directory::open(directory.path()).unwrap();
    }
}
