//! A million events that wait, and nothing but draining: is the last tenth as fast as the first, in bounded memory?
//!
//! ```text
//!   fill     accepted as fast as possible, while the function runs, until so many are left
//!   drain    ├─ first tenth ─┤ ……………………………………… ├─ last tenth ─┤
//! ```
//! Once only: it takes minutes.

use std::time::Instant;

use anyhow::{Context, Result};
use loadtest::{
    function::{RUST, payload},
    procfs,
    report::{Better, Figure, Peer},
};

use crate::{
    Bench, KIB,
    complete::some,
    figure,
    ours::{Ours, like_peers},
    pool::PROCESSES,
};

/// Target of the issue that asked for this bench; it has its reason there.
const LAST_VS_FIRST_TENTH: f64 = 0.9;
/// Most private memory the server may have; the kernel refuses it more. Everything it holds has bounds, by default 256 MiB of
/// invocations and 256 MiB of deliveries; what one function may hold is 64 MiB.
const MEMORY_LIMIT: u64 = 512 << 20;
const CONNECTIONS: usize = 64;
/// So many more are accepted at a time while the function runs ahead.
const LEAST_STEP: u64 = 100;
const FUNCTION: &str = "echo";

pub(crate) fn figures(bench: &Bench) -> Result<Vec<Figure>> {
    let ours = Ours::launch(like_peers(&bench.launch).with_memory_limit(MEMORY_LIMIT))?;
    ours.create(bench, FUNCTION, RUST)?;
    let filled = fill(&ours, bench.backlog)?;
    println!(
        "backlog: {} events accepted at {:.0}/s, {} left; draining them",
        filled.accepted,
        filled.per_second,
        filled.accepted - filled.done
    );
    let looks = ours.wait_for(FUNCTION, filled.accepted)?;
    let peak = procfs::peak_memory(ours.pid())?;
    let drained = Drained::of(&looks).context("nothing was left to drain")?;
    println!(
        "backlog: drained at {:.0}/s, the first tenth at {:.0}/s, the last at {:.0}/s; at most {} MiB of memory",
        drained.all,
        drained.first,
        drained.last,
        peak >> 20
    );
    Ok(report(bench, &filled, &drained, peak))
}

#[derive(Debug)]
struct Filled {
    accepted: u64,
    per_second: f64,
    done: u64,
}

fn fill(ours: &Ours, backlog: u64) -> Result<Filled> {
    let begin = Instant::now();
    let (mut accepted, mut done) = (0, 0);
    loop {
        let missing = backlog.saturating_sub(accepted - done);
        if missing == 0 {
            return Ok(Filled {
                accepted,
                per_second: accepted as f64 / begin.elapsed().as_secs_f64(),
                done,
            });
        }
        let step = missing.max(LEAST_STEP);
        // Signed again each time: a signature is good for some minutes only.
        let request = ours.event(FUNCTION, &payload(KIB))?;
        ours.callers(&request, CONNECTIONS)?.call(some(step))?;
        accepted += step;
        done = ours.succeeded(FUNCTION)?;
    }
}

/// Events per second.
#[derive(Debug, PartialEq)]
struct Drained {
    all: f64,
    first: f64,
    last: f64,
}

impl Drained {
    fn of(looks: &[(Instant, u64)]) -> Option<Self> {
        let (&(_, from), &(_, to)) = (looks.first()?, looks.last()?);
        let rate = |begin: f64, end: f64| {
            let events = (to - from) as f64;
            let at = |part: f64| moment(looks, from as f64 + part * events);
            Some((end - begin) * events / at(end)?.duration_since(at(begin)?).as_secs_f64())
        };
        if from == to {
            return None;
        }
        Some(Self { all: rate(0.0, 1.0)?, first: rate(0.0, 0.1)?, last: rate(0.9, 1.0)? })
    }
}

/// When so many events were done, in between two looks as if at a steady rate.
fn moment(looks: &[(Instant, u64)], events: f64) -> Option<Instant> {
    let after = looks.iter().position(|(_, done)| *done as f64 >= events)?;
    let (late, above) = looks[after];
    let Some((early, below)) = after.checked_sub(1).map(|before| looks[before]) else { return Some(late) };
    let part = (events - below as f64) / (above - below) as f64;
    Some(early + (late - early).mul_f64(part))
}

fn report(bench: &Bench, filled: &Filled, drained: &Drained, peak: u64) -> Vec<Figure> {
    let limit = MEMORY_LIMIT >> 20;
    let what = |what: &str| {
        format!(
            "{} events of 1 KiB queued for one function (Rust echo, {PROCESSES} environments), once; the server may have {limit} MiB of \
             private memory: {what}",
            bench.backlog
        )
    };
    let alone = |id: &str, text: &str, unit: &str, value: f64, better| {
        figure(id, what(text), unit, vec![value], Peer::None, better)
    };
    let first = Peer::Measured {
        name: "first tenth".to_owned(),
        config: "of the same backlog".to_owned(),
        rounds: vec![drained.first],
    };
    #[expect(clippy::cast_precision_loss, reason = "bytes of memory, far below 2^52")]
    let peak = peak as f64 / f64::from(1 << 20);
    vec![
        Figure {
            target: Some(LAST_VS_FIRST_TENTH),
            ..figure(
                "drain_last_vs_first_tenth",
                what("rate of the last tenth"),
                "events/s",
                vec![drained.last],
                first,
                Better::Higher,
            )
        },
        alone("backlog_drain_rate", "drained", "events/s", drained.all, Better::Higher),
        alone(
            "backlog_fill_rate",
            "accepted, while functions run",
            "events/s",
            filled.per_second,
            Better::Higher,
        ),
        alone("backlog_peak_rss_mib", "most memory of the server (VmHWM)", "MiB", peak, Better::Lower),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn tenths_are_cut_out_between_looks() {
        let begin = Instant::now();
        let at = |seconds: u64, done: u64| (begin + Duration::from_secs(seconds), done);
        // A hundred a second for five seconds, then fifty.
        let drained = Drained::of(&[at(0, 1000), at(5, 1500), at(10, 1750), at(15, 2000)]).unwrap();
        let near = |value: f64, expected: f64| (value - expected).abs() < 0.01;
        assert!(near(drained.first, 100.0) && near(drained.last, 50.0), "{drained:?}");
        assert!(near(drained.all, 1000.0 / 15.0), "{drained:?}");
        assert_eq!(Drained::of(&[at(0, 7)]), None);
    }
}
