//! Bounds of the invoker.

use std::time::Duration;

/// Every bound has its key in the configuration file's `[environments]` table.
#[derive(Debug, Clone)]
pub struct Config {
    /// Most invocations at once, all functions together; more are throttled.
    pub concurrency_limit: u32,
    /// Most memory of all environments together, MB, counted by what their functions are configured to use.
    pub max_memory_mb: u32,
    /// How long an environment waits for its next invocation before it is stopped.
    pub idle_timeout: Duration,
    /// Longest init phase.
    pub init_timeout: Duration,
    /// How long a request waits for memory that other environments hold.
    pub capacity_wait: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            concurrency_limit: types::limits::ACCOUNT_CONCURRENCY,
            max_memory_mb: 4096,
            idle_timeout: Duration::from_secs(600),
            init_timeout: types::limits::INIT_TIMEOUT,
            capacity_wait: Duration::from_secs(5),
        }
    }
}
