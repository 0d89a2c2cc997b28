//! Where the outcome of an asynchronous invocation, or of a batch, is sent.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{AccountId, FunctionName, FunctionRef, Qualifier, Region};

/// Longest name of a `file` destination.
const FILE_NAME_MAX: usize = 64;

/// A destination, as its ARN names it.
///
/// `file` is ours, for people without any of the others: `arn:aws:file:::<name>` is a file of that name in the server's
/// own directory for destinations.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Destination {
    /// `arn:aws:sqs:<region>:<account>:<queue>`
    Sqs { region: Region, account: AccountId, queue: String },
    /// `arn:aws:sns:<region>:<account>:<topic>`
    Sns { region: Region, account: AccountId, topic: String },
    /// `arn:aws:events:<region>:<account>:event-bus/<bus>`
    EventBridge { region: Region, account: AccountId, bus: String },
    /// `arn:aws:s3:::<bucket>`
    S3 { bucket: String },
    /// `arn:aws:lambda:<region>:<account>:function:<name>[:<qualifier>]`
    Function { region: Region, account: AccountId, name: FunctionName, qualifier: Option<Qualifier> },
    /// `arn:aws:file:::<name>`: letters, digits, `.`, `-` and `_`, not beginning with a dot.
    File { name: String },
}

/// Why an ARN names no destination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseDestinationError {
    #[error("{0:?} is not an ARN")]
    NotAnArn(String),
    /// Each message there needs a group, and Lambda gives it none: it takes standard queues and topics only.
    #[error("{0:?} is FIFO: a FIFO queue or topic cannot be a destination, only a standard one")]
    Fifo(String),
    #[error("{arn:?} is not the ARN of {expected}")]
    Malformed { arn: String, expected: &'static str },
    #[error(
        "{arn:?} is of the service {service:?}; a destination is of sqs, sns, events, s3, lambda or file"
    )]
    UnknownService { arn: String, service: String },
}

// === impl Destination ===

impl Destination {
    /// The service as ARNs spell it.
    #[must_use]
    pub fn service(&self) -> &'static str {
        match self {
            Self::Sqs { .. } => "sqs",
            Self::Sns { .. } => "sns",
            Self::EventBridge { .. } => "events",
            Self::S3 { .. } => "s3",
            Self::Function { .. } => "lambda",
            Self::File { .. } => "file",
        }
    }
}

impl FromStr for Destination {
    type Err = ParseDestinationError;

    fn from_str(arn: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = arn.splitn(6, ':').collect();
        let ["arn", "aws", service, region, account, resource] = parts[..] else {
            return Err(ParseDestinationError::NotAnArn(arn.to_owned()));
        };
        let malformed = |expected| ParseDestinationError::Malformed { arn: arn.to_owned(), expected };
        let owner = |expected| match (region.parse(), account.parse()) {
            (Ok(region), Ok(account)) => Ok((region, account)),
            _ => Err(malformed(expected)),
        };
        let named = |name: &str, longest, expected| {
            is_name(name, longest).then(|| name.to_owned()).ok_or_else(|| malformed(expected))
        };
        Ok(match service {
            "sqs" | "sns" if resource.ends_with(".fifo") => {
                return Err(ParseDestinationError::Fifo(arn.to_owned()));
            }
            "sqs" => {
                let (region, account) = owner("an SQS queue")?;
                Self::Sqs { region, account, queue: named(resource, 80, "an SQS queue")? }
            }
            "sns" => {
                let (region, account) = owner("an SNS topic")?;
                Self::Sns { region, account, topic: named(resource, 256, "an SNS topic")? }
            }
            "events" => {
                let (region, account) = owner("an event bus")?;
                let bus = resource.strip_prefix("event-bus/").unwrap_or_default();
                Self::EventBridge { region, account, bus: named(bus, 256, "an event bus")? }
            }
            "s3" if region.is_empty() && account.is_empty() => {
                Self::S3 { bucket: named(resource, 63, "an S3 bucket")? }
            }
            "s3" => return Err(malformed("an S3 bucket")),
            "lambda" => match arn.parse() {
                Ok(FunctionRef { region: Some(region), account: Some(account), name, qualifier }) => {
                    Self::Function { region, account, name, qualifier }
                }
                _ => return Err(malformed("a function")),
            },
            "file" if region.is_empty() && account.is_empty() && !resource.starts_with('.') => {
                Self::File { name: named(resource, FILE_NAME_MAX, "a file")? }
            }
            "file" => return Err(malformed("a file")),
            _ => {
                let service = service.to_owned();
                return Err(ParseDestinationError::UnknownService { arn: arn.to_owned(), service });
            }
        })
    }
}

