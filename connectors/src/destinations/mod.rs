//! Destinations: where the outcome of an asynchronous invocation, or of a batch, is delivered.
//!
//! ```text
//!                          ┌─ sqs, sns, event_bridge, s3 ─► the service, in the region of the ARN
//!  deliver(to, delivery) ──┤                                (or an endpoint of the configuration)
//!                          └─ file ─► a sealed file of our own
//!        │
//!        └─► Ok: accepted, and durable as far as the destination promises it
//!            Unavailable: not now      Refused: not as long as nobody changes something
//! ```
//! One call is one attempt, and ends within the configured time. Nothing is retried, kept or built here: the poller fleet
//! decides when to try again, makes the envelopes, and invokes the functions that are destinations. Nothing of a body is in any error
//! or metric.
//!
//! After a timeout nobody knows whether the destination has accepted. A repetition may arrive twice, except in S3, where it
//! gets the same key.

#[cfg(feature = "aws")]
mod aws;
#[cfg(feature = "aws")]
mod event_bridge;
mod file;
#[cfg(feature = "aws")]
mod s3;
#[cfg(feature = "aws")]
mod sns;
#[cfg(feature = "aws")]
mod sqs;
#[cfg(test)]
mod tests;

pub use file::{FileEntry, ReadError, Records, list as list_files, read as read_file};

use std::{fmt, io, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;
use types::{Destination, Keys, Region, RequestId};

use crate::metrics;

/// Most bytes of an SQS message, its attributes included (SendMessage's reference: 1 MiB).
pub const SQS_BYTES: usize = 1024 * 1024;
/// Most bytes of an SNS message, its attributes included, for any topic (Publish's reference: 1 MiB).
pub const SNS_BYTES: usize = 1024 * 1024;
/// The same for a topic whose `MaximumMessageSize` nobody has raised (256 KiB). Lambda leaves the payloads out of a record that
/// is longer.
pub const SNS_DEFAULT_BYTES: usize = 256 * 1024;
/// Most bytes of an EventBridge entry (PutEvents' reference: less than 1 MB).
pub const EVENT_BRIDGE_BYTES: usize = 1_000_000;

/// One outcome on its way out.
#[derive(Clone)]
pub struct Delivery {
    pub request_id: RequestId,
    /// Of the function, with its qualifier: `arn:…:function:f:$LATEST`.
    pub function_arn: String,
    /// When the outcome was known, Unix time.
    pub at: Duration,
    pub form: Form,
    /// For [`Form::Result`] the JSON envelope; for [`Form::DeadLetter`] the event's own payload.
    pub body: Bytes,
}

/// What a delivery is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// A record for an OnSuccess or OnFailure destination.
    Result { success: bool },
    /// For a dead-letter queue: `RequestID`, `ErrorCode` and the first KiB of `ErrorMessage` are attributes of the message.
    DeadLetter { error_code: u16, error_message: String },
}

/// Why a destination has not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryError {
    /// Not now: no connection, timeout, throttled, 5xx, missing or expired credentials, full disk. Try again later.
    #[error("{destination} is not available: {reason}")]
    Unavailable { destination: Destination, reason: String },
    /// Never: no such queue, access denied, too large, not valid there. Trying again is pointless until somebody changes
    /// something.
    #[error("{destination} refuses: {reason}")]
    Refused { destination: Destination, reason: String },
}

/// How destinations are reached.
#[derive(Clone)]
pub struct Config {
    /// Of buckets, whose ARNs name none. Everything else is in its ARN's region.
    pub region: Region,
    /// Stands in for all services' own endpoints, such as `http://127.0.0.1:4566` ([`is_endpoint`]). Over plain HTTP bodies travel
    /// readable. Without it the SDK's own configuration counts: `AWS_ENDPOINT_URL`, or `AWS_ENDPOINT_URL_SQS`, `_SNS`,
    /// `_EVENTBRIDGE` and `_S3` for one service.
    pub endpoint: Option<String>,
    /// Without them, those of the environment: variables, profile, container or instance.
    pub credentials: Option<Credentials>,
    /// For one delivery, from beginning to end.
    pub timeout: Duration,
    /// Where `file` destinations lie. Made, for its owner only, if it is missing.
    pub file_directory: PathBuf,
    pub keys: Arc<dyn Keys>,
    /// Whether files are sealed, or lines of JSON that anybody with access to the disk can read.
    pub sealed_files: bool,
}

/// Static credentials.
#[derive(Clone)]
pub struct Credentials {
    pub access_key_id: String,
    pub secret_access_key: String,
    pub session_token: Option<String>,
}

/// Why destinations cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    #[error("the directory of file destinations {}: {source}", directory.display())]
    Directory { directory: PathBuf, source: io::Error },
    #[error("{0:?} is not an endpoint: expected an http:// or https:// URL with a host")]
    Endpoint(String),
}

/// Whether [`Config::endpoint`] can be this: `http://` or `https://`, and a host.
#[must_use]
pub fn is_endpoint(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://").or(url.strip_prefix("https://")) else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    !host.is_empty() && !host.starts_with(':') && !url.contains(|c: char| c.is_whitespace() || c.is_control())
}

