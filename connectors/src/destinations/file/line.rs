//! A delivery as one line of JSON.

use serde::de::IgnoredAny;

use super::format::RECORD_BYTES;
use crate::destinations::{Delivery, Fault, Form};

/// The line of a delivery, without a newline: the envelope itself, or an object around a dead letter's payload.
pub(super) fn line(delivery: &Delivery) -> Result<Vec<u8>, Fault> {
    if !is_json(&delivery.body) {
        return Err(Fault::Refused("the body is not JSON".to_owned()));
    }
    let (before, after) = match &delivery.form {
        Form::Result { .. } => (String::new(), ""),
        Form::DeadLetter { error_code, error_message } => {
            let message = serde_json::Value::from(error_message.as_str());
            let id = delivery.request_id;
            (
                format!(
                    r#"{{"requestId":"{id}","errorCode":{error_code},"errorMessage":{message},"payload":"#
                ),
                "}",
            )
        }
    };
    let mut line = Vec::with_capacity(before.len() + delivery.body.len() + after.len());
    line.extend_from_slice(before.as_bytes());
    // Line ends in JSON stand between its tokens only, where a space does as well.
    line.extend(delivery.body.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
    line.extend_from_slice(after.as_bytes());
    if line.len() > RECORD_BYTES {
        return Err(Fault::too_large(line.len(), RECORD_BYTES));
    }
    Ok(line)
}

pub(super) fn is_json(bytes: &[u8]) -> bool {
    str::from_utf8(bytes).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use types::RequestId;

    use super::*;

    fn delivery(form: Form, body: &'static [u8]) -> Delivery {
        Delivery {
            request_id: RequestId::from_bytes([0x11; 16]),
            function_arn: "arn:aws:lambda:us-east-1:123456789012:function:f:$LATEST".to_owned(),
            at: Duration::ZERO,
            form,
            body: Bytes::from_static(body),
        }
    }

    fn text(form: Form, body: &'static [u8]) -> String {
        String::from_utf8(line(&delivery(form, body)).unwrap()).unwrap()
    }

    #[test]
    fn an_envelope_is_kept_as_it_is_but_for_its_line_ends() {
        let success = Form::Result { success: true };
        assert_eq!(
            text(success, b"{\n\"a\": 1.0e2,\r\n \"b\":\"\\n \xe2\x82\xac\"}"),
            "{ \"a\": 1.0e2,   \"b\":\"\\n \u{20ac}\"}"
        );
    }

    #[test]
    fn a_dead_letter_is_an_object_with_its_attributes_and_the_raw_payload() {
        let form = Form::DeadLetter { error_code: 200, error_message: "a \"quoted\"\nerror".to_owned() };
        assert_eq!(
            text(form, b"12345678901234567890123"),
            r#"{"requestId":"11111111-1111-1111-1111-111111111111","errorCode":200,"errorMessage":"a \"quoted\"\nerror","payload":12345678901234567890123}"#
        );
    }

    #[test]
    fn what_is_no_json_or_too_long_for_a_file_is_refused() {
        for body in [&b""[..], b"{", b"{} {}", b"\"\xff\"", b"nul"] {
            let refused = line(&delivery(Form::Result { success: false }, body));
            assert!(matches!(refused, Err(Fault::Refused(why)) if why == "the body is not JSON"), "{body:?}");
        }
        let mut long = delivery(Form::Result { success: false }, b"");
        long.body = format!("\"{}\"", "x".repeat(RECORD_BYTES)).into();
        let refused = line(&long);
        assert!(
            matches!(refused, Err(Fault::Refused(why)) if why == "16777218 bytes are more than 16777216")
        );
    }
}
