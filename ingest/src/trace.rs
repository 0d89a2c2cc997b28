//! Trace headers: taken from the caller in either form, handed on in both.
//!
//! ```text
//!   X-Amzn-Trace-Id: Root=1-<8 hex>-<24 hex>;Parent=<16 hex>;Sampled=<0|1>
//!   traceparent:     00-<   same 32 hex   >-<   16 hex  >-<01 = sampled>
//! ```

use std::time::Duration;

use http::HeaderMap;
use types::{Lineage, TraceContext};
use uuid::Uuid;

/// Header of the X-Ray form.
pub(crate) const XRAY: &str = "x-amzn-trace-id";
/// Header of the W3C form.
const TRACEPARENT: &str = "traceparent";

/// A trace as both forms describe it.
struct Trace {
    /// 32 lower-case hexadecimal digits.
    id: String,
    /// 16 lower-case hexadecimal digits.
    parent: String,
    sampled: bool,
    lineage: Lineage,
}

/// The caller's trace, or a new one that is not sampled. Where both forms are there, X-Ray's wins: it is the API's own.
pub(crate) fn context(headers: &HeaderMap, now: Duration) -> TraceContext {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let trace = header(XRAY)
        .and_then(Trace::from_xray)
        .or_else(|| header(TRACEPARENT).and_then(Trace::from_traceparent))
        .unwrap_or_else(|| Trace::beginning(now));
    trace.context()
}

// === impl Trace ===

impl Trace {
    /// X-Ray takes the first eight digits for the second in which the trace began.
    fn beginning(now: Duration) -> Self {
        let random = Uuid::new_v4().simple().to_string();
        Self {
            id: format!("{:08x}{}", now.as_secs() & u64::from(u32::MAX), &random[8..]),
            parent: random_span(),
            sampled: false,
            lineage: Lineage::default(),
        }
    }

    /// A caller that names only a root (a load balancer does) gets a parent made up.
    fn from_xray(text: &str) -> Option<Self> {
        let field = |name: &str| {
            text.split(';')
                .filter_map(|part| part.trim().split_once('='))
                .find(|(key, _)| *key == name)
                .map(|(_, v)| v)
        };
        let root: Vec<&str> = field("Root")?.split('-').collect();
        let ["1", seconds, rest] = root[..] else {
            return None;
        };
        if !is_hex(seconds, 8) || !is_hex(rest, 24) {
            return None;
        }
        let parent =
            field("Parent").filter(|parent| is_hex(parent, 16)).map_or_else(random_span, str::to_owned);
        // What is malformed is left out; nothing can fail.
        let lineage = field("Lineage").unwrap_or_default().parse().unwrap_or_default();
        let sampled = field("Sampled") == Some("1");
        Some(Self { id: format!("{seconds}{rest}"), parent, sampled, lineage })
    }

    fn from_traceparent(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('-').collect();
        let [version, id, parent, flags, ..] = parts[..] else {
            return None;
        };
        // Version 00 has exactly four fields; later ones may have more behind them.
        let known = is_hex(version, 2) && version != "ff" && (version != "00" || parts.len() == 4);
        let some = |text: &str| text.bytes().any(|byte| byte != b'0');
        if !known || !is_hex(id, 32) || !is_hex(parent, 16) || !is_hex(flags, 2) || !some(id) || !some(parent)
        {
            return None;
        }
        let sampled = u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & 1 == 1);
        let (id, parent) = (id.to_owned(), parent.to_owned());
        Some(Self { id, parent, sampled, lineage: Lineage::default() })
    }

    fn context(self) -> TraceContext {
        let Self { id, parent, sampled, lineage } = self;
        let (seconds, rest) = id.split_at(8);
        let sampled = u8::from(sampled);
        TraceContext {
            xray: format!("Root=1-{seconds}-{rest};Parent={parent};Sampled={sampled}"),
            traceparent: format!("00-{id}-{parent}-{sampled:02x}"),
            lineage,
        }
    }
}

/// Lower case, as both forms demand.
fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn random_span() -> String {
    let mut digits = Uuid::new_v4().simple().to_string();
    digits.truncate(16);
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "67891233abcdef012345678912345678";

    fn of(pairs: &[(&'static str, &str)]) -> TraceContext {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, value.parse().unwrap());
        }
        context(&headers, Duration::from_secs(0x6789_1233))
    }

    #[test]
    fn either_form_gives_both() {
        let expected = TraceContext {
            xray: String::from("Root=1-67891233-abcdef012345678912345678;Parent=463ac35c9f6413ad;Sampled=1"),
            traceparent: format!("00-{ID}-463ac35c9f6413ad-01"),
            lineage: Lineage::default(),
        };
        assert_eq!(of(&[(XRAY, &expected.xray)]), expected);
        assert_eq!(of(&[(TRACEPARENT, &expected.traceparent)]), expected);
    }

    #[test]
    fn a_lineage_is_taken_over() {
        let trace = of(&[(XRAY, "Root=1-67891233-abcdef012345678912345678;Lineage=a87bd80c:3;Sampled=0")]);
        assert_eq!(trace.lineage.to_string(), "a87bd80c:3");
        assert!(!trace.xray.contains("Lineage") && trace.header().ends_with(";Sampled=0;Lineage=a87bd80c:3"));
    }

    #[test]
    fn the_xray_form_wins() {
        let both = of(&[(XRAY, "Root=1-67891233-abcdef012345678912345678"), (TRACEPARENT, "00-1-2-3")]);
        assert!(both.traceparent.starts_with(&format!("00-{ID}-")), "{both:?}");
    }

    #[test]
    fn what_is_malformed_starts_a_new_unsampled_trace() {
        for (name, value) in [
            (XRAY, "Root=1-67891233-ABCDEF012345678912345678"),
            (XRAY, "Self=x"),
            (TRACEPARENT, "00-00000000000000000000000000000000-463ac35c9f6413ad-01"),
            (TRACEPARENT, "ff-67891233abcdef012345678912345678-463ac35c9f6413ad-01"),
            (TRACEPARENT, "00-67891233abcdef012345678912345678-463ac35c9f6413ad-01-extra"),
        ] {
            let trace = of(&[(name, value)]);
            assert!(
                trace.xray.ends_with(";Sampled=0") && !trace.traceparent.contains(ID),
                "{value}: {trace:?}"
            );
        }
    }
}
