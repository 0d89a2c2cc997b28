//! Warm invocations, in two ways: *paced* (an open loop: one is due every [`PACE`], whoever called before is done) and
//! *back to back* (a closed loop: a caller that asks again as soon as it has its answer, and so also waits for what the
//! invocation before has left to do). The targets are about the paced ones.

use std::time::Duration;

use anyhow::{Result, ensure};
use loadtest::{
    floor::{self, Floor, Prepared},
    function::{Function, PYTHON, payload},
    latency::{Latencies, closed_loop, open_loop},
    procfs,
    report::{Better, Figure, Peer},
    rounds::interleave,
    server::{Client, Server},
};

use crate::{
    Options,
    figures::{KIB, SIZES, WARM_UP_ROUNDS},
};

/// Many times what an invocation takes.
const PACE: Duration = Duration::from_millis(4);
/// Target of the issue that asked for this bench; it has its reason there.
const WARM_RATIO: f64 = 1.5;

/// One side of the comparison.
pub(crate) trait Side {
    /// Everything that can be done before an invocation begins.
    fn prepare(&mut self) -> Result<()>;
    /// The invocation that was prepared, and how long it took.
    fn run(&mut self) -> Result<Duration>;
    /// The processes whose context switches count.
    fn processes(&self) -> Result<Vec<u32>>;
}

/// A function behind the API.
pub(crate) struct Served<'a> {
    pub(crate) server: &'a Server,
    pub(crate) client: &'a mut Client,
    pub(crate) name: &'a str,
    pub(crate) payload: &'a [u8],
}

/// The same function's bare runtime process.
pub(crate) struct Bare<'a> {
    pub(crate) floor: &'a mut Floor,
    pub(crate) payload: &'a [u8],
}

/// One side's result of one round.
#[derive(Debug)]
pub(crate) struct Warm {
    pub(crate) paced: Latencies,
    pub(crate) back_to_back: Latencies,
    /// Context switches per paced invocation, of everything but the client.
    pub(crate) switches: f64,
}

/// One function, ours against the floor, for every size.
pub(crate) fn figures(
    options: &Options,
    server: &Server,
    prepared: &Prepared,
    function: Function,
    suffix: &str,
) -> Result<Vec<Figure>> {
    let mut client = server.client()?;
    let name = format!("echo-{}{suffix}", function.language);
    client.create(&name, function, &options.functions)?;
    let (mut floor, _) = prepared.start(b"{}")?;
    client.invoke_any(&name, b"{}")?;
    let mut figures = Vec::new();
    for (size_name, size) in SIZES {
        let payload = payload(size);
        let rounds = interleave(
            WARM_UP_ROUNDS,
            options.rounds,
            || {
                let mut served = Served { server, client: &mut client, name: &name, payload: &payload };
                measure(options, &mut served)
            },
            || measure(options, &mut Bare { floor: &mut floor, payload: &payload }),
        )?;
        let report = SizeReport { function, size_name, size, suffix, rounds: &rounds };
        figures.extend(report.figures());
    }
    Ok(figures)
}

pub(crate) fn peer(rounds: Vec<f64>) -> Peer {
    Peer::Measured { name: "bare runtime process".to_owned(), config: floor::CONFIG.to_owned(), rounds }
}

/// One round of one side.
pub(crate) fn measure<S: Side>(options: &Options, side: &mut S) -> Result<Warm> {
    // A round begins with the other side's code in the caches.
    for _ in 0..options.invocations / 10 {
        side.prepare()?;
        side.run()?;
    }
    let processes = side.processes()?;
    let switches = || processes.iter().map(|&pid| procfs::context_switches(pid)).sum::<Result<u64, _>>();
    let before = switches()?;
    let paced = open_loop(options.invocations, PACE, side, S::prepare, |side| side.run().map(drop))?;
    let switches = switches()?.saturating_sub(before);
    let back_to_back = closed_loop(u64::from(options.invocations), || {
        side.prepare()?;
        side.run()
    })?;
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    Ok(Warm { paced, back_to_back, switches: switches as f64 / f64::from(options.invocations) })
}

/// What the rounds of one function and size say.
struct SizeReport<'a> {
    function: Function,
    size_name: &'a str,
    size: usize,
    suffix: &'a str,
    rounds: &'a [(Warm, Warm)],
}

// === impl SizeReport ===

impl SizeReport<'_> {
    fn figures(&self) -> Vec<Figure> {
        let Self { function, size_name, suffix, .. } = *self;
        let is_headline = function == PYTHON && self.size == KIB && suffix.is_empty();
        let id = |quantile: &str, way: &str| {
            format!("warm_{quantile}_ratio_{}_{size_name}{way}{suffix}", function.language)
        };
        let paced = |quantile: f64| move |warm: &Warm| warm.paced.micros(quantile);
        let mut figures = vec![
            Figure {
                target: is_headline.then_some(WARM_RATIO),
                ..self.figure(id("p50", ""), "p50, paced", "µs", paced(0.5))
            },
            self.figure(id("p99", ""), "p99, paced", "µs", paced(0.99)),
            Figure {
                closed_loop: true,
                ..self.figure(id("p50", "_back_to_back"), "p50, back to back", "µs", |warm| {
                    warm.back_to_back.micros(0.5)
                })
            },
        ];
        if self.size == KIB {
            figures.push(self.figure(
                format!("context_switches_per_warm_invocation_{}{suffix}", function.language),
                "context switches of server and environment (floor: runtime process), paced",
                "switches",
                |warm| warm.switches,
            ));
        }
        figures
    }

    fn figure(&self, id: String, what: &str, unit: &str, of: impl Fn(&Warm) -> f64) -> Figure {
        Figure {
            id,
            what: format!(
                "warm invocation, {} echo, {} KiB: {what}",
                self.function.language,
                self.size / KIB
            ),
            unit: unit.to_owned(),
            ours: self.rounds.iter().map(|(ours, _)| of(ours)).collect(),
            peer: peer(self.rounds.iter().map(|(_, floor)| of(floor)).collect()),
            better: Better::Lower,
            target: None,
            closed_loop: false,
        }
    }
}

// === impl Served ===

impl Side for Served<'_> {
    fn prepare(&mut self) -> Result<()> {
        self.client.prepare(self.name, self.payload)
    }

    fn run(&mut self) -> Result<Duration> {
        let answer = self.client.run(self.name)?;
        // The functions echo.
        ensure!(answer.body.len() >= self.payload.len(), "the answer has {} bytes", answer.body.len());
        Ok(answer.elapsed)
    }

    fn processes(&self) -> Result<Vec<u32>> {
        Ok(procfs::tree(self.server.pid())?)
    }
}

// === impl Bare ===

impl Side for Bare<'_> {
    fn prepare(&mut self) -> Result<()> {
        self.floor.prepare(self.payload)
    }

    fn run(&mut self) -> Result<Duration> {
        self.floor.run()
    }

    fn processes(&self) -> Result<Vec<u32>> {
        Ok(vec![self.floor.pid()])
    }
}
