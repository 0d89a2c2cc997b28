//! What is configured of asynchronous invocations, and that nothing else of a function takes notice.

use std::time::Duration;

use types::{
    ErrorCode, EventInvokePolicy, RecursiveLoop,
    api::{CreateFunction, DestinationSettings, EventInvokeSettings, Settings, UpdateFunctionConfiguration},
};

use super::fixture::*;
use crate::{ControlConfig, ControlPlane, Retired, Retirements};

const ARN: &str = "arn:aws:lambda:eu-central-1:123456789012:function";
const QUEUE: &str = "arn:aws:sqs:eu-central-1:123456789012:failed";
const TOPIC: &str = "arn:aws:sns:eu-central-1:123456789012:done";

fn attempts(most: u32) -> EventInvokeSettings {
    EventInvokeSettings { maximum_retry_attempts: Some(most), ..EventInvokeSettings::default() }
}

fn age(seconds: u32) -> EventInvokeSettings {
    EventInvokeSettings { maximum_event_age: Some(seconds), ..EventInvokeSettings::default() }
}

fn destinations(on_success: Option<&str>, on_failure: Option<&str>) -> EventInvokeSettings {
    let given = DestinationSettings {
        on_success: on_success.map(Into::into),
        on_failure: on_failure.map(Into::into),
    };
    EventInvokeSettings { destinations: Some(given), ..EventInvokeSettings::default() }
}

fn dead_letters_to(arn: &str) -> UpdateFunctionConfiguration {
    let settings = Settings { dead_letter_target: Some(arn.into()), ..Settings::default() };
    UpdateFunctionConfiguration { settings, ..UpdateFunctionConfiguration::default() }
}

fn policy(plane: &ControlPlane, function: &str) -> EventInvokePolicy {
    plane.event_invoke_policy(&named(function)).unwrap()
}

/// Whether a deployment was retired since `retired` began to listen. Deleting another function marks where to stop.
async fn any_retired(plane: &ControlPlane, retired: &mut Retirements) -> bool {
    active(plane, "mark", "v1").await;
    let mark = plane.resolve(&named("mark")).unwrap().deployment;
    plane.delete_function(&named("mark")).await.unwrap();
    retired.next().await != Some(Retired::Deployment(mark))
}

#[tokio::test]
async fn put_replaces_everything_and_update_only_what_is_given() {
    let fixture = Fixture::new();
    let plane = fixture.open();
    active(&plane, "echo", "v1").await;
    let everything = EventInvokeSettings {
        maximum_retry_attempts: Some(1),
        maximum_event_age: Some(60),
        ..destinations(Some(TOPIC), Some(QUEUE))
    };
    let put = plane.put_function_event_invoke_config(&named("echo"), everything).await.unwrap();
    assert_eq!(put.function_arn, format!("{ARN}:echo:$LATEST"));
    assert_eq!(put.destination_config.on_success.destination.as_deref(), Some(TOPIC));
    assert_eq!(policy(&plane, "echo").maximum_event_age, Duration::from_secs(60));
    assert_eq!(policy(&plane, "echo").on_failure.unwrap().to_string(), QUEUE);

    let updated =
        plane.update_function_event_invoke_config(&named("echo:$LATEST"), attempts(0)).await.unwrap();
    assert!(updated.last_modified > put.last_modified);
    assert_eq!((updated.maximum_retry_attempts, updated.maximum_event_age_in_seconds), (Some(0), Some(60)));
    assert_eq!(updated.destination_config, put.destination_config);
    let one_less = destinations(None, Some(""));
    let updated = plane.update_function_event_invoke_config(&named("echo"), one_less).await.unwrap();
    assert_eq!(updated.destination_config.on_success.destination.as_deref(), Some(TOPIC));
    assert_eq!(updated.destination_config.on_failure.destination, None);
    assert_eq!(plane.get_function_event_invoke_config(&named("echo")).unwrap(), updated);

    let replaced = plane.put_function_event_invoke_config(&named("echo"), age(21_600)).await.unwrap();
    assert_eq!(
        (replaced.maximum_retry_attempts, replaced.maximum_event_age_in_seconds),
        (None, Some(21_600))
    );
    assert_eq!(replaced.destination_config.on_success.destination, None);
    assert_eq!(policy(&plane, "echo"), EventInvokePolicy::default());
}

