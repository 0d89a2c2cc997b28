//! What the destinations of AWS have in common: configuration, clients by region, and what an answer means.
//!
//! The SDK retries nothing here: that is the caller's. A delivery has the configured time, of which a connection may take three
//! seconds at most.

use std::{
    collections::HashMap,
    error::Error,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use aws_config::{BehaviorVersion, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_sqs::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};
use tracing::{Dispatch, instrument::WithSubscriber};
use types::{Destination, Region, limits::ERROR_MESSAGE_BYTES};

use super::{Config, Delivery, Fault, Form, event_bridge::EventBridge, s3::S3, sns::Sns, sqs::Sqs};

/// Longest reason kept of what a service says, bytes.
const REASON_BYTES: usize = 512;
/// Longest time for a connection to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Clients, queue URLs and the like that are remembered; beyond, all of them are forgotten.
const REMEMBERED: usize = 1024;

/// The four services.
pub(super) struct Aws {
    sqs: Sqs,
    sns: Sns,
    event_bridge: EventBridge,
    s3: S3,
}

impl Aws {
    pub(super) async fn load(config: Config) -> Self {
        let access = Access::load(config).await;
        Self {
            sqs: Sqs::new(access.clone()),
            sns: Sns::new(access.clone()),
            event_bridge: EventBridge::new(access.clone()),
            s3: S3::new(access),
        }
    }

    pub(super) async fn deliver(&self, to: &Destination, delivery: &Delivery) -> Result<(), Fault> {
        // At its most talkative level the SDK logs requests whole: bodies, and the tokens that sign them. `none` is one for all; a
        // subscriber made here would have all of the process's logging reconsidered, under one lock, at each delivery.
        self.attempt(to, delivery).with_subscriber(Dispatch::none()).await
    }

    async fn attempt(&self, to: &Destination, delivery: &Delivery) -> Result<(), Fault> {
        match to {
            Destination::Sqs { region, account, queue } => {
                self.sqs.deliver(region, account, queue, delivery).await
            }
            Destination::Sns { region, .. } => self.sns.deliver(region, &to.to_string(), delivery).await,
            Destination::EventBridge { region, .. } => {
                self.event_bridge.deliver(region, &to.to_string(), delivery).await
            }
            Destination::S3 { bucket } => self.s3.deliver(bucket, delivery).await,
            Destination::Function { .. } | Destination::File { .. } => {
                Err(Fault::Refused(format!("{} is no service of AWS", to.service())))
            }
        }
    }
}

/// How services are reached.
#[derive(Clone)]
pub(super) struct Access {
    /// Where an ARN names no region.
    pub(super) region: Region,
    pub(super) shared: SdkConfig,
}

impl Access {
    async fn load(config: Config) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT.min(config.timeout))
            .operation_timeout(config.timeout)
            .build();
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .region(sdk_region(&config.region))
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts);
        if let Some(endpoint) = &config.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        if let Some(given) = config.credentials {
            let mut credentials = aws_sdk_sqs::config::Credentials::builder()
                .access_key_id(given.access_key_id)
                .secret_access_key(given.secret_access_key)
                .provider_name("configuration");
            credentials.set_session_token(given.session_token);
            loader = loader.credentials_provider(credentials.build());
        }
        Self { region: config.region, shared: loader.load().await }
    }
}

pub(super) fn sdk_region(region: &Region) -> aws_config::Region {
    aws_config::Region::new(region.as_str().to_owned())
}

/// What has been found out, or made, once. Bounded.
pub(super) struct Remembered<K, V>(Mutex<HashMap<K, V>>);

impl<K, V> Default for Remembered<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash, V: Clone> Remembered<K, V> {
    pub(super) fn get(&self, key: &K) -> Option<V> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    pub(super) fn put(&self, key: K, value: V) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if map.len() >= REMEMBERED {
            map.clear();
        }
        map.insert(key, value);
    }

    pub(super) fn forget(&self, key: &K) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    pub(super) fn get_or_make(&self, key: &K, make: impl FnOnce() -> V) -> V
    where
        K: Clone,
    {
        self.get(key).unwrap_or_else(|| {
            let value = make();
            self.put(key.clone(), value.clone());
            value
        })
    }
}

/// The body of a delivery to a service that takes text.
pub(super) fn text(delivery: &Delivery) -> Result<String, Fault> {
    let body = str::from_utf8(&delivery.body);
    body.map(str::to_owned).map_err(|_| Fault::Refused("the body is not UTF-8".to_owned()))
}

/// An attribute of a message: name, type and value.
pub(super) type Attribute = (&'static str, &'static str, String);

/// What a dead letter says beside its payload. An empty message is left out: no service takes an empty attribute.
pub(super) fn attributes(delivery: &Delivery) -> Vec<Attribute> {
    let Form::DeadLetter { error_code, error_message } = &delivery.form else {
        return Vec::new();
    };
    let mut attributes = vec![
        ("RequestID", "String", delivery.request_id.to_string()),
        ("ErrorCode", "Number", error_code.to_string()),
    ];
    if !error_message.is_empty() {
        let beginning = &error_message[..error_message.floor_char_boundary(ERROR_MESSAGE_BYTES)];
        // One character that is not of XML 1.0 would have the whole message refused.
        let message = beginning.chars().map(|c| if is_xml(c) { c } else { '?' }).collect();
        attributes.push(("ErrorMessage", "String", message));
    }
    attributes
}

