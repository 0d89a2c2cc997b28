//! The control plane: one handle, cheap to clone, over store, artefacts and the catalogue in memory.
//!
//! ```text
//!  create/update/delete ─► a task ─► the function's turn ─► a permit ─► blocking thread:
//!                                                             check ─► artefacts ─► record ─► catalogue ─► answer
//!                                                                      (fsync)      (commit)
//!  then, for create and update:  activation ─► artefacts open? ─► record Active/Successful ─► catalogue ─► retired(old)
//! ```
//! A change runs in a task of its own: who asked may go away, the change is made or refused all the same. Changes to one
//! function happen one after the other, those to several up to [`ControlConfig::concurrent_changes`] at once. The record is the
//! commit point: artefacts are durable before it names them and deleted after it does not, so a crash anywhere leaves the
//! function old or new, and files nobody names, which the next [`ControlPlane::open`] deletes. A record that is Pending or InProgress
//! is taken up there again.

mod activate;
mod answer;
mod catalogue;
mod change;
mod errors;
mod event_invoke;
mod read;
mod retirement;
mod settings;
mod turns;

use std::{
    collections::HashSet,
    fmt, fs,
    io::{self, Seek, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use tokio::sync::{Semaphore, broadcast, watch};
use types::{AccountId, Clock, DeploymentId, FunctionArn, FunctionName, Keys, Region, RuntimeName, limits};

use crate::{
    artefacts::ArtefactStore,
    durable::{self, Disk, OsDisk},
    metrics,
    record::FunctionRecord,
    store::{MetadataStore, SqliteStore},
};
use catalogue::Catalogue;
use turns::Turns;

pub use errors::{ControlError, OpenError};
pub use read::FunctionDetail;
pub use retirement::{Retired, Retirements};

/// Bounds the memory of packages being unpacked: each needs at most its unzipped size (250 MB) and a few MiB.
const DEFAULT_CONCURRENT_CHANGES: usize = 2;
/// Notices of retired deployments a slow listener may leave unread before it is told to look at everything.
const RETIREMENTS_KEPT: usize = 1024;

/// What runtimes environments can be started with now.
pub type InstalledRuntimes = Arc<dyn Fn() -> Vec<RuntimeName> + Send + Sync>;

/// How a control plane is set up.
#[derive(Clone)]
pub struct ControlConfig {
    /// Everything durable lies below it. Made, for its owner only, if it is missing.
    pub data_dir: PathBuf,
    pub region: Region,
    pub account: AccountId,
    /// Asked at each create and update.
    pub installed_runtimes: InstalledRuntimes,
    /// Changes worked on at once; more wait.
    pub concurrent_changes: usize,
    /// Uploaded bytes of all packages together.
    pub code_storage_bytes: u64,
}

impl ControlConfig {
    /// A configuration with the default bounds.
    #[must_use]
    pub fn new(
        data_dir: PathBuf,
        region: Region,
        account: AccountId,
        installed_runtimes: InstalledRuntimes,
    ) -> Self {
        Self {
            data_dir,
            region,
            account,
            installed_runtimes,
            concurrent_changes: DEFAULT_CONCURRENT_CHANGES,
            code_storage_bytes: limits::ACCOUNT_CODE_BYTES,
        }
    }
}

impl fmt::Debug for ControlConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlConfig")
            .field("data_dir", &self.data_dir)
            .field("region", &self.region)
            .field("account", &self.account)
            .field("concurrent_changes", &self.concurrent_changes)
            .field("code_storage_bytes", &self.code_storage_bytes)
            .finish_non_exhaustive()
    }
}

/// The control plane. Clones are one and the same; the last one dropped frees the data directory.
#[derive(Clone)]
pub struct ControlPlane(Arc<Shared>);

impl fmt::Debug for ControlPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlPlane").field("config", &self.0.config).finish_non_exhaustive()
    }
}

struct Shared {
    config: ControlConfig,
    keys: Arc<dyn Keys>,
    clock: Arc<dyn Clock>,
    store: Box<dyn MetadataStore>,
    artefacts: ArtefactStore,
    catalogue: Catalogue,
    /// Held from the last check of what all functions use together until record and catalogue say so.
    commit: Mutex<()>,
    turns: Turns<FunctionName>,
    permits: Arc<Semaphore>,
    retired: broadcast::Sender<DeploymentId>,
    /// Changes and activations under way.
    busy: Arc<watch::Sender<usize>>,
    /// Last, so that it is freed when everything else is closed.
    _lock: fs::File,
}

