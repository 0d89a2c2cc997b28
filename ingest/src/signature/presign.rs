//! Makes presigned requests: the links to code that GetFunction hands out.

use std::time::Duration;

use aws_lc_rs::hmac;
use http::request::Parts;

use super::{ALGORITHM, Scope, TERMINATOR, canonical, hash_of, push_hex, signing_key, stamp, string_to_sign};

/// A GET without a body that whoever holds the link may send for a while.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PresignRequest<'a> {
    /// As the client will send it in `Host`.
    pub(crate) host: &'a str,
    /// Absolute, already encoded.
    pub(crate) path: &'a str,
    pub(crate) expires: Duration,
}

/// Path and query of the presigned request, or none where host or path cannot stand in a request.
pub(crate) fn presign(
    request: PresignRequest<'_>,
    access_key_id: &str,
    secret: &str,
    scope: &Scope,
    now: Duration,
) -> Option<String> {
    let timestamp = stamp(now);
    let date = timestamp.get(..8)?;
    let scope_text = format!("{date}/{}/{}/{TERMINATOR}", scope.region, scope.service);
    let mut credential = String::new();
    canonical::encode(format!("{access_key_id}/{scope_text}").as_bytes(), &mut credential);
    let unsigned = format!(
        "{}?X-Amz-Algorithm={ALGORITHM}&X-Amz-Credential={credential}&X-Amz-Date={timestamp}&X-Amz-Expires={}&X-Amz-SignedHeaders=host",
        request.path,
        request.expires.as_secs(),
    );
    let parts = head(&unsigned, request.host)?;
    let mut canonical = canonical::request_without_payload(&parts, &[String::from("host")])?;
    push_hex(&mut canonical, &hash_of(b""));
    let key = signing_key(secret, date, &scope.region, scope.service);
    let signature = hmac::sign(&key, string_to_sign(&timestamp, &scope_text, &canonical).as_bytes());
    let mut signed = unsigned + "&X-Amz-Signature=";
    push_hex(&mut signed, signature.as_ref());
    Some(signed)
}

fn head(target: &str, host: &str) -> Option<Parts> {
    let request = http::Request::get(target).header(http::header::HOST, host).body(()).ok()?;
    Some(request.into_parts().0)
}

#[cfg(test)]
mod tests {
    use types::ApiError;

    use super::*;
    use crate::signature::{
        Verified,
        tests::{AT, KEY, SECRET, check, scope},
    };

    fn link(expires: Duration) -> String {
        let request = PresignRequest { host: "localhost:9000", path: "/waterwheel/code/echo", expires };
        presign(request, KEY, SECRET, &scope("lambda"), AT).unwrap()
    }

    fn follow(target: &str, now: Duration) -> Result<Verified, ApiError> {
        let parts =
            http::Request::get(target).header("host", "localhost:9000").body(()).unwrap().into_parts().0;
        check(&parts, &scope("lambda"), now, b"")
    }

    #[test]
    fn a_presigned_link_lives_as_long_as_it_says() {
        let link = link(Duration::from_secs(600));
        for seconds in [0, 301, 600] {
            assert!(follow(&link, AT + Duration::from_secs(seconds)).is_ok(), "{seconds}");
        }
        let error = follow(&link, AT + Duration::from_secs(601)).unwrap_err();
        assert_eq!(error.message, "Signature expired: 20150830T124600Z is now earlier than 20150830T124601Z");
        assert!(follow(&link, AT - Duration::from_secs(301)).is_err(), "not yet current");
    }

    #[test]
    fn a_presigned_link_cannot_be_bent() {
        let link = link(Duration::from_secs(600));
        for (from, to) in [
            ("X-Amz-Expires=600", "X-Amz-Expires=6000"),
            ("X-Amz-Expires=600", "X-Amz-Expires=604801"),
            ("X-Amz-Expires=600", "X-Amz-Expires=0"),
            ("code/echo", "code/other"),
            ("X-Amz-SignedHeaders=host", "X-Amz-SignedHeaders=x-amz-date"),
            ("&X-Amz-Signature=", "&more=1&X-Amz-Signature="),
            ("&X-Amz-Signature=", "&X-Amz-Content-Sha256=UNSIGNED-PAYLOAD&X-Amz-Signature="),
            ("&X-Amz-Signature=", "&X-Amz-Signature=00&X-Amz-Signature="),
        ] {
            let bent = link.replace(from, to);
            assert_ne!(bent, link);
            assert!(follow(&bent, AT).is_err(), "{bent}");
        }
        assert!(follow(&link, AT).is_ok());
    }
}
