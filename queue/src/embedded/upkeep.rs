//! What keeps the log in shape, beside those who use it: one thing at a time, each safe to be cut off anywhere.
//!
//! ```text
//!   closed segment ──► index ──► all done? ──► names, redirects, checkpoints carried on ──► deleted, its file kept as a blank
//!                                  few live? ──► these moved to the tail ──┘
//! ```

use std::{io, sync::Arc, time::Duration};

use super::{
    Shared,
    commit::Use,
    files::{self, segment_name},
    index,
};
use crate::{Location, ReadError, SegmentId, WriteError, entry::StreamKey, log::Stop, storage::Preparation};

/// Blank files that are kept: from deleted segments, or made ahead.
const BLANKS: usize = 2;
/// Postings that are read at once when a segment is gone through.
const STEP: u32 = 1024;

/// Between two looks at what nobody tells of.
const REST: Duration = Duration::from_millis(100);
const REST_AFTER_FAILURE: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum UpkeepError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Runs beside a queue.
pub struct Upkeep {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Upkeep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upkeep").finish_non_exhaustive()
    }
}

impl Upkeep {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Does what is due, until `shutdown`. It blocks its thread for as long as a segment takes to be written: give it one.
    pub async fn run(&self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let rest = match self.step().await {
                Ok(true) => Duration::ZERO,
                Ok(false) => REST,
                Err(error) => {
                    tracing::warn!(%error, "the queue's upkeep failed; it is tried again");
                    REST_AFTER_FAILURE
                }
            };
            tokio::select! {
                () = &mut shutdown => return,
                () = self.shared.upkeep.notified() => {}
                () = tokio::time::sleep(rest) => {}
            }
        }
    }

    /// Does one thing that is due; `false` if nothing is.
    pub async fn step(&self) -> Result<bool, UpkeepError> {
        let shared = &*self.shared;
        // What nobody waits for any more is committed all the same.
        if shared.lead() {
            return Ok(true);
        }
        // What takes room comes first. If there is none, what makes room is due all the more.
        let prepared =
            shared.prepare_ahead().and_then(|done| if done { Ok(true) } else { shared.make_index() });
        let full = match prepared {
            Ok(true) => return Ok(true),
            Ok(false) => None,
            Err(error) if error.kind() == io::ErrorKind::StorageFull => Some(error),
            Err(error) => return Err(error.into()),
        };
        let done = shared.sweep()? || shared.delete_oldest().await? || shared.move_stragglers().await?;
        match full {
            Some(error) if !done => Err(error.into()),
            _ => Ok(done),
        }
    }
}

impl Shared {
    /// Has the next segment, and the reserve, ready before they are needed.
    fn prepare_ahead(&self) -> io::Result<bool> {
        let (needs_reserve, needs_next) = {
            let state = self.state();
            (state.reserve.is_none(), state.prepared.is_none() && state.log.newest_segment().is_some())
        };
        if needs_reserve {
            let blank = self.blank()?;
            let mut state = self.state();
            state.reserve = Some(blank);
            return Ok(true);
        }
        if needs_next {
            let blank = self.blank()?;
            let mut state = self.state();
            if state.prepared.is_none() {
                self.prepare(&mut state, blank)?;
            } else {
                state.blanks.push(blank);
            }
            return Ok(true);
        }
        let mut state = self.state();
        // There is a reserve and a next segment: there is room again.
        Ok(std::mem::take(&mut state.full))
    }

    fn blank(&self) -> io::Result<files::Blank> {
        if let Some(blank) = self.state().blanks.pop() {
            return Ok(blank);
        }
        files::make_blank(&*self.storage, self.config.segment_bytes, Preparation::Written)
    }

    fn make_index(&self) -> io::Result<bool> {
        let (source, file) = {
            let state = self.state();
            let Some(id) = state.log.unindexed() else { return Ok(false) };
            (state.log.index_source(id), state.files.get(&id).cloned())
        };
        let (Some(mut source), Some(file)) = (source, file) else { return Ok(false) };
        index::make(&*self.storage, &*file, &mut source)?;
        self.state().log.indexed(source.header.segment);
        Ok(true)
    }

    /// Marks the events of a purged stream, wherever they are.
    fn sweep(&self) -> Result<bool, UpkeepError> {
        let Some(sweep) = self.state().log.unswept() else { return Ok(false) };
        let (key, before) = sweep;
        let mut events: Vec<Location> = self.state().log.postings_in_memory(key);
        for segment in self.indexed_segments(before.segment) {
            self.each_posting(segment, Some(key), |entry| events.push(entry.location))?;
        }
        self.state().log.swept(sweep, &events);
        Ok(true)
    }

