//! Operations on functions: JSON in, control plane, JSON out.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use control::ControlPlane;
use http::StatusCode;
use serde::Serialize;
use types::{
    ApiError, ErrorCode, FunctionRef, FunctionSpec,
    api::{
        AccountUsage, CreateFunction, FunctionConfiguration, FunctionPage, LoggingConfig, Settings,
        UpdateFunctionCode, UpdateFunctionConfiguration,
    },
    limits,
};

use super::{Call, text};
use crate::{
    answer::{self, Answer},
    model::Json,
};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct GetFunctionResponse {
    configuration: FunctionConfiguration,
    code: FunctionCodeLocation,
    /// Absent where the function has none, as on AWS.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct FunctionCodeLocation {
    repository_type: &'static str,
    location: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct GetAccountSettingsResponse {
    account_limit: AccountLimit,
    account_usage: AccountUsage,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct AccountLimit {
    total_code_size: u64,
    code_size_unzipped: u64,
    code_size_zipped: u64,
    concurrent_executions: u32,
    unreserved_concurrent_executions: u32,
}

pub(crate) async fn create(control: &ControlPlane, call: &Call<'_>) -> Result<Answer, ApiError> {
    let body = call.members.body;
    let request = CreateFunction {
        function_name: text(body, "FunctionName").unwrap_or_default(),
        runtime: text(body, "Runtime"),
        role: text(body, "Role").unwrap_or_default(),
        handler: text(body, "Handler"),
        zip: zip(body.get("Code").and_then(|code| code.get("ZipFile")))?,
        architectures: architectures(body),
        tags: body.get("Tags").and_then(map).unwrap_or_default(),
        settings: settings(body),
    };
    answer::json(StatusCode::CREATED, &control.create_function(request).await?)
}

pub(crate) async fn update_code(control: &ControlPlane, call: &Call<'_>) -> Result<Answer, ApiError> {
    let body = call.members.body;
    let request = UpdateFunctionCode {
        zip: zip(body.get("ZipFile"))?,
        architectures: architectures(body),
        dry_run: body.get("DryRun") == Some(&Json::Bool(true)),
        revision_id: text(body, "RevisionId"),
    };
    answer::json(StatusCode::OK, &control.update_function_code(&call.function()?, request).await?)
}

pub(crate) async fn update_configuration(
    control: &ControlPlane,
    call: &Call<'_>,
) -> Result<Answer, ApiError> {
    let body = call.members.body;
    let request = UpdateFunctionConfiguration {
        runtime: text(body, "Runtime"),
        role: text(body, "Role"),
        handler: text(body, "Handler"),
        revision_id: text(body, "RevisionId"),
        settings: settings(body),
    };
    answer::json(StatusCode::OK, &control.update_function_configuration(&call.function()?, request).await?)
}

pub(crate) async fn delete(control: &ControlPlane, call: &Call<'_>) -> Result<Answer, ApiError> {
    // A qualifier is refused there.
    control.delete_function(&call.function()?).await?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

/// `location` makes the link to the function's code.
pub(crate) fn get(
    control: &ControlPlane,
    call: &Call<'_>,
    location: impl FnOnce(&FunctionSpec) -> String,
) -> Result<Answer, ApiError> {
    let function = call.function()?;
    let mut detail = control.get_function(&function)?;
    name_as_asked(&mut detail.configuration, &function);
    let location = location(&detail.shown);
    answer::json(
        StatusCode::OK,
        &GetFunctionResponse {
            configuration: detail.configuration,
            code: FunctionCodeLocation { repository_type: "S3", location },
            tags: detail.tags,
        },
    )
}

pub(crate) fn get_configuration(control: &ControlPlane, call: &Call<'_>) -> Result<Answer, ApiError> {
    let function = call.function()?;
    let mut configuration = control.get_function_configuration(&function)?;
    name_as_asked(&mut configuration, &function);
    answer::json(StatusCode::OK, &configuration)
}

/// Who asks for `f:$LATEST` gets that ARN; who asks for `f` gets one without a qualifier.
fn name_as_asked(configuration: &mut FunctionConfiguration, asked: &FunctionRef) {
    if let Some(qualifier) = &asked.qualifier {
        configuration.function_arn = format!("{}:{qualifier}", configuration.function_arn);
    }
}

/// `FunctionVersion=ALL` lists published versions too; there are none yet, so it lists the same. `MasterRegion` asks
/// for copies of functions of another region, of which there never are any.
pub(crate) fn list(control: &ControlPlane, call: &Call<'_>, region: &str) -> Result<Answer, ApiError> {
    if call.members.query("MasterRegion").is_some_and(|master| master != "ALL" && master != region) {
        return answer::json(StatusCode::OK, &FunctionPage { next_marker: None, functions: Vec::new() });
    }
    let (marker, most) = call.page();
    answer::json(StatusCode::OK, &control.list_functions(marker, most)?)
}

pub(crate) fn account_settings(control: &ControlPlane, concurrency: u32) -> Result<Answer, ApiError> {
    let account_limit = AccountLimit {
        total_code_size: limits::ACCOUNT_CODE_BYTES,
        code_size_unzipped: limits::UNZIPPED_BYTES,
        code_size_zipped: limits::ZIP_BYTES,
        concurrent_executions: concurrency,
        unreserved_concurrent_executions: concurrency,
    };
    let response = GetAccountSettingsResponse { account_limit, account_usage: control.account_usage() };
    answer::json(StatusCode::OK, &response)
}

fn settings(body: &Json<'_>) -> Settings {
    Settings {
        description: text(body, "Description"),
        timeout: body.get("Timeout").and_then(Json::as_u32),
        memory_size: body.get("MemorySize").and_then(Json::as_u32),
        ephemeral_storage: body
            .get("EphemeralStorage")
            .and_then(|storage| storage.get("Size"))
            .and_then(Json::as_u32),
        environment: body
            .get("Environment")
            .and_then(|environment| environment.get("Variables"))
            .and_then(map),
        tracing_mode: body.get("TracingConfig").and_then(|tracing| text(tracing, "Mode")),
        logging: body.get("LoggingConfig").map(|logging| LoggingConfig {
            log_format: text(logging, "LogFormat"),
            application_log_level: text(logging, "ApplicationLogLevel"),
            system_log_level: text(logging, "SystemLogLevel"),
            log_group: text(logging, "LogGroup"),
        }),
        dead_letter_target: body.get("DeadLetterConfig").and_then(|config| text(config, "TargetArn")),
    }
}

fn map(object: &Json<'_>) -> Option<BTreeMap<String, String>> {
    let Json::Object(pairs) = object else { return None };
    let owned = |(name, value): &(std::borrow::Cow<'_, str>, Json<'_>)| {
        value.as_str().map(|value| (name.clone().into_owned(), value.to_owned()))
    };
    Some(pairs.iter().filter_map(owned).collect())
}

fn architectures(body: &Json<'_>) -> Option<Vec<String>> {
    let Some(Json::List(items)) = body.get("Architectures") else {
        return None;
    };
    let names: Vec<String> = items.iter().filter_map(Json::as_str).map(str::to_owned).collect();
    (!names.is_empty()).then_some(names)
}

/// Decodes straight out of the request's own bytes.
fn zip(member: Option<&Json<'_>>) -> Result<Bytes, ApiError> {
    let Some(text) = member.and_then(Json::as_str) else {
        return Err(ApiError::new(
            ErrorCode::InvalidParameterValue,
            "Please provide a source for function code.",
        ));
    };
    if text.is_empty() {
        return Err(ApiError::new(ErrorCode::InvalidParameterValue, "Uploaded file must be a non-empty zip"));
    }
    BASE64_STANDARD.decode(text).map(Bytes::from).map_err(|error| {
        ApiError::new(ErrorCode::Serialization, format!("ZipFile is not valid base64: {error}"))
    })
}
