//! Numbers of the API. Sources: BC = botocore 1.44.5's Lambda service model, DG = the Lambda developer guide's quotas.

use std::time::Duration;

/// Largest payload of a RequestResponse invocation, bytes (DG: 6 MB).
pub const SYNC_REQUEST_BYTES: usize = 6 * 1024 * 1024;
/// Largest payload of an asynchronous invocation, bytes (DG: 1 MB).
pub const ASYNC_REQUEST_BYTES: usize = 1024 * 1024;
/// Default and most attempts after a failed first one (BC).
pub const MAX_RETRY_ATTEMPTS: u32 = 2;
/// Least age at which an asynchronous event may be given up (BC).
pub const MIN_EVENT_AGE: Duration = Duration::from_secs(60);
/// Default and greatest age of an asynchronous event (BC: 6 hours).
pub const MAX_EVENT_AGE: Duration = Duration::from_secs(21_600);
/// Times that a function may be invoked in one chain of invocations before the chain is taken for a loop (DG).
pub const RECURSION_HOPS: u32 = 16;
/// Bytes of an error message that a dead-letter queue is told of (DG: the first 1 KB).
pub const ERROR_MESSAGE_BYTES: usize = 1024;
/// Largest buffered response, bytes (DG, as the runtime clients report it: 6 MB + 100).
pub const SYNC_RESPONSE_BYTES: usize = 6_291_556;
/// Largest `X-Amz-Client-Context`, bytes of base64 (BC).
pub const CLIENT_CONTEXT_BYTES: usize = 3583;
/// Bytes of log that `X-Amz-Log-Type: Tail` returns (BC).
pub const LOG_TAIL_BYTES: usize = 4096;
/// Largest directly uploaded deployment package, bytes (DG).
pub const ZIP_BYTES: u64 = 50 * 1024 * 1024;
/// Largest unzipped deployment package, layers included, bytes (DG).
pub const UNZIPPED_BYTES: u64 = 250 * 1024 * 1024;
/// Most entries in a deployment package (ours: bounds memory while a package is checked).
pub const ZIP_ENTRIES: usize = 65_535;
/// Largest sum of keys and values of environment variables, bytes of their JSON form (DG: 4 KB).
pub const ENVIRONMENT_BYTES: usize = 4096;
/// Default time a function may run (BC/DG).
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest time a function may run, seconds (DG).
pub const MAX_TIMEOUT_SECS: u32 = 900;
/// Default, least and most memory of a function, MB (DG).
pub const DEFAULT_MEMORY_MB: u32 = 128;
pub const MIN_MEMORY_MB: u32 = 128;
pub const MAX_MEMORY_MB: u32 = 10_240;
/// Default and most `/tmp`, MB (DG).
pub const DEFAULT_EPHEMERAL_MB: u32 = 512;
pub const MAX_EPHEMERAL_MB: u32 = 10_240;
/// Memory at which a function gets one whole vCPU, MB (DG).
pub const MEMORY_MB_PER_VCPU: u32 = 1769;
/// Time an on-demand environment has for its init phase (DG).
pub const INIT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time an environment has to shut down (DG).
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);
/// Functions on one page of ListFunctions when the caller names no number (DG: 50).
pub const LIST_FUNCTIONS_PAGE: usize = 50;
/// Most and default configurations on one page of ListFunctionEventInvokeConfigs (BC).
pub const LIST_EVENT_INVOKE_CONFIGS_PAGE: usize = 50;
/// Default account concurrency (DG).
pub const ACCOUNT_CONCURRENCY: u32 = 1000;
/// Default storage for all deployment packages of an account, bytes (DG: 75 GB).
pub const ACCOUNT_CODE_BYTES: u64 = 75 * 1024 * 1024 * 1024;
