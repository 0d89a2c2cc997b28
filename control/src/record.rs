//! The stored record: all that is durable about one function, one row in the metadata store.
//!
//! JSON with a `format` number. Key: the function's ARN. Mutable: replaced as a whole with each change of state, each time
//! under a new `revision`; that stays where a function's code and configuration do (keys wrapped anew, another
//! [`EventInvokeConfig`], another end for loops). Whatever the customer would not want read (variables) is in it sealed only.
//!
//! Format 2 added what there is to configure of asynchronous invocations. What format 1 lacks has its default.
//!
//! ```text
//!  create ─► Pending ───────► Active ─────────────────────────┐    current   what is served
//!               │             ▲  │ update                     │    update     what will be
//!               ▼   opens     │  ▼            does not open   │
//!            Failed      InProgress(next) ────────────────────┘
//!            (create      current = next      update = Failed
//!            it anew)     update = Successful
//! ```

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use types::{
    DeploymentId, Destination, EventInvokePolicy, FunctionArn, FunctionSpec, KeyContext, MemorySize,
    RecursiveLoop, RuntimeName, Version, WrappedDataKey, api::LoggingConfig, limits,
};
use uuid::Uuid;

/// The format this version writes, and the newest it reads. Stable: it is on disks.
const FORMAT: u32 = 2;

/// Why a stored record is not usable.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("a record has format {0}, newer than this version's {FORMAT}")]
    Newer(u32),
    #[error("a record is malformed: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// One function.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionRecord {
    /// Without a qualifier.
    #[serde(with = "arn_text")]
    pub arn: FunctionArn,
    /// `RevisionId`.
    pub revision: Uuid,
    pub state: State,
    pub update: Update,
    pub current: Deployment,
    pub tags: BTreeMap<String, String>,
    /// By qualifier, `$LATEST` for the function itself. They belong to no deployment: updates of the function keep them.
    #[serde(default)]
    pub event_invoke: BTreeMap<String, EventInvokeConfig>,
    #[serde(default)]
    pub recursive_loop: RecursiveLoop,
}

/// `FunctionEventInvokeConfig`. What is absent has its default, and is absent in answers, too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventInvokeConfig {
    pub maximum_retry_attempts: Option<u32>,
    /// Seconds.
    pub maximum_event_age: Option<u32>,
    pub on_success: Option<Destination>,
    pub on_failure: Option<Destination>,
    /// Milliseconds since the Unix epoch.
    pub last_modified: u64,
}

/// `State`. Spellings are stable: they are on disks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Pending,
    Active,
    Failed { reason: String },
}

/// `LastUpdateStatus`. Spellings are stable: they are on disks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Update {
    /// The function is being created.
    None,
    Successful,
    InProgress(Box<Deployment>),
    Failed {
        reason: String,
    },
}

/// One state of code and configuration. Immutable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deployment {
    pub id: DeploymentId,
    pub runtime: RuntimeName,
    pub handler: String,
    pub role: String,
    pub description: String,
    /// Seconds.
    pub timeout: u32,
    pub memory: MemorySize,
    pub ephemeral_storage: MemorySize,
    pub tracing_mode: String,
    pub logging: LoggingConfig,
    /// `DeadLetterConfig`. No environment knows of it.
    pub dead_letter_queue: Option<Destination>,
    pub code: CodeRecord,
    /// Absent when there are none.
    pub variables: Option<SealedVariables>,
    /// Milliseconds since the Unix epoch.
    pub last_modified: u64,
}

/// Where a deployment's code is and what opens it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodeRecord {
    /// The deployment that brought the code and named its files; a change of configuration keeps it.
    pub artefact: DeploymentId,
    /// Bytes of the uploaded ZIP.
    pub size: u64,
    /// Base64 of the SHA-256 of the uploaded ZIP.
    pub sha256: String,
    pub image_key: SealedKey,
    pub zip_key: SealedKey,
}

