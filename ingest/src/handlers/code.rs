//! Links to functions' code: GetFunction hands one out, and this follows it.
//!
//! A link is a presigned request to a path beside the Lambda API. It is made with the key of whoever asked, so it is worth
//! no more than that key, survives a restart, and needs no memory here. It names one deployment: after an update it leads
//! nowhere rather than to other code.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use control::{ControlError, ControlPlane, FunctionDetail};
use http::{HeaderValue, Method, header::CONTENT_TYPE, header::HOST, request::Parts};
use types::{ApiError, DeploymentId, ErrorCode, FunctionName, FunctionRef, FunctionSpec};

use super::Call;
use crate::{
    answer::{Answer, Body},
    body::Budget,
    edge::{Door, Shared, overloaded},
    signature::{PresignRequest, presign},
};

/// Path of the links; no version of the Lambda API begins so.
const PREFIX: &str = "/waterwheel/code/";
/// How long a link is good (developer guide, GetFunction: ten minutes).
const LIFETIME: Duration = Duration::from_secs(600);

/// Names one uploaded package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CodeLink {
    function: FunctionName,
    deployment: DeploymentId,
}

// === impl CodeLink ===

impl CodeLink {
    pub(crate) fn to(function: &FunctionSpec) -> Self {
        Self { function: function.arn.name.clone(), deployment: function.deployment }
    }

    pub(crate) fn parse(parts: &Parts) -> Option<Self> {
        let rest = parts.uri.path().strip_prefix(PREFIX).filter(|_| parts.method == Method::GET)?;
        let (function, deployment) = rest.split_once('/')?;
        Some(Self { function: function.parse().ok()?, deployment: deployment.parse().ok()? })
    }

    /// The link for a caller who reached this server by `host` and `door`.
    pub(crate) fn url(&self, shared: &Shared, call: &Call<'_>, door: Door) -> String {
        let host = call.members.header(HOST.as_str()).unwrap_or("localhost");
        let scheme = if door == (Door::Api { tls: true }) { "https" } else { "http" };
        let path = format!("{PREFIX}{}/{}", self.function, self.deployment);
        let signed = call.access_key_id.and_then(|id| shared.keys.get(id)).and_then(|key| {
            let request = PresignRequest { host, path: &path, expires: LIFETIME };
            presign(request, key.id(), key.secret(), &shared.scope, shared.clock.now())
        });
        format!("{scheme}://{host}{}", signed.unwrap_or(path))
    }

    /// The package as it was uploaded. It is opened into memory, which counts as an upload's does.
    pub(crate) async fn follow(&self, control: &ControlPlane, budget: &Budget) -> Result<Answer, ApiError> {
        let name = FunctionRef { region: None, account: None, name: self.function.clone(), qualifier: None };
        let FunctionDetail { configuration, shown, .. } = control.get_function(&name)?;
        if shown.deployment != self.deployment {
            return Err(gone(&shown));
        }
        let size = usize::try_from(configuration.code_size).unwrap_or(usize::MAX);
        let reservation = budget.reserve(size).ok_or_else(overloaded)?;
        let package = open(control.clone(), shown).await?;
        let mut answer = Answer::new(Body::whole(package).holding(reservation));
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/zip"));
        Ok(answer)
    }
}

/// Reads and unseals, on a thread that may block.
async fn open(control: ControlPlane, function: Arc<FunctionSpec>) -> Result<Bytes, ApiError> {
    let opened = tokio::task::spawn_blocking(move || (control.open_code_zip(&function), function)).await;
    match opened {
        // The buffer is wiped when the answer has been sent.
        Ok((Ok(package), _)) => Ok(Bytes::from_owner(package)),
        Ok((Err(ControlError::Superseded(_)), function)) => Err(gone(&function)),
        Ok((Err(error), function)) => {
            tracing::error!(function = %function.arn, %error, "a package cannot be opened");
            Err(ApiError::new(ErrorCode::Service, "The function's code cannot be opened."))
        }
        Err(_) => Err(ApiError::new(ErrorCode::Service, "The function's code could not be read.")),
    }
}

fn gone(function: &FunctionSpec) -> ApiError {
    ApiError::new(
        ErrorCode::ResourceNotFound,
        format!("The link leads to code of {} that was replaced.", function.arn),
    )
}
