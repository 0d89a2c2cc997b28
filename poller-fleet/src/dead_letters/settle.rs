//! Redriving and purging.
//!
//! ```text
//!   lease a page ─┬─ meant ─────► at its pace: queued again (or not), durable ─► acked
//!        ▲        ├─ not meant ─► stays leased, so that the next page is another
//!        └────────┴─ unreadable ► the same
//!   at the end, however it comes: what is still leased is released
//! ```

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use queue::{EventId, FunctionNumber, LeaseEpoch, Leased, Location, PartitionNumber, Queue, Request};
use tokio::time::Instant;
use types::RequestId;

use super::{Error, Filter, MAX_SCANNED, Order, Progress, Stopped, Store, look::decode, pace::Pace};
use crate::{
    attributes::{Attributes, DeadLetter, Was, millis},
    fleet::Handle,
    metrics,
};

const LEASE: Duration = Duration::from_secs(60);
/// Of a page: most events, and most bytes in memory.
const PAGE_EVENTS: usize = 500;
const PAGE_BYTES: u64 = 4 << 20;

/// What becomes of dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Redriven,
    Purged,
}

/// An order under way.
struct Settling<'a, Q: Queue> {
    handle: &'a Handle<Q>,
    end: End,
    filter: Filter,
    /// Ids that were asked for and not met yet; `None`: none were asked for.
    missing: Option<HashSet<RequestId>>,
    limit: u64,
    pace: Pace,
    deadline: Instant,
    progress: Progress,
}

/// What is leased. Given back when dropped.
struct Held<'a, Q: Queue> {
    queue: &'a Q,
    leases: BTreeMap<LeaseEpoch, HashSet<Location>>,
    extended: Instant,
}

/// A dead letter that is meant.
struct Meant {
    token: Location,
    id: EventId,
    /// What it is queued as; `None`: it is not.
    again: Option<Again>,
}

/// A dead letter as what it was.
struct Again {
    function: FunctionNumber,
    partition: PartitionNumber,
    attributes: Vec<u8>,
    payload: Vec<u8>,
}

impl<Q: Queue> Handle<Q> {
    pub(super) async fn settle_dead_letters(&self, order: Order, end: End) -> Result<Progress, Error> {
        let Order { mut filter, from, limit, per_second, within } = order;
        let whole = end == End::Purged && filter.is_whole() && limit == u64::MAX;
        let stores = self.stores(&filter);
        let of_all = filter.function.is_none();
        // Letters tell milliseconds, and so does whoever goes on with this order.
        let now = Duration::from_millis(millis(self.clock.now()));
        let before = filter.before.map_or(now, |before| before.min(now));
        filter.before = Some(before);
        let mut settling = Settling {
            handle: self,
            end,
            missing: (!filter.ids.is_empty()).then(|| filter.ids.clone()),
            filter,
            limit,
            pace: Pace::new(per_second),
            deadline: Instant::now() + within,
            progress: Progress { before, ..Progress::default() },
        };
        for store in stores {
            let function = store.function.to_string();
            if from.as_ref().is_some_and(|from| function < *from) {
                continue;
            }
            let (unreadable, not_scanned) = (settling.progress.unreadable, settling.progress.not_scanned);
            let stopped =
                if whole { settling.purge(&store).await? } else { settling.settle(&store, of_all).await? };
            if let Some(stopped) = stopped {
                // Whoever goes on meets them again, and counts them then.
                if stopped == Stopped::Time {
                    settling.progress.unreadable = unreadable;
                    settling.progress.not_scanned = not_scanned;
                }
                settling.progress.stopped = Some(stopped);
                settling.progress.next = Some(function);
                break;
            }
            if settling.has_met_all() {
                break;
            }
        }
        Ok(settling.progress)
    }
}

