//! `waterwheel dead-letters list`

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::{Output, filter::Filter, printable};
use crate::command::{
    client::{Client, encoded},
    text::{size, table},
};

/// Entries of one request.
const PAGE: u64 = 500;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Name or ARN of the function [default: all functions]
    #[arg(long, value_name = "NAME")]
    function: Option<String>,
    #[command(flatten)]
    filter: Filter,
    /// Most entries
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

pub(super) async fn run(client: &Client, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let (mut entries, mut marker) = (Vec::new(), None::<String>);
    loop {
        let left = arguments.limit - entries.len() as u64;
        let mut answer = client.get(&path(arguments, marker.as_deref(), left.min(PAGE))).await?;
        if let Some(Value::Array(page)) = answer.get_mut("DeadLetters").map(Value::take) {
            entries.extend(page);
        }
        marker = answer["NextMarker"].as_str().map(str::to_owned);
        if marker.is_none() || entries.len() as u64 >= arguments.limit {
            break;
        }
    }
    match arguments.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&entries)?),
        Output::Table if entries.is_empty() => eprintln!("waterwheel: there are no such dead letters"),
        Output::Table => print!("{}", shown(&entries)),
    }
    if marker.is_some() {
        eprintln!("waterwheel: there may be more; --limit says how many are listed");
    }
    Ok(ExitCode::SUCCESS)
}

fn path(arguments: &Arguments, marker: Option<&str>, limit: u64) -> String {
    let mut pairs = vec![("FunctionName", arguments.function.as_deref()), ("Marker", marker)];
    pairs.extend(arguments.filter.members());
    let given = pairs.into_iter().filter_map(|(name, value)| Some(format!("&{name}={}", encoded(value?))));
    format!("dead-letters?MaxItems={limit}{}", given.collect::<String>())
}

fn shown(entries: &[Value]) -> String {
    let text = |entry: &Value, name: &str| printable(entry[name].as_str().unwrap_or("-"));
    let row = |entry: &Value| {
        let arn = text(entry, "FunctionArn");
        let name = arn.rsplit(':').next().unwrap_or_default().to_owned();
        let error = match entry["Unreadable"].as_str() {
            Some(why) => format!("cannot be read: {why}"),
            None => text(entry, "Error"),
        };
        let number = |name: &str| entry[name].as_u64();
        vec![
            name,
            text(entry, "RequestId"),
            text(entry, "Reason"),
            text(entry, "GivenUpAt"),
            number("Attempts").map_or_else(|| "-".into(), |attempts| attempts.to_string()),
            number("PayloadSize").map_or_else(|| "-".into(), size),
            error,
        ]
    };
    let rows: Vec<_> = entries.iter().map(row).collect();
    table(&["FUNCTION", "REQUEST ID", "REASON", "GIVEN UP", "ATTEMPTS", "SIZE", "ERROR"], 0, &rows)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        list: Arguments,
    }

    #[test]
    fn a_page_is_asked_for_with_what_was_said() {
        let path = |arguments: &[&str], marker| {
            let arguments = ["list"].iter().chain(arguments);
            path(&<Command as clap::Parser>::parse_from(arguments).list, marker, 9)
        };
        assert_eq!(path(&[], None), "dead-letters?MaxItems=9");
        let said = ["--function", "f", "--reason", "A b", "--before", "2026-11-23T00:00:00Z"];
        assert_eq!(
            path(&said, Some("m")),
            "dead-letters?MaxItems=9&FunctionName=f&Marker=m&Reason=A%20b&Before=2026-11-23T00%3A00%3A00.000Z"
        );
    }

    #[test]
    fn a_row_says_what_is_known() {
        let text = shown(&[
            json!({"FunctionArn": "arn:x:function:f", "RequestId": "id", "Reason": "RetriesExhausted",
                "GivenUpAt": "2026", "Attempts": 3, "PayloadSize": 1500, "Error": "a\u{1b}b"}),
            json!({"FunctionArn": "arn:x:function:g", "Unreadable": "its record is damaged"}),
        ]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[1], "f         id          RetriesExhausted  2026      3         1.5 kB  a b");
        assert!(
            lines[2].starts_with("g         -           -") && lines[2].ends_with("its record is damaged")
        );
    }
}
