//! `waterwheel queue verify`

use std::{io::ErrorKind, path::Path, process::ExitCode};

use queue::{Finding, OpenError, Verified};
use serde_json::json;

use super::explain;

pub(super) fn run(directory: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let verified = match queue::verify(directory) {
        Ok(verified) => verified,
        Err(OpenError::Io(error)) if error.kind() == ErrorKind::ResourceBusy => anyhow::bail!(
            "{error}: stop the server on this data directory, then verify; `waterwheel queue stat` works beside it"
        ),
        Err(error) => return Err(explain(error, directory)),
    };
    let (cut_off, damage): (Vec<_>, Vec<_>) =
        verified.findings.iter().partition(|finding| matches!(finding, Finding::Torn { .. }));
    if json {
        println!("{}", serde_json::to_string_pretty(&object(&verified, &damage, &cut_off))?);
    } else {
        print!("{}", text(&verified, &damage, &cut_off));
    }
    Ok(if damage.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn object(verified: &Verified, damage: &[&Finding], cut_off: &[&Finding]) -> serde_json::Value {
    let words = |findings: &[&Finding]| findings.iter().map(ToString::to_string).collect::<Vec<_>>();
    json!({
        "sound": damage.is_empty(),
        "segments": verified.segments,
        "events": verified.events,
        "other_records": verified.other_records,
        "damage": words(damage),
        "cut_off_by_a_crash": words(cut_off),
    })
}

fn text(verified: &Verified, damage: &[&Finding], cut_off: &[&Finding]) -> String {
    let mut text = String::new();
    if !damage.is_empty() {
        text.push_str("DAMAGE\n");
        damage.iter().for_each(|finding| text.push_str(&format!("{finding}\n")));
        text.push('\n');
    }
    // Nobody was promised what is missing there.
    cut_off.iter().for_each(|finding| text.push_str(&format!("note: {finding}\n")));
    let verdict = match damage.len() {
        0 => "sound".to_owned(),
        1 => "damaged, in one place; all else is sound".to_owned(),
        places => format!("damaged, in {places} places; all else is sound"),
    };
    let Verified { segments, events, other_records, .. } = verified;
    text.push_str(&format!(
        "{verdict}: {segments} segments, {events} events, {other_records} other records\n"
    ));
    text
}
