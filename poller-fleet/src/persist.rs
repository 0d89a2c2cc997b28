//! Writes that must happen before an event may end.

use std::{future::Future, time::Duration};

use queue::WriteError;
use tokio_util::sync::CancellationToken;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Asks until the queue has written it. `false`: it refuses, which it will always do; or the fleet is stopped meanwhile.
pub(crate) async fn persist<F: Future<Output = Result<(), WriteError>>>(
    what: &'static str,
    stop: &CancellationToken,
    mut write: impl FnMut() -> F,
) -> bool {
    let mut pause = FIRST_PAUSE;
    loop {
        match write().await {
            Ok(()) => return true,
            Err(WriteError::Refused(reason)) => {
                tracing::warn!(%reason, "{what} was refused by the queue; the event comes again");
                return false;
            }
            Err(error) => {
                tracing::error!(%error, retry_in = ?pause, "{what} could not be written; the event stays in memory");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return false,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
