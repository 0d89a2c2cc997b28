//! A disk in memory that fails on purpose. Only tests have it.
//!
//! ```text
//!   write ──► now (what a read sees) ── sync ──► synced (what a power cut keeps)      names likewise, by sync_directory
//!                 └── sync fails ──► doubtful: a later sync says nothing of it
//! ```
//! A [`crash`](MemoryDisk::crash) keeps what was synced and, of each write since, whatever the caller's randomness likes: all,
//! nothing, or some of its 512-byte sectors. The same of names. Calls that change something are counted, all of them together and
//! each kind apart, and can be told to fail by number. Calls that only read have numbers of their own: a machine
//! that stops at one of them leaves the disk as it does at the next call that changes something.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Preparation, Storage, StorageFile};
use crate::testing::pause;

/// What a disk writes in one piece.
const SECTOR: usize = 512;
/// What a file takes is a multiple of this.
const BLOCK: u64 = 4096;

/// What is asked of the disk. The last two change nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Call {
    Create,
    Write,
    Sync,
    Rename,
    Remove,
    SyncDirectory,
    Open,
    Read,
}

/// What happens at the nth call that changes something, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// This one fails, and does nothing or half of it; the next ones work.
    Error(io::ErrorKind),
    /// The machine stops: this one and all later ones fail, until it is started again.
    Stop,
}

#[derive(Debug, Clone, Default)]
struct File {
    synced: Vec<u8>,
    now: Vec<u8>,
    /// Offset and length of writes that are not synced.
    unsynced: Vec<(usize, usize)>,
    /// Of writes whose sync failed: a later sync says nothing about them (ext4 marks the pages clean).
    doubtful: Vec<(usize, usize)>,
    /// A write or a sync failed since the process began.
    failed: bool,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<u64, File>,
    names: BTreeMap<String, u64>,
    synced_names: BTreeMap<String, u64>,
    next_file: u64,
    calls: u64,
    faults: BTreeMap<u64, Fault>,
    /// The machine stops at this call, whatever was healed before.
    stop_at: Option<u64>,
    counts: BTreeMap<Call, u64>,
    /// Of each kind: at which call of it, and with what, whatever was healed before.
    fail_nth: BTreeMap<(Call, u64), io::ErrorKind>,
    /// Of these, how many were met.
    met: u64,
    /// The last file that could not be made.
    not_made: Option<String>,
    stopped: bool,
    /// Bytes that fit.
    capacity: Option<u64>,
    /// Decides what a failed sync left on the disk.
    luck: u64,
    /// Writes and syncs of files that had failed.
    after_failure: u64,
    largest_read: usize,
    /// All that was ever written, and all names that ever were, if somebody wants to know.
    remembered: Option<BTreeSet<Vec<u8>>>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryDisk(Arc<Mutex<State>>);

impl MemoryDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to the state; before and after it other threads of a simulation may run.
    fn with<T>(&self, call: impl FnOnce(&mut State) -> T) -> T {
        pause();
        let result = call(&mut self.state());
        pause();
        result
    }

    /// How many calls changed something so far, or tried.
    pub(crate) fn calls(&self) -> u64 {
        self.state().calls
    }

    /// How many calls of this kind there were.
    pub(crate) fn calls_of(&self, kind: Call) -> u64 {
        self.state().counts.get(&kind).copied().unwrap_or_default()
    }

    pub(crate) fn fail_at(&self, call: u64, fault: Fault) {
        self.state().faults.insert(call, fault);
    }

    /// The nth call of this kind fails, counted from 0 when the disk was made, even if it was healed or crashed before.
    pub(crate) fn fail_nth(&self, kind: Call, nth: u64, error: io::ErrorKind) {
        self.state().fail_nth.insert((kind, nth), error);
    }

    /// How many of the calls that were to fail did.
    pub(crate) fn faults_met(&self) -> u64 {
        self.state().met
    }

    /// The last file that could not be made.
    pub(crate) fn not_made(&self) -> Option<String> {
        self.state().not_made.clone()
    }

    /// The machine stops at this call that changes something, even if it was healed or crashed before it came so far.
    pub(crate) fn stop_at(&self, call: u64) {
        self.state().stop_at = Some(call);
    }

    pub(crate) fn has_stopped(&self) -> bool {
        self.state().stopped
    }

    /// From now on nothing more fits than is there now; or again as much as there may be.
    pub(crate) fn set_full(&self, full: bool) {
        let mut state = self.state();
        state.capacity = full.then(|| state.used());
    }

    /// How often a file was written or synced again that had failed to be.
    pub(crate) fn calls_after_failure(&self) -> u64 {
        self.state().after_failure
    }

    /// The largest buffer that was ever to be filled.
    pub(crate) fn largest_read(&self) -> usize {
        self.state().largest_read
    }

    /// From now on nothing that is written is forgotten.
    pub(crate) fn remember(&self) {
        self.state().remembered = Some(BTreeSet::new());
    }

