//! Records as the API shows them.

use aws_lc_rs::digest;
use types::{
    RuntimeName, Version,
    api::{
        DeadLetterConfig, EnvironmentError, EnvironmentResponse, EphemeralStorage, FunctionConfiguration,
        RuntimeVersionConfig, SnapStart, TracingConfig,
    },
};

use super::{Shared, settings};
use crate::record::{Deployment, FunctionRecord, State, Update};

const BEING_CREATED: &str = "The function is being created.";
const CREATING: &str = "Creating";
const INTERNAL_ERROR: &str = "InternalError";

/// Value, reason and code of a status.
struct Status(Option<String>, Option<String>, Option<String>);

impl Status {
    fn plain(value: &str) -> Self {
        Self(Some(value.into()), None, None)
    }

    fn because(value: &str, reason: &str, code: &str) -> Self {
        Self(Some(value.into()), Some(reason.into()), Some(code.into()))
    }
}

impl Shared {
    /// `FunctionConfiguration` with the variables opened. Uses the key service, not the disk.
    pub(super) fn configuration(&self, record: &FunctionRecord) -> FunctionConfiguration {
        let shown = record.shown();
        let Status(state, state_reason, state_reason_code) = state(&record.state);
        let Status(last_update_status, last_update_status_reason, last_update_status_reason_code) =
            last_update(&record.update);
        FunctionConfiguration {
            function_name: record.arn.name.to_string(),
            function_arn: record.arn.to_string(),
            runtime: Some(shown.runtime.to_string()),
            role: shown.role.clone(),
            handler: Some(shown.handler.clone()),
            code_size: shown.code.size,
            description: shown.description.clone(),
            timeout: shown.timeout,
            memory_size: shown.memory.0,
            last_modified: timestamp(shown.last_modified),
            code_sha256: shown.code.sha256.clone(),
            version: Version::Latest.to_string(),
            dead_letter_config: shown
                .dead_letter_queue
                .as_ref()
                .map(|queue| DeadLetterConfig { target_arn: queue.to_string() }),
            environment: self.environment(record, shown),
            tracing_config: TracingConfig { mode: shown.tracing_mode.clone() },
            revision_id: record.revision.to_string(),
            state,
            state_reason,
            state_reason_code,
            last_update_status,
            last_update_status_reason,
            last_update_status_reason_code,
            package_type: "Zip".into(),
            architectures: vec![settings::architecture().into()],
            ephemeral_storage: EphemeralStorage { size: shown.ephemeral_storage.0 },
            snap_start: SnapStart { apply_on: "None".into(), optimization_status: "Off".into() },
            runtime_version_config: Some(self.runtime_version(&shown.runtime)),
            logging_config: shown.logging.clone(),
        }
    }

    /// As [`configuration`](Self::configuration), without what ListFunctions leaves out.
    pub(super) fn listed(&self, record: &FunctionRecord) -> FunctionConfiguration {
        FunctionConfiguration {
            state: None,
            state_reason: None,
            state_reason_code: None,
            last_update_status: None,
            last_update_status_reason: None,
            last_update_status_reason_code: None,
            runtime_version_config: None,
            ..self.configuration(record)
        }
    }

    fn environment(&self, record: &FunctionRecord, shown: &Deployment) -> Option<EnvironmentResponse> {
        shown.variables.as_ref()?;
        Some(match self.variables(&record.arn, shown) {
            Ok(variables) => EnvironmentResponse { variables, error: None },
            Err(error) => {
                tracing::warn!(function = %record.arn, %error, "variables cannot be opened");
                let (error_code, message) = (INTERNAL_ERROR.into(), error.to_string());
                EnvironmentResponse {
                    variables: Default::default(),
                    error: Some(EnvironmentError { error_code, message }),
                }
            }
        })
    }

    /// AWS names the exact build of a runtime by a hash; ours names the runtime.
    fn runtime_version(&self, runtime: &RuntimeName) -> RuntimeVersionConfig {
        let hash = hex::encode(digest::digest(&digest::SHA256, runtime.as_str().as_bytes()));
        RuntimeVersionConfig {
            runtime_version_arn: format!("arn:aws:lambda:{}::runtime:{hash}", self.config.region),
        }
    }
}

fn state(state: &State) -> Status {
    match state {
        State::Pending => Status::because("Pending", BEING_CREATED, CREATING),
        State::Active => Status::plain("Active"),
        State::Failed { reason } => Status::because("Failed", reason, INTERNAL_ERROR),
    }
}

fn last_update(update: &Update) -> Status {
    match update {
        Update::None => Status(None, None, None),
        Update::Successful => Status::plain("Successful"),
        // AWS says "created" here, too.
        Update::InProgress(_) => Status::because("InProgress", BEING_CREATED, CREATING),
        Update::Failed { reason } => Status::because("Failed", reason, INTERNAL_ERROR),
    }
}

/// Milliseconds since the Unix epoch as `2026-11-22T14:03:05.123+0000`.
fn timestamp(millis: u64) -> String {
    let at = i64::try_from(millis).ok().and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok());
    at.unwrap_or(jiff::Timestamp::MAX).strftime("%Y-%m-%dT%H:%M:%S.%3f+0000").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_the_api_writes_them() {
        assert_eq!(timestamp(1_795_356_185_123), "2026-11-22T14:03:05.123+0000");
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000+0000");
        assert!(timestamp(u64::MAX).starts_with("9999-12-30"));
    }
}
