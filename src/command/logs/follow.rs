//! Waits until something in a directory changes.

use std::{io, os::fd::OwnedFd, path::Path};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

/// Room for many notices at once; one is at most 16 bytes and a name.
const BUFFER: usize = 4096;

/// Notices of changes to the files in a directory.
#[derive(Debug)]
pub(super) struct Changes(AsyncFd<OwnedFd>);

impl Changes {
    /// Must be called within a tokio runtime.
    pub(super) fn watch(directory: &Path) -> io::Result<Self> {
        let notices = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        inotify::add_watch(
            &notices,
            directory,
            WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO,
        )?;
        // The other constructor is unsafe: it trusts the type to keep its descriptor open, which an owned one does.
        #[expect(deprecated, reason = "sound for a descriptor that is owned")]
        AsyncFd::new(notices).map(Self)
    }

    /// Returns when something has changed since the last call, or since [`Changes::watch`].
    pub(super) async fn next(&mut self) -> io::Result<()> {
        let mut buffer = [0; BUFFER];
        loop {
            let mut ready = self.0.readable().await?;
            // What changed does not matter: the reader finds out. What is left unread makes the next call return at once.
            match ready.try_io(|notices| Ok(rustix::io::read(notices, &mut buffer)?)) {
                Ok(read) => return read.map(drop),
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn appending_and_creating_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        let mut changes = Changes::watch(dir.path()).unwrap();
        std::fs::write(dir.path().join("a"), "1").unwrap();
        changes.next().await.unwrap();
        let quiet = tokio::time::timeout(std::time::Duration::ZERO, changes.next()).await;
        assert!(quiet.is_err(), "nothing changed, and something was seen");
        std::fs::write(dir.path().join("a"), "2").unwrap();
        changes.next().await.unwrap();
    }
}
