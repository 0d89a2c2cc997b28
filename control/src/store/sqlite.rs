//! The embedded store: one SQLite database, one connection, one thread that owns it.
//!
//! ```text
//!  functions( arn TEXT PRIMARY KEY, revision TEXT, record BLOB )        user_version = 1, application_id = "WWcp"
//! ```
//! Write-ahead log with `synchronous = FULL`: a commit is on the medium when it returns. `secure_delete` overwrites what a record no
//! longer holds.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
};

use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior, params};
use types::FunctionArn;
use uuid::Uuid;

use super::{MetadataStore, StoreError};
use crate::{durable, record::FunctionRecord};

/// Stable: it is on disks.
const SCHEMA_VERSION: i64 = 1;
/// `WWcp`; tells our database from another program's.
const APPLICATION_ID: i64 = 0x5757_6370;
/// Where SQLite's file header keeps the two (<https://www.sqlite.org/fileformat.html>, 1.3), big-endian.
const HEADER_USER_VERSION: usize = 60;
const HEADER_APPLICATION_ID: usize = 68;
const HEADER_LEN: usize = 100;
/// Changes that may wait for the owning thread; more callers block.
const QUEUE: usize = 64;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// See the module's description. Dropping it waits for changes under way and closes the database.
#[derive(Debug)]
pub struct SqliteStore {
    jobs: Option<mpsc::SyncSender<Job>>,
    owner: Option<thread::JoinHandle<()>>,
}

impl SqliteStore {
    /// Opens or makes the database at `path`.
    ///
    /// # Errors
    ///
    /// A database of a newer schema or of another program is refused before a byte of it is changed.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        refuse_foreign_file(path)?;
        if !path.exists() {
            // SQLite would make it for everyone to read.
            durable::open_lock_file(path).map_err(unavailable)?;
        }
        let connection = open_connection(path)?;
        let (jobs, queue) = mpsc::sync_channel::<Job>(QUEUE);
        let owner = thread::Builder::new()
            .name("metadata-store".into())
            .spawn(move || {
                let mut connection = connection;
                queue.iter().for_each(|job| job(&mut connection));
            })
            .map_err(unavailable)?;
        Ok(Self { jobs: Some(jobs), owner: Some(owner) })
    }

    /// Runs `work` on the owning thread and waits for its result.
    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let stopped = || StoreError::Unavailable("its thread has stopped".into());
        let (reply, result) = mpsc::sync_channel(1);
        let job: Job = Box::new(move |connection| {
            // Who asked may have gone; the work was done all the same.
            let _ = reply.send(work(connection));
        });
        self.jobs.as_ref().ok_or_else(stopped)?.send(job).map_err(|_| stopped())?;
        result.recv().map_err(|_| stopped())?
    }

    fn change(
        &self,
        change: impl FnOnce(&Transaction<'_>) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), StoreError> {
        self.run(|connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
            change(&transaction)?;
            transaction.commit().map_err(failed)
        })
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(owner) = self.owner.take() {
            // A panic there was reported there.
            let _ = owner.join();
        }
    }
}

impl MetadataStore for SqliteStore {
    fn load(&self) -> Result<Vec<FunctionRecord>, StoreError> {
        self.run(|connection| {
            let mut select =
                connection.prepare("SELECT record FROM functions ORDER BY arn").map_err(failed)?;
            let rows = select.query_map([], |row| row.get::<_, Vec<u8>>(0)).map_err(failed)?;
            rows.map(|row| Ok(FunctionRecord::decode(&row.map_err(failed)?)?)).collect()
        })
    }

    fn insert(&self, record: &FunctionRecord) -> Result<(), StoreError> {
        let (arn, revision, bytes) = (record.arn.clone(), record.revision.to_string(), record.encode());
        self.change(move |transaction| {
            let inserted = transaction.execute(
                "INSERT INTO functions (arn, revision, record) VALUES (?1, ?2, ?3)",
                params![arn.to_string(), revision, bytes],
            );
            match inserted {
                Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                    Err(StoreError::AlreadyExists(arn))
                }
                inserted => inserted.map(drop).map_err(failed),
            }
        })
    }

    fn update(&self, record: &FunctionRecord, expected: Uuid) -> Result<(), StoreError> {
        let (arn, revision, bytes) = (record.arn.clone(), record.revision.to_string(), record.encode());
        self.change(move |transaction| {
            let changed = transaction.execute(
                "UPDATE functions SET revision = ?2, record = ?3 WHERE arn = ?1 AND revision = ?4",
                params![arn.to_string(), revision, bytes, expected.to_string()],
            );
            one_changed(changed, arn, expected)
        })
    }

    fn remove(&self, arn: &FunctionArn, expected: Uuid) -> Result<(), StoreError> {
        let arn = arn.clone();
        self.change(move |transaction| {
            let changed = transaction.execute(
                "DELETE FROM functions WHERE arn = ?1 AND revision = ?2",
                params![arn.to_string(), expected.to_string()],
            );
            one_changed(changed, arn, expected)
        })
    }
}