fn is_xml(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{fffd}' | '\u{10000}'..)
}

/// Refuses what the service is known to refuse.
pub(super) fn check_size(body: &str, attributes: &[Attribute], most: usize) -> Result<(), Fault> {
    let size = |(name, kind, value): &Attribute| name.len() + kind.len() + value.len();
    let bytes = body.len() + attributes.iter().map(size).sum::<usize>();
    if bytes > most { Err(Fault::too_large(bytes, most)) } else { Ok(()) }
}

/// What an error of the SDK means. Without an answer of the service, nothing is final.
pub(super) fn fault<E>(error: &SdkError<E, HttpResponse>) -> Fault
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error {
        SdkError::ServiceError(answer) => {
            let status = answer.raw().status().as_u16();
            answered(Some(status), answer.err().code(), answer.err().message())
        }
        _ => Fault::Unavailable(cut(causes(error))),
    }
}

/// What a service's error means.
pub(super) fn answered(status: Option<u16>, code: Option<&str>, message: Option<&str>) -> Fault {
    let code = code.unwrap_or("no error code");
    let reason = match (status, message) {
        (Some(status), Some(message)) => format!("{status} {code}: {message}"),
        (Some(status), None) => format!("{status} {code}"),
        (None, Some(message)) => format!("{code}: {message}"),
        (None, None) => code.to_owned(),
    };
    if status.is_some_and(|status| status >= 500 || matches!(status, 408 | 429)) || passes(code) {
        Fault::Unavailable(cut(reason))
    } else {
        Fault::Refused(cut(reason))
    }
}

/// Errors that pass, whatever their status: too much at once, a fault over there, or credentials or a clock that are
/// renewed by themselves.
fn passes(code: &str) -> bool {
    code.contains("Throttl")
        || code.contains("ExpiredToken")
        || matches!(
            code,
            "SlowDown"
                | "TooManyRequestsException"
                | "RequestLimitExceeded"
                | "LimitExceededException"
                | "PriorRequestNotComplete"
                | "OperationAborted"
                | "TemporaryRedirect"
                | "RequestTimeout"
                | "RequestTimeoutException"
                | "RequestExpired"
                | "RequestTimeTooSkewed"
                | "InternalFailure"
                | "InternalException"
                | "InternalError"
                | "ServiceUnavailable"
        )
}

/// An error and what led to it, each cause once.
fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = cause.source();
    }
    text
}

fn cut(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(REASON_BYTES));
    reason
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use types::RequestId;

    use super::*;

    fn dead_letter(error_message: &str) -> Vec<Attribute> {
        let form = Form::DeadLetter { error_code: 200, error_message: error_message.to_owned() };
        attributes(&Delivery {
            request_id: RequestId::from_bytes([0x22; 16]),
            function_arn: String::new(),
            at: Duration::ZERO,
            form,
            body: Bytes::new(),
        })
    }

    #[test]
    fn a_dead_letter_has_the_attributes_of_lambda_and_the_first_kibibyte_of_its_error() {
        let id = "22222222-2222-2222-2222-222222222222".to_owned();
        let common = [("RequestID", "String", id), ("ErrorCode", "Number", "200".to_owned())];
        assert_eq!(dead_letter(""), common);
        let long = format!("{}\u{20ac}", "x".repeat(1023));
        let expected = [&common[..], &[("ErrorMessage", "String", "x".repeat(1023))]].concat();
        assert_eq!(dead_letter(&long), expected, "cut before the character that reaches over the limit");
        assert_eq!(dead_letter("\u{1b}[31m\tbad\0\u{ffff}")[2].2, "?[31m\tbad??");
    }

    #[test]
    fn attributes_count_against_a_limit() {
        let attributes = [("ErrorCode", "Number", "200".to_owned())];
        assert_eq!(check_size("x", &attributes, 19), Ok(()));
        assert_eq!(check_size("xx", &attributes, 19), Err(Fault::too_large(20, 19)));
    }

    #[test]
    fn what_passes_is_told_from_what_stays() {
        for (status, code) in [
            (500, "Whatever"),
            (503, "ServiceUnavailable"),
            (429, "TooManyRequestsException"),
            (400, "ThrottlingException"),
            (400, "RequestThrottled"),
            (400, "KMSThrottlingException"),
            (403, "ExpiredToken"),
            (403, "ExpiredTokenException"),
            (403, "RequestTimeTooSkewed"),
            (503, "SlowDown"),
            (409, "OperationAborted"),
        ] {
            let fault = answered(Some(status), Some(code), None);
            assert!(matches!(fault, Fault::Unavailable(_)), "{status} {code}");
        }
        for (status, code) in [
            (400, "AWS.SimpleQueueService.NonExistentQueue"),
            (404, "NoSuchBucket"),
            (403, "AccessDenied"),
            (400, "InvalidParameter"),
            (403, "SignatureDoesNotMatch"),
            (413, "RequestEntityTooLarge"),
        ] {
            let fault = answered(Some(status), Some(code), Some("why"));
            assert_eq!(fault, Fault::Refused(format!("{status} {code}: why")));
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let remembered = Remembered::default();
        for number in 0..=REMEMBERED {
            remembered.put(number, ());
        }
        assert_eq!((remembered.get(&0), remembered.get(&REMEMBERED)), (None, Some(())));
    }
}
