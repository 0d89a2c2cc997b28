//! A directory that is only looked at, also while another process has the log open: nothing is locked, and nothing can be changed.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Preparation, Storage, StorageFile, disk::DiskFile};

#[derive(Debug)]
pub(crate) struct ReadOnlyDirectory(PathBuf);

impl ReadOnlyDirectory {
    pub(crate) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// What all files together take on the disk.
    pub(crate) fn disk_bytes(&self) -> io::Result<u64> {
        /// Of a block, as `stat` counts them.
        const BLOCK: u64 = 512;
        let blocks = fs::read_dir(&self.0)?.map(|entry| match entry?.metadata() {
            // It went meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            metadata => Ok(metadata?.blocks()),
        });
        Ok(blocks.sum::<io::Result<u64>>()? * BLOCK)
    }
}

fn refused() -> io::Error {
    io::ErrorKind::ReadOnlyFilesystem.into()
}

impl Storage for ReadOnlyDirectory {
    fn list(&self) -> io::Result<Vec<String>> {
        let names = fs::read_dir(&self.0)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        Ok(names.collect::<io::Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    fn create(&self, _: &str, _: u64, _: Preparation) -> io::Result<Arc<dyn StorageFile>> {
        Err(refused())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        Ok(Arc::new(ReadOnlyFile(DiskFile::from(File::open(self.0.join(name))?))))
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Err(refused())
    }

    fn exchange(&self, _: &str, _: &str) -> io::Result<()> {
        Err(refused())
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        Err(refused())
    }

    fn sync_directory(&self) -> io::Result<()> {
        Err(refused())
    }
}

#[derive(Debug)]
struct ReadOnlyFile(DiskFile);

impl StorageFile for ReadOnlyFile {
    fn bytes(&self) -> io::Result<u64> {
        self.0.bytes()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, buffer)
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(refused())
    }

    fn sync(&self) -> io::Result<()> {
        Err(refused())
    }

    /// What the writer's system remembers is what it has written: that is what is asked for.
    fn forget_cached(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::disk::Directory;

    #[test]
    fn what_another_has_open_is_read_and_not_changed() {
        let directory = tempfile::tempdir().unwrap();
        let theirs = Directory::open(directory.path()).unwrap();
        theirs.create("a", 10, Preparation::Allocated).unwrap().write_at(0, b"hello").unwrap();
        let ours = ReadOnlyDirectory::new(directory.path());
        assert_eq!(ours.list().unwrap(), ["a"]);
        let file = ours.open("a").unwrap();
        let mut buffer = [0; 5];
        assert_eq!((file.bytes().unwrap(), file.read_at(0, &mut buffer).unwrap()), (10, 5));
        assert_eq!(&buffer, b"hello");
        file.forget_cached().unwrap();
        let changes = [
            file.write_at(0, b"x"),
            file.sync(),
            ours.rename("a", "b"),
            ours.remove("a"),
            ours.sync_directory(),
        ];
        for change in changes {
            assert_eq!(change.unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
        }
        assert!(ours.create("b", 0, Preparation::Allocated).is_err());
        assert_eq!(theirs.list().unwrap(), ["a"]);
    }
}