/// Counts as work under way while it lives. Its fields drop in this order, so that who has waited for the count to be 0
/// finds the control plane let go of.
struct Busy {
    shared: Arc<Shared>,
    _counted: Counted,
}

struct Counted(Arc<watch::Sender<usize>>);

impl Busy {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.busy.send_modify(|count| *count += 1);
        Self { shared: Arc::clone(shared), _counted: Counted(Arc::clone(&shared.busy)) }
    }

    /// A method, not the field: a closure that names the field would capture it alone and drop the count.
    fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl ControlPlane {
    /// Opens the data directory, deletes what a crash left over, and takes up what it interrupted. Reads and writes the
    /// disk; call it inside a Tokio runtime, before anything is served.
    ///
    /// # Errors
    ///
    /// When another process holds the directory, when its store is of a newer version, or holds another account's functions.
    pub fn open(
        config: ControlConfig,
        keys: Arc<dyn Keys>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, OpenError> {
        Self::open_on(config, keys, clock, Arc::new(OsDisk), |path| Ok(Box::new(SqliteStore::open(path)?)))
    }

    fn open_on(
        config: ControlConfig,
        keys: Arc<dyn Keys>,
        clock: Arc<dyn Clock>,
        disk: Arc<dyn Disk>,
        open_store: impl FnOnce(&Path) -> Result<Box<dyn MetadataStore>, crate::store::StoreError>,
    ) -> Result<Self, OpenError> {
        metrics::describe();
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, source }
        };
        durable::create_private_directory(&config.data_dir).map_err(io(&config.data_dir))?;
        let lock = lock(&config.data_dir)?;
        let store = open_store(&config.data_dir.join("metadata.sqlite"))?;
        let records = store.load()?;
        refuse_other_accounts(&config, &records)?;
        let directory = config.data_dir.join("artefacts");
        let artefacts = ArtefactStore::open(directory.clone(), disk).map_err(io(&directory))?;
        let swept = artefacts.sweep(&artefacts_of(&records)).map_err(io(&directory))?;
        if swept > 0 {
            tracing::info!(files = swept, "deleted artefacts that an interrupted change left over");
        }
        let plane = Self(Arc::new(Shared {
            permits: Arc::new(Semaphore::new(config.concurrent_changes.max(1))),
            config,
            keys,
            clock,
            store,
            artefacts,
            catalogue: Catalogue::default(),
            commit: Mutex::default(),
            turns: Turns::default(),
            retired: broadcast::Sender::new(RETIREMENTS_KEPT),
            busy: Arc::new(watch::Sender::new(0)),
            _lock: lock,
        }));
        for record in records {
            let name = record.arn.name.clone();
            plane.0.catalogue.put(record);
            activate::resume(&plane.0, &name);
        }
        Ok(plane)
    }

    /// Returns when no change and no activation is under way: for an orderly stop. New ones may begin meanwhile.
    pub async fn settled(&self) {
        // The sender lives as long as we do, so waiting cannot fail.
        let _ = self.0.busy.subscribe().wait_for(|count| *count == 0).await;
    }
}

impl Shared {
    fn arn(&self, name: &FunctionName) -> FunctionArn {
        FunctionArn {
            region: self.config.region.clone(),
            account: self.config.account.clone(),
            name: name.clone(),
        }
    }
}

/// Takes the data directory for this process, or says who has it.
fn lock(data_dir: &Path) -> Result<fs::File, OpenError> {
    let path = data_dir.join("lock");
    let io = |source| OpenError::Io { path: path.clone(), source };
    let mut file = durable::open_lock_file(&path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            let holder = io::read_to_string(file).map_err(io)?;
            let holder = if holder.is_empty() { "another process".into() } else { holder };
            return Err(OpenError::InUse { path: data_dir.to_owned(), holder });
        }
        Err(fs::TryLockError::Error(source)) => return Err(io(source)),
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| write!(file, "process {}", std::process::id()))
        .map_err(io)?;
    Ok(file)
}

fn refuse_other_accounts(config: &ControlConfig, records: &[FunctionRecord]) -> Result<(), OpenError> {
    let other = records.iter().map(|record| &record.arn);
    match other.into_iter().find(|arn| arn.region != config.region || arn.account != config.account) {
        None => Ok(()),
        Some(found) => Err(OpenError::OtherAccount {
            found: found.clone(),
            region: config.region.to_string(),
            account: config.account.to_string(),
        }),
    }
}

/// The deployments whose files records name.
fn artefacts_of(records: &[FunctionRecord]) -> HashSet<DeploymentId> {
    records.iter().flat_map(FunctionRecord::deployments).map(|deployment| deployment.code.artefact).collect()
}

#[cfg(test)]
mod tests;
