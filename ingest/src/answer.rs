//! Answers: bodies, headers and errors in the API's own shapes.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::stream::BoxStream;
use http::{
    HeaderValue, Response, StatusCode,
    header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER},
};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use serde::Serialize;
use types::{ApiError, ErrorCode};

/// Header that names an error's exception.
const ERROR_TYPE: &str = "x-amzn-errortype";
pub(crate) const REQUEST_ID: &str = "x-amzn-requestid";
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What flows back to a caller.
pub(crate) type Answer = Response<Body>;

/// Why the rest of an answer does not come; the connection is cut, so that nobody takes a part for the whole.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// An answer's body, and what must stay held until it is sent.
pub(crate) struct Body {
    content: Content,
    /// Dropped with the body: reservations of memory, the count of running requests.
    _held: Option<Box<dyn Send>>,
}

enum Content {
    Whole(Option<Bytes>),
    Stream(BoxStream<'static, Result<Bytes, BodyError>>),
}

// === impl Body ===

impl Body {
    pub(crate) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self { content: Content::Whole(Some(bytes.into())), _held: None }
    }

    pub(crate) fn stream(stream: BoxStream<'static, Result<Bytes, BodyError>>) -> Self {
        Self { content: Content::Stream(stream), _held: None }
    }

    /// Keeps `held` until the body is sent or given up.
    pub(crate) fn holding(self, held: impl Send + 'static) -> Self {
        let before = self._held;
        Self { content: self.content, _held: Some(Box::new((before, held))) }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.content {
            Content::Whole(bytes) => {
                Poll::Ready(bytes.take().filter(|b| !b.is_empty()).map(|b| Ok(Frame::data(b))))
            }
            Content::Stream(stream) => {
                stream.as_mut().poll_next(cx).map(|next| next.map(|chunk| chunk.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.content, Content::Whole(bytes) if bytes.as_ref().is_none_or(Bytes::is_empty))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Content::Stream(_) => SizeHint::default(),
        }
    }
}

/// A JSON answer.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Result<Answer, ApiError> {
    let text = serde_json::to_vec(value).map_err(|error| {
        ApiError::new(ErrorCode::Service, format!("the answer cannot be written: {error}"))
    })?;
    let mut answer = Response::new(Body::whole(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, JSON);
    Ok(answer)
}

/// An answer without a body.
pub(crate) fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Body::whole(Bytes::new()));
    *answer.status_mut() = status;
    answer
}

/// Plain text, for people and probes.
pub(crate) fn text(status: StatusCode, content_type: &'static str, text: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Body::whole(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

/// The connection ends after this answer.
pub(crate) fn closing(mut answer: Answer) -> Answer {
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// Bodies of errors. Which members one has depends on the exception, as on AWS.
#[derive(Serialize, Default)]
struct ErrorBody<'a> {
    #[serde(rename = "Reason", skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(rename = "Type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(rename = "Message", skip_serializing_if = "Option::is_none")]
    capital: Option<&'a str>,
}

/// An error as AWS shapes it.
pub(crate) fn error(error: &ApiError) -> Answer {
    let status = StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    // Those come from in front of the service and have no Type.
    let bare = matches!(
        error.code,
        ErrorCode::Validation
            | ErrorCode::Serialization
            | ErrorCode::UnknownOperation
            | ErrorCode::MissingAuthenticationToken
            | ErrorCode::IncompleteSignature
            | ErrorCode::InvalidSignature
            | ErrorCode::UnrecognizedClient
    );
    let kind = if status.is_server_error() { "Service" } else { "User" };
    let mut body = ErrorBody { reason: error.reason, kind: (!bare).then_some(kind), ..ErrorBody::default() };
    // As the service model has it.
    let capital = matches!(
        error.code,
        ErrorCode::ResourceNotFound
            | ErrorCode::RequestTooLarge
            | ErrorCode::RecursiveInvocation
            | ErrorCode::InvalidZipFile
            | ErrorCode::InvalidRuntime
            | ErrorCode::Service
    );
    if capital {
        body.capital = Some(&error.message);
    } else {
        body.message = Some(&error.message);
    }
    let text = serde_json::to_vec(&body).unwrap_or_default();
    let mut answer = Response::new(Body::whole(text));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, JSON);
    headers.insert(ERROR_TYPE, HeaderValue::from_static(error.code.name()));
    if let Some(wait) = error.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(wait)));
    }
    answer
}

/// Retry-After knows only whole seconds; zero would mean at once.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_millis().div_ceil(1000).clamp(1, u128::from(u32::MAX)) as u64
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    async fn shown(error: ApiError) -> (u16, String, String) {
        let answer = super::error(&error);
        let name = answer.headers()[ERROR_TYPE].to_str().unwrap().to_owned();
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, name, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn each_kind_of_error_has_the_body_aws_gives_it() {
        let table = [
            (ApiError::new(ErrorCode::Validation, "v"), 400, "ValidationException", r#"{"message":"v"}"#),
            (
                ApiError::new(ErrorCode::ResourceNotFound, "n"),
                404,
                "ResourceNotFoundException",
                r#"{"Type":"User","Message":"n"}"#,
            ),
            (
                ApiError::new(ErrorCode::Service, "s"),
                500,
                "ServiceException",
                r#"{"Type":"Service","Message":"s"}"#,
            ),
            (
                ApiError::new(ErrorCode::InvalidSignature, "x"),
                403,
                "InvalidSignatureException",
                r#"{"message":"x"}"#,
            ),
            (
                ApiError::new(ErrorCode::TooManyRequests, "Rate Exceeded.")
                    .reason("ConcurrentInvocationLimitExceeded"),
                429,
                "TooManyRequestsException",
                r#"{"Reason":"ConcurrentInvocationLimitExceeded","Type":"User","message":"Rate Exceeded."}"#,
            ),
        ];
        for (error, status, name, body) in table {
            assert_eq!(shown(error).await, (status, name.to_owned(), body.to_owned()));
        }
    }

    #[test]
    fn retry_after_is_at_least_one_whole_second() {
        for (millis, seconds) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2")] {
            let wait = Duration::from_millis(millis);
            let answer = error(&ApiError::new(ErrorCode::ServiceUnavailable, "x").retry_after(wait));
            assert_eq!(answer.headers()[RETRY_AFTER], seconds);
        }
    }
}
