//! SNS: a message whose text is the delivery's body.

use aws_sdk_sns::{Client, types::MessageAttributeValue};
use types::Region;

use super::{
    Delivery, Fault, SNS_BYTES,
    aws::{Access, Remembered, attributes, check_size, fault, sdk_region, text},
};

pub(super) struct Sns {
    access: Access,
    clients: Remembered<Region, Client>,
}

impl Sns {
    pub(super) fn new(access: Access) -> Self {
        Self { access, clients: Remembered::default() }
    }

    /// A topic may take less than [`SNS_BYTES`]; it says so itself.
    pub(super) async fn deliver(
        &self,
        region: &Region,
        topic: &str,
        delivery: &Delivery,
    ) -> Result<(), Fault> {
        let (body, attributes) = (text(delivery)?, attributes(delivery));
        check_size(&body, &attributes, SNS_BYTES)?;
        let client = self.clients.get_or_make(region, || self.client(region));
        let mut message = client.publish().topic_arn(topic).message(body);
        for (name, kind, value) in attributes {
            let value = MessageAttributeValue::builder().data_type(kind).string_value(value).build();
            let value = value.map_err(|error| Fault::Refused(error.to_string()))?;
            message = message.message_attributes(name, value);
        }
        message.send().await.map(drop).map_err(|error| fault(&error))
    }

    fn client(&self, region: &Region) -> Client {
        let config = aws_sdk_sns::config::Builder::from(&self.access.shared).region(sdk_region(region));
        Client::from_conf(config.build())
    }
}
