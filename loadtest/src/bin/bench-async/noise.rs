//! What a neighbour's flood does to a function: its events' latency alone, and beside a function that is sent a hundred times as many.
//!
//! The noisy function sleeps for a second, so that its events pile up behind it; requests that bring them are far fewer than the
//! server could take. Each measurement has a server of its own: what piled up would be heard in the next one.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Result, anyhow};
use loadtest::{
    latency::Latencies,
    report::{Better, Figure, Peer},
};

use crate::{
    Bench, figure,
    ours::{Ours, STAMPING, instructions},
    paced::Paced,
};

/// Target of the issue that asked for this bench; it has its reason there.
const NOISY_VICTIM: f64 = 1.2;
/// One event of the victim each.
const PACE: Duration = Duration::from_millis(50);
/// Events of the noise for one of the victim.
const TIMES: u32 = 100;
const CONNECTIONS: usize = 32;
const SLEEP: Duration = Duration::from_secs(1);
/// For the noise to pile up and for the fleet to find out.
const BEFORE_SECONDS: f64 = 3.0;
const SECONDS: f64 = 6.0;
const WARM_UP_EVENTS: u32 = 10;
/// Lambda's default.
const NOISE_MEMORY_MB: u32 = 128;
const VICTIM: &str = "victim";
const NOISE: &str = "noise";

#[derive(Debug)]
struct Beside {
    victim: Latencies,
    /// While the noise began: not a part of the figures.
    first: Latencies,
    /// Events of the noise that were accepted, and that were done, until the end.
    accepted: u64,
    done: u64,
}

pub(crate) fn figures(bench: &Bench) -> Result<Vec<Figure>> {
    let mut rounds = Vec::new();
    for number in 0..bench.warm_up + bench.rounds {
        let (alone, beside) = (alone(bench)?, beside(bench)?);
        println!(
            "noise, round {number} of {}: p50 {:.0} µs alone, {:.0} µs beside; p99 {:.0} µs and {:.0} µs; at most {:.0} µs while it began; of the noise {} accepted, {} done",
            bench.rounds,
            alone.micros(0.5),
            beside.victim.micros(0.5),
            alone.micros(0.99),
            beside.victim.micros(0.99),
            beside.first.micros(1.0),
            beside.accepted,
            beside.done,
        );
        if number >= bench.warm_up {
            rounds.push((beside, alone));
        }
    }
    Ok(report(&rounds))
}

fn start(bench: &Bench) -> Result<(Ours, Paced)> {
    let ours = Ours::start(bench, &[("SERVER__DRAIN_TIMEOUT", "2s")])?;
    ours.create(bench, VICTIM, STAMPING)?;
    let mut events = Paced::default();
    events.send(&ours, VICTIM, WARM_UP_EVENTS, PACE)?;
    Ok((ours, events))
}

fn events(bench: &Bench) -> u32 {
    let events = bench.span(SECONDS).as_secs_f64() / PACE.as_secs_f64();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few hundred")]
    let events = events as u32;
    events
}

fn alone(bench: &Bench) -> Result<Latencies> {
    let (ours, mut paced) = start(bench)?;
    paced.send(&ours, VICTIM, events(bench), PACE)
}

fn beside(bench: &Bench) -> Result<Beside> {
    let (ours, mut paced) = start(bench)?;
    ours.client()?.create_with(NOISE, STAMPING, &bench.functions, NOISE_MEMORY_MB)?;
    let request = ours.event(NOISE, &instructions(SLEEP, None))?;
    let callers = ours.callers(&request, CONNECTIONS)?;
    let each = PACE * CONNECTIONS as u32 / TIMES;
    let quiet = AtomicBool::new(false);
    thread::scope(|scope| {
        let noise = scope.spawn(|| callers.call_every(each, || !quiet.load(Ordering::Relaxed)));
        let victim = (|| {
            let before = bench.span(BEFORE_SECONDS).as_secs_f64() / PACE.as_secs_f64();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few hundred")]
            let before = before as u32;
            let first = paced.send(&ours, VICTIM, before, PACE)?;
            anyhow::Ok((first, paced.send(&ours, VICTIM, events(bench), PACE)?))
        })();
        let done = ours.succeeded(NOISE);
        quiet.store(true, Ordering::Relaxed);
        let accepted = noise.join().map_err(|_| anyhow!("the noise has panicked"))??.count;
        let (first, victim) = victim?;
        Ok(Beside { victim, first, accepted, done: done? })
    })
}

fn report(rounds: &[(Beside, Latencies)]) -> Vec<Figure> {
    let beside = |quantile: f64| rounds.iter().map(|(beside, _)| beside.victim.micros(quantile)).collect();
    let peer = |quantile: f64| Peer::Measured {
        name: "alone".to_owned(),
        config: "the same function in the same server without the noise".to_owned(),
        rounds: rounds.iter().map(|(_, alone)| alone.micros(quantile)).collect(),
    };
    let piled: Vec<_> =
        rounds.iter().map(|(beside, _)| (beside.accepted - beside.done).to_string()).collect();
    let what = |quantile: &str| {
        format!(
            "a 1 KiB event every {} ms, from when it was due until the function was done, beside a function that is sent {TIMES} times as many \
             and sleeps for {} s each ({NOISE_MEMORY_MB} MB, so that as many sleep as the machine's memory has room for); {} of its events had piled up in the rounds: {quantile}",
            PACE.as_millis(),
            SLEEP.as_secs(),
            piled.join(", ")
        )
    };
    let open = |figure: Figure| Figure { closed_loop: false, ..figure };
    vec![
        open(Figure {
            target: Some(NOISY_VICTIM),
            ..figure("noisy_victim_p99_ratio", what("p99"), "µs", beside(0.99), peer(0.99), Better::Lower)
        }),
        open(figure("noisy_victim_p50_ratio", what("p50"), "µs", beside(0.5), peer(0.5), Better::Lower)),
    ]
}
