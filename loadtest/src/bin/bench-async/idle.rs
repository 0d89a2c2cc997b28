//! How long one event takes on a server with nothing else to do, against what it cannot do without: one sync of the disk and an
//! invocation. All three at the same pace, since a machine that idles in between takes longer for everything.

use std::time::Duration;

use anyhow::Result;
use loadtest::{
    disk_floor::Floor,
    latency::{Latencies, open_loop},
    report::{Better, Figure, Peer},
    server::Client,
};

use crate::{
    Bench, figure,
    ours::{Ours, STAMPING, instructions},
    paced::Paced,
};

/// Target of the issue that asked for this bench; it has its reason there.
const E2E: f64 = 1.0;
/// How many warm invocations an event may take, beside the sync.
const INVOCATIONS: f64 = 1.5;
const EVENTS: u64 = 200;
const PACE: Duration = Duration::from_millis(10);
const FUNCTION: &str = "idle";

#[derive(Debug)]
struct Round {
    event: Latencies,
    sync: Latencies,
    invocation: Latencies,
}

pub(crate) fn figures(bench: &Bench) -> Result<Vec<Figure>> {
    let ours = Ours::start(bench, &[])?;
    ours.create(bench, FUNCTION, STAMPING)?;
    let mut sides =
        Sides { client: ours.client()?, disk: Floor::new(&bench.data)?, events: Paced::default(), ours };
    let mut rounds = Vec::new();
    for number in 0..bench.warm_up + bench.rounds {
        let round = sides.round(u32::try_from(bench.events(EVENTS))?)?;
        println!(
            "idle, round {number} of {}: p50 of an event {:.0} µs, of a sync {:.0} µs, of an invocation {:.0} µs",
            bench.rounds,
            round.event.micros(0.5),
            round.sync.micros(0.5),
            round.invocation.micros(0.5)
        );
        if number >= bench.warm_up {
            rounds.push(round);
        }
    }
    Ok(report(&rounds))
}

struct Sides {
    ours: Ours,
    client: Client,
    disk: Floor,
    events: Paced,
}

impl Sides {
    fn round(&mut self, events: u32) -> Result<Round> {
        let payload = instructions(Duration::ZERO, None);
        let prepare = |client: &mut Client| client.prepare(FUNCTION, &payload);
        // One for each side that the others' code has driven out of the caches.
        prepare(&mut self.client)?;
        self.client.run(FUNCTION)?;
        let event = self.events.send(&self.ours, FUNCTION, events, PACE)?;
        let sync = open_loop(events, PACE, &mut self.disk, |_| Ok(()), Floor::sync_one)?;
        let invocation =
            open_loop(events, PACE, &mut self.client, prepare, |client| client.run(FUNCTION).map(drop))?;
        Ok(Round { event, sync, invocation })
    }
}

fn report(rounds: &[Round]) -> Vec<Figure> {
    let values = |of: &dyn Fn(&Round) -> f64| rounds.iter().map(of).collect::<Vec<_>>();
    let micros = |latencies: &Latencies| latencies.micros(0.5);
    let open = |figure: Figure| Figure { closed_loop: false, ..figure };
    let what = "one 1 KiB event every 10 ms on an idle server, from when it was due until the function was done, Rust: p50".to_owned();
    let allowed = Peer::Measured {
        name: "one disk sync + 1.5 warm invocations".to_owned(),
        config: "p50 of a write of 1,104 bytes with fdatasync, and of the same function called and waited for over HTTP, each every 10 ms"
            .to_owned(),
        rounds: values(&|round| micros(&round.sync) + INVOCATIONS * micros(&round.invocation)),
    };
    let ours = |quantile: f64| values(&|round| round.event.micros(quantile));
    vec![
        open(Figure {
            target: Some(E2E),
            ..figure("idle_e2e_p50_ratio", what.clone(), "µs", ours(0.5), allowed, Better::Lower)
        }),
        open(figure("idle_e2e_p99", what.replace("p50", "p99"), "µs", ours(0.99), Peer::None, Better::Lower)),
        open(figure(
            "idle_warm_invocation_p50",
            "the same function called and waited for, every 10 ms: p50".to_owned(),
            "µs",
            values(&|round| micros(&round.invocation)),
            Peer::None,
            Better::Lower,
        )),
        open(figure(
            "idle_disk_sync_p50",
            "a write of 1,104 bytes with fdatasync, every 10 ms: p50".to_owned(),
            "µs",
            values(&|round| micros(&round.sync)),
            Peer::None,
            Better::Lower,
        )),
    ]
}
