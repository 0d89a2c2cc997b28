//! What a caller may say of dead letters: read once, into the fleet's own terms. A value that is not understood is refused by its name,
//! and so is a member that is not known: an order with a misspelt filter would be one for everything.

use std::{borrow::Cow, collections::HashSet, num::NonZeroU32, time::Duration};

use poller_fleet::dead_letters::{Filter, MAX_PAGE, Order, Query};
use types::{ApiError, ErrorCode, FunctionRef, RequestId};
use uuid::Uuid;

use crate::{handlers::function_ref, model::Json};

/// How long a caller waits for an answer at most; what takes longer is gone on with by asking again.
pub(super) const WITHIN: Duration = Duration::from_secs(25);
const DEFAULT_PAGE: usize = 50;
const DEFAULT_PER_SECOND: NonZeroU32 = NonZeroU32::new(1_000).unwrap();
const MEMBERS: [&str; 9] = [
    "FunctionName",
    "AllFunctions",
    "Reason",
    "After",
    "Before",
    "RequestIds",
    "MaxItems",
    "PerSecond",
    "Marker",
];

/// The query of a list.
pub(super) fn query(pairs: &[(Cow<'_, str>, Cow<'_, str>)]) -> Result<Query, ApiError> {
    let value = |name: &str| {
        let pair = pairs.iter().find(|(key, value)| key == name && !value.is_empty());
        pair.map(|(_, value)| value.as_ref())
    };
    let filter = Filter {
        function: value("FunctionName").map(function).transpose()?,
        reason: value("Reason").map(reason).transpose()?,
        after: value("After").map(|text| time("After", text)).transpose()?,
        before: value("Before").map(|text| time("Before", text)).transpose()?,
        ids: HashSet::new(),
    };
    let limit = match value("MaxItems") {
        None => DEFAULT_PAGE,
        Some(text) => {
            let number = text.parse().ok().filter(|number| (1..=MAX_PAGE).contains(number));
            number.ok_or_else(|| refuse("MaxItems", text, &format!("a number from 1 to {MAX_PAGE}")))?
        }
    };
    Ok(Query { filter, marker: value("Marker").map(str::to_owned), limit })
}

/// The body of a redrive or a purge.
pub(super) fn order(body: &[u8]) -> Result<Order, ApiError> {
    let json = Json::parse(body).map_err(|error| {
        ApiError::new(ErrorCode::Serialization, format!("Could not parse request body into json: {error}"))
    })?;
    let Json::Object(members) = &json else {
        return Err(ApiError::new(ErrorCode::Serialization, "Expected map or structure or null"));
    };
    if let Some((name, _)) = members.iter().find(|(name, _)| !MEMBERS.contains(&name.as_ref())) {
        let name: String = name.chars().take(64).collect();
        return Err(invalid(format!(
            "{name:?} is no member of this request: it has {}.",
            MEMBERS.join(", ")
        )));
    }
    let function = text(&json, "FunctionName")?.map(function).transpose()?;
    let all = match json.get("AllFunctions") {
        None | Some(Json::Bool(false)) => false,
        Some(Json::Bool(true)) => true,
        Some(other) => return Err(refuse("AllFunctions", &shown(other), "true or false")),
    };
    if function.is_some() == all {
        return Err(invalid("Either FunctionName or AllFunctions must be given, and not both.".into()));
    }
    let filter = Filter {
        function,
        reason: text(&json, "Reason")?.map(reason).transpose()?,
        after: text(&json, "After")?.map(|text| time("After", text)).transpose()?,
        before: text(&json, "Before")?.map(|text| time("Before", text)).transpose()?,
        ids: ids(&json)?,
    };
    Ok(Order {
        filter,
        from: text(&json, "Marker")?.map(marker).transpose()?,
        limit: positive(&json, "MaxItems")?.map_or(u64::MAX, |number| u64::from(number.get())),
        per_second: positive(&json, "PerSecond")?.unwrap_or(DEFAULT_PER_SECOND),
        within: WITHIN,
    })
}

/// Where an order stopped, as its answer said: the ARN of a function.
fn marker(text: &str) -> Result<String, ApiError> {
    let arn = text.parse::<FunctionRef>().ok().and_then(FunctionRef::into_arn);
    let arn = arn.ok_or_else(|| refuse("Marker", text, "the Marker of an answer"))?;
    Ok(arn.to_string())
}

/// A function as callers name it, without a qualifier: all its versions have one dead-letter store.
pub(super) fn function(text: &str) -> Result<FunctionRef, ApiError> {
    let function = function_ref(text, None)?;
    if function.qualifier.is_some() {
        return Err(refuse("FunctionName", text, "a function without a version or alias"));
    }
    Ok(function)
}

pub(super) fn request_id(text: &str) -> Result<RequestId, ApiError> {
    let id = Uuid::try_parse(text).map_err(|_| refuse("RequestId", text, "a UUID"))?;
    Ok(RequestId::from_bytes(id.into_bytes()))
}

fn reason(text: &str) -> Result<poller_fleet::dead_letters::DeadLetterReason, ApiError> {
    text.parse().map_err(|error: poller_fleet::dead_letters::ParseReasonError| {
        invalid(format!("Reason {:?} is not valid: {error}.", cut(text)))
    })
}

