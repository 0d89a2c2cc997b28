//! SQS: a message whose body is the delivery's.

use aws_sdk_sqs::{
    Client,
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
    operation::send_message::SendMessageError,
    types::MessageAttributeValue,
};
use types::{AccountId, Region};

use super::{
    Delivery, Fault, SQS_BYTES,
    aws::{Access, Attribute, Remembered, attributes, check_size, fault, sdk_region, text},
};

/// A queue's owner and name, in a region.
type Queue = (Region, AccountId, String);

pub(super) struct Sqs {
    access: Access,
    clients: Remembered<Region, Client>,
    urls: Remembered<Queue, String>,
}

impl Sqs {
    pub(super) fn new(access: Access) -> Self {
        Self { access, clients: Remembered::default(), urls: Remembered::default() }
    }

    pub(super) async fn deliver(
        &self,
        region: &Region,
        account: &AccountId,
        name: &str,
        delivery: &Delivery,
    ) -> Result<(), Fault> {
        let (body, attributes) = (text(delivery)?, attributes(delivery));
        check_size(&body, &attributes, SQS_BYTES)?;
        let client = self.clients.get_or_make(region, || self.client(region));
        let queue = (region.clone(), account.clone(), name.to_owned());
        if let Some(url) = self.urls.get(&queue) {
            match send(&client, url, &body, &attributes).await {
                // Deleted; perhaps made again, and then it may have another address.
                Err(error) if is_no_queue(&error) => self.urls.forget(&queue),
                sent => return sent.map_err(|error| fault(&error)),
            }
        }
        let url = look_up(&client, account, name).await?;
        let sent = send(&client, url.clone(), &body, &attributes).await;
        if sent.is_ok() {
            self.urls.put(queue, url);
        }
        sent.map_err(|error| fault(&error))
    }

    fn client(&self, region: &Region) -> Client {
        let config = aws_sdk_sqs::config::Builder::from(&self.access.shared).region(sdk_region(region));
        Client::from_conf(config.build())
    }
}

async fn look_up(client: &Client, account: &AccountId, name: &str) -> Result<String, Fault> {
    let asked = client.get_queue_url().queue_name(name).queue_owner_aws_account_id(account.as_str());
    let answer = asked.send().await.map_err(|error| fault(&error))?;
    answer.queue_url.ok_or_else(|| Fault::Unavailable("the answer names no queue".to_owned()))
}

async fn send(
    client: &Client,
    url: String,
    body: &str,
    attributes: &[Attribute],
) -> Result<(), SdkError<SendMessageError, HttpResponse>> {
    let mut message = client.send_message().queue_url(url).message_body(body);
    for (name, kind, value) in attributes {
        let value = MessageAttributeValue::builder().data_type(*kind).string_value(value).build();
        message = message.message_attributes(*name, value.map_err(SdkError::construction_failure)?);
    }
    message.send().await.map(drop)
}

/// By its code: the SDK's own type knows only the older of the two.
fn is_no_queue(error: &SdkError<SendMessageError, HttpResponse>) -> bool {
    let code = error.as_service_error().and_then(|error| error.code());
    matches!(code, Some("AWS.SimpleQueueService.NonExistentQueue" | "QueueDoesNotExist"))
}
