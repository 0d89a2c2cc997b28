//! What the boots say, as figures.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use loadtest::{
    kvm::{Counters, HOST_INTERRUPT},
    microvm::{Boot, Setting, Side},
    report::{Better, Figure, Peer},
    rounds::median,
};

/// Targets of the issue that asked for this bench; each has a reason there.
const EXITS_RATIO: f64 = 0.5;
const MONITOR_MIB: f64 = 5.0;
const WARM_EXITS: f64 = 4.0;
const INIT_MS: f64 = 125.0;

/// The function that boots are compared with, and the one that says most about the way to it and least about itself.
const COLD: &str = "python";
const WARM: &str = "rust";

/// Of KVM's own counters.
const COUNTERS: [(&str, &str, &str); 4] = [
    ("pf_taken", "exits", "exits because the guest touched memory that had no page yet"),
    ("mmio_exits", "exits", "accesses to a device's registers that went to the monitor"),
    ("io_exits", "exits", "accesses to ports"),
    ("irq_injections", "interrupts", "interrupts given to the guest (not exits)"),
];

/// Those with a target come first: they are what the bench is for.
pub(crate) fn all(setting: &Setting, boots: &[Boot]) -> Result<Vec<Figure>> {
    let functions: BTreeSet<&str> = boots.iter().map(|boot| boot.function.as_str()).collect();
    ensure!(functions == BTreeSet::from([COLD, WARM]), "what was measured is {functions:?}");
    let mut figures = Vec::new();
    for function in [COLD, WARM] {
        let rounds = Rounds::of(setting, boots, function)?;
        figures.extend(rounds.cold());
        figures.extend(rounds.warm());
    }
    figures.sort_by_key(|figure| figure.target.is_none());
    Ok(figures)
}

/// The rounds of one function.
struct Rounds<'a> {
    setting: &'a Setting,
    function: &'a str,
    pairs: Vec<(&'a Boot, &'a Boot)>,
}

impl<'a> Rounds<'a> {
    fn of(setting: &'a Setting, boots: &'a [Boot], function: &'a str) -> Result<Self> {
        let of = |side| {
            let mut found: Vec<&Boot> =
                boots.iter().filter(|boot| boot.function == function && boot.side == side).collect();
            found.sort_by_key(|boot| boot.round);
            found
        };
        let (ours, peer) = (of(Side::Ours), of(Side::Peer));
        let rounds = |boots: &[&Boot]| boots.iter().map(|boot| boot.round).collect::<Vec<_>>();
        ensure!(rounds(&ours) == rounds(&peer), "{function}: the two sides have not had the same rounds");
        Ok(Self { setting, function, pairs: ours.into_iter().zip(peer).collect() })
    }

    fn cold(&self) -> Vec<Figure> {
        let is_headline = self.function == COLD;
        let name =
            |name: &str| if is_headline { name.to_owned() } else { format!("{name}_{}", self.function) };
        let mib = |bytes: u64| number(bytes) / f64::from(1 << 20);
        let mut figures = vec![
            Figure {
                target: is_headline.then_some(EXITS_RATIO),
                ..self.figure(
                    name("exits_until_init_vs_qemu"),
                    "all exits that KVM counts, from the VM's making to the agent's Hello frame",
                    "exits",
                    |boot| number(boot.until_init.get("exits")),
                )
            },
            Figure {
                // Its own, not the ratio: what it is next to is told by the figure after it.
                peer: Peer::None,
                target: is_headline.then_some(MONITOR_MIB),
                ..self.figure(
                    name("monitor_rss_mib"),
                    "resident memory of the monitor beyond the guest's (all mappings but the one that is at least as large as \
                     the function's memory), when the runtime first waits for an event",
                    "MiB",
                    |boot| mib(boot.rss_bytes),
                )
            },
            self.figure(name("monitor_rss_vs_qemu"), "the same, of both monitors", "MiB", |boot| {
                mib(boot.rss_bytes)
            }),
            self.figure(
                name("monitor_pss_vs_qemu"),
                "proportional memory: pages shared with n processes count 1/n",
                "MiB",
                |boot| mib(boot.pss_bytes),
            ),
        ];
        figures.extend(self.times(name));
        figures.extend(self.by_kind(&name("exits_until_init"), "until the agent's Hello", 1.0, |boot| {
            (&boot.until_init, &boot.until_init_by_reason)
        }));
        figures
    }

