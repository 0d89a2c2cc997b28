//! Which isolation the server gives its functions, and that it says so.
//!
//! ```text
//!   process    process isolation
//!   microvm    a test boot; the server does not start without it
//!   auto       a test boot; microVMs if it succeeds, else process isolation, loudly
//! ```
//!
//! `microvm` never falls back: who asks for a kernel for each function is not to share one without noticing.

use std::sync::Arc;

use anyhow::Context as _;
use image::RuntimeCatalog;
use sandbox::{
    Isolation, MicrovmIsolation, MicrovmIsolationConfig, NoMicrovm, ProcessIsolation, ProcessIsolationConfig,
};

use crate::config::{self, Config, Environments};

/// `group` is the cgroup of all environments; whatever is in it is a leftover and is ended.
pub(super) async fn open(
    config: &Config,
    group: &str,
    runtimes: RuntimeCatalog,
) -> anyhow::Result<Arc<dyn Isolation>> {
    let environments = &config.environments;
    match environments.isolation {
        config::Isolation::Process => process(environments, group, runtimes),
        config::Isolation::Microvm => {
            let isolation = microvm(config, group, &runtimes).await;
            Ok(Arc::new(isolation.context(
                "environments.isolation = \"microvm\", but microVMs cannot run here (`waterwheel doctor` says more)",
            )?))
        }
        config::Isolation::Auto => match microvm(config, group, &runtimes).await {
            Ok(isolation) => Ok(Arc::new(isolation)),
            Err(reason) => {
                tracing::warn!(
                    %reason,
                    "functions run in process isolation and share this machine's kernel: microVMs cannot run here"
                );
                process(environments, group, runtimes)
            }
        },
    }
}

async fn microvm(
    config: &Config,
    group: &str,
    runtimes: &RuntimeCatalog,
) -> Result<MicrovmIsolation, NoMicrovm> {
    let parts = MicrovmIsolationConfig {
        cgroup: group.to_owned(),
        uid_base: config.environments.uid_base,
        setup_timeout: config.environments.setup_timeout,
        limits: config.microvm.limits,
    };
    // What is missing is found before anything is booted.
    let isolation = MicrovmIsolation::open(parts, runtimes.clone())?;
    let boot = isolation.test_boot().await?;
    tracing::info!(?boot, "functions run in microVMs: a test boot reached the agent");
    Ok(isolation)
}

fn process(
    environments: &Environments,
    group: &str,
    runtimes: RuntimeCatalog,
) -> anyhow::Result<Arc<dyn Isolation>> {
    let config = ProcessIsolationConfig {
        cgroup: group.to_owned(),
        uid_base: environments.uid_base,
        prepared_jails: environments.prepared_jails,
        setup_timeout: environments.setup_timeout,
    };
    let isolation = ProcessIsolation::open(config, runtimes)
        .context("cannot isolate processes here (`waterwheel doctor` says more)")?;
    Ok(Arc::new(isolation))
}