#[tokio::test]
async fn a_configuration_is_written_as_aws_writes_it() {
    let fixture = Fixture::new();
    let plane = fixture.open();
    active(&plane, "echo", "v1").await;
    let put = plane.put_function_event_invoke_config(&named("echo"), destinations(None, Some(QUEUE))).await;
    let mut shown = serde_json::to_value(put.unwrap()).unwrap();
    let modified = shown.as_object_mut().unwrap().remove("LastModified").unwrap();
    assert!((1_795_356_185.0..1_795_357_000.0).contains(&modified.as_f64().unwrap()), "{modified}");
    let expected = serde_json::json!({
        "FunctionArn": format!("{ARN}:echo:$LATEST"),
        "DestinationConfig": {"OnSuccess": {}, "OnFailure": {"Destination": QUEUE}},
    });
    assert_eq!(shown, expected);
}

#[tokio::test]
async fn what_is_not_there_is_said_in_awss_words() {
    let fixture = Fixture::new();
    let plane = fixture.open();
    active(&plane, "echo", "v1").await;
    for (asked, whose) in [
        ("echo", format!("{ARN}:echo:$LATEST")),
        ("echo:$LATEST", format!("{ARN}:echo:$LATEST")),
        ("echo:live", format!("{ARN}:echo:live")),
        ("absent", format!("{ARN}:absent:$LATEST")),
    ] {
        let none =
            format!("ResourceNotFoundException: The function {whose} doesn't have an EventInvokeConfig");
        let error = plane.get_function_event_invoke_config(&named(asked)).unwrap_err();
        assert_eq!(error.to_string(), none);
        let error = plane.delete_function_event_invoke_config(&named(asked)).await.unwrap_err();
        assert_eq!(error.to_string(), none);
    }
    let error = plane.update_function_event_invoke_config(&named("echo"), attempts(1)).await.unwrap_err();
    assert!(error.message.ends_with(":echo:$LATEST doesn't have an EventInvokeConfig"), "{error}");
    for asked in ["absent", "echo:live", "echo:7"] {
        let absent = "ResourceNotFoundException: The function doesn't exist.";
        let error = plane.put_function_event_invoke_config(&named(asked), attempts(1)).await.unwrap_err();
        assert_eq!(error.to_string(), absent);
        let error = plane.update_function_event_invoke_config(&named(asked), attempts(1)).await.unwrap_err();
        assert_eq!(error.to_string(), absent);
        let error = plane.list_function_event_invoke_configs(&named(asked), None, None).unwrap_err();
        assert_eq!(error.to_string(), absent);
        assert_eq!(plane.event_invoke_policy(&named(asked)), None);
    }
    let elsewhere = named("arn:aws:lambda:eu-central-1:000000000000:function:echo");
    let error = plane.put_function_event_invoke_config(&elsewhere, attempts(1)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::AccessDenied);
    assert_eq!(plane.event_invoke_policy(&elsewhere), None);
}

#[tokio::test]
async fn settings_that_cannot_be_are_refused_with_the_value_and_change_nothing() {
    let fixture = Fixture::new();
    let plane = fixture.open();
    active(&plane, "echo", "v1").await;
    active(&plane, "next", "v1").await;
    let before = plane.put_function_event_invoke_config(&named("echo"), attempts(1)).await.unwrap();
    let own = format!("{ARN}:echo");
    let absent = format!("{ARN}:absent");
    let version = format!("{ARN}:next:7");
    let far = "arn:aws:lambda:us-east-1:123456789012:function:next";
    let bucket = "arn:aws:s3:::bucket";
    let user = "arn:aws:iam::123456789012:user/u";
    let cases = [
        (
            EventInvokeSettings::default(),
            "You must specify at least one of error handling or destination setting.",
        ),
        (attempts(3), "Value '3' at 'maximumRetryAttempts' failed to satisfy constraint"),
        (age(59), "Value '59' at 'maximumEventAgeInSeconds' failed to satisfy constraint"),
        (age(21_601), "Value '21601' at 'maximumEventAgeInSeconds' failed to satisfy constraint"),
        (destinations(Some(&own), None), "You can't specify the function as a destination for itself."),
        (
            destinations(None, Some(&absent)),
            "The destination ARN arn:aws:lambda:eu-central-1:123456789012:function:absent is invalid.",
        ),
        (destinations(None, Some(&version)), ":function:next:7 is invalid."),
        (destinations(None, Some(far)), "function:next is invalid. It is of another account or region."),
        (
            destinations(Some(user), None),
            "The provided destination config DestinationConfig(onSuccess=OnSuccess(destination=arn:aws:iam::123456789012:user/u), \
             onFailure=null) is invalid.",
        ),
        (destinations(Some(user), None), "a destination is of sqs, sns, events, s3, lambda or file"),
        (
            destinations(Some(bucket), Some(bucket)),
            "DestinationConfig(onSuccess=OnSuccess(destination=arn:aws:s3:::bucket), \
             onFailure=OnFailure(destination=arn:aws:s3:::bucket)) is invalid. \"arn:aws:s3:::bucket\" is an S3 bucket, which can be OnFailure only",
        ),
        (destinations(None, Some("kafka://topic")), "\"kafka://topic\" is not an ARN"),
        (destinations(None, Some("arn:aws:file:::../up")), "is not the ARN of a file"),
    ];
    for (settings, said) in cases {
        let put = plane.put_function_event_invoke_config(&named("echo"), settings.clone()).await.unwrap_err();
        assert!(put.message.contains(said), "{put}");
        assert_eq!(put.code.status(), 400);
        let update = plane.update_function_event_invoke_config(&named("echo"), settings).await.unwrap_err();
        assert_eq!(update, put);
    }
    assert_eq!(plane.get_function_event_invoke_config(&named("echo")).unwrap(), before);
    let next = format!("{ARN}:next:$LATEST");
    for settings in [destinations(Some(&next), Some(bucket)), destinations(Some("arn:aws:file:::done"), None)]
    {
        plane.put_function_event_invoke_config(&named("echo"), settings).await.unwrap();
    }
}

