//! What functions print, sealed at rest.
//!
//! ```text
//!  append ─► buffer of the function ─► the owning thread ─► <logs>/<function>/0000000000000007.log
//!  (memory, bounded)      every 200 ms, at 64 KiB,          <logs>/<function>/0000000000000007.key
//!                         or when a flush is asked for                 │
//!                                                        LogReader ◄───┘ any process with the keyring
//! ```
//! Each segment has a data key of its own, which seals nothing else; after a start, an error or 8 MiB a new segment begins, so
//! a (key, nonce) pair never recurs. The oldest segments go when a function's logs outgrow their bound. Deleting a function keeps
//! its logs, as on AWS.
//!
//! Not promised: lines of the last moments before a crash may be lost ([`LogStore::flush`] waits for the medium), and
//! what cannot be written in time is dropped and counted rather than kept waiting.

mod format;
mod reader;
mod store;
mod writer;

pub use reader::{LogBatch, LogPosition, LogReadError, LogReader, LogRecord};
pub use store::{LogConfig, LogStore};

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Numbers of a function's segments in the order they were written.
fn segments(directory: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for file in fs::read_dir(directory)? {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "log")
            && let Some(number) = number_of(&path)
        {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn number_of(path: &Path) -> Option<u64> {
    let digits = path.file_stem()?.to_str()?;
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok())?
}

fn log_path(directory: &Path, segment: u64) -> PathBuf {
    directory.join(format!("{segment:016x}.log"))
}

fn key_path(directory: &Path, segment: u64) -> PathBuf {
    directory.join(format!("{segment:016x}.key"))
}

#[cfg(test)]
mod tests;
