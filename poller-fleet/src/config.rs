//! How a fleet is set up.

use std::time::Duration;

use crate::{budget::Amount, schedule::Schedule};

#[derive(Debug, Clone)]
pub struct Config {
    /// Partitions that functions share.
    pub shared_partitions: u32,
    /// Most pollers of one partition.
    pub max_pollers: usize,
    /// What may be in memory of all functions. Held once for invocations and once for deliveries.
    pub memory: Amount,
    /// What may be in memory of one function; less as memory fills: never more than an eighth of what is free.
    pub function_memory: Amount,
    /// Most invocations at once, of all functions. One function leaves an eighth of what it has to others, so that alone it gets eight ninths.
    pub max_concurrency: u32,
    /// How long a lease lasts unless it is extended.
    pub lease: Duration,
    pub schedule: Schedule,
}

const MIB: usize = 1024 * 1024;

impl Default for Config {
    fn default() -> Self {
        Self {
            shared_partitions: 8,
            max_pollers: 4,
            memory: Amount { events: 20_000, bytes: 256 * MIB },
            function_memory: Amount { events: 2_000, bytes: 32 * MIB },
            max_concurrency: 900,
            lease: Duration::from_secs(60),
            schedule: Schedule::default(),
        }
    }
}
