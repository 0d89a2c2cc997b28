//! The rounds: everybody once, one after the other, so that a disk that drifts drifts for all.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use loadtest::{
    disk_floor::Floor,
    load::{KIB, Load, payload},
    peer::Program,
    pinning::{allowed_cores, pinned},
};
use tokio::runtime::Runtime;

use crate::{
    Options,
    backlog::{self, Backlog},
    nats,
    ours::{Ours, Producers},
    redis_streams,
};

const WARM_UP_ROUNDS: usize = 1;
/// Events that are being enqueued at once: one from each producer, and above the most producers several in each call.
pub(crate) const OUTSTANDING: [usize; 4] = [1, 16, MOST_PRODUCERS, 4 * MOST_PRODUCERS];
/// Also of the comparison of partitions.
pub(crate) const MOST_PRODUCERS: usize = 256;
pub(crate) const MANY_PARTITIONS: usize = 10_000;
/// Who drains, and how many events each leases and acks at once.
pub(crate) const POLLERS: usize = 4;
pub(crate) const BATCH: usize = 1000;
/// Of opening the log of a killed process.
const RESTARTS: usize = 5;

/// What everybody did in one round.
#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) raw: Load,
    pub(crate) sealed: Load,
    /// In the order of [`OUTSTANDING`].
    pub(crate) ours: Vec<Load>,
    pub(crate) drain: Load,
    pub(crate) many: Load,
    /// One producer with [`nats::TOGETHER`] events in a call.
    pub(crate) together: Load,
    /// In the order of [`nats::OUTSTANDING`]; nothing if there is no NATS.
    pub(crate) nats: Vec<Load>,
    /// In atomic batches.
    pub(crate) nats_together: Option<Load>,
    /// In the order of [`redis_streams::PIPELINES`]; nothing if there is no Redis.
    pub(crate) redis: Vec<Load>,
}

#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) rounds: Vec<Round>,
    /// With the quicker cipher; or why there is none.
    pub(crate) nats: Result<(Program, &'static str), String>,
    pub(crate) redis: Result<Program, String>,
    pub(crate) backlog: Backlog,
    /// Seconds.
    pub(crate) restarts: Vec<f64>,
}

/// The runtime of our producers and of the NATS client: a worker for each core.
pub(crate) fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

pub(crate) fn all(options: &Options, data: &Path) -> Result<Measured> {
    let runtime = runtime()?;
    let payload = payload(KIB)?;
    let nats = match nats::find(&options.nats) {
        Ok(program) => {
            let cipher = quicker_cipher(options, &runtime, &program, data, &payload)?;
            Ok((program, cipher))
        }
        Err(reason) => Err(reason),
    };
    let redis = redis_streams::find(&options.redis);
    let directory = data.join("ours");
    let mut bench = Bench {
        options,
        data,
        nats: nats.as_ref().ok(),
        redis: redis.as_ref().ok(),
        floor: Floor::new(data)?,
        ours: Ours::open(&directory)?,
        runtime,
        payload,
    };
    let mut rounds = Vec::new();
    for number in 0..WARM_UP_ROUNDS + options.rounds {
        let round = bench.round()?;
        println!("round {number} of {}: {}", options.rounds, summary(&round));
        if number >= WARM_UP_ROUNDS {
            rounds.push(round);
        }
    }
    drop(bench);
    std::fs::remove_dir_all(directory)?;
    println!("with {} events queued, once", options.backlog);
    let backlog = backlog::run(data, options.backlog, options.seconds)?;
    println!("killed with {} events queued, once", options.restart);
    let restarts = backlog::restarts(data, options.restart, RESTARTS)?;
    Ok(Measured { rounds, nats, redis, backlog, restarts })
}

struct Bench<'a> {
    options: &'a Options,
    data: &'a Path,
    nats: Option<&'a (Program, &'static str)>,
    redis: Option<&'a Program>,
    floor: Floor,
    ours: Ours,
    runtime: Runtime,
    payload: Vec<u8>,
}

impl Round {
    /// Ours with so many events outstanding.
    pub(crate) fn ours_with(&self, outstanding: usize) -> Option<&Load> {
        let at = OUTSTANDING.iter().position(|wanted| *wanted == outstanding)?;
        self.ours.get(at)
    }
}

