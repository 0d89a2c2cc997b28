//! Answers with the event, after `sleep_ms` milliseconds; prints `stamp NUMBER NANOSECONDS` if it has a number as `stamp`: the
//! time since 1970 when it was done, for whoever queued it and waits for no answer.

#![forbid(unsafe_code)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use serde_json::Value;

async fn handle(event: LambdaEvent<Value>) -> Result<Value, Error> {
    let event = event.payload;
    if let Some(sleep) = event["sleep_ms"].as_u64().filter(|&sleep| sleep > 0) {
        tokio::time::sleep(Duration::from_millis(sleep)).await;
    }
    if let Some(number) = event["stamp"].as_u64() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        println!("stamp {number} {}", now.as_nanos());
    }
    Ok(event)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    run(service_fn(handle)).await
}