#[tokio::test]
async fn a_list_has_what_is_configured_in_pages() {
    let fixture = Fixture::new();
    let plane = fixture.open();
    active(&plane, "echo", "v1").await;
    let list =
        |marker: Option<&str>, most| plane.list_function_event_invoke_configs(&named("echo"), marker, most);
    assert!(list(None, None).unwrap().function_event_invoke_configs.is_empty());
    let put = plane.put_function_event_invoke_config(&named("echo"), attempts(1)).await.unwrap();
    let page = list(None, Some(1)).unwrap();
    assert_eq!((page.function_event_invoke_configs, page.next_marker), (vec![put], None));
    // As it will be when there are versions and aliases.
    let found = plane.0.find(&named("echo")).unwrap();
    let mut record = found.record.clone();
    for qualifier in ["live", "2"] {
        record.event_invoke.insert(qualifier.into(), record.event_invoke["$LATEST"].clone());
    }
    plane.0.replace(&found, record).unwrap();
    let (mut marker, mut pages) = (None, Vec::new());
    loop {
        let page = list(marker.as_deref(), Some(2)).unwrap();
        let arns = page.function_event_invoke_configs.into_iter().map(|config| config.function_arn);
        pages.push(arns.collect::<Vec<_>>());
        marker = page.next_marker;
        if marker.is_none() {
            break;
        }
    }
    let arn = |qualifier: &str| format!("{ARN}:echo:{qualifier}");
    assert_eq!(pages, [vec![arn("$LATEST"), arn("2")], vec![arn("live")]]);
    assert!(list(Some("not one of ours"), None).is_err());
}

#[tokio::test]
async fn no_change_of_where_events_go_retires_an_environment_or_is_a_revision_but_the_dead_letter_queues() {
    let fixture = Fixture::new();
    let plane = fixture.open();
    let before = active(&plane, "echo", "v1").await;
    let spec = plane.resolve(&named("echo")).unwrap();
    let mut retired = plane.retired();
    plane.put_function_event_invoke_config(&named("echo"), attempts(1)).await.unwrap();
    plane.update_function_event_invoke_config(&named("echo"), age(60)).await.unwrap();
    plane.put_function_recursion_config(&named("echo"), RecursiveLoop::Allow).await.unwrap();
    plane.delete_function_event_invoke_config(&named("echo")).await.unwrap();
    assert_eq!(plane.get_function_configuration(&named("echo")).unwrap(), before);

    let artefacts = fixture.artefacts();
    for queue in [QUEUE, TOPIC, ""] {
        let changing =
            plane.update_function_configuration(&named("echo"), dead_letters_to(queue)).await.unwrap();
        assert_eq!(changing.last_update_status.as_deref(), Some("InProgress"));
        plane.settled().await;
        let now = plane.get_function_configuration(&named("echo")).unwrap();
        assert_eq!(now.dead_letter_config.map_or_else(String::new, |config| config.target_arn), queue);
        assert_eq!(now.last_update_status.as_deref(), Some("Successful"));
        assert_ne!(now.revision_id, before.revision_id);
        let dead_letters = policy(&plane, "echo").dead_letter_queue;
        assert_eq!(dead_letters.map_or_else(String::new, |queue| queue.to_string()), queue);
    }
    assert_eq!(plane.resolve(&named("echo")).unwrap(), spec);
    assert!(!any_retired(&plane, &mut retired).await);
    assert_eq!((served_content(&plane, "echo"), fixture.artefacts()), ("v1".into(), artefacts));

    let both = UpdateFunctionConfiguration { handler: Some("app.other".into()), ..dead_letters_to(QUEUE) };
    plane.update_function_configuration(&named("echo"), both).await.unwrap();
    plane.settled().await;
    assert_eq!(retired.next().await, Some(Retired::Deployment(spec.deployment)));
    let next = plane.resolve(&named("echo")).unwrap();
    plane
        .update_function_configuration(&named("echo"), UpdateFunctionConfiguration::default())
        .await
        .unwrap();
    plane.settled().await;
    assert_eq!(
        retired.next().await,
        Some(Retired::Deployment(next.deployment)),
        "asked for nothing: as before"
    );
}

