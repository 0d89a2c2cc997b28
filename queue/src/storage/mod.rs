//! The disk, as far as the queue needs one. [`Directory`](disk::Directory) is the real one; tests bring others that fail, tear
//! and forget on purpose.

use std::{io, sync::Arc};

pub(crate) mod disk;
#[cfg(test)]
pub(crate) mod memory;
pub(crate) mod read_only;

/// A directory that holds one log.
///
/// What is promised: a name that was made, renamed or removed is so after a crash if [`sync_directory`](Storage::sync_directory)
/// returned in between, and may be either way if not.
pub(crate) trait Storage: Send + Sync + 'static {
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes a file of this many zeros, for which the disk has set the space aside. Replaces none: the name must be free.
    fn create(&self, name: &str, bytes: u64, preparation: Preparation) -> io::Result<Arc<dyn StorageFile>>;

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>>;

    /// Replaces `to`, if it is there, in one step.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Each of two names gets the other's file, in one step. Where that cannot be done, `one`'s file replaces `other`'s.
    fn exchange(&self, one: &str, other: &str) -> io::Result<()>;

    fn remove(&self, name: &str) -> io::Result<()>;

    fn sync_directory(&self) -> io::Result<()>;
}

/// How a new file's space is set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Preparation {
    /// At once; the first write to each part costs the file system a note in its journal.
    Allocated,
    /// Written with zeros, which takes as long as writing does; every later write costs less for it.
    Written,
}

/// A file.
///
/// What is promised: after [`sync`](StorageFile::sync) has returned `Ok`, what was written before it survives a crash. After it
/// returned an error, nothing is known of what was written since the last `Ok`, and another `Ok` would say nothing about it.
pub(crate) trait StorageFile: Send + Sync + 'static {
    fn bytes(&self) -> io::Result<u64>;

    /// Reads until the buffer is full or the file ends; returns how much.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    fn sync(&self) -> io::Result<()>;

    /// What is read next comes from the disk, except what was written and never synced. After a failed sync the system may
    /// remember what the disk does not have.
    fn forget_cached(&self) -> io::Result<()>;
}
