//! A disk in memory that fails on purpose. Only tests have it.
//!
//! It knows what was synced and what was only written. A [`crash`](MemoryDisk::crash) keeps what was synced and, of each write
//! since, whatever the caller's randomness likes: all, nothing, or some of its 512-byte sectors. The same of names.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Preparation, Storage, StorageFile};

/// What a disk writes in one piece.
const SECTOR: usize = 512;

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
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<u64, File>,
    names: BTreeMap<String, u64>,
    synced_names: BTreeMap<String, u64>,
    next_file: u64,
    calls: u64,
    faults: BTreeMap<u64, Fault>,
    stopped: bool,
    /// Decides what a failed sync left on the disk.
    luck: u64,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryDisk(Arc<Mutex<State>>);

impl MemoryDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many calls changed something so far, or tried.
    pub(crate) fn calls(&self) -> u64 {
        self.state().calls
    }

    pub(crate) fn fail_at(&self, call: u64, fault: Fault) {
        self.state().faults.insert(call, fault);
    }

    pub(crate) fn has_stopped(&self) -> bool {
        self.state().stopped
    }

    /// The machine starts again after a power cut. `random` is asked for numbers below its argument.
    pub(crate) fn crash(&self, random: &mut dyn FnMut(u64) -> u64) {
        let mut state = self.state();
        state.stopped = false;
        state.faults.clear();
        // Renames and removals since the last sync of the directory: all or none of them, as a journal has it.
        if random(2) == 0 {
            state.names = state.synced_names.clone();
        } else {
            state.synced_names = state.names.clone();
        }
        for file in state.files.values_mut() {
            let mut kept = std::mem::take(&mut file.synced);
            kept.resize(file.now.len().max(kept.len()), 0);
            let doubtful = std::mem::take(&mut file.doubtful);
            for (offset, length) in doubtful.into_iter().chain(std::mem::take(&mut file.unsynced)) {
                tear(&mut kept, &file.now, offset, length, random);
            }
            file.now.clone_from(&kept);
            file.synced = kept;
        }
    }

    /// The process ends, the machine does not: what was written is there, and no fault is set any more.
    pub(crate) fn heal(&self) {
        let mut state = self.state();
        state.stopped = false;
        state.faults.clear();
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
    /// Counts a call that changes something, and says what becomes of it.
    fn call(&mut self) -> io::Result<()> {
        if self.stopped {
            return Err(io::Error::other("the machine has stopped"));
        }
        let call = self.calls;
        self.calls += 1;
        match self.faults.remove(&call) {
            None => Ok(()),
            Some(Fault::Error(kind)) => Err(kind.into()),
            Some(Fault::Stop) => {
                self.stopped = true;
                Err(io::Error::other("the machine stops"))
            }
        }
    }

    fn file(&mut self, number: u64) -> io::Result<&mut File> {
        if self.stopped {
            return Err(io::Error::other("the machine has stopped"));
        }
        self.files.get_mut(&number).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Storage for MemoryDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state().names.keys().cloned().collect())
    }

    fn create(&self, name: &str, bytes: u64, _: Preparation) -> io::Result<Arc<dyn StorageFile>> {
        let mut state = self.state();
        state.call()?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let number = state.next_file;
        state.next_file += 1;
        let zeros = vec![0; usize::try_from(bytes).unwrap()];
        state.files.insert(number, File { synced: zeros.clone(), now: zeros, ..File::default() });
        state.names.insert(name.to_owned(), number);
        Ok(Arc::new(MemoryFile { disk: self.clone(), number }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let number = self.state().names.get(name).copied().ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(MemoryFile { disk: self.clone(), number }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.call()?;
        let number = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), number);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.call()?;
        state.names.remove(name).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = self.state();
        state.call()?;
        state.synced_names = state.names.clone();
        Ok(())
    }
}

#[derive(Debug)]
struct MemoryFile {
    disk: MemoryDisk,
    number: u64,
}

impl StorageFile for MemoryFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.disk.state().file(self.number)?.now.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.disk.state();
        let file = state.file(self.number)?;
        let rest = file.now.get(usize::try_from(offset).unwrap()..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        // A write that fails may have written some of it.
        let result = state.call();
        let number = self.number;
        let file = state.files.get_mut(&number).ok_or(io::ErrorKind::NotFound)?;
        let offset = usize::try_from(offset).unwrap();
        let length = if result.is_ok() { bytes.len() } else { bytes.len() / 2 };
        let end = offset + length;
        if file.now.len() < end {
            file.now.resize(end, 0);
        }
        file.now[offset..end].copy_from_slice(&bytes[..length]);
        file.unsynced.push((offset, length));
        result
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        let result = state.call();
        let number = self.number;
        let file = state.files.get_mut(&number).ok_or(io::ErrorKind::NotFound)?;
        let unsynced = std::mem::take(&mut file.unsynced);
        if result.is_err() {
            file.doubtful.extend(unsynced);
            return result;
        }
        file.synced.resize(file.now.len(), 0);
        for (offset, length) in unsynced {
            file.synced[offset..offset + length].copy_from_slice(&file.now[offset..offset + length]);
        }
        Ok(())
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
