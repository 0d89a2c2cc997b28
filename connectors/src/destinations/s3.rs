//! S3: an object that is the envelope.

use aws_sdk_s3::{
    Client,
    config::{RequestChecksumCalculation, http::HttpResponse},
    error::SdkError,
    operation::put_object::PutObjectError,
    primitives::ByteStream,
};
use aws_types::service_config::ServiceConfigKey;
use jiff::Timestamp;
use types::{FunctionRef, Region};

use super::{
    Delivery, Fault, Form,
    aws::{Access, Remembered, fault, sdk_region},
};

pub(super) struct S3 {
    access: Access,
    clients: Remembered<Region, Client>,
    /// Of buckets that are not where the configuration says.
    regions: Remembered<String, Region>,
}

impl S3 {
    pub(super) fn new(access: Access) -> Self {
        Self { access, clients: Remembered::default(), regions: Remembered::default() }
    }

    pub(super) async fn deliver(&self, bucket: &str, delivery: &Delivery) -> Result<(), Fault> {
        if !matches!(delivery.form, Form::Result { .. }) {
            return Err(Fault::Refused("a bucket is no dead-letter queue".to_owned()));
        }
        let key = key(delivery)?;
        let region = self.regions.get(&bucket.to_owned()).unwrap_or_else(|| self.access.region.clone());
        let put = self.put(&region, bucket, &key, delivery).await;
        let Some(moved) = put.as_ref().err().and_then(bucket_region).filter(|moved| *moved != region) else {
            return put.map_err(|error| fault(&error));
        };
        self.put(&moved, bucket, &key, delivery).await.map_err(|error| fault(&error))?;
        self.regions.put(bucket.to_owned(), moved);
        Ok(())
    }

    async fn put(
        &self,
        region: &Region,
        bucket: &str,
        key: &str,
        delivery: &Delivery,
    ) -> Result<(), SdkError<PutObjectError, HttpResponse>> {
        let client = self.clients.get_or_make(region, || self.client(region));
        let object = client.put_object().bucket(bucket).key(key).content_type("application/json");
        object.body(ByteStream::from(delivery.body.clone())).send().await.map(drop)
    }

    fn client(&self, region: &Region) -> Client {
        let config = aws_sdk_s3::config::Builder::from(&self.access.shared)
            .region(sdk_region(region))
            // The signature covers the body. Not every server that speaks S3 knows the newer checksums.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            // Nor can every bucket there be a host name.
            .force_path_style(self.has_own_endpoint());
        Client::from_conf(config.build())
    }

    /// Whether S3 is somewhere else than at AWS, as far as anybody has said: the configuration, `AWS_ENDPOINT_URL`,
    /// `AWS_ENDPOINT_URL_S3`, or a profile.
    fn has_own_endpoint(&self) -> bool {
        let shared = &self.access.shared;
        let key = ServiceConfigKey::builder()
            .service_id("S3")
            .env("AWS_ENDPOINT_URL")
            .profile("endpoint_url")
            .build()
            .expect("all three are there");
        shared.endpoint_url().is_some()
            || shared.service_config().is_some_and(|config| config.load_config(key).is_some())
    }
}

/// `aws/lambda/async/<function>/YYYY/MM/DD/YYYY-MM-DDTHH.MM.SS-<random UUID>` (DG). The UUID is the request's, so that a
/// delivery that is repeated replaces itself.
fn key(delivery: &Delivery) -> Result<String, Fault> {
    let arn = &delivery.function_arn;
    let function: FunctionRef = arn.parse().map_err(|error| Fault::Refused(format!("{error}")))?;
    let seconds = i64::try_from(delivery.at.as_secs()).ok().and_then(|at| Timestamp::from_second(at).ok());
    let at = seconds.ok_or_else(|| Fault::Refused(format!("{:?} is no time", delivery.at)))?;
    let (name, id) = (function.name, delivery.request_id);
    Ok(format!("aws/lambda/async/{name}/{}-{id}", at.strftime("%Y/%m/%d/%Y-%m-%dT%H.%M.%S")))
}

/// Where a bucket is, if that is why it was not found here.
fn bucket_region(error: &SdkError<PutObjectError, HttpResponse>) -> Option<Region> {
    error.raw_response()?.headers().get("x-amz-bucket-region")?.parse().ok()
}
