//! Errors in the API's own terms.

use std::time::Duration;

/// An exception of the service model, with the HTTP status the model gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    /// 409
    ResourceConflict,
    /// 404
    ResourceNotFound,
    /// 400, a value that is well formed and still wrong
    InvalidParameterValue,
    /// 400, a value the service model's constraints refuse
    Validation,
    /// 400, a body that is not what the operation takes
    InvalidRequestContent,
    /// 400, a body that is not JSON at all
    Serialization,
    /// 400, a function invoked too often in one chain
    RecursiveInvocation,
    /// 412
    PreconditionFailed,
    /// 400
    CodeStorageExceeded,
    /// 413, under the name that AWS answers, which is not the service model's `RequestTooLargeException`
    RequestTooLarge,
    /// 415
    UnsupportedMediaType,
    /// 429
    TooManyRequests,
    /// 502
    InvalidZipFile,
    /// 502
    InvalidRuntime,
    /// 500
    Service,
    /// 503, with Retry-After: nothing was done, ask again
    ServiceUnavailable,
    /// 501, an operation or an option that is not built yet
    NotImplemented,
    /// 404, a path the API does not have
    UnknownOperation,
    /// 403
    AccessDenied,
    /// 403
    MissingAuthenticationToken,
    /// 403
    IncompleteSignature,
    /// 403
    InvalidSignature,
    /// 403
    UnrecognizedClient,
}

impl ErrorCode {
    /// The value of `x-amzn-ErrorType`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(self) -> u16 {
        self.row().1
    }

    fn row(self) -> (&'static str, u16) {
        match self {
            Self::ResourceConflict => ("ResourceConflictException", 409),
            Self::ResourceNotFound => ("ResourceNotFoundException", 404),
            Self::InvalidParameterValue => ("InvalidParameterValueException", 400),
            Self::Validation => ("ValidationException", 400),
            Self::InvalidRequestContent => ("InvalidRequestContentException", 400),
            Self::Serialization => ("SerializationException", 400),
            Self::RecursiveInvocation => ("RecursiveInvocationException", 400),
            Self::PreconditionFailed => ("PreconditionFailedException", 412),
            Self::CodeStorageExceeded => ("CodeStorageExceededException", 400),
            Self::RequestTooLarge => ("RequestEntityTooLargeException", 413),
            Self::UnsupportedMediaType => ("UnsupportedMediaTypeException", 415),
            Self::TooManyRequests => ("TooManyRequestsException", 429),
            Self::InvalidZipFile => ("InvalidZipFileException", 502),
            Self::InvalidRuntime => ("InvalidRuntimeException", 502),
            Self::Service => ("ServiceException", 500),
            Self::ServiceUnavailable => ("ServiceUnavailableException", 503),
            Self::NotImplemented => ("NotImplementedException", 501),
            Self::UnknownOperation => ("UnknownOperationException", 404),
            Self::AccessDenied => ("AccessDeniedException", 403),
            Self::MissingAuthenticationToken => ("MissingAuthenticationTokenException", 403),
            Self::IncompleteSignature => ("IncompleteSignatureException", 403),
            Self::InvalidSignature => ("InvalidSignatureException", 403),
            Self::UnrecognizedClient => ("UnrecognizedClientException", 403),
        }
    }
}

/// An error as a caller of the API sees it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.name())]
pub struct ApiError {
    pub code: ErrorCode,
    pub message: String,
    /// `Reason` of a throttle (`ThrottleReason` in the service model).
    pub reason: Option<&'static str>,
    /// When to ask again, where asking again can help.
    pub retry_after: Option<Duration>,
}

impl ApiError {
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), reason: None, retry_after: None }
    }

    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    #[must_use]
    pub fn reason(mut self, reason: &'static str) -> Self {
        self.reason = Some(reason);
        self
    }
}
