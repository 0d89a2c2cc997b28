//! What a caller asks for, checked and completed: the rules of CreateFunction and UpdateFunctionConfiguration that need more
//! than the service model. Messages are AWS's own where AWS has one; none contains a variable's value.

use std::collections::BTreeMap;

use types::{
    ApiError, Destination, ErrorCode, FunctionName, MemorySize, RuntimeName,
    api::{LoggingConfig, Settings},
    limits,
};

use super::errors::invalid;

/// Variables the platform sets itself (developer guide, "Defined runtime environment variables", the reserved ones).
const RESERVED_VARIABLES: [&str; 20] = [
    "_HANDLER",
    "_X_AMZN_TRACE_ID",
    "AWS_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_DEFAULT_REGION",
    "AWS_EXECUTION_ENV",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_VERSION",
    "AWS_LAMBDA_INITIALIZATION_TYPE",
    "AWS_LAMBDA_LOG_GROUP_NAME",
    "AWS_LAMBDA_LOG_STREAM_NAME",
    "AWS_LAMBDA_METADATA_API",
    "AWS_LAMBDA_METADATA_TOKEN",
    "AWS_LAMBDA_RUNTIME_API",
    "AWS_REGION",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "LAMBDA_RUNTIME_DIR",
    "LAMBDA_TASK_ROOT",
];
const DEFAULT_TRACING: &str = "PassThrough";
const TEXT_FORMAT: &str = "Text";
const JSON_FORMAT: &str = "JSON";
const DEFAULT_LOG_LEVEL: &str = "INFO";

/// Settings of a deployment, complete. Variables apart, nothing in here is secret.
#[derive(Debug, Clone)]
pub(super) struct Completed {
    pub(super) description: String,
    pub(super) timeout: u32,
    pub(super) memory: MemorySize,
    pub(super) ephemeral_storage: MemorySize,
    pub(super) tracing_mode: String,
    pub(super) logging: LoggingConfig,
    pub(super) dead_letter_queue: Option<Destination>,
}

impl Completed {
    /// What a new function has where its creator says nothing.
    pub(super) fn defaults(name: &FunctionName) -> Self {
        Self {
            description: String::new(),
            timeout: u32::try_from(limits::DEFAULT_TIMEOUT.as_secs()).unwrap_or(u32::MAX),
            memory: MemorySize(limits::DEFAULT_MEMORY_MB),
            ephemeral_storage: MemorySize(limits::DEFAULT_EPHEMERAL_MB),
            tracing_mode: DEFAULT_TRACING.into(),
            logging: LoggingConfig {
                log_format: Some(TEXT_FORMAT.into()),
                application_log_level: None,
                system_log_level: None,
                log_group: Some(format!("/aws/lambda/{name}")),
            },
            dead_letter_queue: None,
        }
    }

    /// These settings with what the caller changes.
    pub(super) fn changed(self, settings: &Settings) -> Result<Self, ApiError> {
        if let Some(timeout) = settings.timeout {
            in_range("timeout", timeout, 1, limits::MAX_TIMEOUT_SECS)?;
        }
        if let Some(memory) = settings.memory_size {
            in_range("memorySize", memory, limits::MIN_MEMORY_MB, limits::MAX_MEMORY_MB)?;
        }
        if let Some(storage) = settings.ephemeral_storage {
            in_range(
                "ephemeralStorage.size",
                storage,
                limits::DEFAULT_EPHEMERAL_MB,
                limits::MAX_EPHEMERAL_MB,
            )?;
        }
        Ok(Self {
            description: settings.description.clone().unwrap_or(self.description),
            timeout: settings.timeout.unwrap_or(self.timeout),
            memory: settings.memory_size.map_or(self.memory, MemorySize),
            ephemeral_storage: settings.ephemeral_storage.map_or(self.ephemeral_storage, MemorySize),
            tracing_mode: settings.tracing_mode.clone().unwrap_or(self.tracing_mode),
            logging: match &settings.logging {
                Some(logging) => changed_logging(self.logging, logging)?,
                None => self.logging,
            },
            dead_letter_queue: match settings.dead_letter_target.as_deref() {
                Some("") => None,
                Some(arn) => Some(dead_letter_queue(arn)?),
                None => self.dead_letter_queue,
            },
        })
    }
}

fn changed_logging(old: LoggingConfig, new: &LoggingConfig) -> Result<LoggingConfig, ApiError> {
    let log_format = new.log_format.clone().or(old.log_format);
    let json = log_format.as_deref() == Some(JSON_FORMAT);
    let levels = new.application_log_level.is_some() || new.system_log_level.is_some();
    if levels && !json {
        return Err(ApiError::new(
            ErrorCode::InvalidParameterValue,
            "ApplicationLogLevel and SystemLogLevel can be set only when LogFormat is JSON.",
        ));
    }
    let level = |new: &Option<String>, old: Option<String>| {
        json.then(|| new.clone().or(old).unwrap_or_else(|| DEFAULT_LOG_LEVEL.into()))
    };
    Ok(LoggingConfig {
        application_log_level: level(&new.application_log_level, old.application_log_level),
        system_log_level: level(&new.system_log_level, old.system_log_level),
        log_group: new.log_group.clone().or(old.log_group),
        log_format,
    })
}