impl Bench<'_> {
    fn round(&mut self) -> Result<Round> {
        let span = Duration::from_secs_f64(self.options.seconds);
        let core = *allowed_cores()?.last().context("no core to run on")?;
        let partitions = self.ours.partitions(MANY_PARTITIONS)?;
        let one = partitions.get(..1).context("no partition")?;
        let raw = pinned(&[core], || self.floor.raw_sync(span))??;
        let (mut ours, mut drain, mut sealed) = (Vec::new(), None, None);
        for outstanding in OUTSTANDING {
            let count = outstanding.min(MOST_PRODUCERS);
            let together = outstanding / count;
            let producers = Producers { count, together, partitions: one, payload: &self.payload, span };
            let enqueue = || self.ours.enqueue(&self.runtime, producers);
            ours.push(if count == 1 { pinned(&[core], enqueue)?? } else { enqueue()? });
            drain = Some(self.drain(one)?);
            if sealed.is_none() {
                sealed = Some(self.floor.sealed(span)?);
            }
        }
        let count = MOST_PRODUCERS;
        let producers =
            Producers { count, together: 1, partitions: &partitions, payload: &self.payload, span };
        let many = self.ours.enqueue(&self.runtime, producers)?;
        self.ours.empty(&self.runtime)?;
        let first = *one.first().context("no partition")?;
        let together =
            self.ours.enqueue_together(&self.runtime, first, &self.payload, nats::TOGETHER, span)?;
        self.ours.empty(&self.runtime)?;
        let (nats, nats_together) = self.nats()?;
        Ok(Round {
            raw,
            sealed: sealed.context("no floor")?,
            ours,
            drain: drain.context("no drain")?,
            many,
            together,
            nats,
            nats_together,
            redis: self.redis()?,
        })
    }

    fn drain(&mut self, partition: &[queue::PartitionNumber]) -> Result<Load> {
        let partition = *partition.first().context("no partition")?;
        let load = self.ours.drain(&self.runtime, partition, POLLERS, BATCH)?;
        self.ours.settle(&self.runtime)?;
        Ok(load)
    }

    fn nats(&self) -> Result<(Vec<Load>, Option<Load>)> {
        let Some((program, cipher)) = self.nats else { return Ok((Vec::new(), None)) };
        let server = nats::start(program, self.data, cipher)?;
        let span = Duration::from_secs_f64(self.options.peer_seconds);
        let publish = |outstanding| nats::publish(&self.runtime, &server, outstanding, &self.payload, span);
        let loads = nats::OUTSTANDING.into_iter().map(publish).collect::<Result<_>>()?;
        let together = nats::publish_together(&self.runtime, &server, &self.payload, span)?;
        Ok((loads, Some(together)))
    }

    fn redis(&self) -> Result<Vec<Load>> {
        let Some(program) = self.redis else { return Ok(Vec::new()) };
        let server = redis_streams::start(program, self.data)?;
        let span = Duration::from_secs_f64(self.options.peer_seconds);
        let append = |(connections, together)| {
            redis_streams::append(&server, connections, together, &self.payload, span)
        };
        redis_streams::PIPELINES.into_iter().map(append).collect()
    }
}

/// Which cipher NATS is quicker with here, of two looks at each.
fn quicker_cipher(
    options: &Options,
    runtime: &Runtime,
    program: &Program,
    data: &Path,
    payload: &[u8],
) -> Result<&'static str> {
    const LOOKS: usize = 2;
    const OUTSTANDING: usize = 256;
    let span = Duration::from_secs_f64(options.peer_seconds);
    let mut rates = nats::CIPHERS.map(|cipher| (0.0, cipher));
    for _ in 0..LOOKS {
        for (sum, cipher) in &mut rates {
            let server = nats::start(program, data, cipher)?;
            *sum += nats::publish(runtime, &server, OUTSTANDING, payload, span)?.rate();
        }
    }
    let quicker = rates.into_iter().max_by(|(a, _), (b, _)| a.total_cmp(b));
    Ok(quicker.context("no cipher")?.1)
}

fn summary(round: &Round) -> String {
    let rate = |name: &str, load: &Load| format!("{name} {:.0}/s", load.rate());
    let best = |name: &str, loads: &[Load]| {
        loads.iter().max_by(|a, b| a.rate().total_cmp(&b.rate())).map(|load| rate(name, load))
    };
    let mut parts = vec![rate("raw", &round.raw), rate("sealed", &round.sealed)];
    parts.extend(
        OUTSTANDING.iter().zip(&round.ours).map(|(count, load)| rate(&format!("ours {count}"), load)),
    );
    parts.extend([rate("drain", &round.drain), rate("10,000 partitions", &round.many)]);
    parts.push(rate("by 1,000", &round.together));
    parts.extend([best("NATS", &round.nats), best("Redis", &round.redis)].into_iter().flatten());
    parts.extend(round.nats_together.as_ref().map(|load| rate("NATS by 1,000", load)));
    parts.join(", ")
}

/// Our side alone, for a profiler.
pub(crate) fn work(directory: &Path, producers: usize, partitions: usize, span: Duration) -> Result<()> {
    let runtime = runtime()?;
    let mut ours = Ours::open(directory)?;
    let payload = payload(KIB)?;
    let partitions = ours.partitions(partitions)?;
    let producers =
        Producers { count: producers, together: 1, partitions: &partitions, payload: &payload, span };
    let enqueue = ours.enqueue(&runtime, producers)?;
    println!("enqueue: {}", line(&enqueue));
    ours.settle(&runtime)?;
    for &partition in partitions.iter().take(1) {
        println!("drain:   {}", line(&ours.drain(&runtime, partition, POLLERS, BATCH)?));
    }
    Ok(())
}

fn line(load: &Load) -> String {
    format!(
        "{:.0}/s, {:.2} µs of CPU each, p50 {:.0} µs, p99 {:.0} µs, p99.9 {:.0} µs",
        load.rate(),
        load.cpu_micros(),
        load.latencies.micros(0.5),
        load.latencies.micros(0.99),
        load.latencies.micros(0.999)
    )
}
