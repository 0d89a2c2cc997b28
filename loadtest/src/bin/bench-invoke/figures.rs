//! Which figures there are and how each is measured.

use std::{path::Path, sync::Barrier, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use loadtest::{
    floor::Prepared,
    function::{Function, PYTHON, RUST, SLEEPER, payload},
    pinning::{allowed_cores, pinned},
    procfs,
    report::{Better, Figure, Peer},
    rounds::{interleave, median},
    server::{Launch, Server},
};

use crate::{
    Options,
    warm::{self, Warm},
};

pub(crate) const KIB: usize = 1024;
pub(crate) const SIZES: [(&str, usize); 2] = [("1k", KIB), ("100k", 100 * KIB)];
pub(crate) const WARM_UP_ROUNDS: usize = 1;
/// Targets of the issue that asked for this bench; each has a reason there.
const COLD_RATIO: f64 = 1.3;
const IDLE_MIB: f64 = 6.0;

/// Everything, ours against the floor.
pub(crate) fn all(options: &Options, server: &Path) -> Result<Vec<Figure>> {
    let cores = allowed_cores()?;
    let core = *cores.last().context("no core to run on")?;
    let mut figures = pinned(&[core], || {
        let mut figures = Vec::new();
        let server = Launch::new(server, &options.runtimes, &options.region).start()?;
        for function in [PYTHON, RUST] {
            let floor = Prepared::new(&options.runtimes, &options.functions, function)?;
            figures.extend(warm::figures(options, &server, &floor, function, "")?);
            figures.push(cold(options, &server, &floor, function)?);
        }
        drop(server);
        anyhow::Ok(figures)
    })??;
    figures.push(pinned(&[core], || idle(options, server))??);
    if cores.len() > 1 {
        let server = Launch::new(server, &options.runtimes, &options.region).start()?;
        let floor = Prepared::new(&options.runtimes, &options.functions, PYTHON)?;
        figures.extend(warm::figures(options, &server, &floor, PYTHON, "_unpinned")?);
    }
    // Those with a target first: they are what the bench is for.
    figures.sort_by_key(|figure| figure.target.is_none());
    Ok(figures)
}

/// The floor alone, as a table: what there is to compare with where no server has been built.
pub(crate) fn floor_only(options: &Options) -> Result<String> {
    let core = *allowed_cores()?.last().context("no core to run on")?;
    let mut table = String::from("floor (one core)      p50 µs    p99 µs  switches   cold ms\n");
    for function in [PYTHON, RUST] {
        let prepared = Prepared::new(&options.runtimes, &options.functions, function)?;
        for (size_name, size) in SIZES {
            let payload = payload(size);
            let rounds = pinned(&[core], || {
                let mut rounds = Vec::new();
                for _ in 0..options.rounds {
                    let (mut floor, cold) = prepared.start(&payload)?;
                    let mut side = warm::Bare { floor: &mut floor, payload: &payload };
                    rounds.push((cold, warm::measure(options, &mut side)?));
                }
                anyhow::Ok(rounds)
            })??;
            let column =
                |of: &dyn Fn(&(Duration, Warm)) -> f64| median(&rounds.iter().map(of).collect::<Vec<_>>());
            table.push_str(&format!(
                "{:<8} {:<8} {:>10.1} {:>9.1} {:>9.1} {:>9.1}\n",
                function.language,
                size_name,
                column(&|(_, warm)| warm.paced.micros(0.5)),
                column(&|(_, warm)| warm.paced.micros(0.99)),
                column(&|(_, warm)| warm.switches),
                column(&|(cold, _)| cold.as_secs_f64() * 1e3),
            ));
        }
    }
    Ok(table)
}

fn cold(options: &Options, server: &Server, prepared: &Prepared, function: Function) -> Result<Figure> {
    let mut client = server.client()?;
    let name = format!("echo-{}", function.language);
    let payload = payload(KIB);
    let mut update = 0;
    let rounds = interleave(
        WARM_UP_ROUNDS,
        options.rounds,
        || {
            let mut times = Vec::new();
            for _ in 0..options.cold_starts {
                update += 1;
                client.touch(&name, &format!("cold start {update}"))?;
                times.push(client.invoke_any(&name, &payload)?.elapsed.as_secs_f64() * 1e3);
            }
            anyhow::Ok(median(&times))
        },
        || {
            let mut times = Vec::new();
            for _ in 0..options.cold_starts {
                times.push(prepared.start(&payload)?.1.as_secs_f64() * 1e3);
            }
            Ok(median(&times))
        },
    )?;
    let (ours, floor) = rounds.into_iter().unzip();
    Ok(Figure {
        id: format!("cold_start_ratio_{}", function.language),
        what: format!("first invocation in a fresh environment, {} echo, 1 KiB", function.language),
        unit: "ms".to_owned(),
        ours,
        peer: warm::peer(floor),
        better: Better::Lower,
        target: (function == PYTHON).then_some(COLD_RATIO),
        closed_loop: true,
    })
}

/// What an idle environment weighs beyond its runtime process: agent, jail, and what the server grew by, per environment.
/// Each round has a server of its own, because memory once grown is not given back.
fn idle(options: &Options, server: &Path) -> Result<Figure> {
    let mut rounds = Vec::new();
    for _ in 0..options.rounds {
        rounds.push(idle_overhead(options, server)?);
    }
    Ok(Figure {
        id: "idle_env_overhead_mib".to_owned(),
        what: format!(
            "proportional memory that one of {} idle python environments adds beyond its runtime process",
            options.environments
        ),
        unit: "MiB".to_owned(),
        ours: rounds,
        peer: Peer::None,
        better: Better::Lower,
        target: Some(IDLE_MIB),
        closed_loop: true,
    })
}

fn idle_overhead(options: &Options, server: &Path) -> Result<f64> {
    let server = Launch::new(server, &options.runtimes, &options.region).start()?;
    let name = "sleeper";
    server.client()?.create(name, SLEEPER, &options.functions)?;
    // The first invocation brings what the server keeps for good: its own caches, lazily started threads.
    server.client()?.invoke_any(name, br#"{"do":"echo"}"#)?;
    let before = weigh(server.pid())?;
    occupy(options, &server, name)?;
    let after = weigh(server.pid())?;
    let added = after.runtimes.checked_sub(before.runtimes).filter(|&added| added > 0);
    let added = added.context("no environment was added")?;
    ensure!(
        after.runtimes >= options.environments,
        "{} environments instead of {}: idle ones were ended, or calls shared them",
        after.runtimes,
        options.environments
    );
    #[expect(clippy::cast_precision_loss, reason = "bytes of memory, far below 2^52")]
    Ok((after.overhead as f64 - before.overhead as f64) / added as f64 / f64::from(1 << 20))
}

/// Has as many invocations at once as there are to be environments.
fn occupy(options: &Options, server: &Server, name: &str) -> Result<()> {
    let start = Barrier::new(options.environments);
    thread::scope(|scope| {
        let calls: Vec<_> = (0..options.environments)
            .map(|_| {
                scope.spawn(|| {
                    let client = server.client();
                    // Long enough for the last environment to start while the first is still busy.
                    start.wait();
                    client?.invoke_any(name, br#"{"do":"sleep","seconds":5}"#).map(drop)
                })
            })
            .collect();
        calls.into_iter().try_for_each(|call| call.join().expect("an invoking thread panicked"))
    })
}

struct Weight {
    runtimes: usize,
    /// PSS of everything that is not a runtime process, bytes.
    overhead: u64,
}

fn weigh(server: u32) -> Result<Weight> {
    let mut weight = Weight { runtimes: 0, overhead: 0 };
    for pid in procfs::tree(server)? {
        if procfs::command_line(pid).contains("/var/runtime/bootstrap") {
            weight.runtimes += 1;
        } else if let Ok(memory) = procfs::memory(pid) {
            // A process that ended since the listing weighs nothing.
            weight.overhead += memory.pss;
        }
    }
    Ok(weight)
}