/// Environment variables: a JSON object, sealed as a value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedVariables {
    /// The deployment that set them; a change of anything else keeps it.
    pub set_by: DeploymentId,
    pub key: SealedKey,
    #[serde(with = "base64_text")]
    pub sealed: Vec<u8>,
}

/// A wrapped data key; base64 in JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedKey(pub WrappedDataKey);

// === impl FunctionRecord ===

#[derive(Deserialize)]
struct Envelope {
    format: u32,
}

#[derive(Serialize, Deserialize)]
struct Stored<R> {
    format: u32,
    function: R,
}

impl FunctionRecord {
    /// The bytes a store keeps.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(&Stored { format: FORMAT, function: self }).expect("a record has string keys only")
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let Envelope { format } = serde_json::from_slice(bytes)?;
        if format > FORMAT {
            return Err(RecordError::Newer(format));
        }
        Ok(serde_json::from_slice::<Stored<Self>>(bytes)?.function)
    }

    /// What the API shows: what the function will be once the update under way has ended.
    #[must_use]
    pub fn shown(&self) -> &Deployment {
        match &self.update {
            Update::InProgress(next) => next,
            _ => &self.current,
        }
    }

    /// Every deployment the record speaks of: the served one, and the one to come.
    pub fn deployments(&self) -> impl Iterator<Item = &Deployment> {
        let next = match &self.update {
            Update::InProgress(next) => Some(&**next),
            _ => None,
        };
        [Some(&self.current), next].into_iter().flatten()
    }

    pub(crate) fn deployments_mut(&mut self) -> impl Iterator<Item = &mut Deployment> {
        let next = match &mut self.update {
            Update::InProgress(next) => Some(&mut **next),
            _ => None,
        };
        [Some(&mut self.current), next].into_iter().flatten()
    }

    /// What is to become of asynchronous invocations of `$LATEST` as it is served.
    pub(crate) fn event_invoke_policy(&self) -> EventInvokePolicy {
        let config = self.event_invoke.get(&Version::Latest.to_string());
        let age = config.and_then(|config| config.maximum_event_age);
        EventInvokePolicy {
            maximum_retry_attempts: config
                .and_then(|config| config.maximum_retry_attempts)
                .unwrap_or(limits::MAX_RETRY_ATTEMPTS),
            maximum_event_age: age
                .map_or(limits::MAX_EVENT_AGE, |seconds| Duration::from_secs(seconds.into())),
            on_success: config.and_then(|config| config.on_success.clone()),
            on_failure: config.and_then(|config| config.on_failure.clone()),
            dead_letter_queue: self.current.dead_letter_queue.clone(),
            recursive_loop: self.recursive_loop,
        }
    }

    pub(crate) fn spec(&self, deployment: &Deployment) -> FunctionSpec {
        FunctionSpec {
            arn: self.arn.clone(),
            version: Version::Latest,
            deployment: deployment.id,
            runtime: deployment.runtime.clone(),
            handler: deployment.handler.clone(),
            memory: deployment.memory,
            ephemeral_storage: deployment.ephemeral_storage,
            timeout: Duration::from_secs(deployment.timeout.into()),
            role: deployment.role.clone(),
        }
    }
}

impl Deployment {
    /// Whether `next` differs in where failed events go, and an environment of this one is as good as one of `next`.
    pub(crate) fn serves_as_well_as(&self, next: &Self) -> bool {
        let moved = Self {
            id: next.id,
            dead_letter_queue: next.dead_letter_queue.clone(),
            last_modified: next.last_modified,
            ..self.clone()
        };
        self.dead_letter_queue != next.dead_letter_queue && moved == *next
    }
}

impl SealedVariables {
    /// What their data key, and the sealed value, are bound to.
    pub(crate) fn context(function: &FunctionArn, set_by: DeploymentId) -> KeyContext {
        KeyContext { arn: function.to_string(), purpose: format!("environment/{set_by}") }
    }
}

impl Serialize for SealedKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        base64_text::serialize(&self.0.0, serializer)
    }
}

