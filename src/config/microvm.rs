//! `[microvm]`: how fast the devices of a virtual machine are.

use std::num::NonZeroU64;

use sandbox::{MicrovmLimits, Rate, RateLimits};

use super::{ByteSize, ConfigError, Layers};

/// Less than this is no way to run a function: its runtime would not start in time.
const LEAST_BYTES: u64 = 1 << 20;
const LEAST_OPERATIONS: u64 = 100;

/// The section's keys, together.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Microvm {
    pub(crate) limits: MicrovmLimits,
}

impl Microvm {
    pub(super) fn read(layers: &Layers) -> Result<Self, ConfigError> {
        let disk = RateLimits {
            bytes: bytes(layers, "disk_bytes_per_second")?,
            operations: operations(layers, "disk_operations_per_second")?,
        };
        let stream = RateLimits {
            bytes: bytes(layers, "stream_bytes_per_second")?,
            operations: operations(layers, "stream_operations_per_second")?,
        };
        Ok(Self { limits: MicrovmLimits { disk, stream } })
    }
}

fn bytes(layers: &Layers, key: &str) -> Result<Option<Rate>, ConfigError> {
    let number = layers.get::<ByteSize>("microvm", key)?.0;
    rate(number, LEAST_BYTES)
        .ok_or_else(|| layers.refuse("microvm", key, "\"1MiB\" or more, or \"0B\" for no limit"))
}

fn operations(layers: &Layers, key: &str) -> Result<Option<Rate>, ConfigError> {
    let number = layers.get("microvm", key)?;
    rate(number, LEAST_OPERATIONS).ok_or_else(|| {
        layers.refuse("microvm", key, format!("{LEAST_OPERATIONS} or more, or 0 for no limit"))
    })
}

/// The outer `None` is too little, the inner no limit. What a second brings may come at once.
fn rate(per_second: u64, least: u64) -> Option<Option<Rate>> {
    let Some(number) = NonZeroU64::new(per_second) else {
        return Some(None);
    };
    (per_second >= least).then_some(Some(Rate { per_second: number, burst: number }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(keys: &str) -> Result<MicrovmLimits, String> {
        let mut layers = Layers::defaults();
        layers.add_file("w.toml".as_ref(), &format!("[microvm]\n{keys}")).unwrap();
        Microvm::read(&layers).map(|read| read.limits).map_err(|error| error.to_string())
    }

    #[test]
    fn each_key_is_a_rate_whose_burst_is_one_second() {
        let limits = read("disk_bytes_per_second = \"1MiB\"\nstream_operations_per_second = 100").unwrap();
        let rate = |number| NonZeroU64::new(number).map(|number| Rate { per_second: number, burst: number });
        assert_eq!(limits.disk.bytes, rate(1 << 20));
        assert_eq!(limits.disk.operations, rate(20_000));
        assert_eq!(limits.stream.bytes, rate(128 << 20));
        assert_eq!(limits.stream.operations, rate(100));
    }

    #[test]
    fn nothing_is_no_limit_and_next_to_nothing_is_refused() {
        let limits = read("disk_bytes_per_second = \"0B\"\ndisk_operations_per_second = 0").unwrap();
        assert!(limits.disk.unlimited() && !limits.stream.unlimited());
        assert_eq!(
            read("stream_bytes_per_second = \"1KiB\"").unwrap_err(),
            "w.toml: microvm.stream_bytes_per_second = \"1KiB\": expected \"1MiB\" or more, or \"0B\" for no limit"
        );
        assert_eq!(
            read("disk_operations_per_second = 99").unwrap_err(),
            "w.toml: microvm.disk_operations_per_second = 99: expected 100 or more, or 0 for no limit"
        );
    }
}
