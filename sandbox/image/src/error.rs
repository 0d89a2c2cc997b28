//! Why a runtime or a guest kernel could not be built.

use std::{io, path::PathBuf};

/// Why [`crate::build`] or [`crate::GuestKernel::build`] failed. Nothing of an unfinished build is visible to who looks for
/// runtimes and kernels.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Device nodes, ownership and `chroot` need root.
    #[error("building runtimes needs root, not uid {uid}")]
    NotRoot { uid: u32 },
    /// `install` is the whole command line that brings the tool.
    #[error("{tool} is not installed; install it with: {install}")]
    ToolMissing { tool: &'static str, install: &'static str },
    /// The tool ran and failed; `output` is the end of what it printed.
    #[error("{tool} failed ({status}): {output}")]
    ToolFailed { tool: &'static str, status: String, output: String },
    #[error("cannot {action} {path}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// A step left out what the runtime cannot be without.
    #[error("the built root has no {path}")]
    Incomplete { path: PathBuf },
    /// No wheels are pinned for this machine.
    #[error("runtimes cannot be built for {architecture}, only for x86_64 and aarch64")]
    Architecture { architecture: &'static str },
    /// There is no configuration of a guest kernel for this machine.
    #[error("guest kernels cannot be built for {architecture}, only for x86_64")]
    KernelArchitecture { architecture: &'static str },
    /// The source package and the committed configuration do not fit together.
    #[error("Linux does not accept of the kernel's configuration: {lines}")]
    KernelConfiguration { lines: String },
}

/// Names what was being done to which path when an I/O error came.
pub(crate) trait IoContext<T> {
    fn context(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T, BuildError>;
}

impl<T, E: Into<io::Error>> IoContext<T> for Result<T, E> {
    fn context(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T, BuildError> {
        self.map_err(|source| BuildError::Io { action, path: path.into(), source: source.into() })
    }
}
