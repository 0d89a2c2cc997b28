//! Signature Version 4: who sent a request, and that nobody changed it.
//!
//! ```text
//!   head of request ──Claim::parse──► Claim        what the caller says: key id, scope, time, signed headers
//!         Claim + clock + key     ──► Pending      known key, right scope, right time; canonical request but its last line
//!                                        │
//!             payload hash declared ─────┤ verified at once, before the body is read; the body must then have that hash
//!             not declared ──────────────┘ verified when the body has been read (bounded) and hashed
//! ```
//!
//! Both forms of signing are accepted: in the `Authorization` header, and in the query (presigned). The algorithm and its
//! names are from AWS's "Create a signed AWS API request". What is *not* checked here: whether the caller may do what it
//! asks; every key is the account's own.

mod canonical;
mod claim;
mod presign;

use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::{digest, hmac};
use jiff::{Timestamp, tz::TimeZone};
use subtle::ConstantTimeEq;
use types::{ApiError, ErrorCode};

use claim::Claim;

pub(crate) use canonical::decode_query;
pub(crate) use presign::{PresignRequest, presign};

/// SHA-256 of a body.
pub(crate) type PayloadHash = [u8; 32];

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const TERMINATOR: &str = "aws4_request";
const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";
/// How far the caller's clock may be from ours, seconds (AWS general reference: five minutes).
const SKEW_SECS: i64 = 300;
/// Longest life of a presigned request, seconds: seven days, as a signing key is good for no longer.
const MAX_EXPIRES_SECS: u32 = 604_800;

/// What signatures must be scoped to.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    pub(crate) region: String,
    /// `lambda` everywhere but in the published test vectors.
    pub(crate) service: &'static str,
    recent: Arc<Mutex<Option<RecentKey>>>,
}

/// The signing key that was derived last: a caller's requests of one day have the same.
#[derive(Debug)]
struct RecentKey {
    access_key_id: String,
    date: String,
    key: hmac::Key,
}

/// A request whose key, scope and time are right and whose signature is yet to be compared.
pub(crate) struct Pending {
    claim: Claim,
    /// Everything of the canonical request but the payload hash.
    canonical: String,
    signing_key: hmac::Key,
}

/// A request that its key's holder really sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verified {
    pub(crate) access_key_id: String,
    /// What the body must hash to; absent where the signature already covers the body that was read, or covers none.
    pub(crate) payload: Option<PayloadHash>,
}

/// What a caller declared of its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Declared {
    Hash(PayloadHash),
    /// `UNSIGNED-PAYLOAD`; only where the request is presigned.
    Unsigned,
    /// Nothing: the signature covers the hash of whatever the body is.
    Nothing,
}

// === impl Scope ===

impl Scope {
    pub(crate) fn new(region: String, service: &'static str) -> Self {
        Self { region, service, recent: Arc::default() }
    }

    /// The key for a claim of this scope. Secrets of known access keys do not change while a server runs.
    fn signing_key(&self, claim: &Claim, secret: &str) -> hmac::Key {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(recent) = &*recent
            && (&recent.access_key_id, &recent.date) == (&claim.access_key_id, &claim.date)
        {
            return recent.key.clone();
        }
        let key = signing_key(secret, &claim.date, &self.region, self.service);
        let (access_key_id, date) = (claim.access_key_id.clone(), claim.date.clone());
        *recent = Some(RecentKey { access_key_id, date, key: key.clone() });
        key
    }
}

// === impl Pending ===

impl Pending {
    /// Checks all that can be checked from the head. `now` is the time since the Unix epoch; `secret_of` finds the
    /// secret of an access key id.
    pub(crate) fn begin<S: AsRef<str>>(
        parts: &http::request::Parts,
        scope: &Scope,
        now: std::time::Duration,
        secret_of: impl FnOnce(&str) -> Option<S>,
    ) -> Result<Self, ApiError> {
        let claim = Claim::parse(parts)?;
        let unknown = || {
            refuse(ErrorCode::UnrecognizedClient, "The security token included in the request is invalid.")
        };
        // There is no token service: a session's credentials cannot be ours.
        if claim.session_token {
            return Err(unknown());
        }
        let secret = secret_of(&claim.access_key_id).ok_or_else(unknown)?;
        claim.check_scope(scope)?;
        claim.check_time(now)?;
        claim.check_signed_headers(parts)?;
        let canonical = canonical::request_without_payload(parts, &claim.signed_headers)
            .ok_or_else(|| refuse(ErrorCode::InvalidSignature, MISMATCH))?;
        let signing_key = scope.signing_key(&claim, secret.as_ref());
        Ok(Self { claim, canonical, signing_key })
    }

    pub(crate) fn declared(&self) -> Declared {
        self.claim.payload
    }

    /// Compares the signature. `body` is the hash of the body where it has been read; it is needed where nothing was
    /// declared, and ignored otherwise.
    pub(crate) fn verify(self, body: Option<PayloadHash>) -> Result<Verified, ApiError> {
        let mut canonical = self.canonical;
        let payload = match self.claim.payload {
            Declared::Hash(hash) => {
                push_hex(&mut canonical, &hash);
                Some(hash)
            }
            Declared::Unsigned => {
                canonical.push_str(UNSIGNED_PAYLOAD);
                None
            }
            Declared::Nothing => {
                push_hex(&mut canonical, &body.unwrap_or_else(|| hash_of(b"")));
                None
            }
        };
        let to_sign = string_to_sign(&self.claim.timestamp, &self.claim.scope_text(), &canonical);
        let expected = hmac::sign(&self.signing_key, to_sign.as_bytes());
        if bool::from(expected.as_ref().ct_eq(&self.claim.signature)) {
            Ok(Verified { access_key_id: self.claim.access_key_id, payload })
        } else {
            Err(refuse(ErrorCode::InvalidSignature, MISMATCH))
        }
    }
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pending").field("access_key_id", &self.claim.access_key_id).finish_non_exhaustive()
    }
}

/// AWS's text for a signature, or a body, that is not what it should be.
pub(crate) const MISMATCH: &str = "The request signature we calculated does not match the signature you provided. Check your AWS \
     Secret Access Key and signing method. Consult the service documentation for details.";

pub(crate) fn hash_of(bytes: &[u8]) -> PayloadHash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

fn refuse(code: ErrorCode, message: impl Into<String>) -> ApiError {
    ApiError::new(code, message)
}

fn signing_key(secret: &str, date: &str, region: &str, service: &str) -> hmac::Key {
    let mut key = hmac::Key::new(hmac::HMAC_SHA256, format!("AWS4{secret}").as_bytes());
    for step in [date, region, service, TERMINATOR] {
        key = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, step.as_bytes()).as_ref());
    }
    key
}

fn string_to_sign(timestamp: &str, scope: &str, canonical: &str) -> String {
    let mut text = format!("{ALGORITHM}\n{timestamp}\n{scope}\n");
    push_hex(&mut text, &hash_of(canonical.as_bytes()));
    text
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or_default();
    text.extend(bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]));
}

/// `20260102T030405Z` of a moment since the Unix epoch.
fn stamp(at: std::time::Duration) -> String {
    let seconds = i64::try_from(at.as_secs()).unwrap_or(i64::MAX);
    let moment = Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX);
    moment.to_zoned(TimeZone::UTC).strftime("%Y%m%dT%H%M%SZ").to_string()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

#[cfg(test)]
mod mutation_tests;