/// Of the kinds of destination, a dead-letter queue can be those that take an event as it is.
fn dead_letter_queue(arn: &str) -> Result<Destination, ApiError> {
    // AWS's words as far as they are known.
    let refuse = |why: String| {
        let possible = "A dead-letter queue is an SQS queue, an SNS topic or a file (arn:aws:file:::NAME).";
        invalid(format!("Invalid dead letter queue ARN: {why}. {possible}"))
    };
    match arn.parse::<Destination>() {
        Ok(queue @ (Destination::Sqs { .. } | Destination::Sns { .. } | Destination::File { .. })) => {
            Ok(queue)
        }
        Ok(other) => Err(refuse(format!("{arn:?} is of the service {:?}", other.service()))),
        Err(error) => Err(refuse(error.to_string())),
    }
}

/// The service model's own refusal, in its words.
pub(super) fn in_range(member: &str, value: u32, least: u32, most: u32) -> Result<(), ApiError> {
    let (bound, limit) = match value {
        value if value < least => ("greater", least),
        value if value > most => ("less", most),
        _ => return Ok(()),
    };
    Err(ApiError::new(
        ErrorCode::Validation,
        format!(
            "1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint: \
             Member must have value {bound} than or equal to {limit}"
        ),
    ))
}

/// Checks `Environment.Variables`.
pub(super) fn check_variables(variables: &BTreeMap<String, String>) -> Result<(), ApiError> {
    const UNABLE: &str = "Lambda was unable to configure your environment variables because the environment variables you \
                          have provided";
    let refuse =
        |why: String| Err(ApiError::new(ErrorCode::InvalidParameterValue, format!("{UNABLE} {why}")));
    let reserved: Vec<&str> =
        variables.keys().map(String::as_str).filter(|key| RESERVED_VARIABLES.contains(key)).collect();
    if !reserved.is_empty() {
        return refuse(format!(
            "contains reserved keys that are currently not supported for modification. Reserved keys used in this request: {}",
            reserved.join(", ")
        ));
    }
    // A process's environment is made of NUL-terminated `key=value`.
    if let Some(key) = variables
        .iter()
        .find(|(key, value)| key.contains(['\0', '=']) || value.contains('\0'))
        .map(|(key, _)| key)
    {
        return refuse(format!("contain a character that no process can be given. Key: {key:?}"));
    }
    let measured = serde_json::to_vec(variables).map_or(usize::MAX, |json| json.len());
    if measured > limits::ENVIRONMENT_BYTES {
        return refuse(format!("exceeded the 4KB limit. Bytes measured: {measured}"));
    }
    Ok(())
}

/// Checks that environments of this runtime can be started here.
pub(super) fn check_runtime(runtime: &str, installed: &[RuntimeName]) -> Result<RuntimeName, ApiError> {
    if let Some(found) = installed.iter().find(|name| name.as_str() == runtime) {
        return Ok(found.clone());
    }
    let names: Vec<&str> = installed.iter().map(RuntimeName::as_str).collect();
    let installed = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Err(ApiError::new(
        ErrorCode::InvalidParameterValue,
        format!(
            "The runtime parameter of {runtime} is not installed here. Installed: {installed}. \
             To add it, run: waterwheel runtimes build {runtime}"
        ),
    ))
}

/// Checks `Architectures` against the machine's own.
pub(super) fn check_architectures(asked: Option<&[String]>) -> Result<(), ApiError> {
    match asked {
        Some([one]) if one == architecture() => Ok(()),
        None | Some([]) => Ok(()),
        Some(asked) => Err(ApiError::new(
            ErrorCode::InvalidParameterValue,
            format!(
                "Architectures [{}] cannot run here. This machine runs functions of architecture {} only.",
                asked.join(", "),
                architecture()
            ),
        )),
    }
}

