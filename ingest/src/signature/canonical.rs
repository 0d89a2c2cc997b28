//! The canonical request: one spelling of a request that signer and verifier agree on.
//!
//! ```text
//!   METHOD \n path \n query \n header:value\n… \n signed;headers \n hex(SHA-256(payload))
//! ```
//!
//! For every service but S3 the path is encoded once more than it travels (`%3A` → `%253A`), after `.` and `..` and
//! repeated slashes are resolved.

use std::borrow::Cow;

use http::request::Parts;

use crate::model::percent_decode_bytes;

/// Name of the one query parameter that a signature cannot cover.
const SIGNATURE: &str = "X-Amz-Signature";

/// Everything of the canonical request but the payload hash, or none where a signed header is missing or not text.
pub(super) fn request_without_payload(parts: &Parts, signed_headers: &[String]) -> Option<String> {
    let mut text = String::with_capacity(512);
    text.push_str(parts.method.as_str());
    text.push('\n');
    text.push_str(&path(parts.uri.path().as_bytes()));
    text.push('\n');
    text.push_str(&query(parts.uri.query()));
    text.push('\n');
    for name in signed_headers {
        let mut values = parts.headers.get_all(name).iter().peekable();
        values.peek()?;
        text.push_str(name);
        text.push(':');
        for (index, value) in values.enumerate() {
            if index > 0 {
                text.push(',');
            }
            fold(std::str::from_utf8(value.as_bytes()).ok()?, &mut text);
        }
        text.push('\n');
    }
    text.push('\n');
    text.push_str(&signed_headers.join(";"));
    text.push('\n');
    Some(text)
}

/// A header's value, trimmed, runs of spaces made one.
fn fold(value: &str, into: &mut String) {
    let mut words = value.split([' ', '\t']).filter(|word| !word.is_empty());
    into.push_str(words.next().unwrap_or_default());
    for word in words {
        into.push(' ');
        into.push_str(word);
    }
}

/// The path as it travels, resolved and encoded.
pub(super) fn path(raw: &[u8]) -> String {
    let mut segments: Vec<&[u8]> = Vec::new();
    for segment in raw.split(|byte| *byte == b'/') {
        match segment {
            b"" | b"." => {}
            b".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    let mut text = String::with_capacity(raw.len() + 16);
    for segment in &segments {
        text.push('/');
        encode(segment, &mut text);
    }
    let ends_open = [b"/".as_slice(), b"/.", b"/.."].iter().any(|end| raw.ends_with(end));
    if text.is_empty() || ends_open {
        text.push('/');
    }
    text
}

/// The query sorted by name, then value, both encoded; without the signature itself.
fn query(raw: Option<&str>) -> String {
    let mut pairs: Vec<(String, String)> = split(raw)
        .map(|(name, value)| (recode(name), recode(value)))
        .filter(|(name, _)| name != SIGNATURE)
        .collect();
    pairs.sort();
    let mut text = String::new();
    for (index, (name, value)) in pairs.iter().enumerate() {
        if index > 0 {
            text.push('&');
        }
        text.push_str(name);
        text.push('=');
        text.push_str(value);
    }
    text
}

/// The query's pairs, decoded, in their order.
pub(crate) fn query_pairs(raw: Option<&str>) -> Vec<(String, String)> {
    let decode = |text: &str| String::from_utf8_lossy(&percent_decode_bytes(text.as_bytes())).into_owned();
    split(raw).map(|(name, value)| (decode(name), decode(value))).collect()
}

/// As [`query_pairs`], borrowing what needs no decoding.
pub(crate) fn decode_query(raw: Option<&str>) -> Vec<(Cow<'_, str>, Cow<'_, str>)> {
    let decode = crate::model::percent_decode;
    split(raw).map(|(name, value)| (decode(name), decode(value))).collect()
}

fn split(raw: Option<&str>) -> impl Iterator<Item = (&str, &str)> {
    raw.unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

fn recode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    encode(&percent_decode_bytes(text.as_bytes()), &mut encoded);
    encoded
}

/// Percent-encodes all but the unreserved characters of RFC 3986.
pub(super) fn encode(bytes: &[u8], into: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            into.push(char::from(byte));
        } else {
            into.push('%');
            into.push(char::from(DIGITS[usize::from(byte >> 4)]));
            into.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
}
