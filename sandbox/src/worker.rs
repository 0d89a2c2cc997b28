//! The worker's memory for unsealed code, and its private view of the machine's mounts.

use std::{
    ffi::CString,
    io,
    path::{Path, PathBuf},
};

use rustix::{
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount},
    thread::UnshareFlags,
};

/// Why a worker could not prepare its directory.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error("cannot {step} (is this process root?)")]
    System { step: &'static str, source: io::Error },
    #[error("cannot create {path}")]
    Create { path: PathBuf, source: io::Error },
}

/// A tmpfs that holds unsealed code while environments need it.
///
/// It is mounted in a mount namespace of this process alone: others on the machine see an empty directory, and the kernel
/// drops it with the process.
#[derive(Debug)]
pub struct WorkerDirectory {
    path: PathBuf,
}

impl WorkerDirectory {
    /// Gives the process a mount namespace of its own and mounts a tmpfs of at most `bytes` at `path`.
    ///
    /// Call it from `main` before any thread is started: the namespace is that of the calling thread and of threads started
    /// from it.
    pub fn prepare(path: &Path, bytes: u64) -> Result<Self, PrepareError> {
        let failed = |step| move |error: io::Error| PrepareError::System { step, source: error };
        std::fs::create_dir_all(path)
            .map_err(|source| PrepareError::Create { path: path.to_owned(), source })?;
        #[expect(deprecated, reason = "unsafe only for UnshareFlags::FILES, which is not used")]
        rustix::thread::unshare(UnshareFlags::NEWNS)
            .map_err(|error| failed("make a mount namespace")(error.into()))?;
        // Mounts made outside still arrive here, ours never travel outside.
        mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
            .map_err(|error| failed("make mounts private")(error.into()))?;
        mount_tmpfs(path, bytes).map_err(failed("mount memory for code"))?;
        Ok(Self { path: path.to_owned() })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for WorkerDirectory {
    fn drop(&mut self) {
        // The kernel would do it at exit; in a test the process lives on.
        let _ = unmount(&self.path, UnmountFlags::DETACH);
    }
}

/// Mounts memory that never reaches a swap device where the kernel can promise that (Linux 6.4).
fn mount_tmpfs(path: &Path, bytes: u64) -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    let options = |extra: &str| CString::new(format!("mode=0711,size={bytes}{extra}")).unwrap_or_default();
    mount("tmpfs", path, "tmpfs", flags, options(",noswap").as_c_str())
        .or_else(|_| mount("tmpfs", path, "tmpfs", flags, options("").as_c_str()))
        .map_err(io::Error::from)
}
