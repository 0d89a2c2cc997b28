//! Delivers what it is told on standard input, for the black-box tests of destinations.
//!
//! The first line is the configuration, each further one a delivery; each of those is answered by a line. Deliveries run
//! side by side. With `read`, a name, it prints that file's records instead.

mod keys;

use std::{path::PathBuf, sync::Arc, time::Duration};

use connectors::destinations::{Config, Credentials, Delivery, DeliveryError, Destinations, Form, read_file};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use types::RequestId;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Setting {
    directory: PathBuf,
    endpoint: Option<String>,
    region: String,
    /// Access key id and secret; without them, the environment's.
    credentials: Option<(String, String)>,
    timeout_seconds: f64,
    #[serde(default)]
    plain: bool,
    read: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    /// Repeated in the answer.
    id: u64,
    to: String,
    /// 16 bytes.
    request: [u8; 16],
    function: String,
    at_seconds: f64,
    success: Option<bool>,
    error: Option<(u16, String)>,
    body: String,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut lines = input();
    let setting: Setting = serde_json::from_str(&lines.recv().await.ok_or("no configuration")?)?;
    let keys = Arc::new(keys::TestKeys::new(&[1]));
    if let Some(name) = setting.read {
        for record in read_file(&setting.directory.join(&name), &name, keys)? {
            println!(
                "{}",
                record.map_or_else(|error| error.to_string(), |r| String::from_utf8_lossy(&r).into())
            );
        }
        return Ok(());
    }
    let mut config = Config::new(setting.directory, keys);
    config.endpoint = setting.endpoint;
    config.region = setting.region.parse()?;
    config.timeout = Duration::from_secs_f64(setting.timeout_seconds);
    config.sealed_files = !setting.plain;
    config.credentials = setting.credentials.map(|(access_key_id, secret_access_key)| Credentials {
        access_key_id,
        secret_access_key,
        session_token: None,
    });
    let destinations = Destinations::new(config).await?;
    let (answers, mut answered) = mpsc::unbounded_channel();
    let printer = tokio::spawn(async move {
        while let Some(answer) = answered.recv().await {
            println!("{answer}");
        }
    });
    while let Some(line) = lines.recv().await {
        let order: Order = serde_json::from_str(&line)?;
        let (destinations, answers) = (destinations.clone(), answers.clone());
        tokio::spawn(async move {
            // The printer outlives everybody who has something to say.
            let _ = answers.send(deliver(&destinations, order).await);
        });
    }
    drop(answers);
    Ok(printer.await?)
}

/// The lines of standard input, which only a thread can wait for.
fn input() -> mpsc::Receiver<String> {
    let (told, lines) = mpsc::channel(64);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if told.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

async fn deliver(destinations: &Destinations, order: Order) -> Value {
    let form = match (order.success, order.error) {
        (Some(success), None) => Form::Result { success },
        (None, Some((error_code, error_message))) => Form::DeadLetter { error_code, error_message },
        _ => return json!({"id": order.id, "result": "either success or error"}),
    };
    let to = match order.to.parse() {
        Ok(to) => to,
        Err(error) => {
            return json!({"id": order.id, "result": "no destination", "reason": format!("{error}")});
        }
    };
    let delivery = Delivery {
        request_id: RequestId::from_bytes(order.request),
        function_arn: order.function,
        at: Duration::from_secs_f64(order.at_seconds),
        form,
        body: order.body.into(),
    };
    match destinations.deliver(&to, &delivery).await {
        Ok(()) => json!({"id": order.id, "result": "delivered"}),
        Err(DeliveryError::Unavailable { reason, .. }) => {
            json!({"id": order.id, "result": "unavailable", "reason": reason})
        }
        Err(DeliveryError::Refused { reason, .. }) => {
            json!({"id": order.id, "result": "refused", "reason": reason})
        }
    }
}
