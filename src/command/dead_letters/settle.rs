//! `waterwheel dead-letters redrive` and `purge`: an order is repeated until there is nothing left to do, because the server answers
//! after a while with what it has done so far.

use std::{
    collections::BTreeSet,
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use anyhow::bail;
use clap::Args;
use serde_json::{Map, Value, json};

use super::filter::Filter;
use crate::command::client::Client;

/// Which of them.
#[derive(Debug, Args)]
struct Chosen {
    /// Name or ARN of the function
    #[arg(long, value_name = "NAME", required_unless_present = "all", conflicts_with = "all")]
    function: Option<String>,
    /// Those of every function
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    filter: Filter,
    /// Only this one; may be given many times
    #[arg(long = "id", value_name = "REQUEST-ID")]
    ids: Vec<String>,
    /// Stop after so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Most in a second [default: 1000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    per_second: Option<u32>,
}

#[derive(Debug, Args)]
pub(super) struct Redrive {
    #[command(flatten)]
    chosen: Chosen,
}

#[derive(Debug, Args)]
pub(super) struct Purge {
    #[command(flatten)]
    chosen: Chosen,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// What all answers came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Total {
    done: u64,
    unreadable: u64,
    not_scanned: u64,
    limit_reached: bool,
}

pub(super) async fn redrive(client: &Client, arguments: &Redrive) -> anyhow::Result<ExitCode> {
    settle(client, "redrive", "Redriven", &arguments.chosen).await
}

pub(super) async fn purge(client: &Client, arguments: &Purge) -> anyhow::Result<ExitCode> {
    if !arguments.yes && !confirmed(&arguments.chosen)? {
        eprintln!("waterwheel: nothing was purged");
        return Ok(ExitCode::FAILURE);
    }
    settle(client, "purge", "Purged", &arguments.chosen).await
}

fn confirmed(chosen: &Chosen) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        bail!(
            "what is purged is gone for good: --yes says that this is meant, where no terminal can be asked"
        );
    }
    let whose = chosen.function.as_deref().unwrap_or("every function");
    eprint!("Purge the chosen dead letters of {whose}? They are gone for good. [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

async fn settle(client: &Client, verb: &str, count: &str, chosen: &Chosen) -> anyhow::Result<ExitCode> {
    let (mut body, mut total) = (chosen.body(), Total::default());
    let done = count.to_lowercase();
    loop {
        let answered = client.post(&format!("dead-letters/{verb}"), &Value::Object(body.clone())).await;
        let answer = match answered {
            Ok(answer) => answer,
            Err(error) if total.done > 0 => {
                return Err(error.context(format!("{} were {done}, the rest was not", total.done)));
            }
            Err(error) => return Err(error),
        };
        total.add(&answer, count);
        if answer["More"] != json!(true) || !go_on(&mut body, &answer, chosen.limit, total.done) {
            break;
        }
        eprintln!("waterwheel: {} {done} so far", total.done);
    }
    println!("{done} {}", total.done);
    total.explain();
    let missing = (chosen.distinct_ids().len() as u64).saturating_sub(total.done);
    if missing > 0 && !total.limit_reached {
        eprintln!(
            "waterwheel: {missing} of the ids given were not {done}: not found, or kept back by another filter"
        );
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes the next order out of the last answer. `false`: as many are done as were asked for.
fn go_on(body: &mut Map<String, Value>, answer: &Value, limit: Option<u32>, done: u64) -> bool {
    if let Some(limit) = limit {
        let left = u64::from(limit).saturating_sub(done);
        body.insert("MaxItems".into(), json!(left));
        if left == 0 {
            return false;
        }
    }
    for name in ["Before", "Marker"] {
        if let Some(value) = answer.get(name) {
            body.insert(name.into(), value.clone());
        }
    }
    true
}

impl Chosen {
    /// Each once, however often and in whichever case it was given.
    fn distinct_ids(&self) -> BTreeSet<String> {
        self.ids.iter().map(|id| id.to_ascii_lowercase()).collect()
    }

    fn body(&self) -> Map<String, Value> {
        let Self { function, all, filter, ids: _, limit, per_second } = self;
        let ids = self.distinct_ids();
        let members = [
            ("FunctionName", json!(function)),
            ("AllFunctions", if *all { json!(true) } else { Value::Null }),
            ("RequestIds", if ids.is_empty() { Value::Null } else { json!(ids) }),
            ("MaxItems", json!(limit)),
            ("PerSecond", json!(per_second)),
        ];
        let filter = filter.members().map(|(name, value)| (name, json!(value)));
        let given = members.into_iter().chain(filter).filter(|(_, value)| !value.is_null());
        given.map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

impl Total {
    fn add(&mut self, answer: &Value, count: &str) {
        let number = |name: &str| answer[name].as_u64().unwrap_or_default();
        self.done += number(count);
        // An answer counts what is left alone of the functions that it is done with.
        self.unreadable += number("Unreadable");
        self.not_scanned += number("NotScanned");
        self.limit_reached = answer["LimitReached"] == json!(true);
    }

    fn explain(&self) {
        if self.unreadable > 0 {
            eprintln!(
                "waterwheel: {} cannot be read and stay where they are (`waterwheel dead-letters list` says why); \
                 a purge of all dead letters of their function ends them",
                self.unreadable
            );
        }
        if self.not_scanned > 0 {
            eprintln!(
                "waterwheel: {} were not looked at: too many that are not meant lie before them; redrive or purge \
                 those first",
                self.not_scanned
            );
        }
        if self.limit_reached {
            eprintln!("waterwheel: stopped at the limit; there may be more");
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        redrive: Redrive,
    }

    fn parsed(arguments: &[&str]) -> Result<Chosen, clap::Error> {
        let arguments = ["redrive"].iter().chain(arguments);
        Command::try_parse_from(arguments).map(|command| command.redrive.chosen)
    }

    #[test]
    fn an_order_says_what_was_said_and_no_more() {
        let chosen = parsed(&["--function", "f", "--id", "a", "--id", "b", "--limit", "9"]).unwrap();
        let body = json!({"FunctionName": "f", "RequestIds": ["a", "b"], "MaxItems": 9});
        assert_eq!(Value::Object(chosen.body()), body);
        let chosen = parsed(&["--all", "--before", "2026-11-23T00:00:00Z"]).unwrap();
        let body = json!({"AllFunctions": true, "Before": "2026-11-23T00:00:00.000Z"});
        assert_eq!(Value::Object(chosen.body()), body);
        for wrong in [&[][..], &["--function", "f", "--all"], &["--all", "--limit", "0"]] {
            assert!(parsed(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_order_goes_on_where_the_answer_stopped_and_ends_at_its_limit() {
        let mut body = parsed(&["--all", "--limit", "10"]).unwrap().body();
        let answer = json!({"Redriven": 4, "More": true, "Before": "b", "Marker": "m", "Unreadable": 2});
        let mut total = Total::default();
        total.add(&answer, "Redriven");
        assert!(go_on(&mut body, &answer, Some(10), total.done));
        assert_eq!(
            (&body["MaxItems"], &body["Before"], &body["Marker"]),
            (&json!(6), &json!("b"), &json!("m"))
        );
        total.add(&json!({"Redriven": 6, "Unreadable": 3}), "Redriven");
        assert!(!go_on(&mut body, &answer, Some(10), total.done));
        assert_eq!(total, Total { done: 10, unreadable: 5, ..Total::default() }, "of two functions");
    }

    #[test]
    fn an_id_that_is_given_twice_is_asked_for_once() {
        let chosen = parsed(&["--all", "--id", "a", "--id", "b", "--id", "A"]).unwrap();
        assert_eq!(chosen.body()["RequestIds"], json!(["a", "b"]));
        assert_eq!(chosen.distinct_ids().len(), 2);
    }
}
