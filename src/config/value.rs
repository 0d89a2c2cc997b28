//! Values of keys: how each type is read from TOML, and what an error says it should have been.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use toml::Value;
use types::{AccountId, Region};

use super::{Auth, Isolation};

/// A type a key can have.
pub(crate) trait Read: Sized {
    /// Completes "expected …".
    const EXPECTED: &'static str;

    /// `None` where the value is not one.
    fn read(value: &Value) -> Option<Self>;
}

/// What a duration looks like.
pub(crate) const EXPECTED_DURATION: &str = "a duration such as \"10s\", \"500ms\" or \"5m\"";

/// A size in bytes, given as text with a unit.
pub(super) struct ByteSize(pub(super) u64);

/// A value that an empty text leaves unset.
pub(super) struct Optional<T>(pub(super) Option<T>);

/// Text from the environment or the command line as the type of the key's default; text it stays where it is not one.
pub(super) fn coerce(default: Option<&Value>, text: &str) -> Value {
    let parsed = match default {
        Some(Value::Integer(_)) => text.parse().ok().map(Value::Integer),
        Some(Value::Boolean(_)) => text.parse().ok().map(Value::Boolean),
        _ => None,
    };
    parsed.unwrap_or_else(|| Value::String(text.to_owned()))
}

/// The number in front of a unit, and the unit.
fn split_unit(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    Some((text[..end].parse().ok()?, &text[end..]))
}

impl Read for ByteSize {
    const EXPECTED: &'static str = "a size such as \"64MiB\" or \"512KiB\"";

    fn read(value: &Value) -> Option<Self> {
        let (number, unit) = split_unit(value.as_str()?)?;
        let factor = match unit {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "TiB" => 1 << 40,
            _ => return None,
        };
        number.checked_mul(factor).map(Self)
    }
}

impl Read for Duration {
    const EXPECTED: &'static str = EXPECTED_DURATION;

    fn read(value: &Value) -> Option<Self> {
        parse_duration(value.as_str()?)
    }
}

/// `500ms`, `10s`, `5m`, `2h`, `7d`.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split_unit(text)?;
    let seconds = match unit {
        "ms" => return Some(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    number.checked_mul(seconds).map(Duration::from_secs)
}

impl<T: Read> Read for Optional<T> {
    const EXPECTED: &'static str = T::EXPECTED;

    fn read(value: &Value) -> Option<Self> {
        if value.as_str() == Some("") {
            return Some(Self(None));
        }
        T::read(value).map(|value| Self(Some(value)))
    }
}

impl Read for bool {
    const EXPECTED: &'static str = "true or false";

    fn read(value: &Value) -> Option<Self> {
        value.as_bool()
    }
}

impl Read for Auth {
    const EXPECTED: &'static str = "\"required\" or \"disabled\"";

    fn read(value: &Value) -> Option<Self> {
        match value.as_str()? {
            "required" => Some(Self::Required),
            "disabled" => Some(Self::Disabled),
            _ => None,
        }
    }
}

impl Read for Isolation {
    const EXPECTED: &'static str = "\"auto\", \"microvm\" or \"process\"";

    fn read(value: &Value) -> Option<Self> {
        match value.as_str()? {
            "auto" => Some(Self::Auto),
            "microvm" => Some(Self::Microvm),
            "process" => Some(Self::Process),
            _ => None,
        }
    }
}

macro_rules! read_parsed {
    ($($type:ty: $expected:literal),+ $(,)?) => {$(
        impl Read for $type {
            const EXPECTED: &'static str = $expected;

            fn read(value: &Value) -> Option<Self> {
                value.as_str()?.parse().ok()
            }
        }
    )+};
}
read_parsed! {
    SocketAddr: "an address and a port such as \"127.0.0.1:9170\"",
    AccountId: "a twelve-digit account",
    Region: "a region such as \"us-east-1\"",
    String: "a text",
    PathBuf: "a path",
}

macro_rules! read_number {
    ($($type:ty),+) => {$(
        impl Read for $type {
            const EXPECTED: &'static str = "a whole number";

            fn read(value: &Value) -> Option<Self> {
                value.as_integer()?.try_into().ok()
            }
        }
    )+};
}
read_number!(u32, u64, usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_need_their_unit() {
        let text = |text: &str| Value::String(text.to_owned());
        let duration = |t: &str| Duration::read(&text(t));
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration("2h"), Some(Duration::from_secs(7200)));
        for bad in
            ["", "10", "s", "-1s", "1 s", "1.5s", "1w", "99999999999999999999s", "9999999999999999999d"]
        {
            assert_eq!(duration(bad), None, "{bad}");
        }
        let size = |t: &str| ByteSize::read(&text(t)).map(|size| size.0);
        assert_eq!(size("64MiB"), Some(64 * 1024 * 1024));
        assert_eq!(size("0B"), Some(0));
        for bad in ["64", "64MB", "64 MiB", "MiB", "99999999999TiB"] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }
}
