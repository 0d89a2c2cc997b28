//! `waterwheel queue stat`

use std::{collections::BTreeMap, time::Duration};

use clap::Args;
use queue::{FunctionNumber, FunctionStat, PartitionStat, Snapshot, partition::Order};
use serde::Serialize;
use types::{Clock as _, SystemClock};

use crate::command::text::{age, size, table};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// List the functions of each partition (JSON always does)
    #[arg(long)]
    functions: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    events: u64,
    bytes: u64,
    segments: usize,
    disk_bytes: u64,
    /// Things that `verify` should look at.
    findings: Vec<String>,
    partitions: Vec<Partition>,
}

#[derive(Debug, Serialize)]
struct Partition {
    name: String,
    ordered: bool,
    #[serde(flatten)]
    waiting: Waiting,
    /// Empty in an ordered partition, where functions are not told apart.
    functions: Vec<Function>,
}

#[derive(Debug, Serialize)]
struct Function {
    arn: String,
    #[serde(flatten)]
    waiting: Waiting,
}

/// How much is not done, and how old the oldest of it is.
#[derive(Debug, Serialize)]
struct Waiting {
    events: u64,
    bytes: u64,
    #[serde(rename = "oldest_age_ms", serialize_with = "as_millis")]
    oldest: Option<Duration>,
}

#[expect(clippy::ref_option, reason = "as serde calls it")]
fn as_millis<S: serde::Serializer>(age: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)).serialize(serializer)
}

pub(super) fn run(snapshot: &Snapshot, arguments: &Arguments, json: bool) -> anyhow::Result<()> {
    let report = report(snapshot)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", text(&report, arguments.functions));
    }
    Ok(())
}

fn report(snapshot: &Snapshot) -> anyhow::Result<Report> {
    let now = SystemClock.now();
    let arns = snapshot.functions();
    let partitions = snapshot.partitions()?;
    // Beside a running server, what it is just writing looks cut off.
    let findings = snapshot.findings().iter().filter(|it| !matches!(it, queue::Finding::Torn { .. }));
    Ok(Report {
        events: partitions.iter().map(|partition| partition.depth.events).sum(),
        bytes: partitions.iter().map(|partition| partition.depth.bytes).sum(),
        segments: snapshot.segments().len(),
        disk_bytes: snapshot.disk_bytes(),
        findings: findings.map(ToString::to_string).collect(),
        partitions: partitions.into_iter().map(|partition| of_partition(partition, &arns, now)).collect(),
    })
}

fn of_partition(stat: PartitionStat, arns: &BTreeMap<FunctionNumber, String>, now: Duration) -> Partition {
    // A clock that was set back makes nothing younger than new.
    let waiting = |depth: queue::Depth, oldest: Option<Duration>| Waiting {
        events: depth.events,
        bytes: depth.bytes,
        oldest: oldest.map(|oldest| now.saturating_sub(oldest)),
    };
    let of_function = |function: FunctionStat| {
        let number = function.function?;
        let arn = arns
            .get(&number)
            .cloned()
            .unwrap_or_else(|| format!("function {}, whose name is lost", number.0));
        Some(Function { arn, waiting: waiting(function.depth, function.oldest) })
    };
    Partition {
        name: stat.name,
        ordered: stat.order == Order::Strict,
        waiting: waiting(stat.depth, stat.oldest),
        functions: stat.functions.into_iter().filter_map(of_function).collect(),
    }
}

fn text(report: &Report, functions: bool) -> String {
    let row = |name: String, order: &str, waiting: &Waiting, functions: String| {
        vec![
            name,
            order.to_owned(),
            waiting.events.to_string(),
            size(waiting.bytes),
            age(waiting.oldest),
            functions,
        ]
    };
    let mut rows = Vec::new();
    for partition in &report.partitions {
        let (order, count) = match partition.ordered {
            true => ("kept", "-".to_owned()),
            false => ("any", partition.functions.len().to_string()),
        };
        rows.push(row(partition.name.clone(), order, &partition.waiting, count));
        for function in partition.functions.iter().filter(|_| functions) {
            rows.push(row(format!("  {}", function.arn), "", &function.waiting, String::new()));
        }
    }
    let mut text = table(&["PARTITION", "ORDER", "EVENTS", "SIZE", "OLDEST", "FUNCTIONS"], 4, &rows);
    text.push_str(&format!(
        "\n{} events, {}, in {} segments; the directory takes {} on the disk\n",
        report.events,
        size(report.bytes),
        report.segments,
        size(report.disk_bytes)
    ));
    for finding in &report.findings {
        text.push_str(&format!("not as it should be: {finding}\n"));
    }
    if !report.findings.is_empty() {
        text.push_str("stop the server and run: waterwheel queue verify\n");
    }
    text
}
