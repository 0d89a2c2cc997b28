//! What a caller says of itself, before any of it is believed.

use std::time::Duration;

use http::{HeaderMap, header::AUTHORIZATION, request::Parts};
use jiff::civil::DateTime;
use types::{ApiError, ErrorCode};

use super::{
    ALGORITHM, Declared, MAX_EXPIRES_SECS, SKEW_SECS, Scope, TERMINATOR, UNSIGNED_PAYLOAD,
    canonical::query_pairs, refuse, stamp,
};

/// Longest list of signed headers taken (ours).
const MAX_SIGNED_HEADERS: usize = 64;

/// How the request is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Header,
    Presigned {
        /// Life of the request, seconds.
        expires: u32,
    },
}

/// A parsed, untrusted claim.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) access_key_id: String,
    /// `YYYYMMDD` of the credential scope.
    pub(super) date: String,
    pub(super) region: String,
    pub(super) service: String,
    /// Lower case, sorted, without repetition.
    pub(super) signed_headers: Vec<String>,
    pub(super) signature: Vec<u8>,
    /// `YYYYMMDDTHHMMSSZ`.
    pub(super) timestamp: String,
    pub(super) payload: Declared,
    pub(super) session_token: bool,
    form: Form,
}

/// The fields of a claim as they stand in a header or in the query.
struct Fields {
    credential: String,
    signed_headers: String,
    signature: String,
    timestamp: String,
    payload: Option<String>,
    form: Form,
    session_token: bool,
}

// === impl Claim ===

impl Claim {
    pub(super) fn parse(parts: &Parts) -> Result<Self, ApiError> {
        let query = query_pairs(parts.uri.query());
        let presigned = query.iter().any(|(name, _)| name == "X-Amz-Signature" || name == "X-Amz-Algorithm");
        let fields = match (parts.headers.get(AUTHORIZATION), presigned) {
            (None, false) => {
                return Err(refuse(ErrorCode::MissingAuthenticationToken, "Missing Authentication Token"));
            }
            (Some(_), true) => {
                return Err(incomplete("Only one form of signing is allowed: header or query."));
            }
            (Some(_), false) => Fields::from_header(&parts.headers)?,
            (None, true) => Fields::from_query(&query, &parts.headers)?,
        };
        fields.claim()
    }

    pub(super) fn scope_text(&self) -> String {
        format!("{}/{}/{}/{TERMINATOR}", self.date, self.region, self.service)
    }

    pub(super) fn check_scope(&self, scope: &Scope) -> Result<(), ApiError> {
        let invalid = |message: String| Err(refuse(ErrorCode::InvalidSignature, message));
        if self.region != scope.region {
            return invalid(format!(
                "Credential should be scoped to a valid region. This endpoint is in '{}'.",
                scope.region
            ));
        }
        if self.service != scope.service {
            return invalid(format!("Credential should be scoped to correct service: '{}'.", scope.service));
        }
        let day = self.timestamp.get(..8).unwrap_or_default();
        if self.date != day {
            return invalid(format!(
                "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '{}' != '{day}', from '{}'.",
                self.date, self.timestamp
            ));
        }
        Ok(())
    }