    /// All that was written since [`remember`](Self::remember), wherever it is now, and names of files.
    pub(crate) fn remembered(&self) -> Vec<Vec<u8>> {
        self.state().remembered.iter().flatten().cloned().collect()
    }

    /// The machine starts again after a power cut. `random` is asked for numbers below its argument.
    pub(crate) fn crash(&self, random: &mut dyn FnMut(u64) -> u64) {
        let mut state = self.state();
        state.restart();
        // Renames and removals since the last sync of the directory: all or none of them, as a journal has it.
        if random(2) == 0 {
            state.names = state.synced_names.clone();
        } else {
            state.synced_names = state.names.clone();
        }
        let named: BTreeSet<u64> = state.names.values().copied().collect();
        state.files.retain(|number, _| named.contains(number));
        for file in state.files.values_mut() {
            let doubtful = std::mem::take(&mut file.doubtful);
            let lost: Vec<_> = doubtful.into_iter().chain(std::mem::take(&mut file.unsynced)).collect();
            if lost.is_empty() && file.synced.len() == file.now.len() {
                continue;
            }
            let mut kept = std::mem::take(&mut file.synced);
            kept.resize(file.now.len().max(kept.len()), 0);
            for (offset, length) in lost {
                tear(&mut kept, &file.now, offset, length, random);
            }
            file.now.clone_from(&kept);
            file.synced = kept;
        }
    }

    /// The process ends, the machine does not: what was written is there, and no fault is set any more.
    pub(crate) fn heal(&self) {
        self.state().restart();
    }

    /// The same disk again, as it is, for a copy that goes its own way.
    pub(crate) fn copy(&self) -> Self {
        let state = self.state();
        let copy = State {
            files: state.files.clone(),
            names: state.names.clone(),
            synced_names: state.synced_names.clone(),
            next_file: state.next_file,
            ..State::default()
        };
        Self(Arc::new(Mutex::new(copy)))
    }

    /// Changes a file behind the queue's back, as damage does.
    pub(crate) fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let number = state.names[name];
        let file = state.files.get_mut(&number).unwrap();
        change(&mut file.now);
        file.synced.clone_from(&file.now);
    }

    /// Everything that is on the disk, names of files included.
    pub(crate) fn contents(&self) -> Vec<(String, Vec<u8>)> {
        let state = self.state();
        state.names.iter().map(|(name, number)| (name.clone(), state.files[number].now.clone())).collect()
    }
}

/// Keeps of a write what a power cut may have kept of it.
fn tear(kept: &mut [u8], now: &[u8], offset: usize, length: usize, random: &mut dyn FnMut(u64) -> u64) {
    let how = random(4);
    let mut at = offset;
    while at < offset + length {
        let end = ((at / SECTOR + 1) * SECTOR).min(offset + length);
        if how == 0 || (how > 1 && random(2) == 0) {
            kept[at..end].copy_from_slice(&now[at..end]);
        }
        at = end;
    }
}

impl State {
    fn restart(&mut self) {
        self.stopped = false;
        self.faults.clear();
        self.capacity = None;
        self.files.values_mut().for_each(|file| file.failed = false);
    }

    fn running(&self) -> io::Result<()> {
        if self.stopped { Err(io::Error::other("the machine has stopped")) } else { Ok(()) }
    }

    /// Counts a call of a kind, and says what becomes of it.
    fn count(&mut self, kind: Call) -> io::Result<()> {
        self.running()?;
        let nth = self.counts.entry(kind).or_default();
        *nth += 1;
        let Some(error) = self.fail_nth.remove(&(kind, *nth - 1)) else { return Ok(()) };
        self.met += 1;
        Err(error.into())
    }

    /// The same of one that changes something.
    fn change(&mut self, kind: Call) -> io::Result<()> {
        self.running()?;
        let by_kind = self.count(kind);
        let call = self.calls;
        self.calls += 1;
        let fault = if self.stop_at == Some(call) { Some(Fault::Stop) } else { self.faults.remove(&call) };
        match fault {
            None => by_kind,
            Some(Fault::Error(kind)) => Err(kind.into()),
            Some(Fault::Stop) => {
                self.stopped = true;
                Err(io::Error::other("the machine stops"))
            }
        }
    }

    fn file(&mut self, number: u64) -> io::Result<&mut File> {
        self.files.get_mut(&number).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn remember(&mut self, bytes: &[u8]) {
        if let Some(remembered) = &mut self.remembered {
            remembered.insert(bytes.to_vec());
        }
    }

    fn used(&self) -> u64 {
        self.names.values().map(|number| blocks(self.files[number].now.len())).sum()
    }

    /// Whether so many more bytes fit.
    fn room(&self, bytes: u64) -> io::Result<()> {
        match self.capacity {
            Some(capacity) if bytes > 0 && self.used() + bytes > capacity => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }
}

/// What a file of this length takes.
fn blocks(bytes: usize) -> u64 {
    (bytes as u64).next_multiple_of(BLOCK)
}

impl Storage for MemoryDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        self.with(|state| {
            state.count(Call::Read)?;
            Ok(state.names.keys().cloned().collect())
        })
    }

