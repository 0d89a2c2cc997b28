//! Notice of deployments that must not be used for new environments any more.

use tokio::sync::broadcast;
use types::{DeploymentId, FunctionSpec};

use super::ControlPlane;

/// One notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retired {
    /// This deployment was replaced, or its function deleted.
    Deployment(DeploymentId),
    /// The listener was too slow and notices were lost: ask [`ControlPlane::is_live`] of everything.
    Unknown,
}

/// The notices since [`ControlPlane::retired`] was called, in order.
#[derive(Debug)]
pub struct Retirements(broadcast::Receiver<DeploymentId>);

impl Retirements {
    /// The next notice; `None` when the control plane is gone. Cancel-safe.
    pub async fn next(&mut self) -> Option<Retired> {
        match self.0.recv().await {
            Ok(deployment) => Some(Retired::Deployment(deployment)),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(Retired::Unknown),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

impl ControlPlane {
    /// Listens for retired deployments from now on. A deployment is announced when `resolve` answers another already.
    #[must_use]
    pub fn retired(&self) -> Retirements {
        Retirements(self.0.retired.subscribe())
    }

    /// Whether this deployment of the function is the one being served, or the one to come.
    #[must_use]
    pub fn is_live(&self, function: &FunctionSpec) -> bool {
        self.0.catalogue.is_live(&function.arn.name, function.deployment)
    }
}
