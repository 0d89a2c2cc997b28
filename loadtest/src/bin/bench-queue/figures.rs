//! Which figures there are, and what each is measured against.

use loadtest::{
    load::{Best, KIB, Load, best},
    report::{Better, Figure, Peer},
};

use crate::{
    backlog, nats, redis_streams,
    rounds::{BATCH, MANY_PARTITIONS, MOST_PRODUCERS, Measured, OUTSTANDING, POLLERS, Round},
};

// Targets of the issue that asked for this bench; each has a reason there.
const VS_SEALED_CEILING: f64 = 0.8;
const P50_VS_RAW_SYNC: f64 = 1.2;
const MANY_PARTITIONS_RATIO: f64 = 0.9;
const VS_NATS_ALWAYS: f64 = 30.0;
const VS_REDIS_ALWAYS: f64 = 1.5;
const DRAIN_VS_ENQUEUE: f64 = 1.0;
const BACKLOG_RATE_RATIO: f64 = 0.9;
const BACKLOG_MIB: f64 = 64.0;
const RESTART_SECONDS: f64 = 1.0;

/// Which settings of a peer are looked at.
#[derive(Debug, Clone, Copy)]
enum Settings {
    All,
    /// Those with so many events outstanding.
    Outstanding(usize),
}

impl Settings {
    fn include(self, outstanding: usize) -> bool {
        match self {
            Self::All => true,
            Self::Outstanding(wanted) => outstanding == wanted,
        }
    }
}

pub(crate) fn all(measured: &Measured) -> Vec<Figure> {
    let rounds = &measured.rounds;
    let Some(ours) = best(rounds, &OUTSTANDING, |_| true, |round| &round.ours) else { return Vec::new() };
    let mut figures = headlines(measured, &ours);
    figures.extend(against_peers(measured, &ours));
    figures.extend(held(measured));
    figures.extend(latencies(rounds));
    // Those with a target first: they are what the bench is for.
    figures.sort_by_key(|figure| figure.target.is_none());
    figures
}

fn figure(id: &str, what: String, unit: &str, ours: Vec<f64>, peer: Peer, better: Better) -> Figure {
    Figure {
        id: id.to_owned(),
        what,
        unit: unit.to_owned(),
        ours,
        peer,
        better,
        target: None,
        closed_loop: true,
    }
}

fn of_rounds(rounds: &[Round], of: impl Fn(&Round) -> f64) -> Vec<f64> {
    rounds.iter().map(of).collect()
}

fn measured_peer(name: &str, config: &str, rounds: Vec<f64>) -> Peer {
    Peer::Measured { name: name.to_owned(), config: config.to_owned(), rounds }
}

/// Bytes of payload a second, MiB.
fn mib(load: &Load) -> f64 {
    load.rate() * KIB as f64 / f64::from(1 << 20)
}

fn headlines(measured: &Measured, ours: &Best<'_, usize>) -> Vec<Figure> {
    let rounds = &measured.rounds;
    let outstanding = ours.setting;
    let ceiling = measured_peer(
        "sealed ceiling",
        "one thread: seal 252 × 1 KiB with AES-256-GCM, write 256 KiB, fdatasync; a file written full of zeros before",
        of_rounds(rounds, |round| mib(&round.sealed)),
    );
    let one = |of: fn(&Load) -> f64| of_rounds(rounds, move |round| round.ours.first().map_or(f64::NAN, of));
    let most = |of: fn(&Load) -> f64| {
        of_rounds(rounds, move |round| round.ours_with(MOST_PRODUCERS).map_or(f64::NAN, of))
    };
    vec![
        Figure {
            target: Some(VS_SEALED_CEILING),
            ..figure(
                "vs_sealed_ceiling",
                format!(
                    "durable, sealed enqueue as a library, 1 KiB, {outstanding} outstanding (a tokio task each, up to {MOST_PRODUCERS}; \
                     beyond, several events in each call), payload only"
                ),
                "MiB/s",
                ours.values(mib),
                ceiling,
                Better::Higher,
            )
        },
        Figure {
            target: Some(P50_VS_RAW_SYNC),
            ..figure(
                "p50_vs_raw_sync",
                "durable, sealed enqueue as a library, 1 KiB, one producer, p50; both sides on one core"
                    .to_owned(),
                "µs",
                one(|load| load.latencies.micros(0.5)),
                measured_peer(
                    "raw sync",
                    "one thread: write 1,104 bytes, fdatasync; a file written full of zeros before",
                    of_rounds(rounds, |round| round.raw.latencies.micros(0.5)),
                ),
                Better::Lower,
            )
        },
        Figure {
            target: Some(MANY_PARTITIONS_RATIO),
            ..figure(
                "many_partitions_ratio",
                format!(
                    "durable, sealed enqueue, 1 KiB, 256 producers, into {MANY_PARTITIONS} partitions in turn"
                ),
                "events/s",
                of_rounds(rounds, |round| round.many.rate()),
                measured_peer("one partition", "ours, 256 producers", most(Load::rate)),
                Better::Higher,
            )
        },
        Figure {
            target: Some(DRAIN_VS_ENQUEUE),
            ..figure(
                "drain_vs_enqueue",
                format!(
                    "lease and durable ack, 1 KiB, {POLLERS} pollers (tokio tasks), {BATCH} events in a batch"
                ),
                "events/s",
                of_rounds(rounds, |round| round.drain.rate()),
                measured_peer("our enqueue", &format!("{outstanding} outstanding"), ours.values(Load::rate)),
                Better::Higher,
            )
        },
    ]
}

