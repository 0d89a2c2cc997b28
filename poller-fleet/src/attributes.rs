//! What travels with a payload through the queue, sealed like it: which of the three kinds of event it is, and what that kind needs.
//!
//! JSON with a `format` number, because it is on disks: `{"format":1,"invoke":{…}}`. Spellings are stable.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use types::{FunctionRef, TraceContext};

use crate::schedule::Condition;

const FORMAT: u32 = 1;

/// Why attributes are of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttributesError {
    #[error("the event's attributes have format {0}, newer than this version's {FORMAT}")]
    Newer(u32),
    #[error("the event's attributes are malformed: {0}")]
    Malformed(#[from] serde_json::Error),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Attributes {
    /// To be invoked.
    Invoke(Invocation),
    /// A record for a destination, or an event for a dead-letter queue.
    Deliver(Outgoing),
    /// Kept until somebody looks at it.
    DeadLetter(DeadLetter),
}

/// How a function is to be invoked. The payload is the event's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Invocation {
    /// As the caller named the function, with its qualifier if it gave one.
    pub(crate) invoked_arn: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client_context: Option<String>,
    /// `X-Amzn-Trace-Id`.
    pub(crate) xray: String,
    pub(crate) traceparent: String,
    /// How often each function was invoked in the chain, this time included.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) lineage: String,
}

/// Something on its way to a destination. The payload is what is delivered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outgoing {
    /// ARN.
    pub(crate) destination: String,
    /// Of the invocation that it tells of.
    pub(crate) request_id: [u8; 16],
    /// With its qualifier.
    pub(crate) function_arn: String,
    /// When the outcome was known, Unix time, ms.
    pub(crate) at_ms: u64,
    pub(crate) form: OutgoingForm,
    /// Of the invocation.
    pub(crate) xray: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) traceparent: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) lineage: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OutgoingForm {
    Result { success: bool },
    DeadLetter { error_code: u16, error_message: String },
}

/// What could not be processed, and why. The payload is the event's own; of a record that no destination took, the record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct DeadLetter {
    pub(crate) reason: Reason,
    /// When it was given up, Unix time, ms.
    pub(crate) at_ms: u64,
    /// When the event was accepted, Unix time, ms.
    pub(crate) accepted_ms: u64,
    pub(crate) attempts: u32,
    /// Of the last failure; at most [`limits::ERROR_MESSAGE_BYTES`](types::limits::ERROR_MESSAGE_BYTES).
    pub(crate) error: String,
    /// What it was, to be made into that again.
    pub(crate) was: Was,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reason {
    Invocation(Condition),
    /// A destination refused for good.
    Refused,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Was {
    Invoke(Invocation),
    Deliver(Outgoing),
}

#[derive(Serialize, Deserialize)]
struct Stored<T> {
    format: u32,
    #[serde(flatten)]
    attributes: T,
}

#[derive(Deserialize)]
struct Nothing {}

// === impl Attributes ===

impl Attributes {
    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(&Stored { format: FORMAT, attributes: self })
            .expect("attributes have string keys only")
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, AttributesError> {
        let Stored { format, attributes: Nothing {} } = serde_json::from_slice(bytes)?;
        if format > FORMAT {
            return Err(AttributesError::Newer(format));
        }
        Ok(serde_json::from_slice::<Stored<Self>>(bytes)?.attributes)
    }
}

// === impl Invocation ===

impl Invocation {
    /// The function that was named; `None` if this was not written by us.
    pub(crate) fn function(&self) -> Option<FunctionRef> {
        self.invoked_arn.parse().ok()
    }

    pub(crate) fn trace(&self) -> TraceContext {
        // What is malformed is left out; nothing can fail.
        let lineage = self.lineage.parse().unwrap_or_default();
        TraceContext { xray: self.xray.clone(), traceparent: self.traceparent.clone(), lineage }
    }
}

pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invocation() -> Invocation {
        Invocation {
            invoked_arn: "arn:aws:lambda:us-east-1:123456789012:function:f".into(),
            client_context: None,
            xray: "Root=1-00000000-000000000000000000000000".into(),
            traceparent: "00-0-0-00".into(),
            lineage: "a87bd80c:1".into(),
        }
    }

    #[test]
    fn attributes_survive_their_encoding() {
        let outgoing = Outgoing {
            destination: "arn:aws:file:::failed".into(),
            request_id: [7; 16],
            function_arn: "arn:aws:lambda:us-east-1:123456789012:function:f:$LATEST".into(),
            at_ms: 5,
            form: OutgoingForm::DeadLetter { error_code: 200, error_message: "no".into() },
            xray: String::new(),
            traceparent: String::new(),
            lineage: String::new(),
        };
        let dead = |reason, was| {
            Attributes::DeadLetter(DeadLetter {
                reason,
                at_ms: 9,
                accepted_ms: 1,
                attempts: 3,
                error: "boom".into(),
                was,
            })
        };
        for attributes in [
            Attributes::Invoke(invocation()),
            Attributes::Deliver(outgoing.clone()),
            dead(Reason::Refused, Was::Deliver(outgoing)),
            dead(Reason::Invocation(Condition::RetriesExhausted), Was::Invoke(invocation())),
        ] {
            assert_eq!(Attributes::decode(&attributes.encode()).unwrap(), attributes);
        }
    }

    #[test]
    fn what_is_written_today_stays_readable() {
        let stored = br#"{"format":1,"invoke":{"invoked_arn":"f","client_context":"{}","xray":"x","traceparent":"t"}}"#;
        let Attributes::Invoke(read) = Attributes::decode(stored).unwrap() else { panic!() };
        assert_eq!((read.invoked_arn.as_str(), read.client_context.as_deref()), ("f", Some("{}")));
    }

    #[test]
    fn a_newer_format_and_noise_are_refused() {
        let newer = br#"{"format":2,"teleport":{}}"#;
        assert!(matches!(Attributes::decode(newer), Err(AttributesError::Newer(2))));
        for noise in [b"".as_slice(), b"{}", b"null", br#"{"format":1}"#, br#"{"format":1,"invoke":{}}"#] {
            assert!(matches!(Attributes::decode(noise), Err(AttributesError::Malformed(_))));
        }
    }
}