impl<'de> Deserialize<'de> for SealedKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        base64_text::deserialize(deserializer).map(|bytes| Self(WrappedDataKey(bytes)))
    }
}

mod base64_text {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

mod arn_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use types::{FunctionArn, FunctionRef};

    pub(super) fn serialize<S: Serializer>(arn: &FunctionArn, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(arn)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<FunctionArn, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.parse().map_err(D::Error::custom)? {
            FunctionRef { region: Some(region), account: Some(account), name, qualifier: None } => {
                Ok(FunctionArn { region, account, name })
            }
            _ => Err(D::Error::custom("not the full ARN of a function")),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::{prelude::*, strategy::ValueTree};

    use super::*;

    fn destinations() -> impl Strategy<Value = Option<Destination>> {
        let arn = prop_oneof![
            "arn:aws:(sqs|sns):eu-central-1:123456789012:[a-z]{1,9}",
            "arn:aws:(s3|file):::[a-z]{1,9}",
            "arn:aws:lambda:eu-central-1:123456789012:function:[a-z]{1,9}",
        ];
        prop::option::of(arn.prop_map(|arn| arn.parse().unwrap()))
    }

    fn event_invoke_configs() -> impl Strategy<Value = EventInvokeConfig> {
        let numbers = (prop::option::of(0..=2_u32), prop::option::of(60..=21_600_u32), any::<u64>());
        (numbers, destinations(), destinations()).prop_map(
            |((maximum_retry_attempts, maximum_event_age, last_modified), on_success, on_failure)| {
                EventInvokeConfig {
                    maximum_retry_attempts,
                    maximum_event_age,
                    on_success,
                    on_failure,
                    last_modified,
                }
            },
        )
    }

    fn deployments() -> impl Strategy<Value = Deployment> {
        let text = "\\PC{0,20}";
        let id =
            || any::<u128>().prop_map(|id| Uuid::from_u128(id).to_string().parse::<DeploymentId>().unwrap());
        let key =
            || prop::collection::vec(any::<u8>(), 0..90).prop_map(|bytes| SealedKey(WrappedDataKey(bytes)));
        let variables = prop::option::of((id(), key(), prop::collection::vec(any::<u8>(), 0..50)))
            .prop_map(|set| set.map(|(set_by, key, sealed)| SealedVariables { set_by, key, sealed }));
        let code = (id(), any::<u64>(), text, key(), key()).prop_map(
            |(artefact, size, sha256, image_key, zip_key)| CodeRecord {
                artefact,
                size,
                sha256,
                image_key,
                zip_key,
            },
        );
        let numbers = (any::<u32>(), any::<u32>(), any::<u64>());
        ((id(), text, text, text), numbers, code, variables, destinations()).prop_map(
            |(
                (id, handler, role, description),
                (timeout, memory, last_modified),
                code,
                variables,
                dead_letter_queue,
            )| {
                Deployment {
                    id,
                    runtime: RuntimeName::new("python3.11"),
                    handler,
                    role,
                    description,
                    timeout,
                    memory: MemorySize(memory),
                    ephemeral_storage: MemorySize(512),
                    tracing_mode: "PassThrough".into(),
                    logging: LoggingConfig {
                        log_format: Some("Text".into()),
                        application_log_level: None,
                        system_log_level: None,
                        log_group: None,
                    },
                    dead_letter_queue,
                    code,
                    variables,
                    last_modified,
                }
            },
        )
    }

    pub(crate) fn records() -> impl Strategy<Value = FunctionRecord> {
        let state = prop_oneof![
            Just(State::Pending),
            Just(State::Active),
            "\\PC{0,9}".prop_map(|reason| State::Failed { reason })
        ];
        let update = prop_oneof![
            Just(Update::None),
            Just(Update::Successful),
            deployments().prop_map(|next| Update::InProgress(Box::new(next))),
            "\\PC{0,9}".prop_map(|reason| Update::Failed { reason })
        ];
        let tags = prop::collection::btree_map("\\PC{0,9}", "\\PC{0,9}", 0..3);
        let recursive_loop = prop_oneof![Just(RecursiveLoop::Allow), Just(RecursiveLoop::Terminate)];
        let qualifier = prop_oneof![Just("$LATEST".to_owned()), "[1-9]", "[a-z]{1,9}"];
        let event_invoke = prop::collection::btree_map(qualifier, event_invoke_configs(), 0..3);
        let name = "[a-zA-Z0-9_-]{1,64}";
        (name, any::<u128>(), state, update, deployments(), tags, event_invoke, recursive_loop).prop_map(
            |(name, revision, state, update, current, tags, event_invoke, recursive_loop)| FunctionRecord {
                arn: FunctionArn {
                    region: "eu-central-1".parse().unwrap(),
                    account: "123456789012".parse().unwrap(),
                    name: name.parse().unwrap(),
                },
                revision: Uuid::from_u128(revision),
                state,
                update,
                current,
                tags,
                event_invoke,
                recursive_loop,
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_record_survives_its_encoding(record in records()) {
            prop_assert_eq!(FunctionRecord::decode(&record.encode()).unwrap(), record);
        }
    }

    #[test]
    fn a_record_of_a_newer_format_or_with_unknown_members_is_refused() {
        let newer = br#"{"format":3,"function":{"anything":1}}"#;
        assert!(matches!(FunctionRecord::decode(newer), Err(RecordError::Newer(3))));
        assert!(matches!(FunctionRecord::decode(b"{}"), Err(RecordError::Malformed(_))));
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let record = records().new_tree(&mut runner).unwrap().current();
        let extended = String::from_utf8(record.encode()).unwrap().replacen(
            "\"revision\"",
            "\"more\":1,\"revision\"",
            1,
        );
        assert!(FunctionRecord::decode(extended.as_bytes()).is_err());
    }

    /// Written when format 1 was the newest. It must stay readable for ever.
    const FORMAT_1: &[u8] = include_bytes!("../tests/golden/1/function-record.json");

    #[test]
    fn a_record_of_format_1_is_read_with_the_defaults_of_what_it_lacks() {
        let record = FunctionRecord::decode(FORMAT_1).unwrap();
        assert_eq!(record.arn.to_string(), "arn:aws:lambda:eu-central-1:123456789012:function:golden");
        assert_eq!((record.current.timeout, record.shown().timeout), (3, 30));
        assert!(record.current.variables.is_some());
        assert_eq!(record.deployments().filter_map(|one| one.dead_letter_queue.as_ref()).count(), 0);
        assert_eq!((record.event_invoke.len(), record.recursive_loop), (0, RecursiveLoop::Terminate));
        assert_eq!(record.event_invoke_policy(), EventInvokePolicy::default());
        let written = record.encode();
        assert!(written.starts_with(br#"{"format":2,"#), "what is written anew is of the newest format");
        assert_eq!(FunctionRecord::decode(&written).unwrap(), record);
    }

    #[test]
    fn a_function_without_a_configuration_of_its_own_has_the_defaults_and_one_with_it_has_that() {
        let mut record = FunctionRecord::decode(FORMAT_1).unwrap();
        let queue: Destination = "arn:aws:sqs:eu-central-1:123456789012:failed".parse().unwrap();
        let config = EventInvokeConfig {
            maximum_retry_attempts: Some(0),
            maximum_event_age: None,
            on_success: None,
            on_failure: Some(queue.clone()),
            last_modified: 0,
        };
        record.event_invoke.insert("7".into(), config.clone());
        assert_eq!(record.event_invoke_policy(), EventInvokePolicy::default(), "that is another version's");
        record.event_invoke.insert("$LATEST".into(), config);
        record.recursive_loop = RecursiveLoop::Allow;
        let expected = EventInvokePolicy {
            maximum_retry_attempts: 0,
            on_failure: Some(queue),
            recursive_loop: RecursiveLoop::Allow,
            ..EventInvokePolicy::default()
        };
        assert_eq!(record.event_invoke_policy(), expected);
    }
}
