//! The first words with an agent: what it is to start, and whether it has.

use std::time::Duration;

use image::InstalledRuntime;
use protocol::{AgentFrame, InvokerFrame, Start};
use types::limits;

use crate::{Environment, EnvironmentSpec, StartError, variables};

/// Tells the agent what to start and waits, for at most `timeout`, until it has.
pub(crate) async fn greet(
    mut environment: Environment,
    start: &InvokerFrame,
    timeout: Duration,
) -> Result<Environment, StartError> {
    let answer = async {
        environment.send(start).await.ok()?;
        environment.recv().await.ok()
    };
    match tokio::time::timeout(timeout, answer).await {
        Err(_) => Err(StartError::TimedOut(timeout)),
        Ok(Some(AgentFrame::Hello { version: protocol::VERSION })) => Ok(environment),
        Ok(Some(AgentFrame::StartFailed { reason })) => Err(StartError::Runtime(reason)),
        Ok(_) => Err(StartError::Setup { diagnostics: environment.last_words().await }),
    }
}

pub(crate) fn start_frame(
    spec: &EnvironmentSpec,
    runtime: &InstalledRuntime,
    (agent_uid, function_uid): (u32, u32),
) -> InvokerFrame {
    InvokerFrame::Start(Start {
        version: protocol::VERSION,
        command: runtime.command.clone(),
        directory: runtime.directory.clone(),
        variables: variables::for_runtime(spec, runtime),
        function_uid,
        agent_uid,
        response_limit: u32::try_from(limits::SYNC_RESPONSE_BYTES).unwrap_or(u32::MAX),
    })
}