    pub(super) fn check_time(&self, now: Duration) -> Result<(), ApiError> {
        let (signed, now) = (seconds_of(&self.timestamp)?, i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        let print = |seconds: i64| stamp(Duration::from_secs(u64::try_from(seconds).unwrap_or_default()));
        if signed > now.saturating_add(SKEW_SECS) {
            return Err(refuse(
                ErrorCode::InvalidSignature,
                format!(
                    "Signature not yet current: {} is still later than {} ({} + 5 min.)",
                    self.timestamp,
                    print(now + SKEW_SECS),
                    print(now)
                ),
            ));
        }
        let expired = match self.form {
            Form::Header if signed < now - SKEW_SECS => {
                let (limit, now) = (print(now - SKEW_SECS), print(now));
                format!("{} is now earlier than {limit} ({now} - 5 min.)", self.timestamp)
            }
            Form::Presigned { expires } if signed + i64::from(expires) < now => {
                format!("{} is now earlier than {}", print(signed + i64::from(expires)), print(now))
            }
            _ => return Ok(()),
        };
        Err(refuse(ErrorCode::InvalidSignature, format!("Signature expired: {expired}")))
    }

    /// `host` and every `x-amz-*` header that is there must be signed: what is not could be changed on the way.
    pub(super) fn check_signed_headers(&self, parts: &Parts) -> Result<(), ApiError> {
        let signed = |name: &str| self.signed_headers.iter().any(|signed| signed == name);
        let must = |name: &str| name.starts_with("x-amz-");
        if !signed("host") {
            return Err(refuse(
                ErrorCode::InvalidSignature,
                "'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.",
            ));
        }
        match parts.headers.keys().find(|name| must(name.as_str()) && !signed(name.as_str())) {
            Some(name) => Err(refuse(
                ErrorCode::InvalidSignature,
                format!("There were headers present in the request which were not signed: {name}"),
            )),
            None => Ok(()),
        }
    }
}

// === impl Fields ===

impl Fields {
    fn from_header(headers: &HeaderMap) -> Result<Self, ApiError> {
        let text =
            single(headers, "authorization")?.ok_or_else(|| incomplete("Authorization header is empty."))?;
        let Some(rest) = text.strip_prefix(ALGORITHM) else {
            return Err(incomplete("Unsupported AWS 'algorithm'; only AWS4-HMAC-SHA256 is supported."));
        };
        let [mut credential, mut signed_headers, mut signature] = [None, None, None];
        for pair in rest.split(',') {
            let Some((name, value)) = pair.trim().split_once('=') else {
                return Err(incomplete("Authorization header holds something that is no 'name=value'."));
            };
            let slot = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut signed_headers,
                "Signature" => &mut signature,
                _ => return Err(incomplete("Authorization header holds an unknown parameter.")),
            };
            if slot.replace(value.to_owned()).is_some() {
                return Err(incomplete(&format!("Authorization header repeats parameter '{name}'.")));
            }
        }
        let need = |value: Option<String>, name: &str| {
            value.ok_or_else(|| incomplete(&format!("Authorization header requires '{name}' parameter.")))
        };
        Ok(Self {
            credential: need(credential, "Credential")?,
            signed_headers: need(signed_headers, "SignedHeaders")?,
            signature: need(signature, "Signature")?,
            timestamp: header_time(headers)?,
            payload: single(headers, "x-amz-content-sha256")?.map(str::to_owned),
            form: Form::Header,
            session_token: headers.contains_key("x-amz-security-token"),
        })
    }

