//! The record that an OnSuccess or OnFailure destination gets, as AWS writes it.

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use types::{RequestId, Version};

/// What an envelope tells of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome<'a> {
    pub(crate) request_id: RequestId,
    /// With its qualifier.
    pub(crate) function_arn: &'a str,
    /// `Success`, or why not.
    pub(crate) condition: &'a str,
    pub(crate) invoke_count: u32,
    pub(crate) request: &'a [u8],
    /// Of the last time the function ran; `None` if it never did, or if that is not known any more.
    pub(crate) response: Option<&'a Response>,
    /// When this was known.
    pub(crate) at: jiff::Timestamp,
}

/// What a function answered.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    pub(crate) executed_version: Version,
    pub(crate) failed: bool,
    pub(crate) body: Bytes,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a> {
    version: &'static str,
    timestamp: String,
    request_context: RequestContext<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_payload: Option<Json<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_context: Option<ResponseContext>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_payload: Option<Json<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RequestContext<'a> {
    request_id: String,
    function_arn: &'a str,
    condition: &'a str,
    approximate_invoke_count: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResponseContext {
    status_code: u16,
    executed_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    function_error: Option<&'static str>,
}

/// A document as it is, or what is none as a string.
#[derive(Serialize)]
#[serde(untagged)]
enum Json<'a> {
    Document(&'a RawValue),
    Text(std::borrow::Cow<'a, str>),
    /// A function may answer nothing at all.
    Nothing(()),
}

impl<'a> Json<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        match serde_json::from_slice(bytes) {
            Ok(document) => Self::Document(document),
            Err(_) if bytes.is_empty() => Self::Nothing(()),
            Err(_) => Self::Text(String::from_utf8_lossy(bytes)),
        }
    }
}

impl Outcome<'_> {
    /// The record; without the payloads if it has more than so many bytes with them, as on AWS.
    pub(crate) fn envelope(&self, most: usize) -> Bytes {
        let whole = self.encode(true);
        if whole.len() > most { self.encode(false) } else { whole }
    }

    fn encode(&self, payloads: bool) -> Bytes {
        let response_context = self.response.map(|response| ResponseContext {
            status_code: 200,
            executed_version: response.executed_version.to_string(),
            function_error: response.failed.then_some("Unhandled"),
        });
        let envelope = Envelope {
            version: "1.0",
            timestamp: self.at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
            request_context: RequestContext {
                request_id: self.request_id.to_string(),
                function_arn: self.function_arn,
                condition: self.condition,
                approximate_invoke_count: self.invoke_count,
            },
            request_payload: payloads.then(|| Json::of(self.request)),
            response_context,
            response_payload: self.response.filter(|_| payloads).map(|response| Json::of(&response.body)),
        };
        serde_json::to_vec(&envelope).expect("an envelope has string keys only").into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 1 << 20;

    fn outcome<'a>(response: Option<&'a Response>) -> Outcome<'a> {
        Outcome {
            request_id: RequestId::from_bytes([0xab; 16]),
            function_arn: "arn:aws:lambda:us-east-1:123456789012:function:f:$LATEST",
            condition: "RetriesExhausted",
            invoke_count: 3,
            request: br#"{ "a" : 1.0 }"#,
            response,
            at: "2026-11-22T10:01:02.345678Z".parse().unwrap(),
        }
    }

    #[test]
    fn a_failure_is_written_as_aws_writes_it() {
        let body = Bytes::from_static(br#"{"errorMessage":"no","errorType":"E"}"#);
        let response = Response { executed_version: Version::Latest, failed: true, body };
        let expected = concat!(
            r#"{"version":"1.0","timestamp":"2026-11-22T10:01:02.345Z","requestContext":{"#,
            r#""requestId":"abababab-abab-abab-abab-abababababab","#,
            r#""functionArn":"arn:aws:lambda:us-east-1:123456789012:function:f:$LATEST","#,
            r#""condition":"RetriesExhausted","approximateInvokeCount":3},"requestPayload":{ "a" : 1.0 },"#,
            r#""responseContext":{"statusCode":200,"executedVersion":"$LATEST","functionError":"Unhandled"},"#,
            r#""responsePayload":{"errorMessage":"no","errorType":"E"}}"#
        );
        assert_eq!(outcome(Some(&response)).envelope(MOST), expected);
    }

    #[test]
    fn what_would_be_too_long_goes_without_its_payloads() {
        let response =
            Response { executed_version: Version::Latest, failed: false, body: Bytes::from(vec![b'7'; 500]) };
        let whole = outcome(Some(&response)).envelope(MOST);
        assert_eq!(outcome(Some(&response)).envelope(whole.len()), whole);
        let short = String::from_utf8(outcome(Some(&response)).envelope(whole.len() - 1).to_vec()).unwrap();
        assert!(!short.contains("Payload") && short.contains("responseContext"), "{short}");
    }

    #[test]
    fn without_an_attempt_there_is_no_response() {
        let text = String::from_utf8(outcome(None).envelope(MOST).to_vec()).unwrap();
        assert!(text.ends_with(r#""requestPayload":{ "a" : 1.0 }}"#), "{text}");
    }

    #[test]
    fn an_answer_that_is_no_json_is_text_and_none_is_null() {
        for (body, expected) in
            [("plain", r#""responsePayload":"plain"}"#), ("", r#""responsePayload":null}"#)]
        {
            let response = Response {
                executed_version: Version::Number(3),
                failed: false,
                body: Bytes::copy_from_slice(body.as_bytes()),
            };
            let text = String::from_utf8(outcome(Some(&response)).envelope(MOST).to_vec()).unwrap();
            assert!(text.ends_with(expected) && !text.contains("functionError"), "{text}");
        }
    }
}
