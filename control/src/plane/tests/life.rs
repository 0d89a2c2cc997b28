//! What happens to a function from its creation to its end.

use std::time::Duration;

use types::api::{Settings, UpdateFunctionConfiguration};

use super::fixture::*;
use crate::Retired;

#[tokio::test(start_paused = true)]
async fn a_new_function_is_pending_until_its_code_was_seen_to_open() {
    let fixture = Fixture::new();
    let plane = fixture.open();
    fixture.keys.shut(true);
    let made = plane.create_function(create("echo", "v1")).await.unwrap();
    assert_eq!(made.state.as_deref(), Some("Pending"));
    assert_eq!(made.state_reason.as_deref(), Some("The function is being created."));
    assert_eq!(made.state_reason_code.as_deref(), Some("Creating"));
    assert_eq!(made.last_update_status, None);
    plane.settled().await;
    let pending = "ResourceConflictException: The operation cannot be performed at this time. \
                   The function is currently in the following state: Pending";
    assert_eq!(plane.resolve(&named("echo")).unwrap_err().to_string(), pending);
    assert_eq!(
        plane.update_function_code(&named("echo"), code("v2")).await.unwrap_err().to_string(),
        pending
    );

    fixture.keys.shut(false);
    // Virtual time: the next attempt is due.
    tokio::time::sleep(Duration::from_secs(2)).await;
    plane.settled().await;
    let now = plane.get_function_configuration(&named("echo")).unwrap();
    assert_eq!(
        (now.state.as_deref(), now.last_update_status.as_deref()),
        (Some("Active"), Some("Successful"))
    );
    assert_eq!((now.state_reason, now.state_reason_code), (None, None));
    assert_ne!(now.revision_id, made.revision_id);
    assert_eq!(served_content(&plane, "echo"), "v1");
}

#[tokio::test]
async fn a_new_function_is_described_as_aws_describes_it() {
    let fixture = Fixture::new();
    let plane = fixture.open();
    plane.create_function(create("echo", "v1")).await.unwrap();
    plane.settled().await;
    let detail = plane.get_function(&named("echo")).unwrap();
    assert_eq!(detail.tags["team"], "blue");
    let mut shown = serde_json::to_value(&detail.configuration).unwrap();
    let members = shown.as_object_mut().unwrap();
    let revision = members.remove("RevisionId").unwrap();
    assert_eq!(revision.as_str().unwrap().len(), 36);
    let expected = serde_json::json!({
        "FunctionName": "echo",
        "FunctionArn": "arn:aws:lambda:eu-central-1:123456789012:function:echo",
        "Runtime": "python3.11",
        "Role": "arn:aws:iam::123456789012:role/r",
        "Handler": "app.handler",
        "CodeSize": package("v1").len(),
        "Description": "",
        "Timeout": 3,
        "MemorySize": 128,
        "LastModified": "2026-11-22T14:03:05.000+0000",
        "CodeSha256": members["CodeSha256"],
        "Version": "$LATEST",
        "TracingConfig": {"Mode": "PassThrough"},
        "State": "Active",
        "LastUpdateStatus": "Successful",
        "PackageType": "Zip",
        "Architectures": [crate::plane::settings::architecture()],
        "EphemeralStorage": {"Size": 512},
        "SnapStart": {"ApplyOn": "None", "OptimizationStatus": "Off"},
        "RuntimeVersionConfig": {"RuntimeVersionArn": members["RuntimeVersionConfig"]["RuntimeVersionArn"]},
        "LoggingConfig": {"LogFormat": "Text", "LogGroup": "/aws/lambda/echo"},
    });
    assert_eq!(shown, expected);
    assert_eq!(shown["CodeSha256"].as_str().unwrap().len(), 44);
    let runtime = shown["RuntimeVersionConfig"]["RuntimeVersionArn"].as_str().unwrap();
    assert_eq!(runtime.strip_prefix("arn:aws:lambda:eu-central-1::runtime:").unwrap().len(), 64);
}