    fn from_query(query: &[(String, String)], headers: &HeaderMap) -> Result<Self, ApiError> {
        let find = |name: &str| {
            let mut values = query.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone());
            let first = values.next();
            if values.next().is_some() {
                Err(incomplete(&format!("Query repeats parameter '{name}'.")))
            } else {
                Ok(first)
            }
        };
        let need = |name: &str| {
            find(name)?
                .ok_or_else(|| incomplete(&format!("AWS query-string parameters must include '{name}'.")))
        };
        if need("X-Amz-Algorithm")? != ALGORITHM {
            return Err(incomplete("Unsupported AWS 'algorithm'; only AWS4-HMAC-SHA256 is supported."));
        }
        let expires =
            need("X-Amz-Expires")?.parse().ok().filter(|seconds| (1..=MAX_EXPIRES_SECS).contains(seconds));
        let expires = expires.ok_or_else(|| {
            incomplete(&format!(
                "X-Amz-Expires must be a number of seconds between 1 and {MAX_EXPIRES_SECS}."
            ))
        })?;
        let payload = match single(headers, "x-amz-content-sha256")? {
            Some(value) => Some(value.to_owned()),
            None => find("X-Amz-Content-Sha256")?,
        };
        Ok(Self {
            credential: need("X-Amz-Credential")?,
            signed_headers: need("X-Amz-SignedHeaders")?,
            signature: need("X-Amz-Signature")?,
            timestamp: need("X-Amz-Date")?,
            payload,
            form: Form::Presigned { expires },
            session_token: find("X-Amz-Security-Token")?.is_some()
                || headers.contains_key("x-amz-security-token"),
        })
    }

    fn claim(self) -> Result<Claim, ApiError> {
        let parts: Vec<&str> = self.credential.split('/').collect();
        let [access_key_id, date, region, service, TERMINATOR] = parts[..] else {
            return Err(incomplete(
                "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/aws4_request.",
            ));
        };
        let signed_headers: Vec<String> = self.signed_headers.split(';').map(str::to_owned).collect();
        let in_order = signed_headers.is_sorted_by(|a, b| a < b);
        let lower = signed_headers
            .iter()
            .all(|name| !name.is_empty() && !name.bytes().any(|b| b.is_ascii_uppercase()));
        if !in_order || !lower || signed_headers.len() > MAX_SIGNED_HEADERS {
            return Err(incomplete("SignedHeaders must be lower case, sorted, unique and separated by ';'."));
        }
        let signature = hex_lower(&self.signature)
            .ok_or_else(|| incomplete("Signature must be 64 hexadecimal digits."))?;
        seconds_of(&self.timestamp)?;
        let payload = match self.payload.as_deref() {
            None => Declared::Nothing,
            Some(UNSIGNED_PAYLOAD) if self.form != Form::Header => Declared::Unsigned,
            Some(text) => hex_lower(text).map(Declared::Hash).ok_or_else(|| {
                refuse(
                    ErrorCode::InvalidSignature,
                    "x-amz-content-sha256 must be the SHA-256 of the payload in hexadecimal.",
                )
            })?,
        };
        Ok(Claim {
            access_key_id: access_key_id.to_owned(),
            date: date.to_owned(),
            region: region.to_owned(),
            service: service.to_owned(),
            signed_headers,
            signature: signature.to_vec(),
            timestamp: self.timestamp,
            payload,
            session_token: self.session_token,
            form: self.form,
        })
    }
}

fn incomplete(message: &str) -> ApiError {
    refuse(ErrorCode::IncompleteSignature, message)
}

/// The one value of a header that must not repeat.
fn single<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>, ApiError> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(incomplete(&format!("Header '{name}' may be given once.")));
    }
    first
        .map(|value| value.to_str().map_err(|_| incomplete(&format!("Header '{name}' is not ASCII."))))
        .transpose()
}

/// The time of signing: `X-Amz-Date`, or else the standard `Date`.
fn header_time(headers: &HeaderMap) -> Result<String, ApiError> {
    if let Some(stamp) = single(headers, "x-amz-date")? {
        return Ok(stamp.to_owned());
    }
    let date = single(headers, "date")?.ok_or_else(|| {
        incomplete("Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.")
    })?;
    let moment = jiff::fmt::rfc2822::parse(date).map_err(|_| incomplete("Date header is not a date."))?;
    let seconds =
        u64::try_from(moment.timestamp().as_second()).map_err(|_| incomplete("Date is before 1970."))?;
    Ok(stamp(Duration::from_secs(seconds)))
}

/// Seconds since the Unix epoch of `YYYYMMDDTHHMMSSZ`.
fn seconds_of(stamp: &str) -> Result<i64, ApiError> {
    let invalid = || incomplete("Date must be in ISO-8601 'basic format', such as 20260102T030405Z.");
    // The parser forgives what the format does not: widths and signs.
    let shape = stamp.len() == 16
        && stamp.bytes().enumerate().all(|(at, byte)| match at {
            8 => byte == b'T',
            15 => byte == b'Z',
            _ => byte.is_ascii_digit(),
        });
    if !shape {
        return Err(invalid());
    }
    let moment = DateTime::strptime("%Y%m%dT%H%M%SZ", stamp).map_err(|_| invalid())?;
    let moment = moment.to_zoned(jiff::tz::TimeZone::UTC).map_err(|_| invalid())?;
    Ok(moment.timestamp().as_second())
}

/// 32 bytes of 64 lower-case hexadecimal digits.
fn hex_lower(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    let lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
    (lower && hex::decode_to_slice(text, &mut bytes).is_ok()).then_some(bytes)
}
