//! Reading bodies: bounded in size, in memory over all requests, and in how slowly they may come.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::digest;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use crate::{metrics, signature::PayloadHash};

/// Budgets count in this unit: a semaphore counts in `u32`.
const UNIT_BYTES: usize = 1024;

/// Bytes that a class of requests may hold at once.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    units: Arc<Semaphore>,
    class: &'static str,
}

/// A part of a budget, given back when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    _permit: OwnedSemaphorePermit,
    _gauge: metrics::InflightBytes,
}

/// How slowly a body may come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) grace: Duration,
    /// Bytes per second.
    pub(crate) rate: u32,
}

/// Why a body was not read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    #[error("the body came too slowly")]
    TooSlow,
    #[error("the body broke off")]
    Broken,
}

/// A body that was read whole.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) bytes: Bytes,
    /// Where it was asked for.
    pub(crate) hash: Option<PayloadHash>,
}

// === impl Budget ===

impl Budget {
    pub(crate) fn new(class: &'static str, bytes: usize) -> Self {
        let units = bytes.div_ceil(UNIT_BYTES).min(Semaphore::MAX_PERMITS);
        Self { units: Arc::new(Semaphore::new(units)), class }
    }

    /// Takes `bytes` out of the budget at once, or not at all.
    pub(crate) fn reserve(&self, bytes: usize) -> Option<Reservation> {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).ok()?;
        let permit = Arc::clone(&self.units).try_acquire_many_owned(units).ok()?;
        Some(Reservation { _permit: permit, _gauge: metrics::InflightBytes::add(self.class, bytes) })
    }
}

// === impl Pace ===

impl Pace {
    /// When the next bytes must be there, if `received` bytes have come since `start`.
    fn deadline(self, start: Instant, received: usize) -> Instant {
        start + self.grace + Duration::from_secs_f64(received as f64 / f64::from(self.rate.max(1)))
    }
}

/// Bytes of a body as its head declares them; `cap` where it declares none.
pub(crate) fn declared_len(body: &Incoming, cap: usize) -> usize {
    body.size_hint().exact().map_or(cap, |exact| usize::try_from(exact).unwrap_or(usize::MAX))
}

/// Reads a body of at most `cap` bytes, hashing it as it comes where `hash` says so. On an error the rest is left unread.
pub(crate) async fn read(
    body: &mut Incoming,
    cap: usize,
    pace: Pace,
    hash: bool,
) -> Result<Received, ReadError> {
    let start = Instant::now();
    let mut context = hash.then(|| digest::Context::new(&digest::SHA256));
    let mut first = Bytes::new();
    // Used once there is more than one chunk: small bodies come in one, and are not copied.
    let mut rest = BytesMut::new();
    let mut received = 0;
    while let Some(chunk) = next(body, pace.deadline(start, received)).await? {
        received += chunk.len();
        if received > cap {
            return Err(ReadError::TooLarge(cap));
        }
        if let Some(context) = &mut context {
            context.update(&chunk);
        }
        if first.is_empty() {
            first = chunk;
        } else {
            if rest.is_empty() {
                rest.reserve(declared_len(body, 0).saturating_add(received).min(cap));
                rest.extend_from_slice(&first);
            }
            rest.extend_from_slice(&chunk);
        }
    }
    let hash = context.map(|context| {
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        hash
    });
    Ok(Received { bytes: if rest.is_empty() { first } else { rest.freeze() }, hash })
}

/// How long a client may pause while its refused body is read.
const DISCARD_PAUSE: Duration = Duration::from_millis(500);

/// Reads on and keeps nothing, so that a client that is still sending gets to read why it was refused: closing while
/// data is unread resets the connection and the answer is lost. A client that pauses has stopped sending, or waits for us.
pub(crate) async fn discard(body: &mut Incoming, most: usize, within: Duration) {
    let deadline = Instant::now() + within;
    let mut left = most;
    while let Ok(Some(chunk)) = next(body, deadline.min(Instant::now() + DISCARD_PAUSE)).await {
        let Some(still) = left.checked_sub(chunk.len()) else {
            return;
        };
        left = still;
    }
}

async fn next(body: &mut Incoming, deadline: Instant) -> Result<Option<Bytes>, ReadError> {
    loop {
        if body.is_end_stream() {
            return Ok(None);
        }
        match timeout_at(deadline, body.frame()).await {
            Err(_) => return Err(ReadError::TooSlow),
            Ok(None) => return Ok(None),
            Ok(Some(Err(_))) => return Err(ReadError::Broken),
            // Trailers are of no use here.
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) if !data.is_empty() => return Ok(Some(data)),
                _ => {}
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_gives_no_more_than_it_has_and_takes_back() {
        let budget = Budget::new("test", 10 * UNIT_BYTES);
        let held = budget.reserve(8 * UNIT_BYTES).unwrap();
        assert!(budget.reserve(2 * UNIT_BYTES + 1).is_none());
        assert!(budget.reserve(2 * UNIT_BYTES).is_some());
        drop(held);
        assert!(budget.reserve(10 * UNIT_BYTES).is_some());
        assert!(budget.reserve(usize::MAX).is_none());
    }

    #[test]
    fn a_steady_body_moves_its_deadline_and_a_trickle_does_not() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let pace = Pace { grace: 10 * second, rate: 1000 };
        assert_eq!(pace.deadline(start, 0), start + 10 * second);
        assert_eq!(pace.deadline(start, 60_000), start + 70 * second);
        assert!(pace.deadline(start, 10) < start + 11 * second);
    }
}
