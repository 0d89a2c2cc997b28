//! Results: the JSON that machines compare and the table that people read.

use std::{fmt::Write as _, fs, io, path::Path};

use anyhow::Context as _;
use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::{
    machine::Machine,
    rounds::{median, spread},
};

/// Which way is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    Higher,
    Lower,
}

/// What a figure is measured against.
#[derive(Debug, Clone, PartialEq)]
pub enum Peer {
    /// Nothing: the figure stands for itself.
    None,
    /// One value per round, measured in the same run as ours.
    Measured { name: String, config: String, rounds: Vec<f64> },
    /// It could not be installed; the reason is in the report.
    Absent { name: String, reason: String },
}

/// One result. Serialises to the shape all benchmarks share, with medians, ratio and `met` computed.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// Stable name, such as `warm_p50_ratio_python_1k`.
    pub id: String,
    /// For people.
    pub what: String,
    pub unit: String,
    /// One value per round.
    pub ours: Vec<f64>,
    pub peer: Peer,
    pub better: Better,
    /// Of the ratio where there is a peer, else of our own median.
    pub target: Option<f64>,
    /// The next operation started when the one before had ended.
    pub closed_loop: bool,
}

/// Everything one benchmark found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub bench: String,
    pub commit: String,
    pub machine: Machine,
    /// A short run to try the bench itself: its figures say little.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub quick: bool,
    pub figures: Vec<Figure>,
}

// === impl Figure ===

impl Figure {
    /// Median of our rounds.
    #[must_use]
    pub fn ours(&self) -> f64 {
        median(&self.ours)
    }

    /// Ours over the peer's, round by round.
    fn ratios(&self) -> Option<Vec<f64>> {
        match &self.peer {
            Peer::Measured { rounds, .. } => {
                Some(self.ours.iter().zip(rounds).map(|(ours, peer)| ours / peer).collect())
            }
            _ => None,
        }
    }

    /// Median of the rounds' ratios: a round's two sides ran next to each other, rounds did not.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        self.ratios().map(|ratios| median(&ratios))
    }

    /// Whether the target is met; `None` if there is none, or nothing to compare it with.
    #[must_use]
    pub fn met(&self) -> Option<bool> {
        let target = self.target?;
        let value = match &self.peer {
            Peer::None => self.ours(),
            Peer::Measured { .. } => self.ratio()?,
            Peer::Absent { .. } => return None,
        };
        Some(match self.better {
            Better::Higher => value >= target,
            Better::Lower => value <= target,
        })
    }

    fn spread(&self) -> [f64; 2] {
        spread(&self.ratios().unwrap_or_else(|| self.ours.clone()))
    }
}

/// Four significant digits: more would claim a precision no benchmark has.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10_f64.powf(3.0 - value.abs().log10().floor());
    (value * scale).round() / scale
}

impl Serialize for Figure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &self.id)?;
        map.serialize_entry("what", &self.what)?;
        map.serialize_entry("unit", &self.unit)?;
        map.serialize_entry("ours", &rounded(self.ours()))?;
        match &self.peer {
            Peer::None => {}
            Peer::Measured { name, config, rounds } => {
                map.serialize_entry("peer", &rounded(median(rounds)))?;
                map.serialize_entry("peer_name", name)?;
                map.serialize_entry("peer_config", config)?;
                map.serialize_entry("ratio", &self.ratio().map(rounded))?;
            }
            Peer::Absent { name, reason } => {
                map.serialize_entry("peer", &None::<f64>)?;
                map.serialize_entry("peer_name", name)?;
                map.serialize_entry("reason", reason)?;
            }
        }
        map.serialize_entry("better", &self.better)?;
        if let Some(target) = self.target {
            map.serialize_entry("target", &target)?;
            map.serialize_entry("met", &self.met())?;
        }
        map.serialize_entry("rounds", &self.ours.len())?;
        map.serialize_entry("spread", &self.spread().map(rounded))?;
        if self.closed_loop {
            map.serialize_entry("closed_loop", &true)?;
        }
        map.end()
    }
}

// === impl Report ===

impl Report {
    /// Writes the JSON to `path` in one step, making its directory.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        let partial = path.with_extension("json.partial");
        fs::write(&partial, text)?;
        fs::rename(partial, path)
    }

    /// Writes it, and shows people what is in it. A missed target is a figure like any other: measuring it has not failed.
    pub fn publish(&self, path: &Path) -> anyhow::Result<()> {
        self.write(path).with_context(|| format!("cannot write {}", path.display()))?;
        print!("{}", self.table());
        for figure in self.missed() {
            println!("missed: {}", figure.id);
        }
        println!("{}", path.display());
        Ok(())
    }

    /// Figures with a target that is not met.
    pub fn missed(&self) -> impl Iterator<Item = &Figure> {
        self.figures.iter().filter(|figure| figure.met() == Some(false))
    }

    /// A table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let header = ["figure", "unit", "ours", "peer", "ratio", "spread", "target", ""].map(str::to_owned);
        let rows: Vec<[String; 8]> = std::iter::once(header).chain(self.figures.iter().map(row)).collect();
        let mut widths = [0; 8];
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        let mut table = String::new();
        for row in rows {
            let mut line = String::new();
            for (at, (cell, width)) in row.iter().zip(widths).enumerate() {
                // Names to the left, numbers to the right.
                let _ =
                    if at < 2 { write!(line, "{cell:<width$}  ") } else { write!(line, "{cell:>width$}  ") };
            }
            table.push_str(line.trim_end());
            table.push('\n');
        }
        table
    }
}

