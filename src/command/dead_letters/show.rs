//! `waterwheel dead-letters show`

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use clap::Args;
use serde_json::Value;

use super::{Output, printable};
use crate::command::client::{Client, encoded};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Name or ARN of the function
    function: String,
    /// As `list` shows it
    request_id: String,
    /// Print its payload, and nothing else unless as JSON
    #[arg(long)]
    payload: bool,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

pub(super) async fn run(client: &Client, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { function, request_id, payload, output } = arguments;
    let path =
        format!("functions/{}/dead-letters/{}?Payload={payload}", encoded(function), encoded(request_id));
    let answer = client.get(&path).await?;
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&answer)?),
        Output::Table if *payload => io::stdout().write_all(&payload_of(&answer)?)?,
        Output::Table => print!("{}", shown(&answer)),
    }
    Ok(ExitCode::SUCCESS)
}

/// As it was sent, to the byte.
fn payload_of(answer: &Value) -> anyhow::Result<Vec<u8>> {
    if let Some(text) = answer["Payload"].as_str() {
        return Ok(text.as_bytes().to_vec());
    }
    let encoded = answer["PayloadBase64"].as_str().with_context(|| {
        let why = answer["Unreadable"].as_str().unwrap_or("the server sent none");
        format!("it has no payload that can be shown: {}", printable(why))
    })?;
    BASE64_STANDARD.decode(encoded).context("the server's answer is not as it should be")
}

fn shown(answer: &Value) -> String {
    let Some(members) = answer.as_object() else { return String::new() };
    let width = members.keys().map(String::len).max().unwrap_or_default();
    let line = |(name, value): (&String, &Value)| {
        let value = value.as_str().map_or_else(|| value.to_string(), printable);
        format!("{name:<width$}  {value}\n")
    };
    members.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_payload_is_what_was_sent() {
        assert_eq!(payload_of(&json!({"Payload": "{\"a\": 1}\n"})).unwrap(), b"{\"a\": 1}\n");
        assert_eq!(payload_of(&json!({"PayloadBase64": "/w=="})).unwrap(), b"\xff");
        let error = payload_of(&json!({"Unreadable": "the key of its function is destroyed"})).unwrap_err();
        assert!(error.to_string().ends_with("is destroyed"), "{error}");
    }
}
