//! `[queue]`, `[async]` and `[destinations]`: events that are queued, and where their outcomes go.

use std::time::Duration;

use connectors::destinations::is_endpoint;
use poller_fleet::Amount;

use super::{ByteSize, ConfigError, Layers, Optional};

/// From what holds the largest record of an outcome, to what the queue takes (`queue::Config::segment_bytes`).
const SEGMENT_SIZES: std::ops::RangeInclusive<u64> = 16 << 20..=32 << 30;
/// Less would not hold the events of one lease.
const LEAST_MEMORY: u64 = 16 << 20;
/// In less no service can be relied on to answer: every delivery would be repeated.
const LEAST_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Queue {
    pub(crate) segment_size: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Events {
    pub(crate) shared_partitions: u32,
    pub(crate) max_pollers: usize,
    pub(crate) memory: Amount,
    pub(crate) function_memory: Amount,
    pub(crate) test_speed_up: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Destinations {
    pub(crate) endpoint: Option<String>,
    pub(crate) timeout: Duration,
    pub(crate) sealed_files: bool,
}

impl Queue {
    pub(super) fn read(layers: &Layers) -> Result<Self, ConfigError> {
        let segment_size = layers.get::<ByteSize>("queue", "segment_size")?.0;
        if !SEGMENT_SIZES.contains(&segment_size) {
            return Err(layers.refuse("queue", "segment_size", "\"16MiB\" to \"32GiB\""));
        }
        Ok(Self { segment_size })
    }
}

impl Events {
    pub(super) fn read(layers: &Layers) -> Result<Self, ConfigError> {
        let bytes = |key| {
            let bytes = layers.get::<ByteSize>("async", key)?.0;
            if bytes < LEAST_MEMORY {
                return Err(layers.refuse("async", key, "\"16MiB\" or more"));
            }
            Ok(usize::try_from(bytes).unwrap_or(usize::MAX))
        };
        let events = |key| layers.at_least("async", key, 1_usize);
        let shared_partitions: u32 = layers.get("async", "shared_partitions")?;
        if !(1..=1024).contains(&shared_partitions) {
            return Err(layers.refuse("async", "shared_partitions", "1 to 1024"));
        }
        Ok(Self {
            shared_partitions,
            max_pollers: layers.at_least("async", "max_pollers", 1)?,
            memory: Amount { events: events("memory_events")?, bytes: bytes("memory")? },
            function_memory: Amount {
                events: events("function_memory_events")?,
                bytes: bytes("function_memory")?,
            },
            test_speed_up: layers.at_least("async", "test_speed_up", 1)?,
        })
    }
}

impl Destinations {
    pub(super) fn read(layers: &Layers) -> Result<Self, ConfigError> {
        let endpoint = layers.get::<Optional<String>>("destinations", "endpoint")?.0;
        if endpoint.as_ref().is_some_and(|url| !is_endpoint(url)) {
            let expected = "an http:// or https:// URL such as \"http://127.0.0.1:4566\"";
            return Err(layers.refuse("destinations", "endpoint", expected));
        }
        let timeout = layers.get("destinations", "timeout")?;
        if timeout < LEAST_TIMEOUT {
            return Err(layers.refuse("destinations", "timeout", "\"1s\" or more"));
        }
        Ok(Self { endpoint, timeout, sealed_files: layers.get("destinations", "sealed_files")? })
    }
}
