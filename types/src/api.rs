//! Requests and answers of the control plane in the shapes and spellings of the service model (botocore 1.44.5).
//!
//! Members that nothing here acts on yet are absent: a caller who sets one gets a clear error at the edge, which knows
//! the whole model. Constraints (patterns, ranges, enumerations) are checked there too, against the model itself.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::RecursiveLoop;

/// `CreateFunction`, its `Code.ZipFile` already decoded from base64.
#[derive(Clone)]
pub struct CreateFunction {
    pub function_name: String,
    pub runtime: Option<String>,
    pub role: String,
    pub handler: Option<String>,
    pub zip: Bytes,
    pub architectures: Option<Vec<String>>,
    pub tags: BTreeMap<String, String>,
    pub settings: Settings,
}

/// `UpdateFunctionCode`, its `ZipFile` already decoded from base64.
#[derive(Clone)]
pub struct UpdateFunctionCode {
    pub zip: Bytes,
    pub architectures: Option<Vec<String>>,
    /// Validate and answer, change nothing.
    pub dry_run: bool,
    pub revision_id: Option<String>,
}

/// `UpdateFunctionConfiguration`.
#[derive(Clone, Default)]
pub struct UpdateFunctionConfiguration {
    pub runtime: Option<String>,
    pub role: Option<String>,
    pub handler: Option<String>,
    pub revision_id: Option<String>,
    pub settings: Settings,
}

/// What create and update-configuration have in common. `None` = default on create, unchanged on update.
#[derive(Clone, Default)]
pub struct Settings {
    pub description: Option<String>,
    pub timeout: Option<u32>,
    pub memory_size: Option<u32>,
    pub ephemeral_storage: Option<u32>,
    /// `Environment.Variables`; customer data.
    pub environment: Option<BTreeMap<String, String>>,
    /// `PassThrough` or `Active`.
    pub tracing_mode: Option<String>,
    pub logging: Option<LoggingConfig>,
    /// `DeadLetterConfig.TargetArn`; empty for none.
    pub dead_letter_target: Option<String>,
}

/// What PutFunctionEventInvokeConfig and UpdateFunctionEventInvokeConfig carry. `None` = default on put, unchanged on update.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventInvokeSettings {
    pub maximum_retry_attempts: Option<u32>,
    /// Seconds.
    pub maximum_event_age: Option<u32>,
    pub destinations: Option<DestinationSettings>,
}

/// `DestinationConfig` as a caller gave it: ARNs that nobody has looked at yet, empty for none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DestinationSettings {
    pub on_success: Option<String>,
    pub on_failure: Option<String>,
}

/// `FunctionConfiguration`: what create, update, get and list answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct FunctionConfiguration {
    pub function_name: String,
    pub function_arn: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    pub role: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handler: Option<String>,
    pub code_size: u64,
    pub description: String,
    pub timeout: u32,
    pub memory_size: u32,
    /// `2026-11-22T14:03:05.123+0000`
    pub last_modified: String,
    /// Base64 of the SHA-256 of the uploaded ZIP.
    pub code_sha256: String,
    pub version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter_config: Option<DeadLetterConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<EnvironmentResponse>,
    pub tracing_config: TracingConfig,
    pub revision_id: String,
    /// Absent in ListFunctions, as on AWS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_reason_code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_update_status: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_update_status_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_update_status_reason_code: Option<String>,
    pub package_type: String,
    pub architectures: Vec<String>,
    pub ephemeral_storage: EphemeralStorage,
    pub snap_start: SnapStart,
    /// Absent in ListFunctions, as on AWS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime_version_config: Option<RuntimeVersionConfig>,
    pub logging_config: LoggingConfig,
}

/// `EnvironmentResponse`: the variables, or why they cannot be shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct EnvironmentResponse {
    /// Customer data; absent where there is an error.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<EnvironmentError>,
}

/// Why variables could not be opened, such as a wrapping key that was destroyed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct EnvironmentError {
    pub error_code: String,
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DeadLetterConfig {
    pub target_arn: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TracingConfig {
    pub mode: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct EphemeralStorage {
    pub size: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SnapStart {
    pub apply_on: String,
    pub optimization_status: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RuntimeVersionConfig {
    pub runtime_version_arn: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct LoggingConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_format: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub application_log_level: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_log_level: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_group: Option<String>,
}

/// One page of ListFunctions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct FunctionPage {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_marker: Option<String>,
    pub functions: Vec<FunctionConfiguration>,
}

/// `FunctionEventInvokeConfig`: what put, update, get and list answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct FunctionEventInvokeConfig {
    /// Seconds since the Unix epoch, to the millisecond.
    pub last_modified: f64,
    /// With the qualifier that the configuration belongs to.
    pub function_arn: String,
    /// Absent where it was not set, as on AWS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maximum_retry_attempts: Option<u32>,
    /// Absent where it was not set, as on AWS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maximum_event_age_in_seconds: Option<u32>,
    pub destination_config: DestinationConfig,
}

/// `DestinationConfig`. Both are there always, without a `Destination` where there is none, as on AWS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DestinationConfig {
    pub on_success: OnOutcome,
    pub on_failure: OnOutcome,
}

/// `OnSuccess` and `OnFailure`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct OnOutcome {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
}

/// One page of ListFunctionEventInvokeConfigs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct EventInvokeConfigPage {
    pub function_event_invoke_configs: Vec<FunctionEventInvokeConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_marker: Option<String>,
}

/// What PutFunctionRecursionConfig and GetFunctionRecursionConfig answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RecursionConfig {
    pub recursive_loop: RecursiveLoop,
}

/// `AccountUsage` of GetAccountSettings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AccountUsage {
    pub total_code_size: u64,
    pub function_count: u64,
}

// Requests and variables are customer data: their debug form must not show it.
macro_rules! opaque_debug {
    ($($name:ident),+) => {$(
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )+};
}
opaque_debug!(CreateFunction, UpdateFunctionCode, UpdateFunctionConfiguration, Settings, EnvironmentResponse);
