//! The world stops at each step of each change; afterwards every function is old or new, whole, and nothing is left over.

use std::{
    fs, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use types::{
    FunctionArn,
    api::{EventInvokeSettings, Settings, UpdateFunctionConfiguration},
};
use uuid::Uuid;

use super::fixture::*;
use crate::{
    ControlPlane,
    durable::{Disk, OsDisk},
    record::FunctionRecord,
    store::{MetadataStore, SqliteStore, StoreError},
};

const FILE: &str = "arn:aws:file:::failed";

/// Counts steps; from the `fatal`th on, nothing happens any more.
#[derive(Debug)]
struct Fate {
    steps: AtomicUsize,
    fatal: usize,
}

impl Fate {
    fn step(&self) -> io::Result<()> {
        match self.steps.fetch_add(1, Ordering::SeqCst) < self.fatal {
            true => Ok(()),
            false => Err(io::Error::other("the world has stopped")),
        }
    }
}

#[derive(Debug)]
struct MortalDisk(Arc<Fate>);

impl Disk for MortalDisk {
    fn create(&self, path: &Path) -> io::Result<fs::File> {
        self.0.step().and_then(|()| OsDisk.create(path))
    }

    fn sync(&self, file: &fs::File) -> io::Result<()> {
        self.0.step().and_then(|()| OsDisk.sync(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.step().and_then(|()| OsDisk.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.step().and_then(|()| OsDisk.remove(path))
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.0.step().and_then(|()| OsDisk.sync_directory(path))
    }
}

/// Stops before a commit, or between a commit and its answer.
struct MortalStore(SqliteStore, Arc<Fate>);

impl MortalStore {
    fn around(&self, work: impl FnOnce() -> Result<(), StoreError>) -> Result<(), StoreError> {
        let stopped = |error: io::Error| StoreError::Unavailable(error.to_string());
        self.1.step().map_err(stopped)?;
        work()?;
        self.1.step().map_err(stopped)
    }
}

impl MetadataStore for MortalStore {
    fn load(&self) -> Result<Vec<FunctionRecord>, StoreError> {
        // Not a step: it changes nothing.
        match self.1.steps.load(Ordering::SeqCst) > self.1.fatal {
            true => Err(StoreError::Unavailable("the world has stopped".into())),
            false => self.0.load(),
        }
    }

    fn insert(&self, record: &FunctionRecord) -> Result<(), StoreError> {
        self.around(|| self.0.insert(record))
    }

    fn update(&self, record: &FunctionRecord, expected: Uuid) -> Result<(), StoreError> {
        self.around(|| self.0.update(record, expected))
    }

    fn remove(&self, arn: &FunctionArn, expected: Uuid) -> Result<(), StoreError> {
        self.around(|| self.0.remove(arn, expected))
    }
}

#[derive(Debug, Clone, Copy)]
enum Change {
    Create,
    UpdateCode,
    UpdateConfiguration,
    /// A change that makes no deployment of its own.
    DeadLetterQueue,
    EventInvoke,
    Delete,
}

impl Change {
    async fn make(self, plane: &ControlPlane) -> bool {
        match self {
            Self::Create => plane.create_function(create("new", "v2")).await.is_ok(),
            Self::UpdateCode => plane.update_function_code(&named("old"), code("v2")).await.is_ok(),
            Self::UpdateConfiguration => {
                let settings = Settings { timeout: Some(7), ..variables(&[("A", "2")]) };
                let request = UpdateFunctionConfiguration { settings, ..Default::default() };
                plane.update_function_configuration(&named("old"), request).await.is_ok()
            }
            Self::DeadLetterQueue => {
                let settings = Settings { dead_letter_target: Some(FILE.into()), ..Settings::default() };
                let request = UpdateFunctionConfiguration { settings, ..Default::default() };
                plane.update_function_configuration(&named("old"), request).await.is_ok()
            }
            Self::EventInvoke => {
                let settings =
                    EventInvokeSettings { maximum_retry_attempts: Some(0), ..EventInvokeSettings::default() };
                plane.put_function_event_invoke_config(&named("old"), settings).await.is_ok()
            }
            Self::Delete => plane.delete_function(&named("old")).await.is_ok(),
        }
    }

    /// Whether the change is there; checks that either way the functions are whole.
    fn is_there(self, plane: &ControlPlane) -> bool {
        let exists = |name: &str| plane.get_function(&named(name)).is_ok();
        match self {
            Self::Create => {
                assert_eq!(served_content(plane, "old"), "v1");
                exists("new") && served_content(plane, "new") == "v2"
            }
            Self::UpdateCode => served_content(plane, "old") == "v2",
            Self::UpdateConfiguration => {
                assert_eq!(served_content(plane, "old"), "v1");
                let spec = plane.resolve(&named("old")).unwrap();
                let variables = plane.open_variables(&spec).unwrap();
                let seen = (spec.timeout.as_secs(), variables.get("A").map(String::as_str));
                assert!([(3, None), (7, Some("2"))].contains(&seen), "{seen:?}");
                seen.0 == 7
            }
            Self::DeadLetterQueue | Self::EventInvoke => {
                assert_eq!(served_content(plane, "old"), "v1");
                let policy = plane.event_invoke_policy(&named("old")).unwrap();
                match self {
                    Self::EventInvoke => policy.maximum_retry_attempts == 0,
                    _ => policy.dead_letter_queue.is_some_and(|queue| queue.to_string() == FILE),
                }
            }
            Self::Delete => !exists("old") || served_content(plane, "old") != "v1",
        }
    }
}

/// Stops the world at step `fatal` of a change. Returns whether it came to that.
async fn stop_at(change: Change, fatal: usize) -> bool {
    let fixture = Fixture::new();
    let plane = fixture.open();
    active(&plane, "old", "v1").await;
    drop(plane);

    let fate = Arc::new(Fate { steps: AtomicUsize::new(0), fatal });
    let disk = Arc::new(MortalDisk(Arc::clone(&fate)));
    let store_fate = Arc::clone(&fate);
    let plane = ControlPlane::open_on(fixture.config(), fixture.keys(), fixture.clock(), disk, |path| {
        Ok(Box::new(MortalStore(SqliteStore::open(path)?, store_fate)))
    })
    .unwrap();
    let promised = change.make(&plane).await;
    plane.settled().await;
    drop(plane);
    let stopped = fate.steps.load(Ordering::SeqCst) > fatal;

    let plane = fixture.open();
    plane.settled().await;
    let there = change.is_there(&plane);
    assert!(there || !promised, "{change:?} was promised and lost at step {fatal}");
    assert!(there || stopped, "{change:?} was not made although nothing stopped it");
    let functions = plane.list_functions(None, None).unwrap().functions;
    for function in &functions {
        let now = plane.get_function_configuration(&named(&function.function_name)).unwrap();
        assert_eq!(
            (now.state.as_deref(), now.last_update_status.as_deref()),
            (Some("Active"), Some("Successful"))
        );
    }
    assert_eq!(fixture.artefacts().len(), 2 * functions.len(), "{change:?} left files at step {fatal}");
    stopped
}

async fn stop_at_every_step(change: Change, at_least: usize) {
    let mut fatal = 0;
    while stop_at(change, fatal).await {
        fatal += 1;
    }
    assert!(fatal >= at_least, "{change:?} has only {fatal} steps: the faults are not injected");
}

#[tokio::test]
async fn a_create_that_is_stopped_anywhere_is_made_or_not() {
    // Two artefacts of four steps, two commits of two.
    stop_at_every_step(Change::Create, 12).await;
}

#[tokio::test]
async fn an_update_of_code_that_is_stopped_anywhere_is_made_or_not() {
    // The same, and the old artefacts' removal.
    stop_at_every_step(Change::UpdateCode, 15).await;
}

#[tokio::test]
async fn an_update_of_configuration_that_is_stopped_anywhere_is_made_or_not() {
    stop_at_every_step(Change::UpdateConfiguration, 4).await;
}

#[tokio::test]
async fn a_change_of_where_events_go_that_is_stopped_anywhere_is_made_or_not() {
    stop_at_every_step(Change::DeadLetterQueue, 4).await;
    stop_at_every_step(Change::EventInvoke, 2).await;
}

#[tokio::test]
async fn a_delete_that_is_stopped_anywhere_is_made_or_not() {
    stop_at_every_step(Change::Delete, 5).await;
}
