//! How fast events are accepted durably: from a request to its 202, while nothing is done with what is accepted.
//!
//! On both sides four invocations begin and do not end while it is measured: what follows acceptance is the business of other figures.
//! Every measurement has a server of its own, because what it has accepted is never processed.

use std::{
    cell::OnceCell,
    time::{Duration, Instant},
};

use anyhow::Result;
use loadtest::{
    clients::{Answered, Callers},
    load::{Load, best},
    peer::Program,
    procfs::TreeTime,
    report::{Better, Figure, Peer},
};
use tokio::runtime::Runtime;

use crate::{
    Bench, figure,
    ours::{Ours, STAMPING, instructions},
    pool::PROCESSES,
    restate::{self, Handler, Restate},
};

/// Target of the issue that asked for this bench; it has its reason there.
const VS_RESTATE: f64 = 10.0;
const CONNECTIONS: [usize; 4] = [1, 16, 64, 256];
const SECONDS: f64 = 1.5;
const WARM_UP_SECONDS: f64 = 0.5;
const WARM_UP_CONNECTIONS: usize = 16;
/// Until the server is stopped.
const HELD: Duration = Duration::from_secs(600);
const FUNCTION: &str = "held";

#[derive(Debug)]
struct Round {
    /// In the order of [`CONNECTIONS`].
    ours: Vec<Load>,
    restate: Vec<Load>,
}

pub(crate) fn figures(bench: &Bench) -> Result<Vec<Figure>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let restate = restate::find(&bench.restate);
    let mut rounds = Vec::new();
    for number in 0..bench.warm_up + bench.rounds {
        let restate =
            restate.as_ref().ok().map_or(Ok(Vec::new()), |restate| peer(bench, &runtime, restate))?;
        let round = Round { ours: ours(bench)?, restate };
        println!(
            "accept, round {number} of {}: ours {}; Restate {}",
            bench.rounds,
            line(&round.ours),
            line(&round.restate)
        );
        if number >= bench.warm_up {
            rounds.push(round);
        }
    }
    Ok(report(&rounds, &restate))
}

fn ours(bench: &Bench) -> Result<Vec<Load>> {
    let limit = PROCESSES.to_string();
    let ours =
        Ours::start(bench, &[("SERVER__DRAIN_TIMEOUT", "1s"), ("ENVIRONMENTS__CONCURRENCY_LIMIT", &limit)])?;
    ours.create(bench, FUNCTION, STAMPING)?;
    let request = ours.event(FUNCTION, &instructions(HELD, None))?;
    loads(bench, ours.pid(), |connections| ours.callers(&request, connections))
}

fn peer(bench: &Bench, runtime: &Runtime, program: &Program) -> Result<Vec<Load>> {
    let restate = Restate::start(runtime, program, &bench.data, Handler::Hold)?;
    let request = restate.event(&instructions(HELD, None));
    loads(bench, restate.pid(), |connections| Ok(restate.callers(&request, connections)))
}

fn loads<'a>(
    bench: &Bench,
    server: u32,
    callers: impl Fn(usize) -> Result<Callers<'a>>,
) -> Result<Vec<Load>> {
    let call = |callers: Callers<'a>, span: Duration| {
        // From the first request on: connecting is not measured.
        let end = OnceCell::new();
        callers.call(|| Instant::now() < *end.get_or_init(|| Instant::now() + span))
    };
    call(callers(WARM_UP_CONNECTIONS)?, bench.span(WARM_UP_SECONDS))?;
    let load = |connections| {
        let cpu = TreeTime::start(server)?;
        let Answered { count: events, elapsed, latencies } =
            call(callers(connections)?, bench.span(SECONDS))?;
        Ok(Load { events, elapsed, cpu: cpu.elapsed()?, latencies })
    };
    CONNECTIONS.into_iter().map(load).collect()
}

fn report(rounds: &[Round], restate: &Result<Program, String>) -> Vec<Figure> {
    let all = |_: &usize| true;
    let Some(ours) = best(rounds, &CONNECTIONS, all, |round| &round.ours) else { return Vec::new() };
    let theirs = best(rounds, &CONNECTIONS, all, |round| &round.restate);
    let against = |of: fn(&Load) -> f64| match (restate, &theirs) {
        (Ok(program), Some(theirs)) => Peer::Measured {
            name: program.name.clone(),
            config: format!(
                "{}; {} connections, the best of {CONNECTIONS:?}",
                restate::CONFIG,
                theirs.setting
            ),
            rounds: theirs.values(of),
        },
        (Err(reason), _) => Peer::Absent { name: "restate-server".to_owned(), reason: reason.clone() },
        (Ok(_), None) => Peer::None,
    };
    let what = |what: &str| {
        format!(
            "durable acceptance over HTTP, 1 KiB events, requests signed once and sent again (Restate's are not signed), {} connections, \
             the best of {CONNECTIONS:?}, while four invocations hold on{what}",
            ours.setting
        )
    };
    let micros = |quantile: f64| move |load: &Load| load.latencies.micros(quantile);
    let mut figures = vec![
        Figure {
            target: Some(VS_RESTATE),
            ..figure(
                "accept_vs_restate",
                what(""),
                "events/s",
                ours.values(Load::rate),
                against(Load::rate),
                Better::Higher,
            )
        },
        figure(
            "accept_cpu_per_event",
            what(": processor time of the server and its children"),
            "µs",
            ours.values(Load::cpu_micros),
            against(Load::cpu_micros),
            Better::Lower,
        ),
    ];
    for (at, connections) in CONNECTIONS.iter().enumerate() {
        let of = |of: &dyn Fn(&Load) -> f64, side: fn(&Round) -> &Vec<Load>| -> Vec<f64> {
            rounds.iter().filter_map(|round| side(round).get(at)).map(of).collect()
        };
        let against = |value: &dyn Fn(&Load) -> f64| match restate {
            Ok(program) => Peer::Measured {
                name: program.name.clone(),
                config: restate::CONFIG.to_owned(),
                rounds: of(value, |round| &round.restate),
            },
            Err(reason) => Peer::Absent { name: "restate-server".to_owned(), reason: reason.clone() },
        };
        let mut add = |id: &str, what: &str, unit: &str, value: &dyn Fn(&Load) -> f64, better| {
            let what =
                format!("durable acceptance over HTTP, 1 KiB events, {connections} connections: {what}");
            let id = format!("accept_{id}_{connections}");
            figures.push(figure(&id, what, unit, of(value, |round| &round.ours), against(value), better));
        };
        add("rate", "rate", "events/s", &Load::rate, Better::Higher);
        add("p50", "p50", "µs", &micros(0.5), Better::Lower);
        add("p99", "p99", "µs", &micros(0.99), Better::Lower);
    }
    figures
}

fn line(loads: &[Load]) -> String {
    let rates = CONNECTIONS.iter().zip(loads).map(|(connections, load)| {
        format!("{connections}: {:.0}/s at {:.0} µs of CPU", load.rate(), load.cpu_micros())
    });
    rates.collect::<Vec<_>>().join(", ")
}
