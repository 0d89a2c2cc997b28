//! Process isolation: the agent in a jail on this machine's own kernel.
//!
//! ```text
//!   start() ──► a jail that waits, prepared (or one made now), its files ──► agent = PID 1 ──► runtime
//!      │                                                                      ▲
//!      └── Start frame ──────────── Unix socket ──────────────────────────────┘
//!          ◄─ Hello
//! ```
//!
//! The jail watches this process and ends its environment when this process ends, however that happens; only the cgroup is
//! left then, and the next start of the worker removes it.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use image::{InstalledRuntime, RuntimeCatalog, UnpackError};
use jail::{Bind, Files, cgroup::Hierarchy};
use types::MemorySize;

use crate::{
    Code, Environment, EnvironmentSpec, Isolation, StartError,
    greeting::{greet, start_frame},
    jails::{Jails, PreparedJail},
};

/// Bounds of process isolation.
#[derive(Debug, Clone)]
pub struct ProcessIsolationConfig {
    /// Name of the cgroup that all environments of this worker live under. Environments found in it at start are leftovers of
    /// a run that was killed, and are removed.
    pub cgroup: String,
    /// First of the user (and group) ids that environments run as. No two live environments share one.
    pub uid_base: u32,
    /// Jails that wait, ready for a function, so that a cold start need not wait for the kernel to make one. Each is two small
    /// processes, about 1 MiB.
    pub prepared_jails: usize,
    /// Time from the jail's start to the agent's first word.
    pub setup_timeout: Duration,
}

/// See the module.
#[derive(Debug)]
pub struct ProcessIsolation {
    config: ProcessIsolationConfig,
    runtimes: RuntimeCatalog,
    jails: Arc<Jails>,
}

impl ProcessIsolation {
    /// Prepares the worker: removes what a killed run left over, and has the first jails prepared. Call within a tokio
    /// runtime.
    pub fn open(config: ProcessIsolationConfig, runtimes: RuntimeCatalog) -> io::Result<Self> {
        let hierarchy = Hierarchy::detect()?;
        hierarchy.sweep(&config.cgroup)?;
        let jails = Jails::new(hierarchy, config.cgroup.clone(), config.uid_base, config.prepared_jails)?;
        let jails = Arc::new(jails);
        jails.replace_taken();
        tokio::spawn(keep_prepared(jails.clone()));
        Ok(Self { config, runtimes, jails })
    }

    async fn start_environment(&self, spec: EnvironmentSpec) -> Result<Environment, StartError> {
        let name = spec.function.runtime.as_str();
        let runtime = self.runtimes.get(name);
        let runtime = runtime.ok_or_else(|| StartError::RuntimeNotInstalled { runtime: name.to_owned() })?;
        // One that waits may have been killed since; one made now was not.
        if let Some(prepared) = self.jails.take() {
            match self.start_in(Some(prepared), &spec, &runtime).await {
                Err(StartError::Setup { diagnostics }) => {
                    tracing::warn!(diagnostics, "a prepared jail had ended; another is made");
                }
                done => return done,
            }
        }
        self.start_in(None, &spec, &runtime).await
    }

    async fn start_in(
        &self,
        prepared: Option<PreparedJail>,
        spec: &EnvironmentSpec,
        runtime: &InstalledRuntime,
    ) -> Result<Environment, StartError> {
        let files = files(spec, runtime)?;
        let (jails, memory, code) = (self.jails.clone(), spec.function.memory, spec.code.clone());
        // An environment when it comes out of there: if nobody waits for it any more, it ends as every environment does.
        let admit = move || {
            let prepared = prepared.map_or_else(|| jails.prepare(), Ok)?;
            let uids = prepared.uids();
            let (stream, remains) = prepared.admit(memory, &files, code)?;
            Environment::new(stream, memory, remains, jails.init_over())
                .map(|environment| (environment, uids))
        };
        let (environment, uids) = tokio::task::spawn_blocking(admit)
            .await
            .map_err(|error| StartError::Spawn(io::Error::other(error)))??;
        greet(environment, &start_frame(spec, runtime, uids), self.config.setup_timeout).await
    }
}

impl Drop for ProcessIsolation {
    fn drop(&mut self) {
        self.jails.close();
    }
}

impl Isolation for ProcessIsolation {
    fn start(&self, spec: EnvironmentSpec) -> BoxFuture<'_, Result<Environment, StartError>> {
        Box::pin(self.start_environment(spec))
    }

    fn open_code(&self, image: &[u8], directory: PathBuf) -> Result<Code, UnpackError> {
        Code::tree(image, directory)
    }

    /// An agent, which is small, and a jail that was there before.
    fn overhead(&self, _: MemorySize) -> MemorySize {
        MemorySize(0)
    }

    fn close(&self) {
        self.jails.close();
    }

    fn runtimes(&self) -> Vec<String> {
        self.runtimes.list().into_iter().map(|runtime| runtime.name).collect()
    }
}

/// Prepares jails whenever one has been taken, as long as there is somebody to take them.
async fn keep_prepared(jails: Arc<Jails>) {
    while !jails.is_closed() {
        jails.replacing().await;
        let jails = jails.clone();
        // Not on a task's thread: most of it is waiting for the kernel.
        if tokio::task::spawn_blocking(move || jails.refill()).await.is_err() {
            return;
        }
    }
}

fn files(spec: &EnvironmentSpec, runtime: &InstalledRuntime) -> Result<Files, StartError> {
    let Code::Tree(code) = &*spec.code else {
        return Err(StartError::Code);
    };
    let code = Bind { source: code.path().to_owned(), target: "/var/task".into(), read_only: true };
    Ok(Files {
        root: runtime.root.clone(),
        binds: vec![code],
        tmp_bytes: spec.function.ephemeral_storage.bytes(),
    })
}
