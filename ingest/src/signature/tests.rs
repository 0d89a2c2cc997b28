//! Published vectors, edges of time, and mutations of valid requests.

use std::time::Duration;

use http::{Request, request::Parts};
use types::{ApiError, ErrorCode};

use super::{
    Declared, Pending, Scope, Verified, canonical, hash_of, push_hex, signing_key, stamp, string_to_sign,
};

/// Key, secret, region, service and time of AWS's published Signature Version 4 test suite.
pub(super) const KEY: &str = "AKIDEXAMPLE";
pub(super) const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
pub(super) const AT: Duration = Duration::from_secs(1_440_938_160);
const STAMP: &str = "20150830T123600Z";

pub(super) fn scope(service: &'static str) -> Scope {
    Scope::new(String::from("us-east-1"), service)
}

fn secret_of(id: &str) -> Option<&'static str> {
    (id == KEY).then_some(SECRET)
}

pub(super) fn check(parts: &Parts, scope: &Scope, now: Duration, body: &[u8]) -> Result<Verified, ApiError> {
    Pending::begin(parts, scope, now, secret_of)?.verify(Some(hash_of(body)))
}

/// One case of the test suite: method, target, headers beside Host and X-Amz-Date, signed headers, body, signature.
type Vector = (
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static str,
    &'static [u8],
    &'static str,
);

/// From the test suite, by the names of its files.
const VECTORS: &[(&str, Vector)] = &[
    (
        "get-vanilla",
        (
            "GET",
            "/",
            &[],
            "host;x-amz-date",
            b"",
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
        ),
    ),
    (
        "post-vanilla",
        (
            "POST",
            "/",
            &[],
            "host;x-amz-date",
            b"",
            "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
        ),
    ),
    (
        "get-vanilla-query-order-key-case",
        (
            "GET",
            "/?Param2=value2&Param1=value1",
            &[],
            "host;x-amz-date",
            b"",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
    ),
    (
        "get-vanilla-empty-query-key",
        (
            "GET",
            "/?Param1=value1",
            &[],
            "host;x-amz-date",
            b"",
            "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb",
        ),
    ),
    (
        "get-unreserved",
        (
            "GET",
            "/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
            &[],
            "host;x-amz-date",
            b"",
            "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
        ),
    ),
    (
        "get-header-value-trim",
        (
            "GET",
            "/",
            &[("my-header1", " value1"), ("my-header2", " \"a   b   c\"")],
            "host;my-header1;my-header2;x-amz-date",
            b"",
            "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
        ),
    ),
    (
        "get-header-value-order",
        (
            "GET",
            "/",
            &[
                ("my-header1", "value4"),
                ("my-header1", "value1"),
                ("my-header1", "value3"),
                ("my-header1", "value2"),
            ],
            "host;my-header1;x-amz-date",
            b"",
            "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01",
        ),
    ),
    (
        "post-x-www-form-urlencoded",
        (
            "POST",
            "/",
            &[("content-type", "application/x-www-form-urlencoded")],
            "content-type;host;x-amz-date",
            b"Param1=value1",
            "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
        ),
    ),
];

fn authorization(service: &str, signed: &str, signature: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential={KEY}/20150830/us-east-1/{service}/aws4_request, SignedHeaders={signed}, Signature={signature}"
    )
}

#[test]
fn the_published_vectors_verify() {
    for (name, (method, target, headers, signed, body, signature)) in VECTORS {
        let mut request = Request::builder()
            .method(*method)
            .uri(*target)
            .header("host", "example.amazonaws.com")
            .header("x-amz-date", STAMP)
            .header("authorization", authorization("service", signed, signature));
        for (name, value) in *headers {
            request = request.header(*name, *value);
        }
        let parts = request.body(()).unwrap().into_parts().0;
        assert_eq!(
            check(&parts, &scope("service"), AT, body).map(|v| v.access_key_id),
            Ok(KEY.to_owned()),
            "{name}"
        );
        assert!(check(&parts, &scope("service"), AT, b"another body").is_err(), "{name}");
    }
}

#[test]
fn the_worked_example_of_the_general_reference_verifies() {
    let signature = "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7";
    let parts = Request::get("/?Action=ListUsers&Version=2010-05-08")
        .header("host", "iam.amazonaws.com")
        .header("content-type", "application/x-www-form-urlencoded; charset=utf-8")
        .header("x-amz-date", STAMP)
        .header("authorization", authorization("iam", "content-type;host;x-amz-date", signature))
        .body(())
        .unwrap()
        .into_parts()
        .0;
    assert!(check(&parts, &scope("iam"), AT, b"").is_ok());
}

