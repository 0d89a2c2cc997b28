//! A control plane in a directory of its own, and the requests its tests make.

use std::{
    collections::BTreeMap,
    io::{Cursor, Write},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use types::{
    Clock, DataKey, FunctionRef, KeyContext, KeyError, Keys, RuntimeName, WrappedDataKey,
    api::{CreateFunction, FunctionConfiguration, Settings, UpdateFunctionCode},
};
use zip::{ZipWriter, write::SimpleFileOptions};

use crate::{ControlConfig, ControlPlane, LocalKeyring};

pub(super) const REGION: &str = "eu-central-1";
pub(super) const ACCOUNT: &str = "123456789012";

/// A clock that goes on by a second each time it is read.
#[derive(Debug, Default)]
struct SteadyClock(AtomicU64);

impl Clock for SteadyClock {
    fn now(&self) -> Duration {
        Duration::from_secs(1_795_356_185 + self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// The keyring behind a gate: while it is shut, the key service is out of reach.
pub(super) struct GatedKeys {
    pub(super) keyring: LocalKeyring,
    pub(super) shut: AtomicBool,
}

impl GatedKeys {
    pub(super) fn shut(&self, shut: bool) {
        self.shut.store(shut, Ordering::SeqCst);
    }

    fn pass(&self) -> Result<&LocalKeyring, KeyError> {
        match self.shut.load(Ordering::SeqCst) {
            true => Err(KeyError::Unavailable("the gate is shut".into())),
            false => Ok(&self.keyring),
        }
    }
}

impl Keys for GatedKeys {
    fn generate(&self, context: &KeyContext) -> Result<(DataKey, WrappedDataKey), KeyError> {
        // Stays open, so that a function can be created that cannot be activated yet.
        self.keyring.generate(context)
    }

    fn unwrap(&self, wrapped: &WrappedDataKey, context: &KeyContext) -> Result<DataKey, KeyError> {
        self.pass()?.unwrap(wrapped, context)
    }

    fn rewrap(&self, wrapped: &WrappedDataKey, context: &KeyContext) -> Result<WrappedDataKey, KeyError> {
        self.pass()?.rewrap(wrapped, context)
    }
}

pub(super) struct Fixture {
    pub(super) directory: tempfile::TempDir,
    pub(super) keys: Arc<GatedKeys>,
    clock: Arc<SteadyClock>,
}

impl Fixture {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let keyring = LocalKeyring::open_or_create(&directory.path().join("keys/keyring")).unwrap();
        let keys = Arc::new(GatedKeys { keyring, shut: AtomicBool::new(false) });
        Self { directory, keys, clock: Arc::default() }
    }

    pub(super) fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub(super) fn config(&self) -> ControlConfig {
        let installed = || vec![RuntimeName::new("python3.11"), RuntimeName::new("provided.al2023")];
        ControlConfig::new(
            self.data_dir(),
            REGION.parse().unwrap(),
            ACCOUNT.parse().unwrap(),
            Arc::new(installed),
        )
    }

    pub(super) fn keys(&self) -> Arc<dyn Keys> {
        Arc::clone(&self.keys) as _
    }

    pub(super) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock) as _
    }

    pub(super) fn open(&self) -> ControlPlane {
        ControlPlane::open(self.config(), self.keys(), self.clock()).unwrap()
    }

    /// Names of the files below `artefacts/`, sorted.
    pub(super) fn artefacts(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.data_dir().join("artefacts")).unwrap();
        let mut names: Vec<String> =
            files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// A package with one file.
pub(super) fn package(content: &str) -> Bytes {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    zip.start_file("app.py", SimpleFileOptions::default()).unwrap();
    zip.write_all(content.as_bytes()).unwrap();
    zip.finish().unwrap().into_inner().into()
}

pub(super) fn create(name: &str, content: &str) -> CreateFunction {
    CreateFunction {
        function_name: name.into(),
        runtime: Some("python3.11".into()),
        role: format!("arn:aws:iam::{ACCOUNT}:role/r"),
        handler: Some("app.handler".into()),
        zip: package(content),
        architectures: None,
        tags: BTreeMap::from([("team".into(), "blue".into())]),
        settings: Settings::default(),
    }
}

pub(super) fn code(content: &str) -> UpdateFunctionCode {
    UpdateFunctionCode { zip: package(content), architectures: None, dry_run: false, revision_id: None }
}

pub(super) fn variables(pairs: &[(&str, &str)]) -> Settings {
    let map = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Settings { environment: Some(map), ..Settings::default() }
}

pub(super) fn named(text: &str) -> FunctionRef {
    text.parse().unwrap()
}

/// Creates a function and waits until it is served.
pub(super) async fn active(plane: &ControlPlane, name: &str, content: &str) -> FunctionConfiguration {
    plane.create_function(create(name, content)).await.unwrap();
    plane.settled().await;
    plane.get_function_configuration(&named(name)).unwrap()
}

/// Whether what is served, code and configuration, fits together, and which package it is.
pub(super) fn served_content(plane: &ControlPlane, name: &str) -> String {
    let spec = plane.resolve(&named(name)).unwrap();
    let zip = plane.open_code_zip(&spec).unwrap();
    let image = plane.open_code_image(&spec).unwrap();
    let mut archive = zip::ZipArchive::new(Cursor::new(zip.as_slice())).unwrap();
    let content = std::io::read_to_string(archive.by_name("app.py").unwrap()).unwrap();
    assert!(
        image.windows(content.len()).any(|bytes| bytes == content.as_bytes()),
        "image and package differ"
    );
    content
}
