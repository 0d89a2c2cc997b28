//! What goes into the invoker and what comes out.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::stream::BoxStream;
use types::{FunctionSpec, RequestId, TraceContext, Version};

/// One invocation.
#[derive(Debug, Clone)]
pub struct InvokeRequest {
    pub function: Arc<FunctionSpec>,
    /// The ARN as the caller named the function, with its qualifier if it gave one
    /// (`Lambda-Runtime-Invoked-Function-Arn`).
    pub invoked_arn: String,
    pub request_id: RequestId,
    /// At most [`types::limits::SYNC_REQUEST_BYTES`]; checked at the edge.
    pub payload: Bytes,
    /// Decoded JSON of `X-Amz-Client-Context`.
    pub client_context: Option<String>,
    pub trace: TraceContext,
    /// Whether the caller wants the last 4 KB of the log: then the outcome comes only when the invocation has ended.
    pub log_tail: bool,
}

/// The function ran, well or badly. A buffered answer is a stream of one chunk.
pub struct InvokeOutcome {
    pub executed_version: Version,
    /// The function failed: `body` describes the error.
    pub function_error: Option<FunctionError>,
    /// Where asked for: at most the last [`types::limits::LOG_TAIL_BYTES`] bytes of the log, not yet base64.
    pub log_tail: Option<Bytes>,
    /// As the runtime sent it; `application/json` for errors.
    pub content_type: String,
    pub body: OutcomeBody,
}

/// Chunks of the answer. An error in the middle means that the rest will not come.
pub type OutcomeBody = BoxStream<'static, Result<Bytes, InvokeError>>;

/// Value of `X-Amz-Function-Error`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FunctionError {
    /// What AWS answers for every failure, handled or not.
    Unhandled,
}

/// The function did not run to an end of its own. What a caller may do about it depends on the kind.
#[derive(Debug, Clone, thiserror::Error)]
pub enum InvokeError {
    /// No attempt was made: a concurrency limit is reached. Ask again.
    #[error("concurrency limit of {limit} reached")]
    Throttled { limit: u32, retry_after: Duration },
    /// No attempt was made: the invoker is stopping or cannot start environments now. Ask again, here or elsewhere.
    #[error("the invoke service is unavailable: {reason}")]
    Unavailable { reason: String, retry_after: Duration },
    /// The function's runtime is not installed on this worker.
    #[error("runtime {runtime} is not installed; installed: {installed}")]
    RuntimeNotInstalled { runtime: String, installed: String },
    /// The function's code or variables could not be opened (a destroyed key, a damaged artefact).
    #[error("the function's artefacts cannot be opened: {reason}")]
    ArtefactUnreadable { reason: String },
}

/// When a caller may ask again whose request could not even be tried.
const UNAVAILABLE_RETRY: Duration = Duration::from_secs(1);

impl InvokeError {
    pub(crate) fn unavailable(reason: &str) -> Self {
        Self::Unavailable { reason: reason.to_owned(), retry_after: UNAVAILABLE_RETRY }
    }
}

impl std::fmt::Debug for InvokeOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InvokeOutcome")
            .field("executed_version", &self.executed_version)
            .field("function_error", &self.function_error)
            .finish_non_exhaustive()
    }
}
