//! How fast events are done: from the first request to the end of the last invocation, queue and all.
//!
//! ```text
//!   ours       callers ─► API ─► queue ─► fleet ─► invoker ─► 4 environments     until the last has succeeded
//!   ceiling    4 callers, who wait ─► API ─► invoker ─► the same environments    the same server, nothing queued
//!   Restate    callers ─► ingress ─► log ─► handler (SDK) ──┐
//!   JetStream  publishes ─► stream ─► pull consumer ────────┴─► 4 processes of the same function, bare
//! ```

use std::{cell::Cell, time::Instant};

use anyhow::Result;
use bytes::Bytes;
use loadtest::{
    floor::Prepared,
    function::{RUST, payload},
    latency::Latencies,
    load::Load,
    nats,
    peer::Program,
    procfs::TreeTime,
    report::{Better, Figure, Peer},
    rounds::median,
};
use tokio::runtime::Runtime;

use crate::{
    Bench, KIB, figure,
    jetstream::{self, JetStream},
    ours::Ours,
    pool::{PROCESSES, Pool},
    restate::{self, Handler, Restate},
};

// Targets of the issue that asked for this bench; each has a reason there.
const VS_INVOKER_CEILING: f64 = 0.8;
const VS_BEST_PEER: f64 = 1.0;
/// Of ours, and of the ceiling.
const EVENTS: u64 = 10_000;
const PEER_EVENTS: u64 = 4_000;
const CONNECTIONS: usize = 64;
const FUNCTION: &str = "echo";

#[derive(Debug)]
struct Round {
    /// Its latencies are those of acceptance.
    ours: Load,
    accepted_per_second: f64,
    ceiling: Load,
    restate: Option<Load>,
    jetstream: Option<Load>,
}

pub(crate) fn figures(bench: &Bench) -> Result<Vec<Figure>> {
    let mut sides = Sides::start(bench)?;
    // Environments and processes are started, connections are made.
    sides.round(1_000)?;
    let mut rounds = Vec::new();
    for number in 0..bench.warm_up + bench.rounds {
        let round = sides.round(bench.events(EVENTS))?;
        println!("complete, round {number} of {}: {}", bench.rounds, line(&round));
        if number >= bench.warm_up {
            rounds.push(round);
        }
    }
    Ok(report(&rounds, &sides))
}

struct Sides {
    ours: Ours,
    payload: Vec<u8>,
    restate: Result<(Program, Restate), String>,
    jetstream: Result<(Program, JetStream), String>,
    pool: Pool,
    runtime: Runtime,
    _function: Prepared,
}

impl Sides {
    fn start(bench: &Bench) -> Result<Self> {
        let ours = Ours::start_like_peers(bench)?;
        ours.create(bench, FUNCTION, RUST)?;
        let function = Prepared::new(&bench.runtimes, &bench.functions, RUST)?;
        let pool = Pool::start(&function)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let restate = match restate::find(&bench.restate) {
            Ok(program) => {
                let restate = Restate::start(&runtime, &program, &bench.data, Handler::Call(pool.clone()))?;
                // What it takes as a sign that it works is a call, too.
                pool.wait_for(1)?;
                Ok((program, restate))
            }
            Err(reason) => Err(reason),
        };
        let jetstream = match nats::find(&bench.nats) {
            Ok(program) => {
                let jetstream = JetStream::start(&runtime, &program, &bench.data, &pool)?;
                Ok((program, jetstream))
            }
            Err(reason) => Err(reason),
        };
        Ok(Self { ours, payload: payload(KIB), restate, jetstream, pool, runtime, _function: function })
    }

    fn round(&mut self, events: u64) -> Result<Round> {
        let peers = events * PEER_EVENTS / EVENTS;
        let (ours, accepted_per_second) = self.ours(events)?;
        let restate = match &self.restate {
            Ok((_, restate)) => Some(self.restate(restate, peers)?),
            Err(_) => None,
        };
        let jetstream = match &self.jetstream {
            Ok((_, jetstream)) => Some(self.jetstream(jetstream, peers)?),
            Err(_) => None,
        };
        Ok(Round { ours, accepted_per_second, ceiling: self.ceiling(events)?, restate, jetstream })
    }

    /// Also: how fast they were accepted.
    fn ours(&self, events: u64) -> Result<(Load, f64)> {
        let request = self.ours.event(FUNCTION, &self.payload)?;
        let callers = self.ours.callers(&request, CONNECTIONS)?;
        let before = self.ours.succeeded(FUNCTION)?;
        let mut accepted = 0.0;
        let load = measured(events, || {
            let answered = callers.call(some(events))?;
            accepted = events as f64 / answered.elapsed.as_secs_f64();
            self.ours.wait_for(FUNCTION, before + events)?;
            Ok(answered.latencies)
        })?;
        Ok((load, accepted))
    }

    fn ceiling(&self, events: u64) -> Result<Load> {
        let request = self.ours.invocation(FUNCTION, &self.payload)?;
        let callers = self.ours.callers(&request, PROCESSES)?;
        let callers = loadtest::clients::Callers { status: 200, ..callers };
        measured(events, || Ok(callers.call(some(events))?.latencies))
    }