#[test]
fn paths_are_resolved_and_encoded_once_more() {
    for (raw, canonical) in [
        ("/", "/"),
        ("", "/"),
        ("//", "/"),
        ("/./", "/"),
        ("/./example", "/example"),
        ("/example/..", "/"),
        ("/example1/example2/../..", "/"),
        ("//example//", "/example/"),
        ("/../../etc", "/etc"),
        ("/\u{1234}", "/%E1%88%B4"),
        ("/example space/", "/example%20space/"),
        ("/functions/arn%3Aaws%3Alambda", "/functions/arn%253Aaws%253Alambda"),
    ] {
        assert_eq!(canonical::path(raw.as_bytes()), canonical, "{raw}");
    }
}

/// A request that is signed as a client would, to be bent by tests.
#[derive(Clone)]
pub(super) struct Draft {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) signed: Vec<String>,
    pub(super) body: Vec<u8>,
    pub(super) date: String,
    pub(super) stamp: String,
    pub(super) service: String,
    pub(super) region: String,
    pub(super) signature: String,
}

impl Draft {
    pub(super) fn new() -> Self {
        let headers = [
            ("host", "localhost:9000"),
            ("x-amz-date", STAMP),
            ("x-amz-client-context", "e30="),
            ("x-amz-log-type", "Tail"),
            ("content-type", "application/json"),
        ];
        let mut signed: Vec<String> = headers.iter().map(|(name, _)| (*name).to_owned()).collect();
        signed.sort();
        Self {
            method: String::from("POST"),
            target: String::from("/2015-03-31/functions/arn%3Aaws%3Alambda/invocations?Qualifier=7&a=b%20c"),
            headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            signed,
            body: b"{\"key\":\"value\"}".to_vec(),
            date: String::from("20150830"),
            stamp: String::from(STAMP),
            service: String::from("lambda"),
            region: String::from("us-east-1"),
            signature: String::new(),
        }
        .sign()
    }

    fn dated(at: Duration) -> Self {
        let mut draft = Self::new();
        draft.stamp = stamp(at);
        draft.date = draft.stamp[..8].to_owned();
        draft.set("x-amz-date", &draft.stamp.clone());
        draft.sign()
    }

    fn set(&mut self, name: &str, value: &str) {
        match self.headers.iter_mut().find(|(key, _)| key == name) {
            Some((_, old)) => value.clone_into(old),
            None => {
                self.headers.push((name.to_owned(), value.to_owned()));
                self.signed.push(name.to_owned());
                self.signed.sort();
            }
        }
    }

    fn sign(mut self) -> Self {
        let parts = self.parts().unwrap();
        let mut canonical = canonical::request_without_payload(&parts, &self.signed).unwrap();
        match self.headers.iter().find(|(name, _)| name == "x-amz-content-sha256") {
            Some((_, declared)) => canonical.push_str(declared),
            None => push_hex(&mut canonical, &hash_of(&self.body)),
        }
        let scope = format!("{}/{}/{}/aws4_request", self.date, self.region, self.service);
        let key = signing_key(SECRET, &self.date, &self.region, &self.service);
        let to_sign = string_to_sign(&self.stamp, &scope, &canonical);
        self.signature.clear();
        push_hex(&mut self.signature, aws_lc_rs::hmac::sign(&key, to_sign.as_bytes()).as_ref());
        self
    }

    pub(super) fn parts(&self) -> Option<Parts> {
        let mut request = Request::builder().method(self.method.as_str()).uri(self.target.as_str());
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={KEY}/{}/{}/{}/aws4_request, SignedHeaders={}, Signature={}",
            self.date,
            self.region,
            self.service,
            self.signed.join(";"),
            self.signature
        );
        Some(request.header("authorization", authorization).body(()).ok()?.into_parts().0)
    }

    pub(super) fn check_at(&self, now: Duration) -> Result<Verified, ApiError> {
        check(&self.parts().unwrap(), &scope("lambda"), now, &self.body)
    }

    fn message(&self) -> String {
        self.check_at(AT).unwrap_err().message
    }
}

