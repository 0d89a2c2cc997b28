//! Listing, showing, redriving and purging dead letters: the answers, and errors in the API's own terms.

use std::{borrow::Cow, future::Future, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::StatusCode;
use poller_fleet::{
    WriteError,
    dead_letters::{Entry, Error, Progress, Shown, Stopped, WasOnce},
};
use serde::Serialize;
use types::{ApiError, ErrorCode, FunctionRef};

use super::order::{self, WITHIN};
use crate::{
    answer::{self, Answer},
    edge::Shared,
};

/// Most characters of an error in a list.
const LISTED_ERROR_CHARS: usize = 200;
/// When to ask again after a refusal that will pass.
const RETRY: Duration = Duration::from_secs(5);

type Pairs<'a> = [(Cow<'a, str>, Cow<'a, str>)];

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListAnswer {
    dead_letters: Vec<DeadLetter>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
}

#[derive(Serialize, Default)]
#[serde(rename_all = "PascalCase")]
struct DeadLetter {
    /// Absent where the record is damaged.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    function_arn: String,
    #[serde(flatten)]
    letter: Option<Letter>,
    /// Why nothing else is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Letter {
    reason: &'static str,
    accepted_at: String,
    given_up_at: String,
    attempts: u32,
    payload_size: u64,
    error: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    invoked_function_arn: Option<String>,
    /// Of a record that this destination did not take; the payload is the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<String>,
    /// Of the invocation that the record tells of.
    #[serde(skip_serializing_if = "Option::is_none")]
    invocation_request_id: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct GetAnswer {
    #[serde(flatten)]
    dead_letter: DeadLetter,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_context: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_header: Option<String>,
    /// As it is, where that is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct OrderAnswer {
    #[serde(skip_serializing_if = "Option::is_none")]
    redriven: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    purged: Option<u64>,
    scanned: u64,
    unreadable: u64,
    not_scanned: u64,
    /// There was no time for the rest: asked again with `Before` and `Marker` of this answer, it is gone on with.
    more: bool,
    limit_reached: bool,
    before: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    marker: Option<String>,
}

pub(super) async fn list(shared: &Shared, query: &Pairs<'_>) -> Result<Answer, ApiError> {
    let query = order::query(query)?;
    let function = query.filter.function.clone();
    let page = in_time(shared.dead_letters.list(query)).await?;
    if page.entries.is_empty() && page.marker.is_none() {
        must_exist(shared, function.as_ref())?;
    }
    let dead_letters = page.entries.into_iter().map(|entry| DeadLetter::of(entry, LISTED_ERROR_CHARS));
    let answer = ListAnswer { dead_letters: dead_letters.collect(), next_marker: page.marker };
    answer::json(StatusCode::OK, &answer)
}

pub(super) async fn get(
    shared: &Shared,
    function: &str,
    id: &str,
    query: &Pairs<'_>,
) -> Result<Answer, ApiError> {
    let (function, id) = (order::function(function)?, order::request_id(id)?);
    let Shown { entry, client_context, trace, payload } =
        in_time(shared.dead_letters.show(function, id)).await?;
    let asked_for = query.iter().any(|(name, value)| name == "Payload" && value == "true");
    let (payload, payload_base64) = match String::from_utf8(payload) {
        _ if !asked_for || entry.letter.is_err() => (None, None),
        Ok(text) => (Some(text), None),
        Err(bytes) => (None, Some(BASE64_STANDARD.encode(bytes.as_bytes()))),
    };
    let dead_letter = DeadLetter::of(entry, usize::MAX);
    let answer = GetAnswer { dead_letter, client_context, trace_header: trace, payload, payload_base64 };
    answer::json(StatusCode::OK, &answer)
}

pub(super) async fn redrive(shared: &Shared, body: &[u8]) -> Result<Answer, ApiError> {
    let order = order::order(body)?;
    let function = order.filter.function.clone();
    let progress = shared.dead_letters.redrive(order).await.map_err(api_error)?;
    ended(shared, function.as_ref(), &progress, Some(progress.done), None)
}

pub(super) async fn purge(shared: &Shared, body: &[u8]) -> Result<Answer, ApiError> {
    let order = order::order(body)?;
    let function = order.filter.function.clone();
    let progress = shared.dead_letters.purge(order).await.map_err(api_error)?;
    ended(shared, function.as_ref(), &progress, None, Some(progress.done))
}

fn ended(
    shared: &Shared,
    function: Option<&FunctionRef>,
    progress: &Progress,
    redriven: Option<u64>,
    purged: Option<u64>,
) -> Result<Answer, ApiError> {
    if progress.done + progress.scanned == 0 {
        must_exist(shared, function)?;
    }
    let answer = OrderAnswer {
        redriven,
        purged,
        scanned: progress.scanned,
        unreadable: progress.unreadable,
        not_scanned: progress.not_scanned,
        more: progress.stopped == Some(Stopped::Time),
        limit_reached: progress.stopped == Some(Stopped::Limit),
        before: timestamp(progress.before),
        marker: progress.next.clone(),
    };
    answer::json(StatusCode::OK, &answer)
}

/// A function without dead letters may be one that there never was.
fn must_exist(shared: &Shared, function: Option<&FunctionRef>) -> Result<(), ApiError> {
    function.map_or(Ok(()), |function| shared.control.get_function_configuration(function).map(drop))
}

async fn in_time<T>(asked: impl Future<Output = Result<T, Error>>) -> Result<T, ApiError> {
    match tokio::time::timeout(WITHIN, asked).await {
        Ok(answered) => answered.map_err(api_error),
        Err(_) => {
            let message = format!("The dead letters could not be read within {} seconds.", WITHIN.as_secs());
            Err(ApiError::new(ErrorCode::ServiceUnavailable, message).retry_after(RETRY))
        }
    }
}

fn api_error(error: Error) -> ApiError {
    let message = format!("{}.", capitalised(&error.to_string()));
    match error {
        Error::Marker(_) => ApiError::new(ErrorCode::InvalidParameterValue, message),
        Error::NotFound { .. } => ApiError::new(ErrorCode::ResourceNotFound, message),
        Error::UnderWay(_) | Error::KeyDestroyed(_) => ApiError::new(ErrorCode::ResourceConflict, message),
        Error::Stopping => ApiError::new(ErrorCode::ServiceUnavailable, message).retry_after(RETRY),
        Error::Write(WriteError::NoSpace) => {
            let message = "The queue's disk is full: what was not redriven yet is still a dead letter.";
            ApiError::new(ErrorCode::ServiceUnavailable, message).retry_after(RETRY)
        }
        error @ (Error::Read(_) | Error::Write(_)) => {
            tracing::error!(%error, "the dead-letter store cannot be used");
            ApiError::new(ErrorCode::Service, "The dead-letter store cannot be used: see the server's log.")
        }
    }
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

fn timestamp(unix: Duration) -> String {
    let millis = i64::try_from(unix.as_millis()).unwrap_or(i64::MAX);
    let time = jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX);
    format!("{time:.3}")
}

// === impl DeadLetter ===

impl DeadLetter {
    fn of(entry: Entry, error_chars: usize) -> Self {
        let Entry { id, function, letter } = entry;
        let (letter, unreadable) = match letter {
            Ok(letter) => (Some(Letter::of(letter, error_chars)), None),
            Err(why) => (None, Some(why.to_string())),
        };
        Self {
            request_id: id.map(|id| id.to_string()),
            function_arn: function.to_string(),
            letter,
            unreadable,
        }
    }
}

// === impl Letter ===

impl Letter {
    fn of(letter: poller_fleet::dead_letters::Letter, error_chars: usize) -> Self {
        let (invoked_function_arn, destination, invocation_request_id) = match letter.was {
            WasOnce::Invocation { invoked_arn } => (Some(invoked_arn), None, None),
            WasOnce::Record { destination, request_id } => {
                (None, Some(destination), Some(request_id.to_string()))
            }
        };
        Self {
            reason: letter.reason.as_str(),
            accepted_at: timestamp(letter.accepted),
            given_up_at: timestamp(letter.given_up),
            attempts: letter.attempts,
            payload_size: letter.payload_bytes,
            error: letter.error.chars().take(error_chars).collect(),
            invoked_function_arn,
            destination,
            invocation_request_id,
        }
    }
}