    fn restate(&self, restate: &Restate, events: u64) -> Result<Load> {
        let request = restate.event(&self.payload);
        let before = self.pool.done();
        measured(events, || {
            let answered = restate.callers(&request, CONNECTIONS).call(some(events))?;
            self.pool.wait_for(before + events)?;
            Ok(answered.latencies)
        })
    }

    fn jetstream(&self, jetstream: &JetStream, events: u64) -> Result<Load> {
        let payload = Bytes::copy_from_slice(&self.payload);
        let before = self.pool.done();
        measured(events, || {
            let latencies = jetstream.publish(&self.runtime, &payload, events)?;
            self.pool.wait_for(before + events)?;
            Ok(latencies)
        })
    }
}

/// True so many times.
pub(crate) fn some(events: u64) -> impl Fn() -> bool {
    let left = Cell::new(events);
    move || {
        let more = left.get() > 0;
        left.set(left.get().saturating_sub(1));
        more
    }
}

/// Processor time is that of everything: callers, servers, functions.
fn measured(events: u64, work: impl FnOnce() -> Result<Latencies>) -> Result<Load> {
    let (cpu, begin) = (TreeTime::start(std::process::id())?, Instant::now());
    let latencies = work()?;
    Ok(Load { events, elapsed: begin.elapsed(), cpu: cpu.elapsed()?, latencies })
}

fn report(rounds: &[Round], sides: &Sides) -> Vec<Figure> {
    let values = |of: &dyn Fn(&Round) -> f64| rounds.iter().map(of).collect::<Vec<_>>();
    let load = |of: &dyn Fn(&Round) -> Option<&Load>, value: fn(&Load) -> f64| {
        values(&|round| of(round).map_or(f64::NAN, value))
    };
    let what = |what: &str| {
        format!(
            "1 KiB events, durable acceptance ({CONNECTIONS} connections) to function done, Rust echo, {PROCESSES} environments: {what}"
        )
    };
    let restate = |value: fn(&Load) -> f64| match &sides.restate {
        Ok((program, _)) => Peer::Measured {
            name: program.name.clone(),
            config: format!("{}; {PROCESSES} bare processes, {CONNECTIONS} connections", restate::CONFIG),
            rounds: load(&|round| round.restate.as_ref(), value),
        },
        Err(reason) => Peer::Absent { name: "restate-server".to_owned(), reason: reason.clone() },
    };
    let jetstream = |value: fn(&Load) -> f64| match &sides.jetstream {
        Ok((program, _)) => Peer::Measured {
            name: program.name.clone(),
            config: format!("{}; {PROCESSES} bare processes", jetstream::config()),
            rounds: load(&|round| round.jetstream.as_ref(), value),
        },
        Err(reason) => Peer::Absent { name: "nats-server".to_owned(), reason: reason.clone() },
    };
    let best = |value: fn(&Load) -> f64| {
        let rate = |peer: &Peer| match peer {
            Peer::Measured { rounds, .. } => median(rounds),
            _ => f64::NEG_INFINITY,
        };
        if rate(&restate(Load::rate)) >= rate(&jetstream(Load::rate)) {
            restate(value)
        } else {
            jetstream(value)
        }
    };
    let ceiling = |value: fn(&Load) -> f64| Peer::Measured {
        name: "waited for".to_owned(),
        config: format!(
            "the same function in the same server, called by {PROCESSES} callers who wait for its answers; nothing is queued"
        ),
        rounds: load(&|round| Some(&round.ceiling), value),
    };
    let ours = |value: fn(&Load) -> f64| load(&|round| Some(&round.ours), value);
    let rate = |id: &str, peer| figure(id, what("rate"), "events/s", ours(Load::rate), peer, Better::Higher);
    let cpu = |id: &str, peer| {
        let what = what("processor time of callers, servers and functions");
        figure(id, what, "µs", ours(Load::cpu_micros), peer, Better::Lower)
    };
    let accepted = values(&|round| round.accepted_per_second);
    vec![
        Figure {
            target: Some(VS_INVOKER_CEILING),
            ..rate("complete_vs_invoker_ceiling", ceiling(Load::rate))
        },
        Figure { target: Some(VS_BEST_PEER), ..rate("complete_vs_best_peer", best(Load::rate)) },
        rate("complete_vs_restate", restate(Load::rate)),
        rate("complete_vs_nats", jetstream(Load::rate)),
        cpu("complete_cpu_per_event", best(Load::cpu_micros)),
        cpu("complete_cpu_per_event_vs_waited_for", ceiling(Load::cpu_micros)),
        figure(
            "accept_while_processing",
            what("acceptance alone, while functions run"),
            "events/s",
            accepted,
            Peer::None,
            Better::Higher,
        ),
    ]
}

fn line(round: &Round) -> String {
    let peer = |load: &Option<Load>| {
        load.as_ref().map_or("absent".to_owned(), |load| {
            format!("{:.0}/s at {:.0} µs", load.rate(), load.cpu_micros())
        })
    };
    format!(
        "ours {:.0}/s at {:.0} µs of CPU (accepted at {:.0}/s), waited for {:.0}/s at {:.0} µs, Restate {}, NATS {}",
        round.ours.rate(),
        round.ours.cpu_micros(),
        round.accepted_per_second,
        round.ceiling.rate(),
        round.ceiling.cpu_micros(),
        peer(&round.restate),
        peer(&round.jetstream),
    )
}