    /// Where the processor is emulated there are ratios without a unit.
    fn times(&self, name: impl Fn(&str) -> String) -> Vec<Figure> {
        let to_init: fn(&Boot) -> f64 = |boot| boot.init_ms;
        let to_answer: fn(&Boot) -> f64 = |boot| boot.answer_ms;
        let spans = [
            (
                "request_to_init",
                "from the request (ours: cgroup and jail included) to the agent's Hello frame",
                to_init,
            ),
            ("request_to_answer", "from the request to the end of the first answer", to_answer),
        ];
        let mut figures = Vec::new();
        for (id, what, of) in spans {
            if self.setting.direct {
                let is_headline = self.function == COLD && id == "request_to_init";
                figures.push(Figure {
                    peer: Peer::None,
                    target: is_headline.then_some(INIT_MS),
                    ..self.figure(name(&format!("{id}_ms")), what, "ms", of)
                });
                figures.push(self.figure(name(&format!("{id}_vs_qemu")), what, "ms", of));
            } else {
                let what =
                    format!("{what}; on an emulated processor: only the ratio means anything, one is QEMU");
                let figure = self.figure(name(&format!("{id}_vs_qemu")), &what, "QEMU's", of);
                figures.push(in_units_of_the_peer(figure));
            }
        }
        figures
    }

    /// In a direction: an invocation has two, the event's and the answer's.
    fn warm(&self) -> Vec<Figure> {
        let is_headline = self.function == WARM;
        let name =
            |name: &str| if is_headline { name.to_owned() } else { format!("{name}_{}", self.function) };
        let directions = |boot: &Boot| 2.0 * f64::from(boot.invocations);
        let exits = |boot: &Boot| number(boot.warm.get("exits")) / directions(boot);
        let what = "all exits of warm invocations, one after the other, 1 KiB there and back, over twice their number";
        let own = self.figure(name("warm_exits_per_direction"), what, "exits", exits);
        let mut figures = vec![
            Figure { peer: Peer::None, target: is_headline.then_some(WARM_EXITS), ..own },
            self.figure(
                name("warm_exits_per_direction_vs_qemu"),
                "the same, of both monitors",
                "exits",
                exits,
            ),
        ];
        if self.pairs.iter().all(|(ours, peer)| ours.has_warm_reasons() && peer.has_warm_reasons()) {
            figures.push(self.figure(
                name("warm_exits_per_direction_of_the_guest"),
                "the same without what interrupts the host while the guest runs, which the guest has no part in",
                "exits",
                |boot| exits(boot) - number(boot.warm_by_reason.get(HOST_INTERRUPT)) / directions(boot),
            ));
        }
        let per = 2.0 * f64::from(self.pairs.first().map_or(1, |(ours, _)| ours.invocations));
        figures.extend(self.by_kind(
            &name("warm_exits_per_direction"),
            "of warm invocations, in each direction",
            per,
            |boot| (&boot.warm, &boot.warm_by_reason),
        ));
        for figure in &mut figures {
            figure.closed_loop = true;
        }
        figures
    }

    /// Every kind of exit that either side had: the processor's reasons, and what of them left the kernel.
    fn by_kind(
        &self,
        prefix: &str,
        what: &str,
        per: f64,
        of: impl Fn(&Boot) -> (&Counters, &Counters) + Copy,
    ) -> Vec<Figure> {
        let all = self.pairs.iter().flat_map(|(ours, peer)| [*ours, *peer]);
        let reasons: BTreeSet<&String> = all.flat_map(|boot| of(boot).1.0.keys()).collect();
        let by_reason = reasons.into_iter().map(|reason| {
            self.figure(
                format!("{prefix}_by_{reason}"),
                &format!("exits with the reason {reason}, {what}"),
                "exits",
                |boot| number(of(boot).1.get(reason)) / per,
            )
        });
        let by_counter = COUNTERS.into_iter().map(|(counter, unit, text)| {
            self.figure(
                format!("{prefix}_{counter}"),
                &format!("{text}, {what}; KVM's counter {counter}"),
                unit,
                |boot| number(of(boot).0.get(counter)) / per,
            )
        });
        by_reason.chain(by_counter).filter_map(without_empty_ratios).collect()
    }

    fn figure(&self, id: String, what: &str, unit: &str, of: impl Fn(&Boot) -> f64) -> Figure {
        let (ours, peer) = self.pairs.iter().map(|(ours, peer)| (of(ours), of(peer))).unzip();
        Figure {
            id,
            what: format!("{}: {what}", self.function),
            unit: unit.to_owned(),
            ours,
            peer: Peer::Measured {
                name: self.setting.peer_name.clone(),
                config: self.setting.peer_config.clone(),
                rounds: peer,
            },
            better: Better::Lower,
            target: None,
            closed_loop: false,
        }
    }
}

