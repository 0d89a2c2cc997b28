//! The environment variables a runtime sees: the customer's, then Lambda's own, which win.

use std::collections::BTreeMap;

use image::InstalledRuntime;

use crate::EnvironmentSpec;

/// Address of the Runtime API inside every environment.
const RUNTIME_API: &str = "127.0.0.1:9001";

/// Variables in a stable order. Names and meanings: the Lambda developer guide's "Defined runtime environment variables".
pub(crate) fn for_runtime(spec: &EnvironmentSpec, runtime: &InstalledRuntime) -> Vec<(String, String)> {
    let function = &spec.function;
    let name = function.arn.name.as_str();
    let region = function.arn.region.as_str();
    // The runtime's own (PATH, LANG, …) are defaults that the customer may change; Lambda's may not be.
    let mut variables: BTreeMap<String, String> = runtime.variables.iter().cloned().collect();
    variables.extend(spec.variables.clone());
    let reserved = [
        ("AWS_LAMBDA_RUNTIME_API", RUNTIME_API.to_owned()),
        ("AWS_LAMBDA_FUNCTION_NAME", name.to_owned()),
        ("AWS_LAMBDA_FUNCTION_VERSION", function.version.to_string()),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", function.memory.0.to_string()),
        ("AWS_LAMBDA_LOG_GROUP_NAME", format!("/aws/lambda/{name}")),
        ("AWS_LAMBDA_LOG_STREAM_NAME", spec.log_stream.clone()),
        ("AWS_LAMBDA_LOG_FORMAT", "Text".to_owned()),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand".to_owned()),
        ("AWS_REGION", region.to_owned()),
        ("AWS_DEFAULT_REGION", region.to_owned()),
        ("_HANDLER", function.handler.clone()),
        ("LAMBDA_TASK_ROOT", "/var/task".to_owned()),
        ("LAMBDA_RUNTIME_DIR", "/var/runtime".to_owned()),
    ];
    variables.extend(reserved.map(|(name, value)| (name.to_owned(), value)));
    variables.entry("TZ".to_owned()).or_insert_with(|| ":UTC".to_owned());
    variables.into_iter().collect()
}
