//! What needs no service: servers that are down, hang or answer with errors, and what is never sent.

use tempfile::TempDir;

use super::*;

#[path = "../../examples/deliver/keys.rs"]
pub(super) mod keys;
#[cfg(feature = "aws")]
mod server;
use keys::TestKeys;

mod configuration {
    use super::*;

    fn config() -> (TempDir, Config) {
        let directory = tempfile::tempdir().unwrap();
        let config = Config::new(directory.path().join("destinations"), Arc::new(TestKeys::new(&[1])));
        (directory, config)
    }

    #[tokio::test]
    async fn what_is_no_endpoint_is_refused() {
        let wrong =
            ["127.0.0.1:4566", "http://", "https:///path", "http://:4566", "http://a b", "ftp://host", ""];
        for wrong in wrong {
            let (_directory, mut config) = config();
            config.endpoint = Some(wrong.to_owned());
            let error = Destinations::new(config).await.unwrap_err().to_string();
            assert!(error.contains("is not an endpoint"), "{wrong}: {error}");
        }
        for right in ["http://127.0.0.1:4566", "https://[::1]:1/", "http://host/path", "https://host"] {
            assert!(is_endpoint(right), "{right}");
        }
    }

    #[tokio::test]
    async fn the_directory_of_files_is_its_owners_only() {
        use std::os::unix::fs::PermissionsExt;
        let (_directory, config) = config();
        let path = config.file_directory.clone();
        let destinations = Destinations::new(config).await.unwrap();
        destinations.deliver(&"arn:aws:file:::f".parse().unwrap(), &super::delivery("1")).await.unwrap();
        let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.join("f"))), (0o700, 0o600));
    }

    #[tokio::test]
    async fn a_directory_that_cannot_be_made_is_named() {
        let (directory, mut config) = config();
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        config.file_directory = file.join("destinations");
        let error = Destinations::new(config).await.unwrap_err().to_string();
        assert!(error.contains("file/destinations"), "{error}");
    }

    #[test]
    fn no_secret_and_no_body_is_printed() {
        let (_directory, mut config) = config();
        let secret = "CANARY";
        let credentials = Credentials {
            access_key_id: "id".to_owned(),
            secret_access_key: secret.to_owned(),
            session_token: Some(secret.to_owned()),
        };
        config.credentials = Some(credentials.clone());
        let printed = format!("{config:?} {credentials:?} {:?}", super::delivery(secret));
        assert!(!printed.contains(secret), "{printed}");
    }
}

fn delivery(body: &str) -> Delivery {
    Delivery {
        request_id: RequestId::from_bytes([0x11; 16]),
        function_arn: "arn:aws:lambda:us-east-1:123456789012:function:f:$LATEST".to_owned(),
        at: Duration::from_secs(1_795_406_696),
        form: Form::Result { success: false },
        body: Bytes::from(body.to_owned()),
    }
}

#[tokio::test]
async fn each_attempt_is_counted_by_service_and_result_and_timed() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let _here = ::metrics::set_default_local_recorder(&recorder);
    let directory = tempfile::tempdir().unwrap();
    let keys = Arc::new(TestKeys::new(&[1]));
    let destinations =
        Destinations::new(Config::new(directory.path().to_owned(), keys.clone())).await.unwrap();
    let file = "arn:aws:file:::f".parse().unwrap();
    destinations.deliver(&file, &delivery("1")).await.unwrap();
    destinations.deliver(&file, &delivery("not JSON")).await.unwrap_err();
    keys.replace(&[]);
    destinations.deliver(&"arn:aws:file:::g".parse().unwrap(), &delivery("1")).await.unwrap_err();
    let scraped = recorder.handle().render();
    for result in ["delivered", "refused", "unavailable"] {
        let line =
            format!("waterwheel_destination_deliveries_total{{service=\"file\",result=\"{result}\"}} 1");
        assert!(scraped.contains(&line), "{line} in {scraped}");
    }
    let timed = "waterwheel_destination_delivery_duration_seconds_count{service=\"file\"} 3";
    assert!(scraped.contains(timed), "{scraped}");
}

#[cfg(feature = "aws")]
mod services {
    use std::{sync::Mutex, time::Instant as StdInstant};

