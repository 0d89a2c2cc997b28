//! What is refused, in AWS's words.

use types::{
    ErrorCode,
    api::{CreateFunction, Settings, UpdateFunctionCode, UpdateFunctionConfiguration},
};

use super::fixture::*;
use crate::{ControlConfig, ControlPlane, OpenError};

#[tokio::test]
async fn what_is_not_there_is_not_found_by_the_name_it_was_asked_by() {
    let fixture = Fixture::new();
    let plane = fixture.open();
    active(&plane, "echo", "v1").await;
    let arn = "arn:aws:lambda:eu-central-1:123456789012:function";
    for (asked, said) in [
        ("absent", format!("Function not found: {arn}:absent")),
        ("absent:$LATEST", format!("Function not found: {arn}:absent:$LATEST")),
        ("echo:1", format!("Function not found: {arn}:echo:1")),
        ("echo:live", format!("Function not found: {arn}:echo:live")),
        (
            "arn:aws:lambda:us-east-1:123456789012:function:echo",
            "Functions from 'us-east-1' are not reachable in this region ('eu-central-1')".into(),
        ),
    ] {
        let error = plane.resolve(&named(asked)).unwrap_err();
        assert_eq!((error.code, error.message), (ErrorCode::ResourceNotFound, said), "{asked}");
    }
    let other = plane.resolve(&named("000000000000:function:echo")).unwrap_err();
    assert_eq!(other.code, ErrorCode::AccessDenied);
    for asked in ["echo", "echo:$LATEST", "arn:aws:lambda:eu-central-1:123456789012:function:echo:$LATEST"] {
        assert!(plane.resolve(&named(asked)).is_ok(), "{asked}");
    }
    assert_eq!(plane.delete_function(&named("absent")).await.unwrap_err().code, ErrorCode::ResourceNotFound);
    assert_eq!(
        plane.update_function_code(&named("absent"), code("x")).await.unwrap_err().code,
        ErrorCode::ResourceNotFound
    );
}

#[tokio::test]
async fn a_name_that_is_taken_is_a_conflict() {
    let fixture = Fixture::new();
    let plane = fixture.open();
    active(&plane, "echo", "v1").await;
    let arn = "arn:aws:lambda:eu-central-1:123456789012:function:echo";
    for name in ["echo", arn] {
        let error = plane.create_function(create(name, "v2")).await.unwrap_err();
        assert_eq!(error.to_string(), "ResourceConflictException: Function already exist: echo");
    }
    assert_eq!(fixture.artefacts().len(), 2);
}

#[tokio::test]
async fn a_stale_revision_changes_nothing() {
    let fixture = Fixture::new();
    let plane = fixture.open();
    let latest = active(&plane, "echo", "v1").await.revision_id;
    let stale = UpdateFunctionCode { revision_id: Some("stale".into()), ..code("v2") };
    let error = plane.update_function_code(&named("echo"), stale).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::PreconditionFailed);
    assert!(error.message.starts_with("The Revision Id provided does not match the latest Revision Id."));
    let stale = UpdateFunctionConfiguration { revision_id: Some("stale".into()), ..Default::default() };
    assert!(plane.update_function_configuration(&named("echo"), stale).await.is_err());
    assert_eq!(plane.get_function_configuration(&named("echo")).unwrap().revision_id, latest);
    let known = UpdateFunctionCode { revision_id: Some(latest), ..code("v2") };
    assert!(plane.update_function_code(&named("echo"), known).await.is_ok());
}

#[tokio::test]
async fn a_dry_run_checks_and_changes_nothing() {
    let fixture = Fixture::new();
    let plane = fixture.open();
    let before = active(&plane, "echo", "v1").await;
    let dry = UpdateFunctionCode { dry_run: true, ..code("v2") };
    let answer = plane.update_function_code(&named("echo"), dry).await.unwrap();
    assert_ne!(answer.code_sha256, before.code_sha256);
    let garbage = UpdateFunctionCode { dry_run: true, zip: "garbage".into(), ..code("v2") };
    assert!(plane.update_function_code(&named("echo"), garbage).await.is_err());
    plane.settled().await;
    assert_eq!(plane.get_function_configuration(&named("echo")).unwrap(), before);
    assert_eq!(fixture.artefacts().len(), 2);
}

