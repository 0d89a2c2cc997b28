//! What is to become of asynchronous invocations: JSON in, control plane, JSON out.

use control::ControlPlane;
use http::StatusCode;
use types::{
    ApiError, ErrorCode,
    api::{DestinationSettings, EventInvokeSettings},
};

use super::{Call, text};
use crate::{
    answer::{self, Answer},
    model::Json,
};

/// Operations on a function's `FunctionEventInvokeConfig`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventInvokeOperation {
    Put,
    Update,
    Get,
    Delete,
    List,
}

/// Operations on what happens to a function's loops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecursionOperation {
    Put,
    Get,
}

pub(crate) async fn event_invoke(
    control: &ControlPlane,
    operation: EventInvokeOperation,
    call: &Call<'_>,
) -> Result<Answer, ApiError> {
    let function = call.function()?;
    match operation {
        EventInvokeOperation::Put => {
            let settings = settings(call.members.body);
            answer::json(
                StatusCode::OK,
                &control.put_function_event_invoke_config(&function, settings).await?,
            )
        }
        EventInvokeOperation::Update => {
            let settings = settings(call.members.body);
            let updated = control.update_function_event_invoke_config(&function, settings).await?;
            answer::json(StatusCode::OK, &updated)
        }
        EventInvokeOperation::Get => {
            answer::json(StatusCode::OK, &control.get_function_event_invoke_config(&function)?)
        }
        EventInvokeOperation::Delete => {
            control.delete_function_event_invoke_config(&function).await?;
            Ok(answer::empty(StatusCode::NO_CONTENT))
        }
        EventInvokeOperation::List => {
            let (marker, most) = call.page();
            let page = control.list_function_event_invoke_configs(&function, marker, most)?;
            answer::json(StatusCode::OK, &page)
        }
    }
}

pub(crate) async fn recursion(
    control: &ControlPlane,
    operation: RecursionOperation,
    call: &Call<'_>,
) -> Result<Answer, ApiError> {
    let function = call.function()?;
    let config = match operation {
        RecursionOperation::Put => {
            // The validator has refused what is none of the two.
            let named = text(call.members.body, "RecursiveLoop").unwrap_or_default();
            let recursive_loop = named.parse().map_err(|error: types::ParseRecursiveLoopError| {
                ApiError::new(ErrorCode::InvalidParameterValue, error.to_string())
            })?;
            control.put_function_recursion_config(&function, recursive_loop).await?
        }
        RecursionOperation::Get => control.get_function_recursion_config(&function)?,
    };
    answer::json(StatusCode::OK, &config)
}

fn settings(body: &Json<'_>) -> EventInvokeSettings {
    EventInvokeSettings {
        maximum_retry_attempts: body.get("MaximumRetryAttempts").and_then(Json::as_u32),
        maximum_event_age: body.get("MaximumEventAgeInSeconds").and_then(Json::as_u32),
        destinations: body.get("DestinationConfig").map(destinations),
    }
}

/// `OnSuccess` without a `Destination` is given, and says none, as on AWS.
fn destinations(config: &Json<'_>) -> DestinationSettings {
    let given = |outcome| config.get(outcome).map(|given| text(given, "Destination").unwrap_or_default());
    DestinationSettings { on_success: given("OnSuccess"), on_failure: given("OnFailure") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> EventInvokeSettings {
        settings(&Json::parse(body.as_bytes()).unwrap())
    }

    #[test]
    fn what_is_not_given_is_told_from_what_is_given_empty() {
        assert_eq!(read("{}"), EventInvokeSettings::default());
        assert_eq!(read(r#"{"DestinationConfig":null}"#), EventInvokeSettings::default());
        let given = |body| read(body).destinations.unwrap();
        assert_eq!(given(r#"{"DestinationConfig":{}}"#), DestinationSettings::default());
        let none = DestinationSettings { on_success: Some(String::new()), on_failure: None };
        assert_eq!(given(r#"{"DestinationConfig":{"OnSuccess":{}}}"#), none);
        assert_eq!(given(r#"{"DestinationConfig":{"OnSuccess":{"Destination":""}}}"#), none);
    }

    #[test]
    fn everything_given_is_read() {
        let read = read(
            r#"{"MaximumRetryAttempts":0,"MaximumEventAgeInSeconds":60,
                "DestinationConfig":{"OnSuccess":{"Destination":"a"},"OnFailure":{"Destination":"b"}}}"#,
        );
        let destinations = DestinationSettings { on_success: Some("a".into()), on_failure: Some("b".into()) };
        let expected = EventInvokeSettings {
            maximum_retry_attempts: Some(0),
            maximum_event_age: Some(60),
            destinations: Some(destinations),
        };
        assert_eq!(read, expected);
    }
}