/// This machine's architecture, as the API spells it.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(result: Result<impl Sized, ApiError>) -> String {
        result.err().unwrap().to_string()
    }

    fn defaults() -> Completed {
        Completed::defaults(&"echo".parse().unwrap())
    }

    #[test]
    fn values_out_of_range_are_refused_in_the_service_models_words() {
        let settings = Settings { timeout: Some(901), ..Settings::default() };
        assert_eq!(
            message(defaults().changed(&settings)),
            "ValidationException: 1 validation error detected: Value '901' at 'timeout' failed to satisfy constraint: \
             Member must have value less than or equal to 900"
        );
        for settings in [
            Settings { timeout: Some(0), ..Settings::default() },
            Settings { memory_size: Some(127), ..Settings::default() },
            Settings { memory_size: Some(10_241), ..Settings::default() },
            Settings { ephemeral_storage: Some(511), ..Settings::default() },
            Settings { ephemeral_storage: Some(10_241), ..Settings::default() },
        ] {
            assert!(message(defaults().changed(&settings)).contains("Member must have value"));
        }
        let edges = Settings { timeout: Some(900), memory_size: Some(10_240), ..Settings::default() };
        assert_eq!(defaults().changed(&edges).unwrap().timeout, 900);
    }

    #[test]
    fn variables_are_refused_by_key_and_size_and_never_shown() {
        let one = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        let reserved = message(check_variables(&one("AWS_REGION", "hidden")));
        assert!(reserved.ends_with("Reserved keys used in this request: AWS_REGION"), "{reserved}");
        let large = message(check_variables(&one("K", &"hidden".repeat(700))));
        assert!(large.contains("exceeded the 4KB limit"), "{large}");
        let broken = message(check_variables(&one("K", "hidden\0")));
        for text in [reserved, large, broken] {
            assert!(!text.contains("hidden"));
        }
        // `{"K":"…"}`: eight bytes around the value.
        assert!(check_variables(&one("K", &"v".repeat(4088))).is_ok());
        assert!(check_variables(&one("K", &"v".repeat(4089))).is_err());
    }

    #[test]
    fn a_missing_runtime_says_what_there_is_and_how_to_add_it() {
        let installed = [RuntimeName::new("python3.11"), RuntimeName::new("provided.al2023")];
        let text = message(check_runtime("nodejs24.x", &installed));
        assert!(
            text.contains("python3.11, provided.al2023")
                && text.contains("waterwheel runtimes build nodejs24.x"),
            "{text}"
        );
        assert!(message(check_runtime("nodejs24.x", &[])).contains("Installed: none"));
        assert!(check_runtime("python3.11", &installed).is_ok());
    }

    #[test]
    fn only_the_machines_own_architecture_is_accepted() {
        let other = if architecture() == "arm64" { "x86_64" } else { "arm64" };
        assert!(check_architectures(None).is_ok());
        assert!(check_architectures(Some(&[architecture().into()])).is_ok());
        assert!(message(check_architectures(Some(&[other.into()]))).contains(architecture()));
        assert!(check_architectures(Some(&[architecture().into(), other.into()])).is_err());
    }

    #[test]
    fn a_dead_letter_queue_is_a_queue_a_topic_or_a_file_and_an_empty_one_is_none() {
        let target = |arn: &str| Settings { dead_letter_target: Some(arn.into()), ..Settings::default() };
        for arn in [
            "arn:aws:sqs:us-east-1:123456789012:failed",
            "arn:aws:sns:eu-west-1:000000000000:failed",
            "arn:aws:file:::failed",
        ] {
            let set = defaults().changed(&target(arn)).unwrap();
            assert_eq!(set.dead_letter_queue.as_ref().unwrap().to_string(), arn);
            let kept = set.changed(&Settings::default()).unwrap();
            assert!(kept.dead_letter_queue.is_some());
            assert_eq!(kept.changed(&target("")).unwrap().dead_letter_queue, None);
        }
        for arn in [
            "arn:aws:s3:::bucket",
            "arn:aws:events:us-east-1:123456789012:event-bus/default",
            "arn:aws:lambda:us-east-1:123456789012:function:next",
            "arn:aws:kinesis:us-east-1:123456789012:stream/s",
            "arn:aws:sqs:us-east-1:123456789012:no queue",
        ] {
            let text = message(defaults().changed(&target(arn)));
            assert!(
                text.starts_with("InvalidParameterValueException: Invalid dead letter queue ARN: "),
                "{text}"
            );
            assert!(text.contains(arn) && text.contains("an SQS queue, an SNS topic or a file"), "{text}");
        }
    }

    #[test]
    fn log_levels_belong_to_json_logs() {
        let logging = |format: Option<&str>, level: Option<&str>| Settings {
            logging: Some(LoggingConfig {
                log_format: format.map(Into::into),
                application_log_level: level.map(Into::into),
                system_log_level: None,
                log_group: None,
            }),
            ..Settings::default()
        };
        assert!(defaults().changed(&logging(None, Some("DEBUG"))).is_err());
        let json = defaults().changed(&logging(Some("JSON"), Some("DEBUG"))).unwrap();
        assert_eq!(json.logging.application_log_level.as_deref(), Some("DEBUG"));
        assert_eq!(json.logging.system_log_level.as_deref(), Some("INFO"));
        assert_eq!(json.logging.log_group.as_deref(), Some("/aws/lambda/echo"));
        let text = json.changed(&logging(Some("Text"), None)).unwrap();
        assert_eq!(text.logging.application_log_level, None);
    }
}