fn row(figure: &Figure) -> [String; 8] {
    let number = |value: f64| rounded(value).to_string();
    let peer = match &figure.peer {
        Peer::None => String::new(),
        Peer::Measured { rounds, .. } => number(median(rounds)),
        Peer::Absent { .. } => "absent".to_owned(),
    };
    let bound = match figure.better {
        Better::Higher => "≥",
        Better::Lower => "≤",
    };
    let [low, high] = figure.spread();
    [
        figure.id.clone(),
        figure.unit.clone(),
        number(figure.ours()),
        peer,
        figure.ratio().map(number).unwrap_or_default(),
        format!("{}…{}", number(low), number(high)),
        figure.target.map(|target| format!("{bound} {target}")).unwrap_or_default(),
        match figure.met() {
            Some(true) => "met".to_owned(),
            Some(false) => "MISSED".to_owned(),
            None => String::new(),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn figure(ours: &[f64], peer: Peer, better: Better, target: Option<f64>) -> Figure {
        Figure {
            id: "x".to_owned(),
            what: "a thing".to_owned(),
            unit: "µs".to_owned(),
            ours: ours.to_vec(),
            peer,
            better,
            target,
            closed_loop: false,
        }
    }

    fn measured(rounds: &[f64]) -> Peer {
        Peer::Measured { name: "floor".to_owned(), config: "bare".to_owned(), rounds: rounds.to_vec() }
    }

    #[test]
    fn a_figure_with_a_peer_has_the_shared_shape() {
        let figure =
            figure(&[150.0, 280.0, 130.0], measured(&[100.0, 200.0, 100.0]), Better::Lower, Some(1.5));
        assert_eq!(
            serde_json::to_value(&figure).unwrap(),
            json!({"id": "x", "what": "a thing", "unit": "µs", "ours": 150.0, "peer": 100.0, "peer_name": "floor",
                   "peer_config": "bare", "ratio": 1.4, "better": "lower", "target": 1.5, "met": true, "rounds": 3,
                   "spread": [1.3, 1.5]})
        );
    }

    #[test]
    fn met_follows_from_target_and_direction() {
        for (value, better, target, met) in [
            (5.0, Better::Lower, Some(6.0), Some(true)),
            (6.0, Better::Lower, Some(6.0), Some(true)),
            (7.0, Better::Lower, Some(6.0), Some(false)),
            (7.0, Better::Higher, Some(6.0), Some(true)),
            (5.0, Better::Higher, Some(6.0), Some(false)),
            (5.0, Better::Higher, None, None),
        ] {
            assert_eq!(
                figure(&[value], Peer::None, better, target).met(),
                met,
                "{value} {better:?} {target:?}"
            );
        }
        // A measurement that failed meets nothing.
        assert_eq!(figure(&[], Peer::None, Better::Lower, Some(6.0)).met(), Some(false));
    }

    #[test]
    fn an_absent_peer_is_listed_with_its_reason_and_meets_nothing() {
        let peer = Peer::Absent { name: "other".to_owned(), reason: "no package".to_owned() };
        let value = serde_json::to_value(figure(&[1.0], peer, Better::Lower, Some(2.0))).unwrap();
        assert_eq!(value["peer"], json!(null));
        assert_eq!((&value["reason"], &value["met"]), (&json!("no package"), &json!(null)));
    }

    #[test]
    fn the_report_is_written_whole_and_its_misses_are_named() {
        let report = Report {
            bench: "invoke".to_owned(),
            commit: "abc".to_owned(),
            machine: Machine { cores: 2, cpu: "c".into(), kernel: "k".into(), disk: "d".into() },
            quick: false,
            figures: vec![
                figure(&[9.0], Peer::None, Better::Lower, Some(6.0)),
                figure(&[1.0], measured(&[2.0]), Better::Lower, None),
            ],
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bench/invoke.json");
        report.write(&path).unwrap();
        let read: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(read["machine"]["cores"], 2);
        assert_eq!(read["figures"][0]["met"], false);
        assert_eq!(read["figures"][1].get("met"), None);
        assert_eq!(report.missed().count(), 1);
        let table = report.table();
        assert!(table.lines().nth(1).unwrap().contains("≤ 6  MISSED"), "{table}");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