    use tracing::{
        Event, Metadata, Subscriber,
        field::{Field, Visit},
        span::{Attributes, Id, Record},
    };

    use super::*;
    use crate::destinations::tests::server::{Answer, Server};

    const SQS: &str = "arn:aws:sqs:eu-west-1:123456789012:q";
    const SNS: &str = "arn:aws:sns:eu-west-1:123456789012:t";
    const EVENTS: &str = "arn:aws:events:eu-west-1:123456789012:event-bus/b";
    const S3: &str = "arn:aws:s3:::bucket";
    const ALL: [&str; 4] = [SQS, SNS, EVENTS, S3];

    struct Bed {
        _directory: TempDir,
        destinations: Destinations,
        timeout: Duration,
    }

    async fn bed(endpoint: &str, timeout: Duration) -> Bed {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config::new(directory.path().to_owned(), Arc::new(TestKeys::new(&[1])));
        config.endpoint = Some(endpoint.to_owned());
        config.timeout = timeout;
        config.credentials = Some(Credentials {
            access_key_id: "AKIDEXAMPLE".to_owned(),
            secret_access_key: "secret".to_owned(),
            session_token: None,
        });
        Bed { _directory: directory, destinations: Destinations::new(config).await.unwrap(), timeout }
    }

    impl Bed {
        async fn deliver(&self, to: &str, delivery: &Delivery) -> Result<(), DeliveryError> {
            let began = StdInstant::now();
            let result = self.destinations.deliver(&to.parse().unwrap(), delivery).await;
            assert!(began.elapsed() < self.timeout + Duration::from_secs(2), "the time limit holds");
            result
        }

        async fn unavailable(&self, to: &str) -> String {
            match self.deliver(to, &delivery("{}")).await {
                Err(DeliveryError::Unavailable { destination, reason }) if destination.to_string() == to => {
                    reason
                }
                other => panic!("{to}: {other:?}"),
            }
        }

        async fn refused(&self, to: &str, delivery: &Delivery) -> String {
            match self.deliver(to, delivery).await {
                Err(DeliveryError::Refused { destination, reason }) if destination.to_string() == to => {
                    reason
                }
                other => panic!("{to}: {other:?}"),
            }
        }
    }

    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn where_nobody_listens_a_destination_is_unavailable_at_once() {
        let unused = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", unused.local_addr().unwrap());
        drop(unused);
        let bed = bed(&endpoint, LONG).await;
        for to in ALL {
            let began = StdInstant::now();
            let reason = bed.unavailable(to).await;
            assert!(reason.contains("refused"), "{to}: {reason}");
            assert!(began.elapsed() < Duration::from_secs(10), "{to}: no retries, no waiting");
        }
    }

    #[tokio::test]
    async fn a_name_that_nobody_knows_is_unavailable() {
        let bed = bed("http://nowhere.invalid", Duration::from_secs(5)).await;
        for to in ALL {
            bed.unavailable(to).await;
        }
    }

    #[tokio::test]
    async fn a_server_that_never_answers_is_unavailable_after_the_time_limit() {
        let server = Server::start(|_| Answer::Never).await;
        let bed = bed(&server.endpoint, Duration::from_millis(300)).await;
        for to in ALL {
            let reason = bed.unavailable(to).await;
            assert!(
                reason.contains("300ms") || reason.contains("timed out") || reason.contains("timeout"),
                "{reason}"
            );
        }
    }

