//! `waterwheel doctor`: what this machine can do, found by trying.

mod disk;
mod isolation;
mod kvm;
mod machine;
mod place;

use std::{fmt, io::IsTerminal as _, process::ExitCode};

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use crate::{
    cli::{Global, RuntimesDir},
    config::Config,
    data_dir::DataDir,
};

/// Say what this machine can do, what that means, and what to do about it
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 where functions can run, if only in process isolation, 1 where they cannot.

Example:
  waterwheel doctor --json | jq '.[] | select(.mark != \"ok\")'")]
pub(crate) struct Arguments {
    /// Print the findings as a JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    runtimes_dir: RuntimesDir,
}

/// How a finding is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Mark {
    Ok,
    /// Works, with a drawback.
    Warn,
    /// Something cannot work.
    Missing,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    mark: Mark,
    topic: &'static str,
    /// What is so.
    fact: String,
    /// What it means for the user, and what to do about it.
    meaning: String,
    /// Whether functions cannot run at all while this is [`Mark::Missing`].
    required: bool,
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut layers = global.layers()?;
    arguments.runtimes_dir.add_to(&mut layers);
    let config = Config::read(&layers)?;
    let _place =
        place::Place::enter().context("cannot keep other doctors from where this one tries things")?;
    let findings = examine(&DataDir::at(&global.data_dir), &config);
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        let colour = std::io::stdout().is_terminal();
        findings.iter().for_each(|finding| print!("{}", Line { finding, colour }));
        println!("{}", conclusion(&findings));
    }
    Ok(if can_run(&findings) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn examine(dir: &DataDir, config: &Config) -> Vec<Finding> {
    let mut findings = Vec::from(kvm::examine(&dir.runtimes(config)));
    findings.push(isolation::user());
    findings.extend(isolation::examine());
    findings.push(disk::sync_speed(dir.path()));
    findings.push(disk::swap());
    findings.extend(machine::examine(&dir.runtimes(config), config));
    findings
}

fn can_run(findings: &[Finding]) -> bool {
    !findings.iter().any(|finding| finding.required && finding.mark == Mark::Missing)
}

fn conclusion(findings: &[Finding]) -> String {
    let count = |mark| findings.iter().filter(|finding| finding.mark == mark).count();
    let verdict = if can_run(findings) {
        "functions can run here"
    } else {
        "functions cannot run here until the required lines above are put right"
    };
    format!("doctor: {verdict} ({} warnings, {} missing)", count(Mark::Warn), count(Mark::Missing))
}

// === impl Finding ===

impl Finding {
    fn ok(topic: &'static str, fact: impl Into<String>, meaning: impl Into<String>) -> Self {
        Self { mark: Mark::Ok, topic, fact: fact.into(), meaning: meaning.into(), required: false }
    }

    fn warn(topic: &'static str, fact: impl Into<String>, meaning: impl Into<String>) -> Self {
        Self { mark: Mark::Warn, ..Self::ok(topic, fact, meaning) }
    }

    fn missing(topic: &'static str, fact: impl Into<String>, meaning: impl Into<String>) -> Self {
        Self { mark: Mark::Missing, ..Self::ok(topic, fact, meaning) }
    }

    /// Without this no function runs.
    fn required(self) -> Self {
        Self { required: true, ..self }
    }
}

/// A finding as two lines for people.
struct Line<'a> {
    finding: &'a Finding,
    colour: bool,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, code) = match self.finding.mark {
            Mark::Ok => ("ok", 32),
            Mark::Warn => ("warn", 33),
            Mark::Missing if self.finding.required => ("MISSING", 31),
            Mark::Missing => ("missing", 31),
        };
        let Finding { topic, fact, meaning, .. } = self.finding;
        if self.colour {
            write!(f, "\x1b[{code}m{word:<8}\x1b[0m")?;
        } else {
            write!(f, "{word:<8}")?;
        }
        writeln!(f, "{topic:<12} {fact}")?;
        writeln!(f, "{:<20} {meaning}", "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_required_and_missing_stops_functions() {
        let warned = Finding::warn("a", "", "").required();
        let optional = Finding::missing("b", "", "");
        assert!(can_run(&[warned.clone(), optional.clone()]));
        let findings = [warned, optional, Finding::missing("c", "", "").required()];
        assert!(!can_run(&findings));
        assert!(conclusion(&findings).ends_with("(1 warnings, 2 missing)"));
    }

    #[test]
    fn a_line_has_colour_only_where_asked_for() {
        let finding = Finding::ok("kvm", "fact", "meaning");
        let text = |colour| Line { finding: &finding, colour }.to_string();
        assert_eq!(text(false), format!("ok      kvm          fact\n{:20} meaning\n", ""));
        assert!(text(true).starts_with("\x1b[32mok"));
    }
}