/// Letters, digits, `.`, `-`, `_`: what any of the services takes; they refuse themselves what they do not.
fn is_name(text: &str, longest: usize) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    (1..=longest).contains(&text.len()) && text.bytes().all(fits)
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqs { region, account, queue } => write!(f, "arn:aws:sqs:{region}:{account}:{queue}"),
            Self::Sns { region, account, topic } => write!(f, "arn:aws:sns:{region}:{account}:{topic}"),
            Self::EventBridge { region, account, bus } => {
                write!(f, "arn:aws:events:{region}:{account}:event-bus/{bus}")
            }
            Self::S3 { bucket } => write!(f, "arn:aws:s3:::{bucket}"),
            Self::Function { region, account, name, qualifier } => {
                write!(f, "arn:aws:lambda:{region}:{account}:function:{name}")?;
                qualifier.as_ref().map_or(Ok(()), |qualifier| write!(f, ":{qualifier}"))
            }
            Self::File { name } => write!(f, "arn:aws:file:::{name}"),
        }
    }
}

impl Serialize for Destination {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Destination {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_written_as_it_is_read() {
        for arn in [
            "arn:aws:sqs:eu-central-1:123456789012:orders",
            "arn:aws:sns:us-east-1:123456789012:alarms",
            "arn:aws:events:us-east-1:123456789012:event-bus/default",
            "arn:aws:s3:::failed-events",
            "arn:aws:lambda:us-east-1:123456789012:function:next",
            "arn:aws:lambda:us-east-1:123456789012:function:next:prod",
            "arn:aws:file:::failed.jsonl",
        ] {
            let destination: Destination = arn.parse().unwrap();
            assert_eq!(destination.to_string(), arn);
            let json = serde_json::to_value(&destination).unwrap();
            assert_eq!(json, arn);
            assert_eq!(serde_json::from_value::<Destination>(json).unwrap(), destination);
        }
    }

    #[test]
    fn what_is_no_destination_is_refused_with_the_reason() {
        for (arn, reason) in [
            ("queue", "is not an ARN"),
            ("arn:aws:sqs:us-east-1:123456789012:a b", "is not the ARN of an SQS queue"),
            (
                "arn:aws:sqs:us-east-1:123456789012:orders.fifo",
                "a FIFO queue or topic cannot be a destination",
            ),
            (
                "arn:aws:sns:us-east-1:123456789012:alarms.fifo",
                "a FIFO queue or topic cannot be a destination",
            ),
            ("arn:aws:sqs:us-east-1:1:q", "is not the ARN of an SQS queue"),
            ("arn:aws:events:us-east-1:123456789012:default", "is not the ARN of an event bus"),
            ("arn:aws:s3:us-east-1:123456789012:bucket", "is not the ARN of an S3 bucket"),
            ("arn:aws:lambda:us-east-1:123456789012:layer:a:1", "is not the ARN of a function"),
            ("arn:aws:file:::../keyring", "is not the ARN of a file"),
            ("arn:aws:file:::a/b", "is not the ARN of a file"),
            ("arn:aws:file:::.hidden", "is not the ARN of a file"),
            ("arn:aws:kinesis:us-east-1:123456789012:stream/s", "of the service \"kinesis\""),
        ] {
            let error = arn.parse::<Destination>().unwrap_err().to_string();
            assert!(error.contains(reason), "{arn}: {error}");
        }
    }
}