/// What NATS did with its best setting of these.
fn nats(measured: &Measured, settings: Settings, of: &dyn Fn(&Load) -> f64) -> Peer {
    let (program, cipher) = match &measured.nats {
        Ok(found) => found,
        Err(reason) => return absent("nats-server", reason),
    };
    let best = best(
        &measured.rounds,
        &nats::OUTSTANDING,
        |outstanding| settings.include(*outstanding),
        |round| &round.nats,
    );
    let (outstanding, values) = best.map_or((0, Vec::new()), |best| (best.setting, best.values(of)));
    let config =
        format!("{}; {outstanding} publishes outstanding (measured: 1 to 1,024)", nats::config(cipher));
    measured_peer(&program.name, &config, values)
}

/// What Redis did with its best setting of these.
fn redis(measured: &Measured, settings: Settings, of: &dyn Fn(&Load) -> f64) -> Peer {
    let program = match &measured.redis {
        Ok(found) => found,
        Err(reason) => return absent("redis-server", reason),
    };
    let best = best(
        &measured.rounds,
        &redis_streams::PIPELINES,
        |(connections, together)| settings.include(connections * together),
        |round| &round.redis,
    );
    let ((connections, together), values) =
        best.map_or(((0, 0), Vec::new()), |best| (best.setting, best.values(of)));
    let config = format!(
        "{}; connections × commands in a pipeline: {connections} × {together} (measured: 1 to 1,024 outstanding)",
        redis_streams::CONFIG
    );
    measured_peer(&program.name, &config, values)
}

fn absent(name: &str, reason: &str) -> Peer {
    Peer::Absent { name: name.to_owned(), reason: reason.to_owned() }
}

fn against_peers(measured: &Measured, ours: &Best<'_, usize>) -> Vec<Figure> {
    type Of = fn(&Measured, Settings, &dyn Fn(&Load) -> f64) -> Peer;
    let peers: [(&str, Of, f64); 2] = [("nats", nats, VS_NATS_ALWAYS), ("redis", redis, VS_REDIS_ALWAYS)];
    let outstanding = ours.setting;
    let mut figures = Vec::new();
    for (name, peer, target) in peers {
        figures.push(Figure {
            target: Some(target),
            ..figure(
                &format!("vs_{name}_always"),
                format!("durable enqueue, 1 KiB; ours sealed, as a library, {outstanding} outstanding; the peer through its client"),
                "events/s",
                ours.values(Load::rate),
                peer(measured, Settings::All, &Load::rate),
                Better::Higher,
            )
        });
        figures.push(figure(
            &format!("cpu_per_event_vs_{name}"),
            "processor time per event, clients and server, at these settings".to_owned(),
            "µs",
            ours.values(Load::cpu_micros),
            peer(measured, Settings::All, &Load::cpu_micros),
            Better::Lower,
        ));
        for (quantile_name, quantile) in [("p99", 0.99), ("p999", 0.999)] {
            let of = |load: &Load| load.latencies.micros(quantile);
            figures.push(figure(
                &format!("{quantile_name}_vs_{name}_of_{MOST_PRODUCERS}"),
                format!("latency of an event, quantile {quantile}, {MOST_PRODUCERS} at once on both sides"),
                "µs",
                of_rounds(&measured.rounds, |round| round.ours_with(MOST_PRODUCERS).map_or(f64::NAN, of)),
                peer(measured, Settings::Outstanding(MOST_PRODUCERS), &of),
                Better::Lower,
            ));
        }
    }
    figures.push(together(measured));
    figures.extend(processor_time(measured, ours));
    figures
}