    #[tokio::test]
    async fn a_server_error_is_unavailable_and_asked_once() {
        let server = Server::start(|_| Answer::Is(500, vec![], "{}".to_owned())).await;
        let bed = bed(&server.endpoint, LONG).await;
        for (nth, to) in ALL.into_iter().enumerate() {
            let reason = bed.unavailable(to).await;
            assert!(reason.starts_with("500"), "{to}: {reason}");
            assert_eq!(server.requests().len(), nth + 1, "{to}: the SDK does not retry");
        }
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_unavailable() {
        let server = Server::start(|_| Answer::Breaks).await;
        let bed = bed(&server.endpoint, LONG).await;
        for to in ALL {
            bed.unavailable(to).await;
        }
    }

    #[tokio::test]
    async fn throttling_is_unavailable_and_denial_is_refused() {
        let xml = |code: &str| {
            format!("<ErrorResponse><Error><Code>{code}</Code><Message>m</Message></Error></ErrorResponse>")
        };
        for (to, status, body, refused) in [
            (SQS, 400, r#"{"__type":"com.amazonaws.sqs#RequestThrottled","message":"m"}"#.to_owned(), None),
            (
                SQS,
                403,
                r#"{"__type":"AccessDeniedException","message":"m"}"#.to_owned(),
                Some("403 AccessDeniedException: m"),
            ),
            (SNS, 429, xml("Throttled"), None),
            (SNS, 403, xml("AuthorizationError"), Some("403 AuthorizationError: m")),
            (EVENTS, 400, r#"{"__type":"ThrottlingException","message":"m"}"#.to_owned(), None),
            (
                EVENTS,
                400,
                r#"{"__type":"AccessDeniedException","message":"m"}"#.to_owned(),
                Some("400 AccessDeniedException: m"),
            ),
            (S3, 503, "<Error><Code>SlowDown</Code><Message>m</Message></Error>".to_owned(), None),
            (
                S3,
                404,
                "<Error><Code>NoSuchBucket</Code><Message>m</Message></Error>".to_owned(),
                Some("404 NoSuchBucket: m"),
            ),
        ] {
            let server = Server::start(move |_| Answer::Is(status, vec![], body.clone())).await;
            let bed = bed(&server.endpoint, LONG).await;
            match refused {
                Some(expected) => assert_eq!(bed.refused(to, &delivery("{}")).await, expected),
                None => drop(bed.unavailable(to).await),
            }
        }
    }

    #[tokio::test]
    async fn a_queue_that_was_made_again_is_looked_up_again() {
        let url = |number| (200, vec![], format!(r#"{{"QueueUrl":"http://sqs/{number}/q"}}"#));
        let sent = || (200, vec![], r#"{"MessageId":"1"}"#.to_owned());
        // As SQS says it, and as servers do that never spoke its older protocol.
        let gone = |headers| {
            (400, headers, r#"{"__type":"com.amazonaws.sqs#QueueDoesNotExist","message":"gone"}"#.to_owned())
        };
        let older = || vec![("x-amzn-query-error", "AWS.SimpleQueueService.NonExistentQueue;Sender")];
        let script = [
            url(1),
            sent(),
            sent(),
            gone(older()),
            url(2),
            sent(),
            gone(vec![]),
            url(3),
            sent(),
            gone(vec![]),
            gone(older()),
        ];
        let server = Server::start(move |nth| {
            let (status, headers, body) = script[nth].clone();
            Answer::Is(status, headers, body)
        })
        .await;
        let bed = bed(&server.endpoint, LONG).await;
        for _ in 0..4 {
            bed.deliver(SQS, &delivery("{}")).await.unwrap();
        }
        assert!(bed.refused(SQS, &delivery("{}")).await.contains("gone"));
        let told = server.requests();
        let targets: Vec<_> = told.iter().map(|request| request.header("x-amz-target").unwrap()).collect();
        let [look, send] = ["AmazonSQS.GetQueueUrl", "AmazonSQS.SendMessage"];
        assert_eq!(targets, [look, send, send, send, look, send, send, look, send, send, look]);
        assert!(told[5].body.contains("http://sqs/2/q") && told[0].body.contains("123456789012"));
        assert!(
            told[1].header("authorization").unwrap().contains("/eu-west-1/sqs/"),
            "the region of the ARN"
        );
    }

    #[tokio::test]
    async fn an_entry_that_a_bus_did_not_take_is_no_success() {
        let entry = |code: &str| {
            format!(r#"{{"FailedEntryCount":1,"Entries":[{{"ErrorCode":"{code}","ErrorMessage":"m"}}]}}"#)
        };
        let answers = [
            entry("ThrottlingException"),
            entry("InternalFailure"),
            entry("InvalidArgument"),
            r#"{"Entries":[]}"#.to_owned(),
        ];
        let server = Server::start(move |nth| Answer::Is(200, vec![], answers[nth].clone())).await;
        let bed = bed(&server.endpoint, LONG).await;
        assert_eq!(bed.unavailable(EVENTS).await, "ThrottlingException: m");
        assert_eq!(bed.unavailable(EVENTS).await, "InternalFailure: m");
        assert_eq!(bed.refused(EVENTS, &delivery("{}")).await, "InvalidArgument: m");
        bed.unavailable(EVENTS).await;
    }

    #[tokio::test]
    async fn a_bucket_elsewhere_is_written_to_where_it_is() {
        let server = Server::start(|nth| match nth {
            0 => Answer::Is(301, vec![("x-amz-bucket-region", "eu-central-1")], String::new()),
            _ => Answer::Is(200, vec![], String::new()),
        })
        .await;
        let bed = bed(&server.endpoint, LONG).await;
        bed.deliver(S3, &delivery("{}")).await.unwrap();
        bed.deliver(S3, &delivery("{}")).await.unwrap();
        let told = server.requests();
        let regions: Vec<_> =
            told.iter().map(|r| r.header("authorization").unwrap().split('/').nth(2).unwrap()).collect();
        assert_eq!(regions, ["us-east-1", "eu-central-1", "eu-central-1"]);
        let key =
            "/bucket/aws/lambda/async/f/2026/11/23/2026-11-23T04.04.56-11111111-1111-1111-1111-111111111111";
        assert!(told[0].line.starts_with(&format!("PUT {key}")), "{}", told[0].line);
    }

    #[tokio::test]
    async fn what_a_service_cannot_take_is_not_sent() {
        let server = Server::start(|_| Answer::Never).await;
        let bed = bed(&server.endpoint, LONG).await;
        for (to, most) in [(SQS, SQS_BYTES), (SNS, SNS_BYTES), (EVENTS, EVENT_BRIDGE_BYTES - 1)] {
            let reason = bed.refused(to, &delivery(&"x".repeat(most + 1))).await;
            assert!(reason.ends_with(&format!("bytes are more than {most}")), "{to}: {reason}");
        }
        let mut not_text = delivery("");
        not_text.body = Bytes::from_static(b"\xff");
        for to in [SQS, SNS, EVENTS] {
            assert_eq!(bed.refused(to, &not_text).await, "the body is not UTF-8");
        }
        let mut dead = delivery("{}");
        dead.form = Form::DeadLetter { error_code: 200, error_message: "m".to_owned() };
        assert_eq!(bed.refused(EVENTS, &dead).await, "an event bus is no dead-letter queue");
        assert_eq!(bed.refused(S3, &dead).await, "a bucket is no dead-letter queue");
        let function = "arn:aws:lambda:us-east-1:123456789012:function:next";
        assert_eq!(
            bed.refused(function, &dead).await,
            "a function is invoked by the poller fleet, not delivered to"
        );
        assert_eq!(server.requests().len(), 0);
    }

    /// Everything that is logged on this thread, at every level.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<String>>);

    impl Visit for Log {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            self.0.lock().unwrap().push_str(&format!("{field}={value:?}\n"));
        }
    }

    impl Subscriber for Log {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, span: &Attributes<'_>) -> Id {
            span.record(&mut self.clone());
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, values: &Record<'_>) {
            values.record(&mut self.clone());
        }
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, event: &Event<'_>) {
            event.record(&mut self.clone());
        }
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    #[tokio::test]
    async fn no_body_and_no_credentials_are_logged_at_any_level() {
        let log = Log::default();
        let _here = tracing::subscriber::set_default(log.clone());
        tracing::trace!("the log works");
        let server = Server::start(|_| Answer::Is(400, vec![], String::new())).await;
        let bed = bed(&server.endpoint, LONG).await;
        for to in ALL {
            let _ = bed.deliver(to, &delivery("{\"canary\":1}")).await;
        }
        assert_eq!(server.requests().len(), 4);
        let logged = log.0.lock().unwrap();
        assert!(logged.contains("the log works"));
        for secret in ["canary", "Credential=", "secret"] {
            assert!(!logged.contains(secret), "{secret} in {logged}");
        }
    }
}
