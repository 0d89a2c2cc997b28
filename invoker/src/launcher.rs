//! Gets everything a new environment needs (memory, code, variables) and starts it.

use std::{
    path::PathBuf,
    sync::{Arc, Weak},
};

use control::ControlPlane;
use sandbox::{Code, Environment, EnvironmentSpec, Isolation, StartError};
use tokio::sync::Mutex;
use types::{FunctionSpec, MemorySize};

use crate::{
    InvokeError,
    capacity::{Capacity, MemoryShare, Owner},
};

/// Opens artefacts and starts environments, for all pools of a worker.
pub(crate) struct Launcher {
    control: ControlPlane,
    isolation: Arc<dyn Isolation>,
    /// In the worker's memory: one directory for each deployment that has environments.
    code_directory: PathBuf,
    capacity: Capacity,
}

/// The unsealed code of one deployment, while environments need it.
#[derive(Default)]
pub(crate) struct CodeCell(Mutex<Weak<Code>>);

impl Launcher {
    pub(crate) fn new(
        control: ControlPlane,
        isolation: Arc<dyn Isolation>,
        code_directory: PathBuf,
        capacity: Capacity,
    ) -> Self {
        Self { control, isolation, code_directory, capacity }
    }

    /// What an environment takes, walls included.
    pub(crate) fn takes(&self, function: &FunctionSpec) -> MemorySize {
        MemorySize(function.memory.0 + self.isolation.overhead(function.memory).0)
    }

    /// Sets aside what an environment takes.
    pub(crate) async fn reserve(
        &self,
        owner: &Owner,
        function: &FunctionSpec,
    ) -> Result<MemoryShare, InvokeError> {
        self.capacity.reserve(owner, self.takes(function)).await
    }

    /// Starts one environment, in memory [`reserve`](Self::reserve)d for it; its init phase has begun when this returns.
    pub(crate) async fn launch(
        &self,
        function: &Arc<FunctionSpec>,
        code: &CodeCell,
        log_stream: String,
    ) -> Result<Environment, InvokeError> {
        let code = self.code(function, code).await?;
        let variables = self.control.open_variables(function).map_err(unreadable)?;
        let spec = EnvironmentSpec { function: function.clone(), variables, code, log_stream };
        self.isolation.start(spec).await.map_err(|error| self.start_failed(function, error))
    }

    /// No environment is started any more.
    pub(crate) async fn close(&self) {
        let isolation = self.isolation.clone();
        if tokio::task::spawn_blocking(move || isolation.close()).await.is_err() {
            tracing::error!("what was prepared for environments could not be ended");
        }
    }

    /// The code that other environments of the deployment use already, or a fresh copy.
    async fn code(&self, function: &Arc<FunctionSpec>, cell: &CodeCell) -> Result<Arc<Code>, InvokeError> {
        // Held while unsealing, so that many cold starts at once unseal once.
        let mut cell = cell.0.lock().await;
        if let Some(code) = cell.upgrade() {
            return Ok(code);
        }
        let (control, isolation, function) = (self.control.clone(), self.isolation.clone(), function.clone());
        let directory = self.code_directory.join(function.deployment.to_string());
        let code = tokio::task::spawn_blocking(move || {
            let image = control.open_code_image(&function).map_err(unreadable)?;
            isolation.open_code(&image, directory).map_err(unreadable)
        })
        .await
        .map_err(unreadable)??;
        let code = Arc::new(code);
        *cell = Arc::downgrade(&code);
        Ok(code)
    }

    fn start_failed(&self, function: &FunctionSpec, error: StartError) -> InvokeError {
        if let StartError::RuntimeNotInstalled { runtime } = error {
            return InvokeError::RuntimeNotInstalled {
                runtime,
                installed: self.isolation.runtimes().join(", "),
            };
        }
        // A person must look: the function cannot help it, and asking again may not either.
        tracing::error!(function = %function.arn, error = &error as &dyn std::error::Error, "an environment could not be started");
        InvokeError::unavailable("an environment could not be started")
    }
}

fn unreadable(error: impl std::fmt::Display) -> InvokeError {
    InvokeError::ArtefactUnreadable { reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use control::{ControlConfig, LocalKeyring};
    use futures::future::BoxFuture;
    use sandbox::UnpackError;
    use types::{DeploymentId, FunctionArn, RuntimeName, SystemClock, Version};

    use super::*;

    const MEMORY: u32 = 128;
    const OVERHEAD: u32 = 40;

    /// Takes memory for its walls, and starts nothing.
    struct Walls;

    impl Isolation for Walls {
        fn start(&self, _: EnvironmentSpec) -> BoxFuture<'_, Result<Environment, StartError>> {
            Box::pin(std::future::ready(Err(StartError::Code)))
        }

        fn open_code(&self, _: &[u8], directory: PathBuf) -> Result<Code, UnpackError> {
            Err(UnpackError::Io { path: directory, source: std::io::ErrorKind::NotFound.into() })
        }

        fn overhead(&self, _: MemorySize) -> MemorySize {
            MemorySize(OVERHEAD)
        }

        fn close(&self) {}

        fn runtimes(&self) -> Vec<String> {
            Vec::new()
        }
    }

    fn function() -> Arc<FunctionSpec> {
        let arn = FunctionArn {
            region: "us-east-1".parse().unwrap(),
            account: "000000000000".parse().unwrap(),
            name: "f".parse().unwrap(),
        };
        Arc::new(FunctionSpec {
            arn,
            version: Version::Latest,
            deployment: DeploymentId::random(),
            runtime: RuntimeName::new("python3.11"),
            handler: String::new(),
            memory: MemorySize(MEMORY),
            ephemeral_storage: MemorySize(512),
            timeout: Duration::from_secs(3),
            role: String::new(),
        })
    }

    /// Tries to start an environment on a worker with `total` MB for environments.
    async fn launch(total: u32) -> (InvokeError, Capacity) {
        let directory = tempfile::tempdir().unwrap();
        let (region, account) = ("us-east-1".parse().unwrap(), "000000000000".parse().unwrap());
        let config = ControlConfig::new(directory.path().to_owned(), region, account, Arc::new(Vec::new));
        let keys = LocalKeyring::open_or_create(&directory.path().join("keyring")).unwrap();
        let control = ControlPlane::open(config, Arc::new(keys), Arc::new(SystemClock)).unwrap();
        let capacity = Capacity::new(total, Duration::ZERO);
        let launcher =
            Launcher::new(control, Arc::new(Walls), directory.path().join("code"), capacity.clone());
        let function = function();
        let error = match launcher.reserve(&Owner::default(), &function).await {
            Ok(_memory) => launcher.launch(&function, &CodeCell::default(), "stream".to_owned()).await.err(),
            Err(error) => Some(error),
        };
        (error.unwrap(), capacity)
    }

    #[tokio::test]
    async fn memory_is_set_aside_for_an_environments_walls_too_and_comes_back() {
        let (refused, _) = launch(MEMORY + OVERHEAD - 1).await;
        assert!(matches!(refused, InvokeError::Unavailable { .. }), "{refused}");
        // With room for both it comes as far as the function's code, which is not there.
        let (failed, capacity) = launch(MEMORY + OVERHEAD).await;
        assert!(matches!(failed, InvokeError::ArtefactUnreadable { .. }), "{failed}");
        assert_eq!(capacity.free(), MEMORY + OVERHEAD);
    }
}
