//! What every kind of isolation offers.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use image::CodeTree;
use types::FunctionSpec;

use crate::Environment;

/// What an environment is made from.
#[derive(Clone)]
pub struct EnvironmentSpec {
    pub function: Arc<FunctionSpec>,
    /// The customer's variables, opened for this environment only.
    pub variables: BTreeMap<String, String>,
    /// The code of exactly this deployment; shared read-only by its environments.
    pub code: Arc<CodeTree>,
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

    /// Ends what was prepared for environments to come; no more is prepared. Blocks for as long as the kernel needs.
    fn close(&self);

    /// Runtimes this worker can run.
    fn runtimes(&self) -> Vec<String>;
}