    async fn delete_oldest(&self) -> Result<bool, UpkeepError> {
        let deletable = self.state().log.deletable();
        let Some(id) = deletable else {
            let carried = self.append_carried().await?;
            return Ok(carried);
        };
        {
            // Under the lock: whoever begins a segment writes LOG too.
            let mut state = self.state();
            let prepared = state.prepared.as_ref().map(|(header, _)| header);
            let Some(newest) = prepared.or_else(|| state.log.newest_segment()).cloned() else {
                return Ok(false);
            };
            state.oldest = id.next();
            files::write_identity(&*self.storage, &newest, state.oldest)?;
        }
        // The segment's name goes first and for sure: its file is about to hold something else.
        let blank = files::blank_name()?;
        let renamed = match self.storage.rename(&segment_name(id), &blank) {
            Ok(()) => true,
            // An attempt before this one came so far.
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            // Not even the directory has room for another name.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                self.storage.remove(&segment_name(id))?;
                false
            }
            Err(error) => return Err(error.into()),
        };
        self.storage.sync_directory()?;
        let (file, failed) = {
            let mut state = self.state();
            state.log.deleted(id);
            state.indexes.remove(&id);
            (state.files.remove(&id), state.failed.remove(&id))
        };
        index::remove(&*self.storage, id)?;
        let mut state = self.state();
        match file {
            _ if !renamed => {}
            // What failed once is not written again.
            Some(file)
                if !failed && state.blanks.len() < BLANKS && file.bytes()? == self.config.segment_bytes =>
            {
                state.blanks.push(files::Blank { name: blank, file, bytes: self.config.segment_bytes });
            }
            _ => self.storage.remove(&blank)?,
        }
        Ok(true)
    }

    /// Writes again what only the oldest segment still says.
    async fn append_carried(&self) -> Result<bool, UpkeepError> {
        loop {
            let settlement = {
                let mut state = self.state();
                match state.log.carry() {
                    Ok(None) => return Ok(false),
                    Ok(Some(number)) => state.settlement(number),
                    Err(Stop::Blocked(_)) => {
                        self.next_segment(&mut state, Use::Control)?;
                        continue;
                    }
                    Err(Stop::Refused(refused)) => return Err(WriteError::from(refused).into()),
                }
            };
            self.settled(&settlement).await?;
            return Ok(true);
        }
    }

    async fn move_stragglers(&self) -> Result<bool, UpkeepError> {
        let Some(id) = self.state().log.straggling() else { return Ok(false) };
        let mut live = Vec::new();
        self.each_posting(id, None, |entry| live.push(entry))?;
        live.retain(|entry| !self.state().log.is_done(entry.location));
        let mut last = None;
        for entry in live {
            let Some((header, content)) = self.copy_event(entry)? else { continue };
            loop {
                let mut state = self.state();
                match state.log.move_event(entry, header, &content) {
                    Ok(Some(number)) => last = Some(state.settlement(number)),
                    Ok(None) => {}
                    Err(Stop::Blocked(_)) => {
                        self.next_segment(&mut state, Use::Event)?;
                        continue;
                    }
                    Err(Stop::Refused(refused)) => return Err(WriteError::from(refused).into()),
                }
                break;
            }
        }
        match last {
            Some(last) => {
                self.settled(&last).await?;
                Ok(true)
            }
            // All that is live is being worked on, or cannot be read.
            None => Ok(false),
        }
    }

    fn indexed_segments(&self, through: SegmentId) -> Vec<SegmentId> {
        let mut found = Vec::new();
        let state = self.state();
        let mut next = SegmentId(0);
        while let Some((header, indexed)) =
            state.log.segment_from(next).filter(|(header, _)| header.segment <= through)
        {
            if indexed {
                found.push(header.segment);
            }
            next = header.segment.next();
        }
        found
    }

    /// Goes through the events of an indexed segment, of one stream or of all.
    pub(super) fn each_posting(
        &self,
        segment: SegmentId,
        stream: Option<StreamKey>,
        mut each: impl FnMut(crate::entry::Entry),
    ) -> Result<(), UpkeepError> {
        let Some(header) = self.state().log.segment_header(segment).cloned() else { return Ok(()) };
        let failed =
            |error: index::IndexError| io::Error::other(format!("index of segment {segment}: {error}"));
        let index = self.index(&header).map_err(failed)?;
        let rows = match stream {
            Some(key) => index.row(key).map_err(failed)?.into_iter().collect(),
            None => index.rows().map_err(failed)?,
        };
        for row in rows {
            for skip in (0..row.count).step_by(STEP as usize) {
                index.postings(row, skip, STEP).map_err(failed)?.into_iter().for_each(&mut each);
            }
        }
        Ok(())
    }
}