/// Of a kind that the peer does not have in every round there is no ratio; one that neither has is no figure.
fn without_empty_ratios(mut figure: Figure) -> Option<Figure> {
    if let Peer::Measured { name, rounds, .. } = &figure.peer
        && rounds.contains(&0.0)
    {
        if figure.ours().max(median(rounds)) == 0.0 {
            return None;
        }
        figure.what = format!("{} ({name}: {})", figure.what, median(rounds));
        figure.peer = Peer::None;
    }
    Some(figure)
}

/// Divides both sides by the peer's, round by round.
fn in_units_of_the_peer(mut figure: Figure) -> Figure {
    if let Peer::Measured { rounds, .. } = &mut figure.peer {
        for (ours, peer) in figure.ours.iter_mut().zip(rounds) {
            *ours /= *peer;
            *peer = 1.0;
        }
    }
    figure
}

#[expect(clippy::cast_precision_loss, reason = "counts and bytes far below 2^52")]
fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(side: Side, round: usize, function: &str, exits: u64) -> Boot {
        let counters = Counters([("exits".to_owned(), exits), ("mmio_exits".to_owned(), 4)].into());
        Boot {
            side,
            round,
            function: function.to_owned(),
            until_init: counters.clone(),
            until_init_by_reason: Counters([("halt".to_owned(), 3)].into()),
            init_ms: 100.0 * number(exits),
            answer_ms: 500.0,
            rss_bytes: 3 << 20,
            pss_bytes: 2 << 20,
            invocations: 10,
            warm: counters,
            warm_by_reason: Counters([(HOST_INTERRUPT.to_owned(), 10)].into()),
        }
    }

    fn boots() -> Vec<Boot> {
        let mut boots = Vec::new();
        for function in [COLD, WARM] {
            for (round, exits) in [(0, 40), (1, 60)] {
                boots.push(boot(Side::Ours, round, function, exits));
                boots.push(boot(Side::Peer, round, function, 100));
            }
        }
        boots
    }

    fn setting(direct: bool) -> Setting {
        Setting { peer_name: "QEMU".to_owned(), peer_config: "best".to_owned(), direct }
    }

    fn find<'a>(figures: &'a [Figure], id: &str) -> &'a Figure {
        figures.iter().find(|figure| figure.id == id).unwrap_or_else(|| panic!("no {id}"))
    }

    #[test]
    fn headlines_come_first_and_are_judged_by_what_was_measured() {
        let figures = all(&setting(false), &boots()).unwrap();
        let heads: Vec<_> = figures.iter().take_while(|figure| figure.target.is_some()).collect();
        let ids: Vec<_> = heads.iter().map(|figure| figure.id.as_str()).collect();
        assert_eq!(ids, ["exits_until_init_vs_qemu", "monitor_rss_mib", "warm_exits_per_direction"]);
        assert_eq!(heads[0].ratio(), Some(0.5));
        assert_eq!((heads[1].ours(), heads[1].ratio()), (3.0, None));
        // 40 and 60 exits for 10 invocations of two directions.
        assert_eq!(heads[2].ours(), 2.5);
        assert!(heads.iter().all(|figure| figure.met() == Some(true)));
        assert_eq!(find(&figures, "warm_exits_per_direction_of_the_guest").ours(), 2.0);
        assert_eq!(find(&figures, "exits_until_init_by_halt").ratio(), Some(1.0));
        assert_eq!(find(&figures, "warm_exits_per_direction_python_mmio_exits").ours(), 0.2);
        assert!(figures.iter().all(|figure| !figure.id.ends_with("pf_taken")), "nobody had any");
    }

    #[test]
    fn an_emulated_processor_has_no_milliseconds() {
        let emulated = all(&setting(false), &boots()).unwrap();
        assert!(emulated.iter().all(|figure| figure.unit != "ms"));
        assert_eq!(find(&emulated, "request_to_init_vs_qemu").ours(), 0.5);
        let direct = all(&setting(true), &boots()).unwrap();
        assert_eq!(find(&direct, "request_to_init_ms").ours(), 5000.0);
        assert_eq!(find(&direct, "request_to_init_ms").met(), Some(false));
        assert_eq!(find(&direct, "request_to_init_vs_qemu").ratio(), Some(0.5));
    }

    #[test]
    fn a_side_that_lacks_a_round_is_an_error() {
        let mut boots = boots();
        boots.pop();
        assert!(all(&setting(false), &boots).unwrap_err().to_string().contains("same rounds"));
        assert!(all(&setting(false), &[]).is_err());
    }
}
