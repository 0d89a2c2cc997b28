//! Our side: environments exactly as the server starts them.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use sandbox::{
    AgentFrame, Environment, EnvironmentSpec, InvokerFrame, Isolation, MicrovmIsolation,
    MicrovmIsolationConfig, MicrovmLimits, RuntimeCatalog,
};
use tokio::runtime::Runtime;
use types::{DeploymentId, FunctionArn, FunctionSpec, MemorySize, RuntimeName, Version};

use crate::{FUNCTION_MEMORY, Function, Monitor, PATIENCE, Vm};

pub(crate) const RUNTIMES: &str = "/runtimes";
/// Of `/tmp`, MB.
const TMP_MB: u32 = 512;
const UID_BASE: u32 = 1_500_000_000;

#[derive(Debug)]
pub(crate) struct Ours {
    runtime: Arc<Runtime>,
    isolation: MicrovmIsolation,
    opened: u32,
}

pub(crate) struct OurVm {
    runtime: Arc<Runtime>,
    environment: Environment,
}

impl Ours {
    pub(crate) fn open() -> Result<Self> {
        let config = MicrovmIsolationConfig {
            cgroup: "waterwheel-bench".to_owned(),
            uid_base: UID_BASE,
            setup_timeout: PATIENCE,
            limits: MicrovmLimits::default(),
        };
        let isolation = MicrovmIsolation::open(config, RuntimeCatalog::open(&PathBuf::from(RUNTIMES)))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { runtime: Arc::new(runtime), isolation, opened: 0 })
    }

    fn spec(&mut self, function: Function) -> Result<EnvironmentSpec> {
        self.opened += 1;
        let directory = PathBuf::from(format!("/run/code-{}", self.opened));
        let image = fs::read(function.code).with_context(|| function.code.to_owned())?;
        let code = self.isolation.open_code(&image, directory)?;
        let function = FunctionSpec {
            arn: FunctionArn {
                region: "us-east-1".parse()?,
                account: "000000000000".parse()?,
                name: "echo".parse()?,
            },
            version: Version::Latest,
            deployment: DeploymentId::random(),
            runtime: RuntimeName::new(function.runtime),
            handler: function.handler.into(),
            memory: MemorySize(FUNCTION_MEMORY),
            ephemeral_storage: MemorySize(TMP_MB),
            timeout: Duration::from_secs(3),
            role: "arn:aws:iam::000000000000:role/bench".into(),
        };
        Ok(EnvironmentSpec {
            function: Arc::new(function),
            variables: BTreeMap::new(),
            code: Arc::new(code),
            log_stream: "2026/11/22/[$LATEST]0".into(),
        })
    }
}

impl Monitor for Ours {
    type Vm = OurVm;

    /// The request includes the cgroup and the jail.
    fn start(&mut self, function: Function) -> Result<OurVm> {
        // The code of a deployment is opened once for all its environments, so before the request; reading it costs as
        // little as a page of it.
        let spec = self.spec(function)?;
        let environment = self.runtime.block_on(self.isolation.start(spec))?;
        Ok(OurVm { runtime: self.runtime.clone(), environment })
    }
}

impl Vm for OurVm {
    fn send(&mut self, frame: &InvokerFrame) -> Result<()> {
        Ok(self.runtime.block_on(self.environment.send(frame))?)
    }

    fn recv(&mut self) -> Result<AgentFrame> {
        let Self { runtime, environment } = self;
        let frame = async { tokio::time::timeout(PATIENCE, environment.recv()).await };
        runtime.block_on(frame).context("no word in time")?.context("the environment is gone")
    }

    fn end(self) -> Result<()> {
        self.runtime.block_on(self.environment.stop());
        Ok(())
    }
}
