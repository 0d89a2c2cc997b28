//! The two pictures beside the report.

use std::{fs, io, path::Path};

use loadtest::{
    load::{Load, best},
    rounds::median,
    svg::{Chart, Series},
};

use crate::{
    nats::OUTSTANDING,
    redis_streams::PIPELINES,
    rounds::{self, Measured, Round},
};

const QUANTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];

/// Writes `…-throughput.svg` and `…-latency.svg` beside the report.
pub(crate) fn write(measured: &Measured, report: &Path) -> io::Result<()> {
    if let Some(parent) = report.parent() {
        fs::create_dir_all(parent)?;
    }
    let stem = report.file_stem().unwrap_or_default().to_string_lossy();
    fs::write(report.with_file_name(format!("{stem}-throughput.svg")), throughput(measured).draw())?;
    fs::write(report.with_file_name(format!("{stem}-latency.svg")), latency(measured).draw())
}

fn throughput(measured: &Measured) -> Chart {
    let rounds = &measured.rounds;
    let at = |of: &dyn Fn(&Round) -> Option<f64>| {
        let values: Vec<f64> = rounds.iter().filter_map(of).collect();
        (!values.is_empty()).then(|| median(&values))
    };
    let series = |name: &str, value: &dyn Fn(&Round, usize) -> Option<f64>| Series {
        name: name.to_owned(),
        values: rounds::OUTSTANDING.iter().map(|&width| at(&|round| value(round, width))).collect(),
    };
    let find = |settings: &[usize], loads: &[Load], width| {
        settings.iter().position(|&setting| setting == width).and_then(|at| loads.get(at)).map(Load::rate)
    };
    Chart {
        title: "Durable events of 1 KiB per second (medians)".to_owned(),
        x: "outstanding events".to_owned(),
        y: "events/s".to_owned(),
        categories: rounds::OUTSTANDING.iter().map(ToString::to_string).collect(),
        series: vec![
            series("Sealed ceiling", &|round, _| Some(round.sealed.rate())),
            series("Waterwheel, as a library", &|round, width| round.ours_with(width).map(Load::rate)),
            series("Redis Streams, not sealed", &|round, width| {
                let same = PIPELINES.iter().zip(&round.redis).filter(|((of, by), _)| of * by == width);
                same.map(|(_, load)| load.rate()).max_by(f64::total_cmp)
            }),
            series("Raw sync", &|round, _| Some(round.raw.rate())),
            series("NATS JetStream", &|round, width| find(&OUTSTANDING, &round.nats, width)),
        ],
    }
}

fn latency(measured: &Measured) -> Chart {
    let rounds = &measured.rounds;
    let series = |name: String, loads: Vec<&Load>| Series {
        name,
        values: QUANTILES
            .iter()
            .map(|&(_, quantile)| {
                let values: Vec<f64> = loads.iter().map(|load| load.latencies.micros(quantile)).collect();
                (!values.is_empty()).then(|| median(&values))
            })
            .collect(),
    };
    let mut all: Vec<Series> = rounds::OUTSTANDING
        .iter()
        .enumerate()
        .map(|(at, count)| {
            let loads = rounds.iter().filter_map(|round| round.ours.get(at)).collect();
            series(format!("Waterwheel, {count} outstanding"), loads)
        })
        .collect();
    all.push(series("Raw sync".to_owned(), rounds.iter().map(|round| &round.raw).collect()));
    if let Some(best) = best(rounds, &OUTSTANDING, |_| true, |round| &round.nats) {
        all.push(series(format!("NATS JetStream, {} outstanding", best.setting), best.loads));
    }
    if let Some(best) = best(rounds, &PIPELINES, |_| true, |round| &round.redis) {
        let (connections, together) = best.setting;
        all.push(series(format!("Redis Streams, {} outstanding", connections * together), best.loads));
    }
    Chart {
        title: "Latency of one durable event of 1 KiB (medians of the rounds' percentiles, closed loop)"
            .to_owned(),
        x: "percentile".to_owned(),
        y: "µs".to_owned(),
        categories: QUANTILES.iter().map(|(name, _)| (*name).to_owned()).collect(),
        series: all,
    }
}
