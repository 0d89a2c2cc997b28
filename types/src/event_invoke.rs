//! What is to become of a function's asynchronous invocations.

use std::{str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{Destination, limits};

/// All that is configured of a function's asynchronous invocations: its `FunctionEventInvokeConfig`, its dead-letter queue,
/// and what happens to a loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventInvokePolicy {
    /// Attempts after the first that failed: 0 to 2.
    pub maximum_retry_attempts: u32,
    /// From acceptance.
    pub maximum_event_age: Duration,
    pub on_success: Option<Destination>,
    pub on_failure: Option<Destination>,
    /// An SQS queue, an SNS topic or a file, which gets the event itself.
    pub dead_letter_queue: Option<Destination>,
    pub recursive_loop: RecursiveLoop,
}

/// What happens to an invocation at the end of a chain in which its function was invoked too often. Stored and shown as the
/// API spells it: stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum RecursiveLoop {
    Allow,
    #[default]
    Terminate,
}

impl Default for EventInvokePolicy {
    fn default() -> Self {
        Self {
            maximum_retry_attempts: limits::MAX_RETRY_ATTEMPTS,
            maximum_event_age: limits::MAX_EVENT_AGE,
            on_success: None,
            on_failure: None,
            dead_letter_queue: None,
            recursive_loop: RecursiveLoop::default(),
        }
    }
}

impl RecursiveLoop {
    /// As the API spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "Allow",
            Self::Terminate => "Terminate",
        }
    }
}

/// No name of what to do with a loop; holds what was given instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither Allow nor Terminate")]
pub struct ParseRecursiveLoopError(pub String);

impl FromStr for RecursiveLoop {
    type Err = ParseRecursiveLoopError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Allow, Self::Terminate]
            .into_iter()
            .find(|known| known.as_str() == text)
            .ok_or_else(|| ParseRecursiveLoopError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_of_a_loop_is_read_and_stored_as_the_api_spells_it() {
        for named in [RecursiveLoop::Allow, RecursiveLoop::Terminate] {
            assert_eq!(named.as_str().parse(), Ok(named));
            assert_eq!(serde_json::to_value(named).unwrap(), named.as_str());
        }
        assert!("allow".parse::<RecursiveLoop>().unwrap_err().to_string().contains("\"allow\""));
    }
}