fn time(name: &str, text: &str) -> Result<Duration, ApiError> {
    let time = text.parse::<jiff::Timestamp>().ok();
    let millis = time.and_then(|time| u64::try_from(time.as_millisecond()).ok());
    millis.map(Duration::from_millis).ok_or_else(|| refuse(name, text, "a time such as 2026-11-23T04:05:06Z"))
}

fn text<'a>(json: &'a Json<'_>, name: &str) -> Result<Option<&'a str>, ApiError> {
    match json.get(name) {
        None => Ok(None),
        Some(Json::String(text)) => Ok(Some(text)),
        Some(other) => Err(refuse(name, &shown(other), "a string")),
    }
}

fn positive(json: &Json<'_>, name: &str) -> Result<Option<NonZeroU32>, ApiError> {
    let Some(value) = json.get(name) else { return Ok(None) };
    let number = value.as_u32().and_then(NonZeroU32::new);
    number.map(Some).ok_or_else(|| refuse(name, &shown(value), &format!("a number from 1 to {}", u32::MAX)))
}

fn ids(json: &Json<'_>) -> Result<HashSet<RequestId>, ApiError> {
    match json.get("RequestIds") {
        None => Ok(HashSet::new()),
        Some(Json::List(items)) if !items.is_empty() => {
            let id = |item: &Json<'_>| match item {
                Json::String(text) => request_id(text),
                other => Err(refuse("RequestIds", &shown(other), "a list of UUIDs")),
            };
            items.iter().map(id).collect()
        }
        Some(other) => Err(refuse("RequestIds", &shown(other), "a list of at least one UUID")),
    }
}

fn shown(value: &Json<'_>) -> String {
    value.to_string()
}

fn refuse(name: &str, value: &str, expected: &str) -> ApiError {
    invalid(format!("{name} {:?} is not valid: expected {expected}.", cut(value)))
}

fn invalid(message: String) -> ApiError {
    ApiError::new(ErrorCode::InvalidParameterValue, message)
}

fn cut(text: &str) -> String {
    text.chars().take(256).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_says_whose_dead_letters_and_which() {
        let body = br#"{"FunctionName":"f","Reason":"RetriesExhausted","Before":"2026-11-23T00:00:01.5Z",
            "RequestIds":["00000000-0000-0000-0000-000000000007"],"MaxItems":5,"PerSecond":2,"Marker":"arn:aws:lambda:us-east-1:123456789012:function:f"}"#;
        let order = order(body).unwrap();
        assert_eq!(order.filter.function.unwrap().name.as_str(), "f");
        assert_eq!(order.filter.before, Some(Duration::from_millis(1_795_392_001_500)));
        assert_eq!((order.limit, order.per_second.get()), (5, 2));
        assert_eq!(order.from.as_deref(), Some("arn:aws:lambda:us-east-1:123456789012:function:f"));
        let [id] = order.filter.ids.into_iter().collect::<Vec<_>>()[..] else { panic!() };
        assert_eq!(id.to_bytes()[15], 7);
    }

    #[test]
    fn what_is_not_understood_is_refused_by_its_name() {
        for (body, named) in [
            ("{}", "AllFunctions"),
            (r#"{"FunctionName":"f","AllFunctions":true}"#, "not both"),
            (r#"{"FunctionName":"f","Resaon":"x"}"#, "Resaon"),
            (r#"{"FunctionName":"f","Reason":"Bored"}"#, "Bored"),
            (r#"{"FunctionName":"f:1"}"#, "f:1"),
            (r#"{"AllFunctions":"yes"}"#, "yes"),
            (r#"{"AllFunctions":true,"Before":"yesterday"}"#, "yesterday"),
            (r#"{"AllFunctions":true,"After":5}"#, "After"),
            (r#"{"AllFunctions":true,"MaxItems":0}"#, "MaxItems"),
            (r#"{"AllFunctions":true,"PerSecond":-1}"#, "PerSecond"),
            (r#"{"AllFunctions":true,"Marker":"zzz"}"#, "zzz"),
            (r#"{"AllFunctions":true,"RequestIds":[]}"#, "RequestIds"),
            (r#"{"AllFunctions":true,"RequestIds":["x"]}"#, "RequestId \"x\""),
        ] {
            let error = order(body.as_bytes()).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidParameterValue, "{body}");
            assert!(error.message.contains(named), "{body}: {}", error.message);
        }
        for body in ["", "[]", "{"] {
            assert_eq!(order(body.as_bytes()).unwrap_err().code, ErrorCode::Serialization, "{body}");
        }
    }

    #[test]
    fn a_page_has_fifty_entries_unless_told_otherwise() {
        let pairs = |pairs: &[(&'static str, &'static str)]| -> Vec<(Cow<'static, str>, Cow<'static, str>)> {
            pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
        };
        assert_eq!(query(&[]).unwrap().limit, 50);
        assert_eq!(query(&pairs(&[("MaxItems", "7"), ("Marker", "")])).unwrap().limit, 7);
        for items in ["0", "1001", "x"] {
            let error = query(&pairs(&[("MaxItems", items)])).unwrap_err();
            assert!(error.message.contains(items), "{}", error.message);
        }
    }
}
