//! What every kind of isolation offers.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use image::UnpackError;
use types::{FunctionSpec, MemorySize};

use crate::{Code, Environment};

/// What an environment is made from.
#[derive(Clone)]
pub struct EnvironmentSpec {
    pub function: Arc<FunctionSpec>,
    /// The customer's variables, opened for this environment only.
    pub variables: BTreeMap<String, String>,
    /// The code of exactly this deployment, from [`Isolation::open_code`]; shared read-only by its environments.
    pub code: Arc<Code>,
    /// As `AWS_LAMBDA_LOG_STREAM_NAME` shows it.
    pub log_stream: String,
}

impl std::fmt::Debug for EnvironmentSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Variables are customer data.
        f.debug_struct("EnvironmentSpec").field("function", &self.function.arn).finish_non_exhaustive()
    }
}

/// Why no environment could be started. None of these is the function's fault.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("runtime {runtime} is not installed")]
    RuntimeNotInstalled { runtime: String },
    #[error("cannot make the environment's cgroup")]
    Cgroup(#[source] std::io::Error),
    #[error("runtime {runtime} has no disk image: build it again (waterwheel runtimes build)")]
    NoImage { runtime: String },
    #[error("the disk image of runtime {runtime} cannot be opened")]
    Image {
        runtime: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the code was opened for another kind of isolation")]
    Code,
    #[error("cannot start the jail")]
    Spawn(#[source] std::io::Error),
    /// The jail or the agent stopped before it could speak; its last words follow.
    #[error("the environment ended while it was being set up: {diagnostics}")]
    Setup { diagnostics: String },
    #[error("the environment was not set up within {0:?}")]
    TimedOut(Duration),
    #[error("the agent could not start the runtime: {0}")]
    Runtime(String),
}

/// Starts environments.
///
/// Guarantees: when `start` has returned an environment, its agent listens and the runtime process runs (its init phase
/// has begun, at full CPU). Dropping the future, or the environment, leaves no process, mount, cgroup or file behind.
pub trait Isolation: Send + Sync + 'static {
    fn start(&self, spec: EnvironmentSpec) -> BoxFuture<'_, Result<Environment, StartError>>;

    /// Makes a deployment's code, from its squashfs image, what its environments need. `directory` does not exist yet; its
    /// parent is in memory. Dropping the code leaves nothing there. Blocks.
    fn open_code(&self, image: &[u8], directory: PathBuf) -> Result<Code, UnpackError>;

    /// Memory that an environment takes of the machine beside the function's own.
    fn overhead(&self, memory: MemorySize) -> MemorySize;

    /// Ends what was prepared for environments to come; no more is prepared. Blocks for as long as the kernel needs.
    fn close(&self);

    /// Runtimes this worker can run.
    fn runtimes(&self) -> Vec<String>;
}