#[test]
fn the_clock_may_differ_by_five_minutes_and_no_more() {
    let after = |seconds: i64| {
        let at = if seconds < 0 {
            AT - Duration::from_secs(seconds.unsigned_abs())
        } else {
            AT + Duration::from_secs(seconds.unsigned_abs())
        };
        Draft::dated(at).check_at(AT)
    };
    for good in [-300, -299, 0, 299, 300] {
        assert!(after(good).is_ok(), "{good}");
    }
    for bad in [-86_400, -301, 301, 86_400] {
        assert_eq!(after(bad).unwrap_err().code, ErrorCode::InvalidSignature, "{bad}");
    }
    assert_eq!(
        after(-301).unwrap_err().message,
        "Signature expired: 20150830T123059Z is now earlier than 20150830T123100Z (20150830T123600Z - 5 min.)"
    );
    assert_eq!(
        after(301).unwrap_err().message,
        "Signature not yet current: 20150830T124101Z is still later than 20150830T124100Z (20150830T123600Z + 5 min.)"
    );
}

#[test]
fn scope_must_be_this_service_here_today() {
    let mut wrong = Draft::new();
    wrong.service = String::from("s3");
    assert_eq!(wrong.clone().sign().message(), "Credential should be scoped to correct service: 'lambda'.");
    let mut wrong = Draft::new();
    wrong.region = String::from("eu-central-1");
    assert!(wrong.clone().sign().message().starts_with("Credential should be scoped to a valid region."));
    let mut wrong = Draft::new();
    wrong.date = String::from("20150831");
    assert!(wrong.clone().sign().message().starts_with("Date in Credential scope does not match YYYYMMDD"));
}

#[test]
fn host_and_every_amz_header_must_be_signed() {
    for unsigned in ["host", "x-amz-date", "x-amz-client-context"] {
        let mut draft = Draft::new();
        draft.signed.retain(|name| name != unsigned);
        let error = draft.sign().check_at(AT).unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidSignature, "{unsigned}");
    }
    let mut draft = Draft::new();
    draft.signed.retain(|name| name != "content-type");
    assert!(draft.sign().check_at(AT).is_ok(), "other headers need not be");
}

#[test]
fn a_declared_payload_hash_is_what_the_body_must_have() {
    let mut draft = Draft::new();
    draft.set("x-amz-content-sha256", &hex::encode(hash_of(b"declared")));
    let draft = draft.sign();
    let pending = Pending::begin(&draft.parts().unwrap(), &scope("lambda"), AT, secret_of).unwrap();
    assert_eq!(pending.declared(), Declared::Hash(hash_of(b"declared")));
    // Verified before any body is there; the caller of this module compares the body's hash.
    assert_eq!(pending.verify(None).unwrap().payload, Some(hash_of(b"declared")));
}

#[test]
fn an_unsigned_payload_is_refused_in_the_header_form() {
    for value in ["UNSIGNED-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "", "00"] {
        let mut draft = Draft::new();
        draft.set("x-amz-content-sha256", value);
        assert_eq!(draft.sign().check_at(AT).unwrap_err().code, ErrorCode::InvalidSignature, "{value}");
    }
}

#[test]
fn who_is_unknown_or_says_nothing_is_told_so() {
    let bare = Request::get("/").header("host", "h").body(()).unwrap().into_parts().0;
    let error = check(&bare, &scope("lambda"), AT, b"").unwrap_err();
    assert_eq!(
        (error.code, error.message.as_str()),
        (ErrorCode::MissingAuthenticationToken, "Missing Authentication Token")
    );

    let stranger =
        Pending::begin(&Draft::new().parts().unwrap(), &scope("lambda"), AT, |_| None::<&str>).unwrap_err();
    assert_eq!(stranger.code, ErrorCode::UnrecognizedClient);
    assert_eq!(stranger.message, "The security token included in the request is invalid.");

    let mut session = Draft::new();
    session.set("x-amz-security-token", "token");
    assert_eq!(session.sign().check_at(AT).unwrap_err().code, ErrorCode::UnrecognizedClient);
}

#[test]
fn half_a_signature_is_incomplete() {
    for value in [
        "AWS4-HMAC-SHA256",
        "Bearer token",
        "AWS4-HMAC-SHA256 Credential=a/20150830/us-east-1/lambda/aws4_request, SignedHeaders=host",
        "AWS4-HMAC-SHA256 Credential=a/20150830/us-east-1/lambda, SignedHeaders=host, Signature=00",
        "AWS4-HMAC-SHA256 Credential=a/20150830/us-east-1/lambda/aws4_request, SignedHeaders=host, Signature=00",
        "AWS4-HMAC-SHA256 Credential=a/b/c/d/aws4_request, SignedHeaders=x;host, Signature=00, Signature=00",
    ] {
        let parts =
            Request::get("/").header("host", "h").header("x-amz-date", STAMP).header("authorization", value);
        let error = check(&parts.body(()).unwrap().into_parts().0, &scope("lambda"), AT, b"").unwrap_err();
        assert_eq!(error.code, ErrorCode::IncompleteSignature, "{value}");
    }
}