/// Many events in a call, against the batches of NATS that are all or nothing.
fn together(measured: &Measured) -> Figure {
    let rounds = &measured.rounds;
    let peer = match &measured.nats {
        Err(reason) => absent("nats-server", reason),
        Ok((program, cipher)) => measured_peer(
            &program.name,
            &format!("{}; atomic batches of {}, one after the other", nats::config(cipher), nats::TOGETHER),
            rounds.iter().filter_map(|round| Some(round.nats_together.as_ref()?.rate())).collect(),
        ),
    };
    figure(
        "enqueue_together_vs_nats_atomic_batch",
        format!(
            "durable, sealed enqueue as a library, 1 KiB, one producer, {} events in a call",
            nats::TOGETHER
        ),
        "events/s",
        of_rounds(rounds, |round| round.together.rate()),
        peer,
        Better::Higher,
    )
}

fn processor_time(measured: &Measured, ours: &Best<'_, usize>) -> [Figure; 2] {
    let rounds = &measured.rounds;
    let ceiling =
        measured_peer("sealed ceiling", "one thread", of_rounds(rounds, |round| round.sealed.cpu_micros()));
    [
        figure(
            "cpu_per_event_vs_sealed_ceiling",
            "processor time per event".to_owned(),
            "µs",
            ours.values(Load::cpu_micros),
            ceiling,
            Better::Lower,
        ),
        figure(
            "cpu_per_drained_event",
            "processor time per event leased and acked".to_owned(),
            "µs",
            of_rounds(rounds, |round| round.drain.cpu_micros()),
            Peer::None,
            Better::Lower,
        ),
    ]
}

/// What is measured once, with many events queued.
fn held(measured: &Measured) -> Vec<Figure> {
    let backlog = &measured.backlog;
    let (events, bytes) = (backlog.events, backlog::SMALL);
    let alone = |id: &str, what: String, unit: &str, value: Vec<f64>, better| {
        figure(id, what, unit, value, Peer::None, better)
    };
    vec![
        Figure {
            target: Some(BACKLOG_RATE_RATIO),
            ..figure(
                "backlog_10m_rate_ratio",
                format!(
                    "durable, sealed enqueue of {bytes} bytes, {MOST_PRODUCERS} producers, with {events} events queued; \
                     one queue, looked at in turns with empty ones"
                ),
                "events/s",
                backlog.full.clone(),
                measured_peer("an empty queue", "ours, in the same process", backlog.empty.clone()),
                Better::Higher,
            )
        },
        Figure {
            target: Some(BACKLOG_MIB),
            ..alone(
                "backlog_10m_rss_mib",
                format!(
                    "resident memory above an empty queue's when {events} events of {bytes} bytes are queued and the upkeep is done; a \
                     process of its own, once"
                ),
                "MiB",
                vec![backlog.at_rest_mib],
                Better::Lower,
            )
        },
        alone(
            "backlog_10m_rss_peak_mib",
            "the most that was seen above the empty queue's while they were queued, looked at every 100,000 events".to_owned(),
            "MiB",
            vec![backlog.most_mib],
            Better::Lower,
        ),
        alone(
            "backlog_10m_fill",
            format!("durable, sealed enqueue of {bytes} bytes, 1,000 events in a call, one after the other; once"),
            "s",
            vec![backlog.fill_seconds],
            Better::Lower,
        ),
        Figure {
            target: Some(RESTART_SECONDS),
            ..alone(
                "restart_1m_s",
                "opening the log of a process that was killed at work with a million events of 1 KiB queued; one log, opened again \
                 and again"
                    .to_owned(),
                "s",
                measured.restarts.clone(),
                Better::Lower,
            )
        },
    ]
}

