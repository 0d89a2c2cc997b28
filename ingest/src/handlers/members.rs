//! Members of requests that the API has and that nothing here acts on yet.
//!
//! Tools such as Terraform and SAM send most members always, with the value that means "nothing": those pass. Any
//! other value would change what the caller gets, so it is refused rather than ignored.

use types::{ApiError, ErrorCode};

use super::{Built, EventInvokeOperation};
use crate::model::{Json, Location, Member, Members, Model, Operation};

/// Refuses a request that sets a member which is not available yet.
pub(crate) fn refuse_unavailable(
    built: Built,
    operation: &Operation,
    members: &Members<'_>,
) -> Result<(), ApiError> {
    for member in Model::get().members(operation) {
        if available(built, &member.name) {
            continue;
        }
        let set = match &member.location {
            Location::Body => {
                members.body.get(&member.name).is_some_and(|value| !says_nothing(member, value))
            }
            Location::Query(name) => members.query(name).is_some_and(|value| !value.is_empty()),
            Location::Header(name) => members.header(name).is_some_and(|value| !value.is_empty()),
            Location::Uri(_) | Location::Payload => false,
        };
        if set {
            return Err(unavailable(&member.name));
        }
    }
    if built == Built::CreateFunction
        && let Some(Json::Object(code)) = members.body.get("Code")
        && let Some((name, _)) =
            code.iter().find(|(name, value)| name != "ZipFile" && is_code_member(name) && !value.is_empty())
    {
        return Err(unavailable(&format!("Code.{name}")));
    }
    Ok(())
}

/// Whether the operation acts on the member.
fn available(built: Built, member: &str) -> bool {
    let acted_on: &[&str] = match built {
        Built::CreateFunction => &[
            "FunctionName",
            "Runtime",
            "Role",
            "Handler",
            "Code",
            "Description",
            "Timeout",
            "MemorySize",
            "Environment",
            "TracingConfig",
            "Tags",
            "Architectures",
            "EphemeralStorage",
            "LoggingConfig",
            "DeadLetterConfig",
        ],
        Built::UpdateFunctionCode => &["FunctionName", "ZipFile", "Architectures", "DryRun", "RevisionId"],
        Built::UpdateFunctionConfiguration => &[
            "FunctionName",
            "Runtime",
            "Role",
            "Handler",
            "Description",
            "Timeout",
            "MemorySize",
            "Environment",
            "TracingConfig",
            "RevisionId",
            "EphemeralStorage",
            "LoggingConfig",
            "DeadLetterConfig",
        ],
        Built::EventInvoke(EventInvokeOperation::Put | EventInvokeOperation::Update) => &[
            "FunctionName",
            "Qualifier",
            "MaximumRetryAttempts",
            "MaximumEventAgeInSeconds",
            "DestinationConfig",
        ],
        Built::EventInvoke(EventInvokeOperation::List) => &["FunctionName", "Marker", "MaxItems"],
        Built::Recursion(_) => &["FunctionName", "RecursiveLoop"],
        Built::Invoke => {
            &["FunctionName", "InvocationType", "LogType", "ClientContext", "Payload", "Qualifier"]
        }
        Built::InvokeAsync => &["FunctionName", "InvokeArgs"],
        Built::ListFunctions => &["MasterRegion", "FunctionVersion", "Marker", "MaxItems"],
        Built::GetFunction
        | Built::GetFunctionConfiguration
        | Built::DeleteFunction
        | Built::EventInvoke(EventInvokeOperation::Get | EventInvokeOperation::Delete) => {
            &["FunctionName", "Qualifier"]
        }
        Built::GetAccountSettings => &[],
    };
    acted_on.contains(&member)
}

/// Whether a value is the one the member has anyway.
fn says_nothing(member: &Member, value: &Json<'_>) -> bool {
    value.is_empty()
        || match member.name.as_str() {
            "PackageType" => value.as_str() == Some("Zip"),
            "SnapStart" => value.get("ApplyOn").and_then(Json::as_str) == Some("None"),
            "S3ObjectStorageMode" => value.as_str() == Some("COPY"),
            _ => false,
        }
}

/// A member of `FunctionCode` in the model; others are unknown to the API and ignored, as on AWS.
fn is_code_member(name: &str) -> bool {
    ["S3Bucket", "S3Key", "S3ObjectVersion", "S3ObjectStorageMode", "ImageUri", "SourceKMSKeyArn"]
        .contains(&name)
}

/// A 400 that every SDK knows for these operations, so that tools show its text and do not retry.
fn unavailable(member: &str) -> ApiError {
    ApiError::new(
        ErrorCode::InvalidParameterValue,
        format!("{member} is not available yet: leave it out of the request."),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str) -> Result<(), ApiError> {
        let model = Model::get();
        let (operation, params) = model.route("POST", "/2015-03-31/functions", None).unwrap();
        let body = Json::parse(body.as_bytes()).unwrap();
        let headers = http::HeaderMap::new();
        let members = Members { params: &params, query: &[], headers: &headers, body: &body };
        refuse_unavailable(Built::CreateFunction, operation, &members)
    }

    #[test]
    fn what_tools_send_to_say_nothing_is_accepted() {
        let body = r#"{"Layers":[],"VpcConfig":{"SubnetIds":[],"SecurityGroupIds":[],"Ipv6AllowedForDualStack":false},
            "SnapStart":{"ApplyOn":"None"},"Publish":false,"PackageType":"Zip","DeadLetterConfig":{},"KMSKeyArn":"",
            "FileSystemConfigs":null,"ImageConfig":{"Command":[]},"Code":{"ZipFile":"UEs=","S3Bucket":""},"Madeup":1}"#;
        assert_eq!(check(body), Ok(()));
    }

    #[test]
    fn what_is_acted_on_is_accepted() {
        let body = r#"{"DeadLetterConfig":{"TargetArn":"arn:aws:sqs:us-east-1:123456789012:q"}}"#;
        assert_eq!(check(body), Ok(()));
    }

    #[test]
    fn what_would_change_something_is_refused_by_name() {
        for (body, member) in [
            (r#"{"Publish":true}"#, "Publish"),
            (r#"{"Layers":["arn:aws:lambda:us-east-1:123456789012:layer:a:1"]}"#, "Layers"),
            (r#"{"SnapStart":{"ApplyOn":"PublishedVersions"}}"#, "SnapStart"),
            (r#"{"VpcConfig":{"SubnetIds":["subnet-1"]}}"#, "VpcConfig"),
            (r#"{"PackageType":"Image"}"#, "PackageType"),
            (r#"{"Code":{"S3Bucket":"b","S3Key":"k"}}"#, "Code.S3Bucket"),
            (r#"{"Code":{"ImageUri":"i"}}"#, "Code.ImageUri"),
            (r#"{"KMSKeyArn":"arn:aws:kms:us-east-1:123456789012:key/1"}"#, "KMSKeyArn"),
        ] {
            let error = check(body).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidParameterValue);
            assert!(
                error.message.starts_with(&format!("{member} is not available yet")),
                "{}",
                error.message
            );
        }
    }
}