    fn create(&self, name: &str, bytes: u64, _: Preparation) -> io::Result<Arc<dyn StorageFile>> {
        self.with(|state| {
            state.change(Call::Create).inspect_err(|_| state.not_made = Some(name.to_owned()))?;
            if state.names.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let length = usize::try_from(bytes).unwrap();
            let room = state.room(blocks(length));
            let number = state.next_file;
            state.next_file += 1;
            // The name is made first, and stays when there is no room for what it names.
            let zeros = vec![0; if room.is_ok() { length } else { 0 }];
            state.files.insert(number, File { synced: zeros.clone(), now: zeros, ..File::default() });
            state.names.insert(name.to_owned(), number);
            state.remember(name.as_bytes());
            room?;
            Ok(Arc::new(MemoryFile { disk: self.clone(), number }) as Arc<dyn StorageFile>)
        })
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        self.with(|state| {
            state.count(Call::Open)?;
            let number = state.names.get(name).copied().ok_or(io::ErrorKind::NotFound)?;
            Ok(Arc::new(MemoryFile { disk: self.clone(), number }) as Arc<dyn StorageFile>)
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.with(|state| {
            state.change(Call::Rename)?;
            let number = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
            state.names.insert(to.to_owned(), number);
            state.remember(to.as_bytes());
            Ok(())
        })
    }

    fn exchange(&self, one: &str, other: &str) -> io::Result<()> {
        self.with(|state| {
            state.change(Call::Rename)?;
            let number = |name| state.names.get(name).copied().ok_or(io::ErrorKind::NotFound);
            let (first, second) = (number(one)?, number(other)?);
            state.names.extend([(one.to_owned(), second), (other.to_owned(), first)]);
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.with(|state| {
            state.change(Call::Remove)?;
            state.names.remove(name).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
        })
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.with(|state| {
            state.change(Call::SyncDirectory)?;
            state.synced_names = state.names.clone();
            Ok(())
        })
    }
}

#[derive(Debug)]
struct MemoryFile {
    disk: MemoryDisk,
    number: u64,
}

impl StorageFile for MemoryFile {
    fn bytes(&self) -> io::Result<u64> {
        self.disk.with(|state| {
            state.count(Call::Read)?;
            Ok(state.file(self.number)?.now.len() as u64)
        })
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.disk.with(|state| {
            state.count(Call::Read)?;
            state.largest_read = state.largest_read.max(buffer.len());
            let file = state.file(self.number)?;
            let rest = usize::try_from(offset).ok().and_then(|offset| file.now.get(offset..));
            let rest = rest.unwrap_or_default();
            let length = rest.len().min(buffer.len());
            buffer[..length].copy_from_slice(&rest[..length]);
            Ok(length)
        })
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.with(|state| {
            state.running()?;
            // A write that fails may have written some of it.
            let result = state.change(Call::Write);
            let offset = usize::try_from(offset).unwrap();
            let length = if result.is_ok() { bytes.len() } else { bytes.len() / 2 };
            let end = offset + length;
            let before = state.file(self.number)?.now.len();
            state.room(blocks(end.max(before)) - blocks(before))?;
            state.remember(bytes);
            let file = state.file(self.number)?;
            if file.now.len() < end {
                file.now.resize(end, 0);
            }
            file.now[offset..end].copy_from_slice(&bytes[..length]);
            file.unsynced.push((offset, length));
            let again = u64::from(file.failed);
            file.failed |= result.is_err();
            state.after_failure += again;
            result
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.with(|state| {
            state.running()?;
            let result = state.change(Call::Sync);
            let file = state.file(self.number)?;
            let unsynced = std::mem::take(&mut file.unsynced);
            let again = u64::from(file.failed);
            if result.is_ok() {
                file.synced.resize(file.now.len(), 0);
                for (offset, length) in unsynced {
                    file.synced[offset..offset + length].copy_from_slice(&file.now[offset..offset + length]);
                }
            } else {
                file.doubtful.extend(unsynced);
                file.failed = true;
            }
            state.after_failure += again;
            result
        })
    }

    fn forget_cached(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        let luck = &mut state.luck.clone();
        let file = state.file(self.number)?;
        // What the system took for written is read from the disk, as far as it got there.
        for (offset, length) in std::mem::take(&mut file.doubtful) {
            file.synced.resize(file.now.len(), 0);
            tear(&mut file.synced, &file.now, offset, length, &mut |bound| {
                *luck = luck.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (*luck >> 33) % bound
            });
            file.now[offset..offset + length].copy_from_slice(&file.synced[offset..offset + length]);
        }
        state.luck = *luck;
        Ok(())
    }
}
