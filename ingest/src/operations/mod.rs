//! Operations for whoever runs this server, which the Lambda API does not have. They lie below a path of their own, are signed as all
//! requests are, and answer in the API's style.
//!
//! ```text
//!   GET  /waterwheel/2026-11-23/dead-letters?FunctionName=&Reason=&After=&Before=&Marker=&MaxItems=
//!   GET  /waterwheel/2026-11-23/functions/{name}/dead-letters/{request-id}?Payload=true
//!   POST /waterwheel/2026-11-23/dead-letters/redrive    {"FunctionName" | "AllFunctions", "Reason", "After", "Before",
//!   POST /waterwheel/2026-11-23/dead-letters/purge       "RequestIds", "MaxItems", "PerSecond", "Marker"}
//! ```
//! The date is the version of these shapes.

mod dead_letters;
mod order;

use std::borrow::Cow;

use bytes::Bytes;
use http::request::Parts;
use hyper::body::Incoming;
use tracing::Span;
use types::{ApiError, ErrorCode};

use crate::{
    answer::Answer,
    body::{self, Pace, ReadError, Reservation},
    edge::{Shared, overloaded},
    metrics,
    model::percent_decode,
    signature::{self, decode_query},
};

const PREFIX: &str = "/waterwheel/2026-11-23/";
/// Largest body, bytes: a thousand ids and what is around them.
const BODY_BYTES: usize = 64 * 1024;

/// What a path asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Operation<'a> {
    ListDeadLetters,
    GetDeadLetter { function: Cow<'a, str>, id: Cow<'a, str> },
    RedriveDeadLetters,
    PurgeDeadLetters,
}

/// A body that may be acted on, and the memory that it takes.
struct Received {
    bytes: Bytes,
    _reservation: Option<Reservation>,
}

impl<'a> Operation<'a> {
    /// `None`: it is none of these.
    pub(crate) fn parse(parts: &'a Parts) -> Option<Self> {
        let rest = parts.uri.path().strip_prefix(PREFIX)?;
        let segments: Vec<_> = rest.split('/').collect();
        match (parts.method.as_str(), &segments[..]) {
            ("GET", ["dead-letters"]) => Some(Self::ListDeadLetters),
            ("GET", ["functions", function, "dead-letters", id]) => {
                Some(Self::GetDeadLetter { function: percent_decode(function), id: percent_decode(id) })
            }
            ("POST", ["dead-letters", "redrive"]) => Some(Self::RedriveDeadLetters),
            ("POST", ["dead-letters", "purge"]) => Some(Self::PurgeDeadLetters),
            _ => None,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::ListDeadLetters => "ListDeadLetters",
            Self::GetDeadLetter { .. } => "GetDeadLetter",
            Self::RedriveDeadLetters => "RedriveDeadLetters",
            Self::PurgeDeadLetters => "PurgeDeadLetters",
        }
    }

    pub(crate) async fn answer(
        self,
        shared: &Shared,
        parts: &Parts,
        incoming: &mut Incoming,
    ) -> Result<Answer, ApiError> {
        Span::current().record("operation", self.name());
        let received = self.receive(shared, parts, incoming).await?;
        let query = decode_query(parts.uri.query());
        match self {
            Self::ListDeadLetters => dead_letters::list(shared, &query).await,
            Self::GetDeadLetter { function, id } => dead_letters::get(shared, &function, &id, &query).await,
            Self::RedriveDeadLetters => dead_letters::redrive(shared, &received.bytes).await,
            Self::PurgeDeadLetters => dead_letters::purge(shared, &received.bytes).await,
        }
    }

    /// Reads a body, once it is known whose it is and that it is not too large.
    async fn receive(
        &self,
        shared: &Shared,
        parts: &Parts,
        incoming: &mut Incoming,
    ) -> Result<Received, ApiError> {
        let pending = shared.authenticate(parts)?;
        let length = body::declared_len(incoming, BODY_BYTES);
        if length > BODY_BYTES {
            return Err(self.too_large());
        }
        let _reservation = match length {
            0 => None,
            length => Some(shared.payloads.reserve(length).ok_or_else(overloaded)?),
        };
        let pace = Pace { grace: shared.config.body_grace, rate: shared.config.min_body_rate };
        let read = body::read(incoming, BODY_BYTES, pace, pending.is_some()).await;
        let received = read.map_err(|error| match error {
            ReadError::TooLarge(_) => self.too_large(),
            ReadError::TooSlow | ReadError::Broken => {
                metrics::refused("body_incomplete");
                ApiError::new(
                    ErrorCode::InvalidRequestContent,
                    format!("Could not read the request: {error}"),
                )
            }
        })?;
        if let Some(pending) = pending {
            let declared = pending.verify(received.hash)?.payload;
            if declared.is_some() && declared != received.hash {
                return Err(ApiError::new(ErrorCode::InvalidSignature, signature::MISMATCH));
            }
        }
        Ok(Received { bytes: received.bytes, _reservation })
    }

    fn too_large(&self) -> ApiError {
        metrics::refused("too_large");
        let message =
            format!("Request must be smaller than {BODY_BYTES} bytes for the {} operation", self.name());
        ApiError::new(ErrorCode::RequestTooLarge, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_methods_name_operations() {
        let parts = |method: &str, path: &str| {
            http::Request::builder().method(method).uri(path).body(()).unwrap().into_parts().0
        };
        for (method, path, name) in [
            ("GET", "/waterwheel/2026-11-23/dead-letters?Marker=x", Some("ListDeadLetters")),
            ("GET", "/waterwheel/2026-11-23/functions/a%3Ab/dead-letters/1", Some("GetDeadLetter")),
            ("POST", "/waterwheel/2026-11-23/dead-letters/redrive", Some("RedriveDeadLetters")),
            ("POST", "/waterwheel/2026-11-23/dead-letters/purge", Some("PurgeDeadLetters")),
            ("GET", "/waterwheel/2026-11-23/dead-letters/purge", None),
            ("DELETE", "/waterwheel/2026-11-23/dead-letters", None),
            ("GET", "/waterwheel/2026-11-23/dead-letters/", None),
            ("GET", "/waterwheel/2025-01-01/dead-letters", None),
            ("GET", "/waterwheel/code/f/1", None),
        ] {
            let parts = parts(method, path);
            assert_eq!(Operation::parse(&parts).map(|operation| operation.name()), name, "{method} {path}");
        }
        let parts = parts("GET", "/waterwheel/2026-11-23/functions/a%3Ab/dead-letters/1");
        let shown = Operation::GetDeadLetter { function: "a:b".into(), id: "1".into() };
        assert_eq!(Operation::parse(&parts), Some(shown));
    }
}
