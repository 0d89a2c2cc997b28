//! `waterwheel queue inspect`

use std::{str::FromStr, time::Duration};

use anyhow::Context as _;
use clap::Args;
use queue::{EventState, Location, Ordinal, RecordHeader, SegmentId, Snapshot};
use serde_json::{Value, json};

use crate::command::text::{size, table};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A segment (12), or an event of it (12/345) [default: all segments]
    #[arg(value_name = "PLACE")]
    place: Option<Place>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Segment(SegmentId),
    Event(Location),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = |_| "expected a segment such as 12, or an event such as 12/345".to_owned();
        match text.split_once('/') {
            None => Ok(Self::Segment(SegmentId(text.parse().map_err(expected)?))),
            Some((segment, ordinal)) => {
                let segment = SegmentId(segment.parse().map_err(expected)?);
                let ordinal = Ordinal(ordinal.parse().map_err(expected)?);
                Ok(Self::Event(Location { segment, ordinal }))
            }
        }
    }
}

/// For programs, and for people.
struct Answer {
    json: Value,
    text: String,
}

pub(super) fn run(snapshot: &Snapshot, arguments: &Arguments, json: bool) -> anyhow::Result<()> {
    let answer = match arguments.place {
        None => segments(snapshot),
        Some(Place::Segment(segment)) => streams(snapshot, segment)?,
        Some(Place::Event(location)) => event(snapshot, location)?,
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&answer.json)?);
    } else {
        print!("{}", answer.text);
    }
    Ok(())
}

fn segments(snapshot: &Snapshot) -> Answer {
    let segments = snapshot.segments();
    let row = |it: &queue::SegmentStat| {
        let index = if it.indexed { "yes" } else { "not yet" };
        let cells = [it.segment.to_string(), time(it.created), index.to_owned()];
        [&cells[..], &[size(it.capacity), it.events.to_string(), it.live.to_string()]].concat()
    };
    let rows: Vec<_> = segments.iter().map(row).collect();
    let object = |it: &queue::SegmentStat| {
        json!({
            "segment": it.segment.0,
            "created": time(it.created),
            "capacity_bytes": it.capacity,
            "indexed": it.indexed,
            "events": it.events,
            "not_done": it.live,
        })
    };
    Answer {
        json: segments.iter().map(object).collect(),
        text: table(&["SEGMENT", "CREATED", "INDEX", "CAPACITY", "EVENTS", "NOT DONE"], 3, &rows),
    }
}

fn streams(snapshot: &Snapshot, segment: SegmentId) -> anyhow::Result<Answer> {
    let streams = snapshot.streams(segment)?.with_context(|| no_segment(snapshot, segment))?;
    let names = Names::of(snapshot)?;
    let named =
        |it: &queue::StreamStat| (names.partition(it.partition), it.function.map(|it| names.function(it)));
    let row = |it: &queue::StreamStat| {
        let (partition, function) = named(it);
        let function = function.unwrap_or_else(|| "-".to_owned());
        vec![partition, function, it.events.to_string(), it.live.to_string(), size(it.bytes)]
    };
    let object = |it: &queue::StreamStat| {
        let (partition, function) = named(it);
        json!({
            "partition": partition,
            "function": function,
            "events": it.events,
            "not_done": it.live,
            "bytes": it.bytes,
        })
    };
    let rows: Vec<_> = streams.iter().map(row).collect();
    Ok(Answer {
        json: streams.iter().map(object).collect(),
        text: table(&["PARTITION", "FUNCTION", "EVENTS", "NOT DONE", "SIZE"], 3, &rows),
    })
}

fn event(snapshot: &Snapshot, location: Location) -> anyhow::Result<Answer> {
    let Location { segment, ordinal } = location;
    let header = snapshot
        .record(location)
        .with_context(|| format!("cannot read event {}/{}", segment, ordinal.0))?
        .with_context(|| match snapshot.segments().iter().any(|it| it.segment == segment) {
            true => format!("segment {segment} has no event {}", ordinal.0),
            false => no_segment(snapshot, segment),
        })?;
    let names = Names::of(snapshot)?;
    let fields = fields(&header, &names);
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let lines = fields.iter().map(|(name, value)| {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        format!("{name:<width$}  {value}\n")
    });
    let text = lines.collect();
    let object = fields.into_iter().map(|(name, value)| (name.to_owned(), value));
    Ok(Answer { text, json: Value::Object(object.collect()) })
}

fn fields(header: &RecordHeader, names: &Names) -> Vec<(&'static str, Value)> {
    let place = |it: Location| format!("{}/{}", it.segment, it.ordinal.0);
    let state = match header.state {
        None => "done",
        Some(EventState::Held) => "held until its next attempt",
        Some(EventState::Damaged) => "damaged",
        // Leases are in a server's memory, not on the disk.
        Some(EventState::Waiting | EventState::Leased) => "waiting, or leased by the server",
    };
    let mut fields = vec![
        ("place", json!(place(header.location))),
        ("id", json!(header.id.to_string())),
        ("partition", json!(names.partition(header.partition))),
        ("function", json!(names.function(header.function))),
        ("accepted", json!(time(header.accepted))),
        ("state", json!(state)),
        ("failed_attempts", json!(header.attempts)),
        ("offset", json!(header.offset)),
        ("record_bytes", json!(header.bytes)),
    ];
    fields.extend(header.origin.map(|origin| ("first_written_at", json!(place(origin)))));
    fields
}

fn no_segment(snapshot: &Snapshot, segment: SegmentId) -> String {
    match &snapshot.segments()[..] {
        [] => "the queue has no segments".to_owned(),
        [first, .., last] => {
            format!("there is no segment {segment}; there are {} to {}", first.segment, last.segment)
        }
        [only] => format!("there is no segment {segment}; there is {}", only.segment),
    }
}

fn time(since_epoch: Duration) -> String {
    let milliseconds = i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(milliseconds)
        .map_or(format!("{milliseconds}ms"), |time| format!("{time:.3}"))
}

/// What numbers stand for.
struct Names {
    partitions: Vec<queue::PartitionStat>,
    functions: std::collections::BTreeMap<queue::FunctionNumber, String>,
}

impl Names {
    fn of(snapshot: &Snapshot) -> anyhow::Result<Self> {
        Ok(Self { partitions: snapshot.partitions()?, functions: snapshot.functions() })
    }

    fn partition(&self, number: queue::PartitionNumber) -> String {
        let known = self.partitions.iter().find(|partition| partition.number == number);
        known.map_or_else(|| format!("partition {}", number.0), |partition| partition.name.clone())
    }

    fn function(&self, number: queue::FunctionNumber) -> String {
        self.functions.get(&number).cloned().unwrap_or_else(|| format!("function {}", number.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_segment_or_an_event() {
        let place = |text: &str| text.parse::<Place>().ok();
        assert_eq!(place("12"), Some(Place::Segment(SegmentId(12))));
        let location = Location { segment: SegmentId(12), ordinal: Ordinal(345) };
        assert_eq!(place("12/345"), Some(Place::Event(location)));
        for text in ["", "x", "12/", "/3", "12/3/4", "-1"] {
            assert_eq!(place(text), None, "{text}");
        }
    }
}
