//! What the two halves of the microVM benchmark tell each other: a JSON document a line, among lines that are none.
//!
//! ```text
//!   inside (where KVM boots kernels) ── {"setting": …} ── {"boot": …} ── {"boot": …} ── … ──► host: figures, report
//! ```

use serde::{Deserialize, Serialize};

use crate::kvm::Counters;

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    Setting(Setting),
    Boot(Boot),
}

/// What the peer is, and where both run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    pub peer_name: String,
    pub peer_config: String,
    /// Not inside an emulated processor: times mean something.
    pub direct: bool,
}

/// Who monitors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    Ours,
    Peer,
}

/// One virtual machine, from the request to its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Boot {
    pub side: Side,
    /// From 0; the two sides of a round follow each other.
    pub round: usize,
    /// `python` or `rust`: the function in it.
    pub function: String,
    /// What KVM has counted when the agent said hello.
    pub until_init: Counters,
    /// The same, by the processor's reasons; nothing where the kernel cannot trace.
    pub until_init_by_reason: Counters,
    /// From the request to the agent's hello, milliseconds.
    pub init_ms: f64,
    /// From the request to the first answer, milliseconds.
    pub answer_ms: f64,
    /// When the runtime first waits for an event: resident and proportional memory of the monitor beyond its guest's.
    pub rss_bytes: u64,
    pub pss_bytes: u64,
    /// Warm invocations, and what KVM counted during them.
    pub invocations: u32,
    pub warm: Counters,
    pub warm_by_reason: Counters,
}

impl Boot {
    /// Whether the kernel could tell reasons apart.
    #[must_use]
    pub fn has_warm_reasons(&self) -> bool {
        !self.warm_by_reason.0.is_empty()
    }
}

impl Line {
    /// Of what was printed; `None` for words to people.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok()
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| std::fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back_and_other_words_are_none() {
        let setting =
            Line::Setting(Setting { peer_name: "p".into(), peer_config: "\"c\"\n".into(), direct: false });
        let counters = Counters([("exits".to_owned(), 7)].into());
        let boot = Line::Boot(Boot {
            side: Side::Peer,
            round: 2,
            function: "rust".to_owned(),
            until_init: counters.clone(),
            until_init_by_reason: Counters::default(),
            init_ms: 1.5,
            answer_ms: 2.5,
            rss_bytes: 1,
            pss_bytes: 2,
            invocations: 3,
            warm: counters,
            warm_by_reason: Counters::default(),
        });
        for line in [setting, boot] {
            let text = line.to_string();
            assert!(!text.contains('\n'), "{text}");
            assert_eq!(Line::parse(&text), Some(line));
        }
        assert_eq!(Line::parse("nested: booting"), None);
        assert_eq!(Line::parse("{}"), None);
    }
}
