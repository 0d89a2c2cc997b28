//! `arn:aws:file:::<name>`: a file that outcomes are appended to, for people without any of the services.
//!
//! ```text
//!  deliver ─► waiting ──┐  whoever gets the turn first writes all that waits,
//!  deliver ─► waiting ──┼─► syncs once, and answers everybody            ─► <directory>/<name>
//!  deliver ─► waiting ──┘
//! ```
//! A delivery is accepted when its record is on the medium. Those that come while another is being written share the next
//! sync. A delivery that is given up before its turn is not written; after it has begun it may be in the file, and a
//! repetition is then there twice.
//!
//! **Sealed** (the default; [`format`] draws the bytes): what customers own is never readable on a disk without its key. Each time a
//! file is opened, after each error, and every 16 MiB, a new segment begins at the next multiple of 4096, with a data key that
//! never sealed anything and nonces that count from 0. So no (key, nonce) pair recurs, whatever a crash or a restored copy does, and
//! what a crash cut short hides nothing: a reader goes on at the next header. **Plain**: one line of JSON for each record; a torn
//! line is ended by a newline before the next begins. A file keeps the form that it began with; a delivery that would mix
//! them is refused.
//!
//! A file may be moved away at any time (the next record begins a new one). Files are not bounded: a full disk answers
//! [`Unavailable`](super::DeliveryError::Unavailable).

mod format;
mod line;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use reader::{FileEntry, ReadError, Records, list, read};

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Mutex as Turn, OwnedMutexGuard, oneshot};
use types::Keys;

use self::writer::{AppendError, Writer};
use super::{Delivery, Fault};

/// Files held open. Beyond, those that nobody is writing to are closed.
const OPEN_FILES: usize = 64;

/// The files of one directory.
pub(super) struct Files {
    directory: PathBuf,
    sealed: bool,
    keys: Arc<dyn Keys>,
    open: Mutex<HashMap<String, Arc<DestinationFile>>>,
}

struct DestinationFile {
    waiting: Mutex<Vec<Waiting>>,
    turn: Arc<Turn<Writer>>,
}

/// A record, and whom to tell what became of it.
struct Waiting {
    record: Vec<u8>,
    answer: oneshot::Sender<Result<(), Fault>>,
}

// === impl Files ===

impl Files {
    /// Makes the directory, for its owner only, if it is missing.
    pub(super) fn open(directory: &Path, sealed: bool, keys: Arc<dyn Keys>) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        if let Some(parent) = directory.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::File::open(parent)?.sync_all()?;
        }
        Ok(Self { directory: directory.to_owned(), sealed, keys, open: Mutex::default() })
    }

    pub(super) async fn deliver(&self, name: &str, delivery: &Delivery) -> Result<(), Fault> {
        let record = line::line(delivery)?;
        self.file(name).append(record).await
    }

    /// See [`Destinations::rewrap_files`](super::Destinations::rewrap_files). Blocks.
    pub(super) fn rewrap(&self) -> io::Result<usize> {
        let mut count = 0;
        for file in fs::read_dir(&self.directory)? {
            let file = file?;
            if let Some(name) = file.file_name().to_str().filter(|name| !name.starts_with('.')) {
                count += writer::rewrap(&file.path(), name, &*self.keys)?;
            }
        }
        Ok(count)
    }

    fn file(&self, name: &str) -> Arc<DestinationFile> {
        let mut open = lock(&self.open);
        if let Some(file) = open.get(name) {
            return Arc::clone(file);
        }
        if open.len() >= OPEN_FILES {
            // Who writes holds a clone.
            open.retain(|_, file| Arc::strong_count(file) > 1);
        }
        let writer = Writer::new(&self.directory, name, self.sealed, Arc::clone(&self.keys));
        let file = DestinationFile { waiting: Mutex::default(), turn: Arc::new(Turn::new(writer)) };
        Arc::clone(open.entry(name.to_owned()).or_insert(Arc::new(file)))
    }
}

// === impl DestinationFile ===

impl DestinationFile {
    async fn append(self: Arc<Self>, record: Vec<u8>) -> Result<(), Fault> {
        let (answer, mut outcome) = oneshot::channel();
        {
            let mut waiting = lock(&self.waiting);
            // While a disk hangs nobody gets the turn, and nobody else drops the records that were given up.
            waiting.retain(|one| !one.answer.is_closed());
            waiting.push(Waiting { record, answer });
        }
        tokio::select! {
            biased;
            known = &mut outcome => answered(known),
            turn = Arc::clone(&self.turn).lock_owned() => {
                // On a thread of its own, with the turn: whoever is given up meanwhile gives up waiting only.
                tokio::task::spawn_blocking(move || self.write_waiting(turn));
                answered(outcome.await)
            }
        }
    }

    fn write_waiting(&self, mut turn: OwnedMutexGuard<Writer>) {
        let mut waiting = std::mem::take(&mut *lock(&self.waiting));
        waiting.retain(|waiting| !waiting.answer.is_closed());
        if waiting.is_empty() {
            return;
        }
        let result =
            turn.append(waiting.iter().map(|waiting| waiting.record.as_slice())).map_err(Fault::from);
        // The next turn need not wait until all of these are told.
        drop(turn);
        for Waiting { answer, .. } in waiting {
            let _ = answer.send(result.clone());
        }
    }
}

fn answered(outcome: Result<Result<(), Fault>, oneshot::error::RecvError>) -> Result<(), Fault> {
    outcome.unwrap_or_else(|_| Err(Fault::Unavailable("the file's writer has stopped".to_owned())))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl From<AppendError> for Fault {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::OtherForm { .. } => Self::Refused(error.to_string()),
            AppendError::Io(_) | AppendError::Key(_) | AppendError::Locked => {
                Self::Unavailable(error.to_string())
            }
        }
    }
}
