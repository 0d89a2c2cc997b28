//! What the control plane refuses and why it fails, and the API's words for it.

use std::{io, path::PathBuf};

use types::{ApiError, ErrorCode, FunctionArn, FunctionName, KeyError};

use crate::{artefacts::ArtefactError, package::PackageRefused, seal::SealError, store::StoreError};

/// Why the control plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("data directory {} is in use by {holder}", path.display())]
    InUse { path: PathBuf, holder: String },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "{found} is stored, but this server is region {region}, account {account}; use its data directory or its settings"
    )]
    OtherAccount { found: FunctionArn, region: String, account: String },
}

/// Why code or variables of a function could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The function was updated or deleted since it was resolved: resolve again.
    #[error("the deployment of {0} was replaced or deleted")]
    Superseded(FunctionArn),
    /// A data key does not open: its wrapping key is gone, or something is damaged.
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error("artefact {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// What was sealed is not what we seal.
    #[error("the variables of a function are not a JSON object of strings")]
    Malformed,
}

impl From<ArtefactError> for ControlError {
    fn from(error: ArtefactError) -> Self {
        match error {
            ArtefactError::Key(error) => Self::Key(error),
            ArtefactError::Seal(error) => Self::Seal(error),
            ArtefactError::Io { path, source } => Self::Io { path, source },
        }
    }
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChangeError {
    /// The caller's to put right.
    #[error(transparent)]
    Refused(#[from] ApiError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Artefact(#[from] ArtefactError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("{0}")]
    Internal(String),
}

impl From<PackageRefused> for ChangeError {
    fn from(refused: PackageRefused) -> Self {
        Self::Refused(refused.into())
    }
}

impl ChangeError {
    /// The caller's answer. What is ours to put right is logged here and not told.
    pub(super) fn into_api(self, operation: &'static str) -> ApiError {
        match self {
            Self::Refused(error) => error,
            error => {
                tracing::error!(operation, %error, "a change to a function failed");
                ApiError::new(ErrorCode::Service, "The service encountered an internal error.")
            }
        }
    }
}

/// `arn` with the qualifier, if the caller gave one.
pub(super) fn not_found(arn: &str) -> ApiError {
    ApiError::new(ErrorCode::ResourceNotFound, format!("Function not found: {arn}"))
}

/// Where event-invoke configurations are set or listed, AWS says only this.
pub(super) fn no_such_function() -> ApiError {
    ApiError::new(ErrorCode::ResourceNotFound, "The function doesn't exist.")
}

/// `qualified` is a function's ARN with its qualifier; AWS says the same where there is no such function.
pub(super) fn no_event_invoke_config(qualified: &str) -> ApiError {
    ApiError::new(
        ErrorCode::ResourceNotFound,
        format!("The function {qualified} doesn't have an EventInvokeConfig"),
    )
}

pub(super) fn already_exists(name: &FunctionName) -> ApiError {
    ApiError::new(ErrorCode::ResourceConflict, format!("Function already exist: {name}"))
}

pub(super) fn not_now(state: &str) -> ApiError {
    ApiError::new(
        ErrorCode::ResourceConflict,
        format!(
            "The operation cannot be performed at this time. The function is currently in the following state: {state}"
        ),
    )
}

pub(super) fn update_in_progress(arn: &FunctionArn) -> ApiError {
    ApiError::new(
        ErrorCode::ResourceConflict,
        format!(
            "The operation cannot be performed at this time. An update is in progress for resource: {arn}"
        ),
    )
}

pub(super) fn wrong_revision() -> ApiError {
    ApiError::new(
        ErrorCode::PreconditionFailed,
        "The Revision Id provided does not match the latest Revision Id. \
         Call the GetFunction/GetAlias API to retrieve the latest Revision Id",
    )
}

pub(super) fn code_storage_exceeded() -> ApiError {
    ApiError::new(ErrorCode::CodeStorageExceeded, "Code storage limit exceeded.")
}

pub(super) fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::InvalidParameterValue, message)
}