fn latencies(rounds: &[Round]) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (at, outstanding) in OUTSTANDING.iter().enumerate() {
        let of =
            |of: &dyn Fn(&Load) -> f64| of_rounds(rounds, |round| round.ours.get(at).map_or(f64::NAN, of));
        figures.push(figure(
            &format!("enqueue_{outstanding}_outstanding"),
            format!("durable, sealed enqueue as a library, 1 KiB, {outstanding} outstanding"),
            "events/s",
            of(&Load::rate),
            Peer::None,
            Better::Higher,
        ));
        for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)] {
            figures.push(figure(
                &format!("enqueue_{name}_{outstanding}_outstanding"),
                format!("latency of one of them, quantile {quantile}"),
                "µs",
                of(&|load| load.latencies.micros(quantile)),
                Peer::None,
                Better::Lower,
            ));
        }
    }
    figures
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use loadtest::latency::Latencies;

    use super::*;
    use crate::backlog::Backlog;

    fn load(rate: u64) -> Load {
        let mut latencies = Latencies::new();
        latencies.record(Duration::from_micros(rate));
        Load { events: rate, elapsed: Duration::from_secs(1), cpu: Duration::from_millis(rate), latencies }
    }

    fn loads(rates: &[u64]) -> Vec<Load> {
        rates.iter().map(|rate| load(*rate)).collect()
    }

    fn round(ours: &[u64], redis: &[u64]) -> Round {
        Round {
            raw: load(10),
            sealed: load(1000),
            ours: loads(ours),
            drain: load(900),
            many: load(810),
            together: load(950),
            nats: Vec::new(),
            nats_together: None,
            redis: loads(redis),
        }
    }

    fn measured() -> Measured {
        let backlog = Backlog {
            events: 10,
            fill_seconds: 1.0,
            at_rest_mib: 40.0,
            most_mib: 80.0,
            empty: vec![100.0],
            full: vec![95.0],
        };
        let redis =
            loadtest::peer::Program { path: "redis-server".into(), name: "redis-server 7".to_owned() };
        Measured {
            rounds: vec![
                round(&[11, 100, 900], &[1, 2, 3, 400, 5, 6]),
                round(&[11, 100, 800], &[1, 2, 900, 500, 5, 6]),
                round(&[11, 950, 900], &[1, 2, 3, 600, 5, 6]),
            ],
            nats: Err("there is none".to_owned()),
            redis: Ok(redis),
            backlog,
            restarts: vec![0.5],
        }
    }

    #[test]
    fn every_figure_that_was_asked_for_is_there_with_its_target() {
        let figures = all(&measured());
        let targets: Vec<(&str, f64, Option<bool>)> = figures
            .iter()
            .filter_map(|figure| Some((figure.id.as_str(), figure.target?, figure.met())))
            .collect();
        assert_eq!(
            targets,
            [
                ("vs_sealed_ceiling", 0.8, Some(true)),
                ("p50_vs_raw_sync", 1.2, Some(true)),
                ("many_partitions_ratio", 0.9, Some(true)),
                ("drain_vs_enqueue", 1.0, Some(true)),
                ("vs_nats_always", 30.0, None),
                ("vs_redis_always", 1.5, Some(true)),
                ("backlog_10m_rate_ratio", 0.9, Some(true)),
                ("backlog_10m_rss_mib", 64.0, Some(true)),
                ("restart_1m_s", 1.0, Some(true)),
            ]
        );
        let ids: std::collections::BTreeSet<&str> = figures.iter().map(|figure| figure.id.as_str()).collect();
        assert_eq!(ids.len(), figures.len(), "an id is there twice");
    }

    #[test]
    fn the_setting_with_the_best_median_counts_in_all_rounds() {
        let measured = measured();
        let best = best(&measured.rounds, &redis_streams::PIPELINES, |_| true, |round| &round.redis).unwrap();
        assert_eq!((best.setting, best.values(Load::rate)), ((1, 1024), vec![400.0, 500.0, 600.0]));
    }

    #[test]
    fn a_setting_that_does_not_count_is_not_the_best() {
        let measured = measured();
        let Peer::Measured { rounds, .. } = redis(&measured, Settings::Outstanding(256), &Load::rate) else {
            panic!("it was measured")
        };
        assert_eq!(rounds, [5.0, 5.0, 5.0], "four connections with pipelines of 64");
    }
}
