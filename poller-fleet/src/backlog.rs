//! How much of each function is in the queue, and since when: for those who watch, nothing here is decided by it.
//!
//! The queue knows it of each partition and function, partly from its disk; so this is asked seldom, and by nobody who has other work.

use std::{collections::HashMap, sync::Arc, time::Duration};

use queue::{Queue, ReadError};
use tokio::time::{MissedTickBehavior, interval};
use types::{Clock, FunctionName, FunctionRef};

use crate::{
    metrics,
    router::{PartitionKind, Router},
};

const LOOK: Duration = Duration::from_secs(5);

/// A function, and which of its events.
type Whose = (FunctionName, &'static str);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Waiting {
    events: u64,
    /// Unix time.
    oldest: Option<Duration>,
}

pub(crate) struct Backlog<Q> {
    router: Arc<Router<Q>>,
    clock: Arc<dyn Clock>,
    /// What was told the last time: who has nothing any more is told of once more.
    told: HashMap<Whose, Waiting>,
}

impl<Q: Queue> Backlog<Q> {
    pub(crate) fn new(router: Arc<Router<Q>>, clock: Arc<dyn Clock>) -> Self {
        Self { router, clock, told: HashMap::new() }
    }

    pub(crate) async fn run(mut self) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            match self.look().await {
                Ok(waiting) => self.tell(waiting),
                Err(error) => {
                    tracing::warn!(%error, "how much is queued for each function could not be read");
                }
            }
        }
    }

    async fn look(&self) -> Result<HashMap<Whose, Waiting>, ReadError> {
        let queue = self.router.queue();
        let named = |(number, arn): (_, String)| Some((number, arn.parse::<FunctionRef>().ok()?.name));
        let names: HashMap<_, _> = queue.functions().into_iter().filter_map(named).collect();
        let mut all: HashMap<Whose, Waiting> = HashMap::new();
        for (partition, name) in queue.partitions() {
            let Some(kind) = PartitionKind::of(&name) else { continue };
            for stat in queue.stat(partition).await? {
                let Some(name) = stat.function.and_then(|function| names.get(&function)) else { continue };
                let waiting = all.entry((name.clone(), kind.as_str())).or_default();
                waiting.events += stat.depth.events;
                waiting.oldest = waiting.oldest.into_iter().chain(stat.oldest).min();
            }
        }
        Ok(all)
    }

    fn tell(&mut self, waiting: HashMap<Whose, Waiting>) {
        let now = self.clock.now();
        let gone = self.told.keys().filter(|whose| !waiting.contains_key(*whose));
        let none = Waiting::default();
        for ((name, kind), Waiting { events, oldest }) in gone.map(|whose| (whose, &none)).chain(&waiting) {
            let age = oldest.map_or(Duration::ZERO, |oldest| now.saturating_sub(oldest));
            metrics::backlog(name.as_str(), kind, *events, age);
        }
        self.told = waiting;
    }
}