#[tokio::test]
async fn a_refused_change_of_the_dead_letter_queue_leaves_the_code_where_it_is() {
    let fixture = Fixture::new();
    let plane = fixture.open();
    active(&plane, "echo", "v1").await;
    drop(plane);
    // Less than what is stored already: every change is refused, this one as late as any.
    let config = ControlConfig { code_storage_bytes: 1, ..fixture.config() };
    let plane = ControlPlane::open(config, fixture.keys(), fixture.clock()).unwrap();
    let error =
        plane.update_function_configuration(&named("echo"), dead_letters_to(QUEUE)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::CodeStorageExceeded);
    assert_eq!(served_content(&plane, "echo"), "v1");
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_queue_to_come_is_shown_at_once_and_used_when_it_is_served() {
    let fixture = Fixture::new();
    let plane = fixture.open();
    let settings = Settings { dead_letter_target: Some(TOPIC.into()), ..variables(&[("A", "1")]) };
    plane.create_function(CreateFunction { settings, ..create("echo", "v1") }).await.unwrap();
    plane.settled().await;
    assert_eq!(policy(&plane, "echo").dead_letter_queue.unwrap().to_string(), TOPIC);
    fixture.keys.shut(true);
    let shown = plane.update_function_configuration(&named("echo"), dead_letters_to(QUEUE)).await.unwrap();
    assert_eq!(shown.dead_letter_config.unwrap().target_arn, QUEUE);
    plane.settled().await;
    assert_eq!(policy(&plane, "echo").dead_letter_queue.unwrap().to_string(), TOPIC);
    // What belongs to the function can be changed meanwhile, and the update does not undo it.
    plane.put_function_event_invoke_config(&named("echo"), attempts(0)).await.unwrap();
    fixture.keys.shut(false);
    tokio::time::sleep(Duration::from_secs(2)).await;
    plane.settled().await;
    let now = policy(&plane, "echo");
    assert_eq!((now.dead_letter_queue.unwrap().to_string(), now.maximum_retry_attempts), (QUEUE.into(), 0));
}

#[tokio::test]
async fn what_is_configured_survives_updates_and_restarts_and_ends_with_the_function() {
    let fixture = Fixture::new();
    let plane = fixture.open();
    active(&plane, "echo", "v1").await;
    plane.update_function_configuration(&named("echo"), dead_letters_to(QUEUE)).await.unwrap();
    plane.settled().await;
    let config =
        plane.put_function_event_invoke_config(&named("echo"), destinations(Some(TOPIC), None)).await;
    plane.put_function_recursion_config(&named("echo"), RecursiveLoop::Allow).await.unwrap();
    plane.update_function_code(&named("echo"), code("v2")).await.unwrap();
    plane.settled().await;
    let before = policy(&plane, "echo");
    assert_eq!(before.dead_letter_queue.as_ref().unwrap().to_string(), QUEUE);
    drop(plane);

    let plane = fixture.open();
    assert_eq!(policy(&plane, "echo"), before);
    assert_eq!(plane.get_function_event_invoke_config(&named("echo")).unwrap(), config.unwrap());
    let loops = plane.get_function_recursion_config(&named("echo")).unwrap();
    assert_eq!(loops.recursive_loop, RecursiveLoop::Allow);
    plane.delete_function(&named("echo")).await.unwrap();
    assert_eq!(plane.event_invoke_policy(&named("echo")), None);
    active(&plane, "echo", "v3").await;
    assert_eq!(policy(&plane, "echo"), EventInvokePolicy::default());
    assert!(plane.get_function_event_invoke_config(&named("echo")).is_err());
    assert_eq!(plane.get_function_configuration(&named("echo")).unwrap().dead_letter_config, None);
    let loops = plane.get_function_recursion_config(&named("echo")).unwrap();
    assert_eq!(loops.recursive_loop, RecursiveLoop::Terminate);
}

#[tokio::test]
async fn loops_of_a_function_that_is_not_there_are_not_found() {
    let fixture = Fixture::new();
    let plane = fixture.open();
    let said = format!("ResourceNotFoundException: Function not found: {ARN}:absent");
    let put = plane.put_function_recursion_config(&named("absent"), RecursiveLoop::Allow).await;
    assert_eq!(put.unwrap_err().to_string(), said);
    assert_eq!(plane.get_function_recursion_config(&named("absent")).unwrap_err().to_string(), said);
}
