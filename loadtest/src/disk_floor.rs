//! What this disk gives to somebody who has no queue: a file that is written in a loop, and nothing else.
//!
//! ```text
//!   raw sync         write 1,104 bytes ─ fdatasync ─ write 1,104 bytes ─ fdatasync ─ …
//!   sealed ceiling   seal 252 × 1 KiB ─ write 256 KiB ─ fdatasync ─ seal 252 × 1 KiB ─ …
//! ```
//! The file has been written full of zeros and synced, so that no write has to ask the file system for room; at its end the
//! loop goes on at its beginning.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

use crate::latency::Latencies;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustix::fs::{FallocateFlags, fallocate, fdatasync};

use crate::load::{KIB, Load, Stopwatch, payload};

/// Bytes of the file: eight segments of the queue.
const FILE: u64 = 512 * 1024 * 1024;
const ZEROS: usize = 1024 * 1024;
/// What the queue's record of a 1 KiB event takes on the disk.
const RECORD: usize = 1104;
/// Written and synced at once by the sealing loop.
const TOGETHER: usize = 256 * KIB;
const TAG: usize = 16;

#[derive(Debug)]
pub struct Floor {
    file: File,
    at: u64,
    payload: Vec<u8>,
}

impl Floor {
    pub fn new(directory: &Path) -> io::Result<Self> {
        let file = File::create_new(directory.join("floor"))?;
        fallocate(&file, FallocateFlags::empty(), 0, FILE)?;
        let zeros = vec![0; ZEROS];
        for at in (0..FILE).step_by(ZEROS) {
            file.write_all_at(&zeros, at)?;
        }
        fdatasync(&file)?;
        Ok(Self { file, at: 0, payload: payload(TOGETHER)? })
    }

    /// One record, one sync.
    pub fn raw_sync(&mut self, span: Duration) -> io::Result<Load> {
        let watch = Stopwatch::start(span, None)?;
        let (mut events, mut latencies) = (0, Latencies::new());
        while Instant::now() < watch.end {
            let begin = Instant::now();
            self.sync_one()?;
            latencies.record(begin.elapsed());
            events += 1;
        }
        watch.stop(events, latencies)
    }

    /// One record, written and synced.
    pub fn sync_one(&mut self) -> io::Result<()> {
        let record = self.payload.split_at(RECORD).0;
        write(&self.file, &mut self.at, record)
    }

    /// Records sealed one by one as the queue seals them, written and synced 256 KiB at a time.
    pub fn sealed(&mut self, span: Duration) -> io::Result<Load> {
        let key = UnboundKey::new(&AES_256_GCM, &[7; 32]).map_err(|_| io::Error::other("not a key"))?;
        let key = LessSafeKey::new(key);
        let content = self.payload.split_at(KIB).0.to_vec();
        let mut block = Vec::with_capacity(TOGETHER);
        let watch = Stopwatch::start(span, None)?;
        let (mut events, mut latencies) = (0_u64, Latencies::new());
        while Instant::now() < watch.end {
            let begin = Instant::now();
            block.clear();
            while block.len() + KIB + TAG <= TOGETHER {
                seal(&key, events, &content, &mut block)?;
                events += 1;
            }
            block.resize(TOGETHER, 0);
            write(&self.file, &mut self.at, &block)?;
            latencies.record(begin.elapsed());
        }
        watch.stop(events, latencies)
    }
}

/// Writes where the last write ended, and syncs.
fn write(file: &File, at: &mut u64, bytes: &[u8]) -> io::Result<()> {
    if *at + bytes.len() as u64 > FILE {
        *at = 0;
    }
    file.write_all_at(bytes, *at)?;
    *at += bytes.len() as u64;
    Ok(fdatasync(file)?)
}

/// Appends `content`, sealed, and its tag.
fn seal(key: &LessSafeKey, number: u64, content: &[u8], to: &mut Vec<u8>) -> io::Result<()> {
    let mut nonce = [0; NONCE_LEN];
    nonce.split_at_mut(NONCE_LEN - size_of::<u64>()).1.copy_from_slice(&number.to_be_bytes());
    let start = to.len();
    to.extend_from_slice(content);
    let tag = key
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(number.to_le_bytes()),
            to.split_at_mut(start).1,
        )
        .map_err(|_| io::Error::other("sealing failed"))?;
    to.extend_from_slice(tag.as_ref());
    Ok(())
}
