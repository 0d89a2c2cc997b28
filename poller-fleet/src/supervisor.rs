//! Sees to it that every partition with events has pollers, and that functions are where they should be.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use queue::{FunctionNumber, PartitionNumber, Queue};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    delivery::Deliveries,
    engine::{Engine, Work},
    metrics,
    placement::{Look, Move, Placement},
    router::{PartitionKind, Router},
    scaling,
    signals::{Seen, Signals},
};

const LOOK: Duration = Duration::from_millis(500);

pub(crate) struct Supervisor<Q: Queue, W: Work> {
    config: Config,
    router: Arc<Router<Q>>,
    invocations: Arc<Engine<Q, W>>,
    deliveries: Arc<Engine<Q, Deliveries<Q>>>,
    polled: HashMap<PartitionNumber, Polled>,
    placement: Placement,
    /// ARNs of functions that are known by number.
    owners: HashMap<FunctionNumber, (String, PartitionNumber)>,
}

/// A partition that has pollers.
struct Polled {
    name: String,
    signals: Arc<Signals>,
    pollers: Vec<CancellationToken>,
}

impl<Q: Queue, W: Work> Supervisor<Q, W> {
    pub(crate) fn new(
        config: Config,
        router: Arc<Router<Q>>,
        invocations: Arc<Engine<Q, W>>,
        deliveries: Arc<Engine<Q, Deliveries<Q>>>,
    ) -> Self {
        let mut this = Self {
            config,
            router,
            invocations,
            deliveries,
            polled: HashMap::new(),
            placement: Placement::default(),
            owners: HashMap::new(),
        };
        this.recall();
        this
    }

    pub(crate) async fn run(mut self) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let seen = self.scale();
            self.place(&seen).await;
            metrics::held("invocations", self.invocations.budget().held());
            metrics::held("deliveries", self.deliveries.budget().held());
        }
    }

    /// Functions that were moved away before the last stop.
    fn recall(&mut self) {
        for (partition, name) in self.router.queue().partitions() {
            let Some(PartitionKind::OwnInvocations(arn)) = PartitionKind::of(&name) else { continue };
            // A name in the log has its function's in the log, too; without its key it is polled and that is all.
            let Ok(function) = self.router.queue().function(arn) else { continue };
            if self.router.queue().redirected(function) == Some(partition) {
                self.placement.has_own(function);
                self.owners.insert(function, (arn.to_owned(), partition));
            }
        }
    }

    /// Adds and ends pollers; returns what they have seen.
    fn scale(&mut self) -> Vec<Seen> {
        let mut seen = Vec::new();
        let own: HashSet<_> = self.owners.values().map(|(_, partition)| *partition).collect();
        for (partition, name) in self.router.queue().partitions() {
            let kind = PartitionKind::of(&name);
            if matches!(kind, None | Some(PartitionKind::DeadLetters(_))) {
                continue;
            }
            let depth = self.router.queue().depth(partition).events;
            let is_own = matches!(kind, Some(PartitionKind::OwnInvocations(_)));
            if is_own && depth == 0 && !own.contains(&partition) {
                if let Some(polled) = self.polled.remove(&partition) {
                    polled.pollers.iter().for_each(CancellationToken::cancel);
                    metrics::partition(&polled.name, 0, 0);
                }
                continue;
            }
            let polled = self.polled.entry(partition).or_insert_with(|| Polled {
                name: name.clone(),
                signals: Arc::default(),
                pollers: Vec::new(),
            });
            let looked = polled.signals.take();
            let count = scaling::pollers(polled.pollers.len(), depth, looked.age, self.config.max_pollers);
            while polled.pollers.len() > count {
                polled.pollers.pop().inspect(CancellationToken::cancel);
            }
            while polled.pollers.len() < count {
                let until = CancellationToken::new();
                if kind == Some(PartitionKind::Deliveries) {
                    self.deliveries.poll(partition, polled.signals.clone(), until.clone());
                } else {
                    self.invocations.poll(partition, polled.signals.clone(), until.clone());
                }
                polled.pollers.push(until);
            }
            metrics::partition(&polled.name, polled.pollers.len(), depth);
            if kind != Some(PartitionKind::Deliveries) {
                seen.push(looked);
            }
        }
        seen
    }

    /// Moves functions away from their neighbours, and back.
    async fn place(&mut self, seen: &[Seen]) {
        let mut looks: HashMap<FunctionNumber, Look> =
            self.placement.own().map(|function| (function, Look::default())).collect();
        for seen in seen {
            let all: u64 = seen.functions.values().map(|traffic| traffic.events).sum();
            for (function, traffic) in &seen.functions {
                let look = looks.entry(*function).or_default();
                look.events += traffic.events;
                look.bytes += traffic.bytes;
                look.neighbourhood += all;
            }
        }
        for function in self.invocations.budget().full() {
            looks.entry(function).or_default().share_full = true;
        }
        for (function, mut look) in looks {
            if let Some((_, own)) = self.owners.get(&function) {
                look.own_depth = self.router.queue().depth(*own).events;
            }
            match self.placement.look(function, &look) {
                Some(Move::Away(reason)) => self.move_away(function, reason).await,
                Some(Move::Back) => self.move_back(function).await,
                None => {}
            }
        }
        metrics::own_partitions(self.owners.len());
    }

    async fn move_away(&mut self, function: FunctionNumber, reason: crate::placement::Reason) {
        let functions = self.router.queue().functions();
        let Some((_, arn)) = functions.into_iter().find(|(number, _)| *number == function) else {
            self.placement.stays(function);
            return;
        };
        let moved = match self.router.own(&arn) {
            Ok(own) => self.router.queue().redirect(function, Some(own)).await.map(|()| own),
            Err(refused) => Err(refused.into()),
        };
        match moved {
            Ok(own) => {
                tracing::info!(
                    function = arn,
                    ?reason,
                    "the function's events go to a partition of their own"
                );
                self.owners.insert(function, (arn, own));
            }
            Err(error) => {
                tracing::warn!(function = arn, %error, "the function could not be moved away");
                self.placement.stays(function);
            }
        }
    }

    async fn move_back(&mut self, function: FunctionNumber) {
        let Some((arn, _)) = self.owners.get(&function) else { return };
        match self.router.queue().redirect(function, None).await {
            Ok(()) => {
                tracing::info!(function = arn, "the function's events go to the shared partitions again");
                self.owners.remove(&function);
            }
            Err(error) => {
                tracing::warn!(function = arn, %error, "the function could not be moved back");
                self.placement.has_own(function);
            }
        }
    }
}
