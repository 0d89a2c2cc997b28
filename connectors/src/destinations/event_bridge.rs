//! EventBridge: an event whose detail is the envelope.

use aws_sdk_eventbridge::{Client, primitives::DateTime, types::PutEventsRequestEntry};
use types::Region;

use super::{
    Delivery, EVENT_BRIDGE_BYTES, Fault, Form,
    aws::{Access, Remembered, answered, fault, sdk_region, text},
};

const SOURCE: &str = "lambda";
const SUCCESS: &str = "Lambda Function Invocation Result - Success";
const FAILURE: &str = "Lambda Function Invocation Result - Failure";
/// What an entry's time counts for (PutEvents' reference).
const TIME_BYTES: usize = 14;

pub(super) struct EventBridge {
    access: Access,
    clients: Remembered<Region, Client>,
}

impl EventBridge {
    pub(super) fn new(access: Access) -> Self {
        Self { access, clients: Remembered::default() }
    }

    pub(super) async fn deliver(&self, region: &Region, bus: &str, delivery: &Delivery) -> Result<(), Fault> {
        let entry = entry(bus, delivery)?;
        let client = self.clients.get_or_make(region, || self.client(region));
        let answer = client.put_events().entries(entry).send().await.map_err(|error| fault(&error))?;
        // The request as a whole succeeds even where its entry does not.
        match answer.entries().first() {
            Some(result) if result.error_code().is_none() && answer.failed_entry_count() == 0 => Ok(()),
            Some(result) => Err(answered(None, result.error_code(), result.error_message())),
            None => Err(Fault::Unavailable("the answer has no entry".to_owned())),
        }
    }

    fn client(&self, region: &Region) -> Client {
        let config =
            aws_sdk_eventbridge::config::Builder::from(&self.access.shared).region(sdk_region(region));
        Client::from_conf(config.build())
    }
}

fn entry(bus: &str, delivery: &Delivery) -> Result<PutEventsRequestEntry, Fault> {
    let Form::Result { success } = delivery.form else {
        return Err(Fault::Refused("an event bus is no dead-letter queue".to_owned()));
    };
    let (detail, kind) = (text(delivery)?, if success { SUCCESS } else { FAILURE });
    let resources = [delivery.function_arn.as_str(), bus];
    let bytes = detail.len()
        + kind.len()
        + SOURCE.len()
        + TIME_BYTES
        + resources.iter().map(|resource| resource.len()).sum::<usize>();
    if bytes >= EVENT_BRIDGE_BYTES {
        return Err(Fault::too_large(bytes, EVENT_BRIDGE_BYTES - 1));
    }
    let [function, bus_arn] = resources;
    Ok(PutEventsRequestEntry::builder()
        .time(DateTime::from_secs_f64(delivery.at.as_secs_f64()))
        .source(SOURCE)
        .detail_type(kind)
        .detail(detail)
        .resources(function)
        .resources(bus_arn)
        .event_bus_name(bus)
        .build())
}