#[tokio::test(start_paused = true)]
async fn the_old_code_is_served_until_the_new_one_was_seen_to_open() {
    let fixture = Fixture::new();
    let plane = fixture.open();
    let before = active(&plane, "echo", "v1").await;
    let old = plane.resolve(&named("echo")).unwrap();
    let mut retired = plane.retired();
    fixture.keys.shut(true);
    let updating = plane.update_function_code(&named("echo"), code("v2")).await.unwrap();
    assert_eq!(updating.state.as_deref(), Some("Active"));
    assert_eq!(updating.last_update_status.as_deref(), Some("InProgress"));
    assert_eq!(updating.last_update_status_reason_code.as_deref(), Some("Creating"));
    assert_ne!(updating.code_sha256, before.code_sha256);
    assert_ne!(updating.revision_id, before.revision_id);
    plane.settled().await;
    assert_eq!(plane.resolve(&named("echo")).unwrap(), old);
    assert_eq!(
        plane.update_function_code(&named("echo"), code("v3")).await.unwrap_err().to_string(),
        "ResourceConflictException: The operation cannot be performed at this time. An update is in progress for \
         resource: arn:aws:lambda:eu-central-1:123456789012:function:echo"
    );

    fixture.keys.shut(false);
    assert_eq!(served_content(&plane, "echo"), "v1");
    tokio::time::sleep(Duration::from_secs(2)).await;
    plane.settled().await;
    assert_eq!(served_content(&plane, "echo"), "v2");
    assert_eq!(retired.next().await, Some(Retired::Deployment(old.deployment)));
    assert!(!plane.is_live(&old));
    assert!(matches!(plane.open_code_image(&old), Err(crate::ControlError::Superseded(_))));
    let after = plane.get_function_configuration(&named("echo")).unwrap();
    assert_eq!(after.last_update_status.as_deref(), Some("Successful"));
    assert_eq!(after.code_sha256, updating.code_sha256);
    assert_ne!(after.revision_id, updating.revision_id);
    assert_eq!(fixture.artefacts().len(), 2);
}

#[tokio::test]
async fn a_change_of_configuration_keeps_what_it_does_not_name() {
    let fixture = Fixture::new();
    let plane = fixture.open();
    let request = types::api::CreateFunction { settings: variables(&[("A", "1")]), ..create("echo", "v1") };
    plane.create_function(request).await.unwrap();
    plane.settled().await;
    let before = plane.resolve(&named("echo")).unwrap();
    let artefacts = fixture.artefacts();
    let change = UpdateFunctionConfiguration {
        settings: Settings { timeout: Some(30), memory_size: Some(256), ..Settings::default() },
        ..UpdateFunctionConfiguration::default()
    };
    plane.update_function_configuration(&named("echo"), change).await.unwrap();
    plane.settled().await;
    let spec = plane.resolve(&named("echo")).unwrap();
    assert_ne!(spec.deployment, before.deployment);
    assert_eq!((spec.timeout, spec.memory.0, &*spec.handler), (Duration::from_secs(30), 256, "app.handler"));
    assert_eq!(plane.open_variables(&spec).unwrap()["A"], "1");
    assert_eq!(served_content(&plane, "echo"), "v1");
    assert_eq!(fixture.artefacts(), artefacts);

    let clear =
        UpdateFunctionConfiguration { settings: variables(&[]), ..UpdateFunctionConfiguration::default() };
    plane.update_function_configuration(&named("echo"), clear).await.unwrap();
    plane.settled().await;
    assert_eq!(plane.get_function_configuration(&named("echo")).unwrap().environment, None);
    assert!(plane.open_variables(&plane.resolve(&named("echo")).unwrap()).unwrap().is_empty());
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let fixture = Fixture::new();
    let plane = fixture.open();
    let request = types::api::CreateFunction { settings: variables(&[("A", "1")]), ..create("echo", "v1") };
    plane.create_function(request).await.unwrap();
    plane.settled().await;
    let before = plane.get_function(&named("echo")).unwrap();
    drop(plane);
    let plane = fixture.open();
    let after = plane.get_function(&named("echo")).unwrap();
    assert_eq!(
        (after.configuration, after.tags, &after.shown),
        (before.configuration, before.tags, &before.shown)
    );
    assert_eq!(served_content(&plane, "echo"), "v1");
    assert_eq!(plane.account_usage().function_count, 1);
    assert_eq!(plane.account_usage().total_code_size, package("v1").len() as u64);
}

