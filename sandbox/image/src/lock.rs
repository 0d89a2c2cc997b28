//! One build at a time in a directory, also of several processes.

use std::{fs::File, path::Path};

use rustix::fs::{FlockOperation, flock};

use crate::error::{BuildError, IoContext};

/// Held for a whole build; the system lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Lock {
    /// Waits for whoever has it, and calls `waiting` if that is anybody.
    pub(crate) fn take(path: &Path, waiting: impl FnOnce()) -> Result<Self, BuildError> {
        let file = File::create(path).context("create", path)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            waiting();
            flock(&file, FlockOperation::LockExclusive).context("lock", path)?;
        }
        Ok(Self(file))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a process that another thread is just starting has the file open, too.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_free_when_it_is_dropped_though_the_file_is_still_open_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let lock = Lock::take(&path, || panic!("nobody has it")).unwrap();
        // As a child has it between being forked and running its program.
        let inherited = lock.0.try_clone().unwrap();
        let other = File::open(&path).unwrap();
        assert!(flock(&other, FlockOperation::NonBlockingLockExclusive).is_err());
        drop(lock);
        flock(&other, FlockOperation::NonBlockingLockExclusive).unwrap();
        drop(inherited);
    }
}