/// The destinations. Clones are one and the same.
#[derive(Clone)]
pub struct Destinations(Arc<Shared>);

struct Shared {
    timeout: Duration,
    files: Arc<file::Files>,
    #[cfg(feature = "aws")]
    aws: aws::Aws,
}

/// As [`DeliveryError`], before the destination is named.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fault {
    Unavailable(String),
    Refused(String),
}

// === impl Destinations ===

impl Destinations {
    /// Prepares for delivery. Makes no connection: a service that is down, or credentials that are missing, show when something
    /// is delivered.
    ///
    /// # Errors
    ///
    /// When an endpoint is none, or the directory for files cannot be made.
    pub async fn new(config: Config) -> Result<Self, SetUpError> {
        config.check()?;
        let files = file::Files::open(&config.file_directory, config.sealed_files, Arc::clone(&config.keys));
        let files = files
            .map_err(|source| SetUpError::Directory { directory: config.file_directory.clone(), source })?;
        Ok(Self(Arc::new(Shared {
            timeout: config.timeout,
            files: Arc::new(files),
            #[cfg(feature = "aws")]
            aws: aws::Aws::load(config).await,
        })))
    }

    /// Delivers once. `Ok` only when the destination has accepted; for a file, when the record is on the medium.
    ///
    /// # Errors
    ///
    /// When it has not, or not within the configured time. Dropping the future gives up like a timeout.
    pub async fn deliver(&self, to: &Destination, delivery: &Delivery) -> Result<(), DeliveryError> {
        let began = Instant::now();
        let timeout = self.0.timeout;
        let attempt = tokio::time::timeout(timeout, self.0.attempt(to, delivery)).await;
        let result =
            attempt.unwrap_or_else(|_| Err(Fault::Unavailable(format!("no answer within {timeout:?}"))));
        let name = match &result {
            Ok(()) => "delivered",
            Err(Fault::Unavailable(_)) => "unavailable",
            Err(Fault::Refused(_)) => "refused",
        };
        metrics::attempted(to.service(), name, began.elapsed());
        result.map_err(|fault| fault.of(to))
    }

    /// Wraps the keys of all sealed files anew under the current wrapping key, and returns how many, so that those used until
    /// now can be destroyed.
    ///
    /// # Errors
    ///
    /// When the disk or the key service refuses; those done by then are done.
    pub async fn rewrap_files(&self) -> io::Result<usize> {
        let files = Arc::clone(&self.0.files);
        tokio::task::spawn_blocking(move || files.rewrap()).await.map_err(io::Error::other)?
    }
}

impl Shared {
    async fn attempt(&self, to: &Destination, delivery: &Delivery) -> Result<(), Fault> {
        match to {
            Destination::File { name } => self.files.deliver(name, delivery).await,
            Destination::Function { .. } => {
                Err(Fault::Refused("a function is invoked by the poller fleet, not delivered to".to_owned()))
            }
            #[cfg(feature = "aws")]
            _ => self.aws.deliver(to, delivery).await,
            #[cfg(not(feature = "aws"))]
            _ => Err(Fault::Refused("this build has no destinations of AWS".to_owned())),
        }
    }
}

impl fmt::Debug for Destinations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Destinations").field("timeout", &self.0.timeout).finish_non_exhaustive()
    }
}

// === impl Config ===

impl Config {
    /// A configuration without endpoints and credentials of its own: `us-east-1`, 10 seconds, sealed files.
    #[must_use]
    pub fn new(file_directory: PathBuf, keys: Arc<dyn Keys>) -> Self {
        Self {
            region: "us-east-1".parse().expect("a region"),
            endpoint: None,
            credentials: None,
            timeout: Duration::from_secs(10),
            file_directory,
            keys,
            sealed_files: true,
        }
    }

    fn check(&self) -> Result<(), SetUpError> {
        match self.endpoint.as_ref().filter(|endpoint| !is_endpoint(endpoint)) {
            Some(wrong) => Err(SetUpError::Endpoint(wrong.clone())),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("region", &self.region)
            .field("endpoint", &self.endpoint)
            .field("timeout", &self.timeout)
            .field("file_directory", &self.file_directory)
            .field("sealed_files", &self.sealed_files)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

// === impl Delivery ===

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The body is the customer's.
        f.debug_struct("Delivery")
            .field("request_id", &self.request_id)
            .field("function_arn", &self.function_arn)
            .field("at", &self.at)
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

// === impl Fault ===

impl Fault {
    fn too_large(bytes: usize, most: usize) -> Self {
        Self::Refused(format!("{bytes} bytes are more than {most}"))
    }

    fn of(self, destination: &Destination) -> DeliveryError {
        let destination = destination.clone();
        match self {
            Self::Unavailable(reason) => DeliveryError::Unavailable { destination, reason },
            Self::Refused(reason) => DeliveryError::Refused { destination, reason },
        }
    }
}