impl<Q: Queue> Settling<'_, Q> {
    fn has_met_all(&self) -> bool {
        self.missing.as_ref().is_some_and(HashSet::is_empty)
    }

    /// Everything of a function, without looking at it.
    async fn purge(&mut self, store: &Store) -> Result<Option<Stopped>, Error> {
        if Instant::now() >= self.deadline {
            return Ok(Some(Stopped::Time));
        }
        let _turn = self.handle.under_way.begin(&store.function)?;
        let queue = self.handle.router.queue();
        let events = queue.depth(store.partition).events;
        queue.purge_partition(store.partition).await?;
        self.done(store, events);
        Ok(None)
    }

    /// What the filter means of a function.
    async fn settle(&mut self, store: &Store, of_all: bool) -> Result<Option<Stopped>, Error> {
        let handle = self.handle;
        let _turn = handle.under_way.begin(&store.function)?;
        let queue = handle.router.queue();
        let events = queue.depth(store.partition).events;
        // A lease gives up for good what can never be opened; whoever filters did not ask for that.
        if handle.is_key_destroyed(store).await? {
            self.progress.unreadable += events;
            return if of_all { Ok(None) } else { Err(Error::KeyDestroyed(store.function.clone())) };
        }
        let mut held = Held { queue, leases: BTreeMap::new(), extended: Instant::now() };
        let mut left = events.min(MAX_SCANNED);
        self.progress.not_scanned += events - left;
        while left > 0 && !self.has_met_all() {
            if self.progress.done >= self.limit {
                return Ok(Some(Stopped::Limit));
            }
            if Instant::now() >= self.deadline {
                return Ok(Some(Stopped::Time));
            }
            held.keep();
            let request = Request {
                partition: store.partition,
                events: PAGE_EVENTS.min(usize::try_from(left).unwrap_or(PAGE_EVENTS)),
                bytes: PAGE_BYTES,
                wait: Duration::ZERO,
                lease: LEASE,
                exclude: &HashSet::new(),
            };
            let (epoch, page) = queue.lease(request).await?;
            if page.is_empty() {
                // Others have them: the pollers' leases leave no room for more, or what is left was given up by this one.
                self.progress.not_scanned += queue.depth(store.partition).events.saturating_sub(held.count());
                break;
            }
            left = left.saturating_sub(page.len() as u64);
            held.leases.insert(epoch, page.iter().map(|event| event.token).collect());
            if let Some(stopped) = self.page(store, &mut held, epoch, page).await? {
                return Ok(Some(stopped));
            }
            tokio::task::yield_now().await;
        }
        Ok(None)
    }

    async fn page(
        &mut self,
        store: &Store,
        held: &mut Held<'_, Q>,
        epoch: LeaseEpoch,
        page: Vec<Leased>,
    ) -> Result<Option<Stopped>, Error> {
        let mut meant = Vec::new();
        for event in page {
            self.progress.scanned += 1;
            meant.extend(self.meant(event)?);
        }
        let mut rest = &meant[..];
        while !rest.is_empty() {
            let room = usize::try_from(self.limit - self.progress.done).unwrap_or(usize::MAX);
            if room == 0 {
                return Ok(Some(Stopped::Limit));
            }
            let (portion, others) = rest.split_at(self.pace.portion().min(rest.len()).min(room));
            if !self.pace.wait(portion.len(), self.deadline).await {
                return Ok(Some(Stopped::Time));
            }
            held.keep();
            self.finish(portion, held, epoch).await?;
            self.done(store, portion.len() as u64);
            if let Some(missing) = &mut self.missing {
                for meant in portion {
                    missing.remove(&RequestId::from_bytes(meant.id.0));
                }
            }
            rest = others;
        }
        Ok(None)
    }

    /// `None`: it stays.
    fn meant(&mut self, event: Leased) -> Result<Option<Meant>, Error> {
        let Ok(letter) = decode(&event.attributes) else {
            self.progress.unreadable += 1;
            return Ok(None);
        };
        if !self.filter.wants(RequestId::from_bytes(event.id.0), &letter) {
            return Ok(None);
        }
        let (token, id) = (event.token, event.id);
        let again = match self.end {
            End::Purged => None,
            End::Redriven => match self.again(letter, event)? {
                Some(again) => Some(again),
                None => {
                    self.progress.unreadable += 1;
                    return Ok(None);
                }
            },
        };
        Ok(Some(Meant { token, id, again }))
    }

    /// `None`: it names no function, so nobody but a newer version can have written it.
    fn again(&self, letter: DeadLetter, event: Leased) -> Result<Option<Again>, Error> {
        let router = &self.handle.router;
        let (function, partition, attributes) = match letter.was {
            Was::Invoke(invocation) => {
                let Some(arn) = invocation.function().and_then(types::FunctionRef::into_arn) else {
                    return Ok(None);
                };
                let (function, partition) = router.invocations(&arn)?;
                (function, partition, Attributes::Invoke(invocation))
            }
            Was::Deliver(outgoing) => (event.function, router.deliveries(), Attributes::Deliver(outgoing)),
        };
        Ok(Some(Again { function, partition, attributes: attributes.encode(), payload: event.payload }))
    }

    /// First durable as what it was, then done as a dead letter.
    async fn finish(
        &self,
        portion: &[Meant],
        held: &mut Held<'_, Q>,
        epoch: LeaseEpoch,
    ) -> Result<(), Error> {
        let again = portion.iter().filter_map(|meant| Some((meant.id, meant.again.as_ref()?)));
        let events: Vec<_> = again
            .map(|(id, again)| queue::Event {
                id,
                function: again.function,
                partition: again.partition,
                attributes: &again.attributes,
                payload: &again.payload,
            })
            .collect();
        if !events.is_empty() {
            held.queue.enqueue(&events).await?;
        }
        let tokens: Vec<_> = portion.iter().map(|meant| (meant.token, meant.id)).collect();
        held.queue.ack(epoch, &tokens).await?;
        held.forget(epoch, portion);
        Ok(())
    }

    fn done(&mut self, store: &Store, events: u64) {
        self.progress.done += events;
        metrics::dead_letters_ended(store.function.name.as_str(), self.end.as_str(), events);
    }
}

// === impl End ===

impl End {
    fn as_str(self) -> &'static str {
        match self {
            Self::Redriven => "redriven",
            Self::Purged => "purged",
        }
    }
}

// === impl Held ===

impl<Q: Queue> Held<'_, Q> {
    /// Extends the leases when it is time to.
    fn keep(&mut self) {
        if self.extended.elapsed() < LEASE / 3 {
            return;
        }
        self.extended = Instant::now();
        // One that is lost is leased again, and looked at again.
        self.leases.retain(|epoch, _| self.queue.extend(*epoch, LEASE).is_ok());
    }

    /// Events that are leased still.
    fn count(&self) -> u64 {
        self.leases.values().map(|tokens| tokens.len() as u64).sum()
    }

    fn forget(&mut self, epoch: LeaseEpoch, done: &[Meant]) {
        let Some(tokens) = self.leases.get_mut(&epoch) else { return };
        for meant in done {
            tokens.remove(&meant.token);
        }
        if tokens.is_empty() {
            self.leases.remove(&epoch);
        }
    }
}

impl<Q: Queue> Drop for Held<'_, Q> {
    fn drop(&mut self) {
        for (epoch, tokens) in &self.leases {
            let tokens: Vec<_> = tokens.iter().copied().collect();
            if let Err(error) = self.queue.release(*epoch, &tokens) {
                tracing::debug!(%error, "dead letters could not be given back; their lease ends by itself");
            }
        }
    }
}