#[tokio::test]
async fn a_request_that_is_refused_leaves_nothing_behind() {
    let fixture = Fixture::new();
    let plane = fixture.open();
    let base = || create("echo", "v1");
    let mandatory =
        "Runtime and Handler are mandatory parameters for functions created with deployment packages.";
    let cases = [
        (CreateFunction { runtime: None, ..base() }, mandatory),
        (CreateFunction { handler: None, ..base() }, mandatory),
        (
            CreateFunction { runtime: Some("nodejs24.x".into()), ..base() },
            "waterwheel runtimes build nodejs24.x",
        ),
        (CreateFunction { zip: "garbage".into(), ..base() }, "Could not unzip uploaded file."),
        (CreateFunction { settings: variables(&[("AWS_REGION", "x")]), ..base() }, "reserved keys"),
        (
            CreateFunction { settings: Settings { timeout: Some(901), ..Settings::default() }, ..base() },
            "at 'timeout'",
        ),
        (CreateFunction { architectures: Some(vec!["riscv64".into()]), ..base() }, "riscv64"),
        (CreateFunction { function_name: "echo:$LATEST".into(), ..base() }, "qualifier"),
        (CreateFunction { function_name: "no name".into(), ..base() }, "no name"),
    ];
    for (request, said) in cases {
        let error = plane.create_function(request).await.unwrap_err();
        assert!(error.message.contains(said), "{error}");
        assert_eq!(error.code.status(), 400);
    }
    assert_eq!(fixture.artefacts(), Vec::<String>::new());
    assert_eq!(plane.account_usage().function_count, 0);
}

#[tokio::test]
async fn the_accounts_storage_is_bounded() {
    let fixture = Fixture::new();
    let size = package("v1").len() as u64;
    let config = ControlConfig { code_storage_bytes: 2 * size, ..fixture.config() };
    let plane = ControlPlane::open(config, fixture.keys(), fixture.clock()).unwrap();
    active(&plane, "a", "v1").await;
    active(&plane, "b", "v1").await;
    let error = plane.create_function(create("c", "v1")).await.unwrap_err();
    assert_eq!(error.to_string(), "CodeStorageExceededException: Code storage limit exceeded.");
    // What an update replaces does not count.
    plane.update_function_code(&named("a"), code("v2")).await.unwrap();
    plane.settled().await;
    plane.delete_function(&named("b")).await.unwrap();
    active(&plane, "c", "v1").await;
}

#[tokio::test]
async fn latest_is_not_deleted_alone() {
    let fixture = Fixture::new();
    let plane = fixture.open();
    active(&plane, "echo", "v1").await;
    let error = plane.delete_function(&named("echo:$LATEST")).await.unwrap_err();
    assert_eq!(error.message, "$LATEST version cannot be deleted without deleting the function.");
    assert!(plane.resolve(&named("echo")).is_ok());
}

#[tokio::test]
async fn a_data_directory_has_one_holder_and_one_account() {
    let fixture = Fixture::new();
    let plane = fixture.open();
    active(&plane, "echo", "v1").await;
    let second = ControlPlane::open(fixture.config(), fixture.keys(), fixture.clock());
    let holder = format!("process {}", std::process::id());
    assert!(matches!(second, Err(OpenError::InUse { holder: said, .. }) if said == holder));
    drop(plane);
    let other = ControlConfig { account: "000000000000".parse().unwrap(), ..fixture.config() };
    let error = ControlPlane::open(other, fixture.keys(), fixture.clock()).unwrap_err();
    assert!(matches!(error, OpenError::OtherAccount { .. }), "{error}");
    assert_eq!(served_content(&fixture.open(), "echo"), "v1");
}
