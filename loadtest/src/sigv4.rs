//! Signature Version 4 for the client side: header form, whole payload.

use std::fmt::Write as _;

use aws_lc_rs::{
    digest::{SHA256, digest},
    hmac::{self, HMAC_SHA256},
};
use types::Clock;

/// A key pair, as a shared credentials file holds it.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub access_key_id: String,
    pub secret_access_key: String,
}

/// Signs requests to one service in one region. Keeps the key of the day, as good clients do.
pub struct Signer<C> {
    credentials: Credentials,
    region: String,
    service: String,
    clock: C,
    day_key: Option<(String, hmac::Key)>,
}

/// The headers a signed request carries beside its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// `X-Amz-Date`
    pub date: String,
    /// `Authorization`
    pub authorization: String,
}

// === impl Credentials ===

impl Credentials {
    /// Reads the `[default]` profile of a shared credentials file.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut section = "";
        let (mut id, mut secret) = (None, None);
        for line in text.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                section = name.trim();
            } else if let Some((key, value)) = line.split_once('=').filter(|_| section == "default") {
                match key.trim() {
                    "aws_access_key_id" => id = Some(value.trim().to_owned()),
                    "aws_secret_access_key" => secret = Some(value.trim().to_owned()),
                    _ => {}
                }
            }
        }
        Some(Self { access_key_id: id?, secret_access_key: secret? })
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

// === impl Signer ===

impl<C: Clock> Signer<C> {
    pub fn new(
        credentials: Credentials,
        region: impl Into<String>,
        service: impl Into<String>,
        clock: C,
    ) -> Self {
        Self { credentials, region: region.into(), service: service.into(), clock, day_key: None }
    }

    /// Signs a request for `path` (as it goes over the wire, without a query) with the headers `host` and `x-amz-date`.
    pub fn sign(&mut self, method: &str, host: &str, path: &str, body: &[u8]) -> Signature {
        self.sign_with(method, host, path, &[], body)
    }

    /// The same with more headers; their names are lower case, in order, and come after `x-amz-date`.
    pub fn sign_with(
        &mut self,
        method: &str,
        host: &str,
        path: &str,
        more: &[(&str, &str)],
        body: &[u8],
    ) -> Signature {
        let date = amz_date(self.clock.now().as_secs());
        let day = &date[..8];
        let lines: String = more.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let names: String = more.iter().map(|(name, _)| format!(";{name}")).collect();
        let canonical = format!(
            "{method}\n{}\n\nhost:{host}\nx-amz-date:{date}\n{lines}\nhost;x-amz-date{names}\n{}",
            encoded_again(path),
            hex::encode(digest(&SHA256, body)),
        );
        let scope = format!("{day}/{}/{}/aws4_request", self.region, self.service);
        let to_sign = format!(
            "AWS4-HMAC-SHA256\n{date}\n{scope}\n{}",
            hex::encode(digest(&SHA256, canonical.as_bytes()))
        );
        let signature = hmac::sign(&self.key_of(day), to_sign.as_bytes());
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders=host;x-amz-date{names}, Signature={}",
            self.credentials.access_key_id,
            hex::encode(signature),
        );
        Signature { date, authorization }
    }

    fn key_of(&mut self, day: &str) -> hmac::Key {
        if let Some((_, key)) = self.day_key.as_ref().filter(|(known, _)| known == day) {
            return key.clone();
        }
        let mut key =
            hmac::Key::new(HMAC_SHA256, format!("AWS4{}", self.credentials.secret_access_key).as_bytes());
        for part in [day, &self.region, &self.service, "aws4_request"] {
            key = hmac::Key::new(HMAC_SHA256, hmac::sign(&key, part.as_bytes()).as_ref());
        }
        self.day_key = Some((day.to_owned(), key.clone()));
        key
    }
}

impl<C> std::fmt::Debug for Signer<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("region", &self.region).finish_non_exhaustive()
    }
}

/// The canonical path: every byte that is not unreserved is encoded, even the `%` of an encoding already there.
fn encoded_again(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// `20150830T123600Z` for seconds since the Unix epoch.
fn amz_date(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Civil date from a day count, with years that begin in March: then leap days come last (H. Hinnant's algorithm).
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    struct At(u64);

    impl Clock for At {
        fn now(&self) -> Duration {
            Duration::from_secs(self.0)
        }
    }

    /// The credentials, moment and scope of the published test suite.
    fn suite() -> Signer<At> {
        let credentials = Credentials {
            access_key_id: "AKIDEXAMPLE".to_owned(),
            secret_access_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
        };
        Signer::new(credentials, "us-east-1", "service", At(1_440_938_160))
    }

    #[test]
    fn signatures_of_the_published_suite_come_out() {
        let mut signer = suite();
        for (method, expected) in [
            ("GET", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
            ("POST", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        ] {
            let signature = signer.sign(method, "example.amazonaws.com", "/", b"");
            assert_eq!(signature.date, "20150830T123600Z");
            assert_eq!(
                signature.authorization,
                format!(
                    "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
                     SignedHeaders=host;x-amz-date, Signature={expected}"
                )
            );
        }
    }

    #[test]
    fn the_key_changes_with_the_day() {
        let mut signer = suite();
        let first = signer.sign("GET", "h", "/", b"");
        signer.clock = At(1_440_938_160 + 86_400);
        assert_ne!(signer.sign("GET", "h", "/", b"").authorization, first.authorization);
        signer.clock = At(1_440_938_160);
        assert_eq!(signer.sign("GET", "h", "/", b""), first);
    }

    #[test]
    fn dates_are_right_around_leap_days_and_year_ends() {
        for (seconds, date) in [
            (0, "19700101T000000Z"),
            (951_782_399, "20000228T235959Z"),
            (951_782_400, "20000229T000000Z"),
            (1_709_251_199, "20240229T235959Z"),
            (1_735_689_599, "20241231T235959Z"),
            (4_107_542_400, "21000301T000000Z"),
        ] {
            assert_eq!(amz_date(seconds), date);
        }
    }

    #[test]
    fn paths_are_encoded_once_more() {
        assert_eq!(encoded_again("/2015-03-31/functions/a%3Ab/x y"), "/2015-03-31/functions/a%253Ab/x%20y");
    }

    #[test]
    fn the_default_profile_of_a_credentials_file_is_read() {
        let text = "[other]\naws_access_key_id = NO\n\n[default]\naws_access_key_id = AKID\naws_secret_access_key=a/b=c\n";
        let credentials = Credentials::parse(text).unwrap();
        assert_eq!((&*credentials.access_key_id, &*credentials.secret_access_key), ("AKID", "a/b=c"));
        assert!(!format!("{credentials:?}").contains("a/b"));
        assert_eq!(Credentials::parse("[default]\naws_access_key_id = AKID\n"), None);
    }
}
