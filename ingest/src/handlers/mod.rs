//! What each operation does with a request that is authentic, complete and well formed.

mod code;
mod event_invoke;
mod functions;
mod invoke;
mod members;

use http::HeaderMap;
use types::{ApiError, ErrorCode, FunctionRef, Qualifier};

use crate::model::{Json, Members, Operation, validation_error};

pub(crate) use code::CodeLink;
pub(crate) use event_invoke::{EventInvokeOperation, RecursionOperation, event_invoke, recursion};
pub(crate) use functions::{
    account_settings, create, delete, get, get_configuration, list, update_code, update_configuration,
};
pub(crate) use invoke::{InvokeCall, invoke, invoke_async};
pub(crate) use members::refuse_unavailable;

/// Operations that run here. All others answer that they are not available yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Built {
    CreateFunction,
    DeleteFunction,
    EventInvoke(EventInvokeOperation),
    GetAccountSettings,
    GetFunction,
    GetFunctionConfiguration,
    Invoke,
    InvokeAsync,
    ListFunctions,
    Recursion(RecursionOperation),
    UpdateFunctionCode,
    UpdateFunctionConfiguration,
}

/// One call of a management operation.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) members: &'a Members<'a>,
    /// Who signed it; absent where authentication is off.
    pub(crate) access_key_id: Option<&'a str>,
}

// === impl Built ===

impl Built {
    /// Size of the largest body of an upload, bytes: 50 MiB in base64 and 256 KiB around it (as AWS names it in its own error).
    const UPLOAD_BYTES: usize = 70_167_211;
    /// Size of the largest body of any other management request, bytes (ours).
    pub(crate) const OTHER_BYTES: usize = 1024 * 1024;

    pub(crate) fn of(operation: &Operation) -> Option<Self> {
        Some(match operation.name.as_str() {
            "CreateFunction" => Self::CreateFunction,
            "DeleteFunction" => Self::DeleteFunction,
            "DeleteFunctionEventInvokeConfig" => Self::EventInvoke(EventInvokeOperation::Delete),
            "GetAccountSettings" => Self::GetAccountSettings,
            "GetFunction" => Self::GetFunction,
            "GetFunctionConfiguration" => Self::GetFunctionConfiguration,
            "GetFunctionEventInvokeConfig" => Self::EventInvoke(EventInvokeOperation::Get),
            "GetFunctionRecursionConfig" => Self::Recursion(RecursionOperation::Get),
            "Invoke" => Self::Invoke,
            "InvokeAsync" => Self::InvokeAsync,
            "ListFunctionEventInvokeConfigs" => Self::EventInvoke(EventInvokeOperation::List),
            "ListFunctions" => Self::ListFunctions,
            "PutFunctionEventInvokeConfig" => Self::EventInvoke(EventInvokeOperation::Put),
            "PutFunctionRecursionConfig" => Self::Recursion(RecursionOperation::Put),
            "UpdateFunctionCode" => Self::UpdateFunctionCode,
            "UpdateFunctionConfiguration" => Self::UpdateFunctionConfiguration,
            "UpdateFunctionEventInvokeConfig" => Self::EventInvoke(EventInvokeOperation::Update),
            _ => return None,
        })
    }

    pub(crate) fn is_upload(self) -> bool {
        matches!(self, Self::CreateFunction | Self::UpdateFunctionCode)
    }

    /// Whether the body is the payload of an invocation, whatever it is.
    pub(crate) fn takes_payload(self) -> bool {
        matches!(self, Self::Invoke | Self::InvokeAsync)
    }

    /// Size of the largest body, bytes.
    pub(crate) fn body_bytes(self, headers: &HeaderMap) -> usize {
        let is_event = || headers.get(invoke::INVOCATION_TYPE).is_some_and(|kind| kind == invoke::EVENT);
        match self {
            Self::CreateFunction | Self::UpdateFunctionCode => Self::UPLOAD_BYTES,
            Self::InvokeAsync => types::limits::ASYNC_REQUEST_BYTES,
            Self::Invoke if is_event() => types::limits::ASYNC_REQUEST_BYTES,
            Self::Invoke => types::limits::SYNC_REQUEST_BYTES,
            _ => Self::OTHER_BYTES,
        }
    }
}

impl Call<'_> {
    /// The function that path (or body) and query name together.
    pub(crate) fn function(&self) -> Result<FunctionRef, ApiError> {
        let name = self.members.params.get("FunctionName");
        function_ref(
            name.or_else(|| self.members.body.get("FunctionName").and_then(|name| name.as_str()))
                .unwrap_or_default(),
            self.members.query("Qualifier"),
        )
    }

    /// `Marker` and `MaxItems` of a list.
    fn page(&self) -> (Option<&str>, Option<usize>) {
        let marker = self.members.query("Marker").filter(|marker| !marker.is_empty());
        // The validator has refused what is no number in the model's range.
        (marker, self.members.query("MaxItems").and_then(|items| items.parse().ok()))
    }
}

fn text(object: &Json<'_>, name: &str) -> Option<String> {
    object.get(name).and_then(Json::as_str).map(str::to_owned)
}

/// A function as path and `Qualifier` name it: both may carry a qualifier, and then the same.
pub(crate) fn function_ref(text: &str, qualifier: Option<&str>) -> Result<FunctionRef, ApiError> {
    let mut function: FunctionRef = text.parse().map_err(|_| bad_name(text))?;
    let Some(given) = qualifier.filter(|given| !given.is_empty()) else {
        return Ok(function);
    };
    let given: Qualifier = given.parse().map_err(|error: types::ParseReferenceError| {
        ApiError::new(ErrorCode::InvalidParameterValue, error.to_string())
    })?;
    if function.qualifier.as_ref().is_some_and(|derived| *derived != given) {
        return Err(ApiError::new(
            ErrorCode::InvalidParameterValue,
            "The derived qualifier from the function name does not match the specified qualifier.",
        ));
    }
    function.qualifier = Some(given);
    Ok(function)
}

/// A name the model's generous pattern lets through and that still names nothing: too long, or no name of ours.
fn bad_name(text: &str) -> ApiError {
    let longest = text.split(':').map(str::len).max().unwrap_or_default();
    let plain = longest > 64 && !text.contains('.');
    let constraint = if plain {
        "Member must have length less than or equal to 64"
    } else {
        "Member must satisfy regular expression pattern: [a-zA-Z0-9-_]+"
    };
    let value: String = text.chars().take(256).collect();
    validation_error(
        1,
        &format!("Value '{value}' at 'functionName' failed to satisfy constraint: {constraint}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;

    #[test]
    fn every_built_operation_is_one_of_the_model() {
        let built = Model::get().operations().iter().filter_map(Built::of).count();
        assert_eq!(built, 17);
    }

    #[test]
    fn a_qualifier_may_stand_in_either_place_but_not_differ() {
        for (name, qualifier) in [("f:7", None), ("f", Some("7")), ("f:7", Some("7"))] {
            assert_eq!(function_ref(name, qualifier).unwrap().qualifier, Some("7".parse().unwrap()));
        }
        let error = function_ref("f:7", Some("8")).unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidParameterValue);
        assert!(error.message.starts_with("The derived qualifier from the function name"));
    }

    #[test]
    fn a_name_of_more_than_64_characters_is_a_validation_error() {
        let error = function_ref(&"n".repeat(65), None).unwrap_err();
        assert_eq!(error.code, ErrorCode::Validation);
        assert!(
            error.message.ends_with("Member must have length less than or equal to 64"),
            "{}",
            error.message
        );
    }
}
