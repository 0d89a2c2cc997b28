//! How failures of a function are described to its caller: types and texts as AWS Lambda answers them.

use std::time::Duration;

use bytes::Bytes;
use types::{RequestId, limits};

/// Why an invocation, or an init phase, did not end as the function meant it to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The runtime reported an error; its body is passed on as it is.
    Reported { error_type: String, body: Bytes },
    /// The runtime process ended: exit code, or minus a signal.
    Exited { status: i32 },
    /// The kernel ended a process because the function's memory was used up.
    OutOfMemory,
    /// The function did not end in time.
    TimedOut(Duration),
    /// The answer is larger than allowed.
    ResponseTooLarge,
    /// The environment is gone and nobody knows why.
    EnvironmentLost,
}

/// Linux's number of the signal that the kernel kills with.
const SIGKILL: i32 = 9;

impl Failure {
    /// The body of the answer.
    pub(crate) fn body(&self, request: RequestId) -> Bytes {
        let (error_type, message) = match self {
            Self::Reported { body, .. } => return body.clone(),
            Self::Exited { status } => {
                ("Runtime.ExitError", format!("RequestId: {request} Error: {}", exit_text(*status)))
            }
            Self::OutOfMemory => {
                ("Runtime.ExitError", format!("RequestId: {request} Error: {}", exit_text(-SIGKILL)))
            }
            Self::TimedOut(limit) => (
                "Sandbox.Timedout",
                format!(
                    "RequestId: {request} Error: Task timed out after {:.2} seconds",
                    limit.as_secs_f64()
                ),
            ),
            Self::ResponseTooLarge => (
                "Function.ResponseSizeTooLarge",
                format!(
                    "Response payload size exceeded maximum allowed payload size ({} bytes).",
                    limits::SYNC_RESPONSE_BYTES
                ),
            ),
            Self::EnvironmentLost => {
                ("Runtime.ExitError", format!("RequestId: {request} Error: the environment was lost"))
            }
        };
        Bytes::from(serde_json::json!({ "errorType": error_type, "errorMessage": message }).to_string())
    }

    /// What the log says where the REPORT line alone would not explain the end.
    pub(crate) fn log_line(&self, request: RequestId) -> Option<String> {
        match self {
            Self::Reported { .. } => None,
            Self::Exited { status } => {
                Some(format!("RequestId: {request} Error: {}\nRuntime.ExitError", exit_text(*status)))
            }
            Self::OutOfMemory => {
                Some(format!("RequestId: {request} Error: {}\nRuntime.ExitError", exit_text(-SIGKILL)))
            }
            Self::TimedOut(limit) => {
                Some(format!("{request} Task timed out after {:.2} seconds", limit.as_secs_f64()))
            }
            Self::ResponseTooLarge => Some(format!(
                "Response payload size exceeded maximum allowed payload size ({} bytes).",
                limits::SYNC_RESPONSE_BYTES
            )),
            Self::EnvironmentLost => Some(format!("RequestId: {request} Error: the environment was lost")),
        }
    }

    /// `Status` and `Error Type` of the REPORT line, and the `cause` label of the error metric.
    pub(crate) fn status(&self) -> (&'static str, &str) {
        match self {
            Self::Reported { error_type, .. } => ("error", error_type),
            Self::Exited { .. } => ("error", "Runtime.ExitError"),
            Self::OutOfMemory => ("error", "Runtime.OutOfMemory"),
            Self::TimedOut(_) => ("timeout", "Sandbox.Timedout"),
            Self::ResponseTooLarge => ("error", "Function.ResponseSizeTooLarge"),
            Self::EnvironmentLost => ("error", "Sandbox.Failure"),
        }
    }

    /// A short name of the cause: few values, so fit for a metric's label.
    pub(crate) fn cause(&self) -> &'static str {
        match self {
            Self::Reported { .. } => "function",
            Self::Exited { .. } => "exit",
            Self::OutOfMemory => "out_of_memory",
            Self::TimedOut(_) => "timeout",
            Self::ResponseTooLarge => "response_too_large",
            Self::EnvironmentLost => "environment",
        }
    }
}

/// As Lambda words the end of a runtime process.
fn exit_text(status: i32) -> String {
    match status {
        0 => "Runtime exited without providing a reason".to_owned(),
        code if code > 0 => format!("Runtime exited with error: exit status {code}"),
        signal => format!("Runtime exited with error: signal: {}", signal_name(signal.saturating_neg())),
    }
}

/// As Go's `syscall.Signal` prints signals, which is what Lambda shows.
fn signal_name(signal: i32) -> String {
    let name = match signal {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        4 => "illegal instruction",
        5 => "trace/breakpoint trap",
        6 => "aborted",
        7 => "bus error",
        8 => "floating point exception",
        SIGKILL => "killed",
        10 => "user defined signal 1",
        11 => "segmentation fault",
        12 => "user defined signal 2",
        13 => "broken pipe",
        14 => "alarm clock",
        15 => "terminated",
        31 => "bad system call",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(failure: &Failure) -> (String, String) {
        let body: serde_json::Value = serde_json::from_slice(&failure.body(RequestId::random())).unwrap();
        let text = |key: &str| body[key].as_str().unwrap().to_owned();
        (text("errorType"), text("errorMessage"))
    }

    #[test]
    fn failures_are_worded_as_lambda_words_them() {
        let (kind, text) = message(&Failure::TimedOut(Duration::from_secs(1)));
        assert_eq!(kind, "Sandbox.Timedout");
        assert!(text.ends_with("Error: Task timed out after 1.00 seconds"), "{text}");
        assert!(text.starts_with("RequestId: "), "{text}");

        let (kind, text) = message(&Failure::Exited { status: 1 });
        assert_eq!(kind, "Runtime.ExitError");
        assert!(text.ends_with("Error: Runtime exited with error: exit status 1"), "{text}");

        let (_, text) = message(&Failure::Exited { status: 0 });
        assert!(text.ends_with("Error: Runtime exited without providing a reason"), "{text}");

        let (kind, text) = message(&Failure::OutOfMemory);
        assert_eq!(kind, "Runtime.ExitError");
        assert!(text.ends_with("signal: killed"), "{text}");

        let (kind, text) = message(&Failure::ResponseTooLarge);
        assert_eq!(kind, "Function.ResponseSizeTooLarge");
        assert!(text.contains("6291556"), "{text}");
    }

    #[test]
    fn what_the_runtime_reported_is_passed_on_untouched() {
        let body = Bytes::from_static(b"{\"errorMessage\":\"x\"}");
        let failure = Failure::Reported { error_type: "ValueError".into(), body: body.clone() };
        assert_eq!(failure.body(RequestId::random()), body);
    }
}
