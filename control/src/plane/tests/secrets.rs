//! What lies on the disk, and what becomes of it when keys go.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use types::api::CreateFunction;

use super::fixture::*;
use crate::ControlError;

/// Calls `check` with the path, mode and content of everything below a directory.
fn each(directory: &Path, check: &mut dyn FnMut(&Path, u32, &[u8])) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        if path.is_dir() {
            check(&path, mode, b"");
            each(&path, check);
        } else {
            check(&path, mode, &fs::read(&path).unwrap());
        }
    }
}

#[tokio::test]
async fn neither_code_nor_variables_are_readable_on_disk() {
    let fixture = Fixture::new();
    let plane = fixture.open();
    let request = CreateFunction {
        settings: variables(&[("KEY", "canary-variable")]),
        ..create("echo", "canary-code")
    };
    plane.create_function(request).await.unwrap();
    plane.settled().await;
    plane.update_function_code(&named("echo"), code("canary-again")).await.unwrap();
    plane.settled().await;
    let mut files = 0;
    each(fixture.directory.path(), &mut |path, mode, content| {
        files += 1;
        assert_eq!(mode & 0o077, 0, "{} is open to others", path.display());
        assert!(!content.windows(6).any(|bytes| bytes == b"canary"), "{}", path.display());
    });
    assert!(files > 4);
    let spec = plane.resolve(&named("echo")).unwrap();
    assert_eq!(plane.open_variables(&spec).unwrap()["KEY"], "canary-variable");
    assert_eq!(served_content(&plane, "echo"), "canary-again");
}

#[tokio::test]
async fn after_a_re_wrap_the_old_key_can_go() {
    let fixture = Fixture::new();
    let plane = fixture.open();
    let request = CreateFunction { settings: variables(&[("KEY", "value")]), ..create("echo", "v1") };
    plane.create_function(request).await.unwrap();
    plane.settled().await;
    let revision = plane.get_function_configuration(&named("echo")).unwrap().revision_id;
    let old = fixture.keys.keyring.current();
    fixture.keys.keyring.rotate().unwrap();
    assert_eq!(plane.rewrap_all().await.unwrap(), 3);
    fixture.keys.keyring.destroy(old).unwrap();
    drop(plane);

    let plane = fixture.open();
    let spec = plane.resolve(&named("echo")).unwrap();
    assert_eq!(plane.open_variables(&spec).unwrap()["KEY"], "value");
    assert_eq!(served_content(&plane, "echo"), "v1");
    assert_eq!(plane.get_function_configuration(&named("echo")).unwrap().revision_id, revision);
}

#[tokio::test]
async fn without_its_key_a_function_is_shown_and_does_not_open() {
    let fixture = Fixture::new();
    let plane = fixture.open();
    let request = CreateFunction { settings: variables(&[("KEY", "value")]), ..create("echo", "v1") };
    plane.create_function(request).await.unwrap();
    plane.settled().await;
    let old = fixture.keys.keyring.current();
    fixture.keys.keyring.rotate().unwrap();
    fixture.keys.keyring.destroy(old).unwrap();
    let spec = plane.resolve(&named("echo")).unwrap();
    assert!(matches!(plane.open_variables(&spec), Err(ControlError::Key(_))));
    assert!(matches!(plane.open_code_image(&spec), Err(ControlError::Key(_))));
    let environment = plane.get_function_configuration(&named("echo")).unwrap().environment.unwrap();
    assert!(environment.variables.is_empty());
    assert!(environment.error.unwrap().message.contains(&old.to_string()));
}

#[tokio::test]
async fn an_artefact_put_in_anothers_place_does_not_open() {
    let fixture = Fixture::new();
    let plane = fixture.open();
    active(&plane, "a", "v1").await;
    active(&plane, "b", "v1").await;
    let images: Vec<_> = fixture.artefacts().into_iter().filter(|name| name.ends_with(".image")).collect();
    let path = |name: &str| fixture.data_dir().join("artefacts").join(name);
    fs::copy(path(&images[0]), path(&images[1])).unwrap();
    let opened = ["a", "b"].map(|name| plane.open_code_image(&plane.resolve(&named(name)).unwrap()).is_ok());
    assert_eq!(opened.iter().filter(|opened| **opened).count(), 1);
}