fn one_changed(changed: rusqlite::Result<usize>, arn: FunctionArn, expected: Uuid) -> Result<(), StoreError> {
    match changed.map_err(failed)? {
        0 => Err(StoreError::Conflict { arn, expected }),
        _ => Ok(()),
    }
}

fn open_connection(path: &Path) -> Result<Connection, StoreError> {
    let mut connection = Connection::open(path).map_err(failed)?;
    // The file's header may be older than the write-ahead log, so ask again through SQLite before the first write.
    let version: i64 =
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
    let application: i64 =
        connection.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(failed)?;
    refuse_foreign(path, version, application, is_empty(&connection)?)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    connection.pragma_update(None, "secure_delete", "ON").map_err(failed)?;
    connection.pragma_update(None, "foreign_keys", "ON").map_err(failed)?;
    if version == 0 {
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        transaction
            .execute_batch(
                "CREATE TABLE functions (arn TEXT PRIMARY KEY NOT NULL, revision TEXT NOT NULL, record BLOB NOT NULL) STRICT;",
            )
            .map_err(failed)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed)?;
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION).map_err(failed)?;
        transaction.commit().map_err(failed)?;
    }
    Ok(connection)
}

fn is_empty(connection: &Connection) -> Result<bool, StoreError> {
    let first = connection
        .query_row("SELECT 1 FROM sqlite_schema LIMIT 1", [], |_| Ok(()))
        .optional()
        .map_err(failed)?;
    Ok(first.is_none())
}

fn refuse_foreign(path: &Path, version: i64, application: i64, empty: bool) -> Result<(), StoreError> {
    let path: PathBuf = path.to_owned();
    let ours = application == APPLICATION_ID && version > 0;
    let fresh = empty && application == 0 && version == 0;
    if !ours && !fresh {
        return Err(StoreError::Foreign { path });
    }
    if version > SCHEMA_VERSION {
        return Err(StoreError::NewerSchema { path, found: version, known: SCHEMA_VERSION });
    }
    Ok(())
}

/// Judges by the file's header alone: opening through SQLite would already replay a log.
fn refuse_foreign_file(path: &Path) -> Result<(), StoreError> {
    let mut header = Vec::with_capacity(HEADER_LEN);
    match fs::File::open(path) {
        Ok(file) => file.take(HEADER_LEN as u64).read_to_end(&mut header).map_err(unavailable)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unavailable(error)),
    };
    if header.is_empty() {
        return Ok(());
    }
    if header.len() < HEADER_LEN || !header.starts_with(b"SQLite format 3\0") {
        return Err(StoreError::Foreign { path: path.to_owned() });
    }
    let field =
        |at: usize| header[at..].first_chunk().map_or(0, |bytes| i64::from(u32::from_be_bytes(*bytes)));
    // Before its first checkpoint our own database has neither field in the file yet.
    let fresh = field(HEADER_APPLICATION_ID) == 0 && field(HEADER_USER_VERSION) == 0;
    refuse_foreign(path, field(HEADER_USER_VERSION), field(HEADER_APPLICATION_ID), fresh)
}

fn failed(error: rusqlite::Error) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

fn unavailable(error: io::Error) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::store::conformance;

    #[test]
    fn keeps_the_store_contract() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metadata.sqlite");
        conformance::run(&mut || Box::new(SqliteStore::open(&path).unwrap()));
    }

    #[test]
    fn the_settings_the_contract_rests_on_are_in_force() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metadata.sqlite");
        let store = SqliteStore::open(&path).unwrap();
        let settings = store
            .run(|connection| {
                let number = |name| {
                    connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(failed)
                };
                let mode: String =
                    connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).map_err(failed)?;
                Ok((mode, number("synchronous")?, number("secure_delete")?, number("foreign_keys")?))
            })
            .unwrap();
        assert_eq!(settings, ("wal".into(), 2, 1, 1));
        for file in fs::read_dir(directory.path()).unwrap() {
            assert_eq!(file.unwrap().metadata().unwrap().permissions().mode() & 0o077, 0);
        }
    }

    #[test]
    fn a_newer_schema_is_refused_and_not_touched() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metadata.sqlite");
        drop(SqliteStore::open(&path).unwrap());
        Connection::open(&path).unwrap().pragma_update(None, "user_version", SCHEMA_VERSION + 1).unwrap();
        let before = fs::read(&path).unwrap();
        assert!(matches!(SqliteStore::open(&path), Err(StoreError::NewerSchema { found: 2, known: 1, .. })));
        assert_eq!(fs::read(&path).unwrap(), before);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn another_programs_file_is_refused_and_not_touched() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("other.sqlite");
        Connection::open(&path)
            .unwrap()
            .execute_batch("CREATE TABLE theirs (x); PRAGMA user_version = 1;")
            .unwrap();
        let before = fs::read(&path).unwrap();
        assert!(matches!(SqliteStore::open(&path), Err(StoreError::Foreign { .. })));
        assert_eq!(fs::read(&path).unwrap(), before);
        fs::write(&path, "not a database").unwrap();
        assert!(matches!(SqliteStore::open(&path), Err(StoreError::Foreign { .. })));
    }
}