#[tokio::test]
async fn a_deleted_function_is_gone_at_once_and_its_name_is_free() {
    let fixture = Fixture::new();
    let plane = fixture.open();
    active(&plane, "echo", "v1").await;
    let spec = plane.resolve(&named("echo")).unwrap();
    let mut retired = plane.retired();
    plane.delete_function(&named("echo")).await.unwrap();
    assert_eq!(retired.next().await, Some(Retired::Deployment(spec.deployment)));
    assert_eq!(plane.resolve(&named("echo")).unwrap_err().code, types::ErrorCode::ResourceNotFound);
    assert_eq!(fixture.artefacts(), Vec::<String>::new());
    assert_eq!(plane.account_usage().function_count, 0);
    active(&plane, "echo", "v2").await;
    assert_eq!(served_content(&plane, "echo"), "v2");
}

#[tokio::test(start_paused = true)]
async fn code_that_does_not_open_fails_and_an_update_heals() {
    let fixture = Fixture::new();
    let plane = fixture.open();
    fixture.keys.shut(true);
    plane.create_function(create("echo", "v1")).await.unwrap();
    plane.settled().await;
    let image = fixture.artefacts().into_iter().find(|name| name.ends_with(".image")).unwrap();
    let path = fixture.data_dir().join("artefacts").join(image);
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    fixture.keys.shut(false);
    tokio::time::sleep(Duration::from_secs(2)).await;
    plane.settled().await;
    let failed = plane.get_function_configuration(&named("echo")).unwrap();
    assert_eq!(
        (failed.state.as_deref(), failed.last_update_status.as_deref()),
        (Some("Failed"), Some("Failed"))
    );
    assert!(failed.state_reason.unwrap().contains("damaged"));
    assert!(plane.resolve(&named("echo")).unwrap_err().message.ends_with("state: Failed"));

    plane.update_function_code(&named("echo"), code("v2")).await.unwrap();
    plane.settled().await;
    assert_eq!(served_content(&plane, "echo"), "v2");
    assert_eq!(fixture.artefacts().len(), 2);
}

#[tokio::test]
async fn a_list_is_paged_in_the_order_of_names() {
    let fixture = Fixture::new();
    let plane = fixture.open();
    for name in ["b", "d", "a", "c", "e"] {
        active(&plane, name, "v1").await;
    }
    let (mut marker, mut pages) = (None, Vec::new());
    loop {
        let page = plane.list_functions(marker.as_deref(), Some(2)).unwrap();
        pages.push(
            page.functions.iter().map(|function| function.function_name.clone()).collect::<Vec<_>>().join(""),
        );
        for function in page.functions {
            assert_eq!((function.state, function.last_update_status), (None, None));
            assert!(function.runtime_version_config.is_none());
        }
        marker = page.next_marker;
        if marker.is_none() {
            break;
        }
    }
    assert_eq!(pages, ["ab", "cd", "e"]);
    assert_eq!(plane.list_functions(None, None).unwrap().functions.len(), 5);
    assert!(plane.list_functions(Some("not one of ours"), None).is_err());
}

#[tokio::test]
async fn of_many_who_create_one_name_one_succeeds() {
    let fixture = Fixture::new();
    let plane = fixture.open();
    let racers = (0..6).map(|racer| {
        let plane = plane.clone();
        tokio::spawn(async move { plane.create_function(create("echo", &format!("v{racer}"))).await.is_ok() })
    });
    let mut won = 0;
    for racer in racers.collect::<Vec<_>>() {
        won += usize::from(racer.await.unwrap());
    }
    assert_eq!(won, 1);
    plane.settled().await;
    assert_eq!(fixture.artefacts().len(), 2);
}

#[tokio::test]
async fn a_change_goes_on_when_its_caller_goes_away() {
    let fixture = Fixture::new();
    let plane = fixture.open();
    let mut asked = Box::pin(plane.create_function(create("echo", "v1")));
    tokio::select! {
        biased;
        _ = &mut asked => {}
        () = std::future::ready(()) => {}
    }
    drop(asked);
    plane.settled().await;
    assert_eq!(served_content(&plane, "echo"), "v1");
}
