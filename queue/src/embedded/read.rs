//! Reading what was leased: finding it by the indexes, reading and opening it.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, PoisonError},
    time::Duration,
};

use types::{DataKey, KeyError};

use super::{
    Shared,
    commit::Use,
    index::{IndexError, IndexFile},
};
use crate::{
    EventId, FunctionNumber, Leased, Location, ReadError, SegmentId,
    entry::Entry,
    format::{
        done::Reason,
        event::{EventHeader, split_content},
        record::{self, Kind, Parsed, Seed},
        segment::SegmentHeader,
    },
    log::{Grant, LeaseEpoch, LoadRequest},
    metrics,
    seal::{Place, SegmentKey},
    storage::StorageFile,
};

/// Keys of segments that are kept; each costs some 500 bytes.
const READ_KEYS: usize = 4096;

/// Keys of segments, opened for reading.
pub(super) type ReadKeys = HashMap<(SegmentId, FunctionNumber), Arc<SegmentKey>>;

/// Records that are read at once: most bytes (so that they are opened and copied while they are in the processor's cache), and the
/// most between two of them that are read in vain.
const RUN_BYTES: u64 = 256 * 1024;
const GAP_BYTES: u64 = 16 * 1024;

/// Why an event cannot be had.
pub(super) enum Lost {
    Reason(Reason),
    Error(ReadError),
}

/// Events of one lease that nobody can read. Told of when all of it is read, or the reading ends.
#[derive(Default)]
struct GivenUp {
    damaged: u64,
    key_destroyed: u64,
}

impl GivenUp {
    fn count(&mut self, reason: Reason) {
        match reason {
            Reason::Shredded => self.key_destroyed += 1,
            Reason::Corrupt | Reason::Acked => self.damaged += 1,
        }
    }
}

impl Drop for GivenUp {
    fn drop(&mut self) {
        let Self { damaged, key_destroyed } = *self;
        if damaged + key_destroyed > 0 {
            metrics::unreadable(damaged, key_destroyed);
            tracing::error!(damaged, key_destroyed, "queued events that nobody can read were given up");
        }
    }
}

impl Shared {
    /// Reads the part of an index that a lease needs.
    pub(super) fn load(&self, load: LoadRequest) -> Result<(), ReadError> {
        let mut from = load.from;
        loop {
            let segment = {
                let state = self.state();
                let found = state.log.segment_from(from.segment);
                found.map(|(header, indexed)| (header.clone(), indexed))
            };
            let Some((header, true)) = segment else {
                // The rest is in memory, or there is none.
                let next = segment.map_or(from, |(header, _)| Location::start_of(header.segment));
                self.state().log.loaded(load, &[], next.max(load.from));
                return Ok(());
            };
            from = from.max(Location::start_of(header.segment));
            let entries = match self.index_if_there(&header)? {
                Some(index) => {
                    let most = u32::try_from(load.events).unwrap_or(u32::MAX);
                    let entries = index.from(load.stream, from, most);
                    entries.map_err(|error| index_failed(header.segment, &error))?
                }
                None => Vec::new(),
            };
            if let Some(last) = entries.last() {
                self.state().log.loaded(load, &entries, last.location.next());
                return Ok(());
            }
            from = Location::start_of(header.segment.next());
        }
    }

    /// `None`: the segment was deleted just now, because all of its events are done.
    pub(super) fn index_if_there(&self, header: &SegmentHeader) -> Result<Option<Arc<IndexFile>>, ReadError> {
        match self.index(header) {
            Ok(index) => Ok(Some(index)),
            Err(IndexError::Io(error))
                if error.kind() == io::ErrorKind::NotFound && self.is_gone(header.segment) =>
            {
                Ok(None)
            }
            Err(error) => Err(index_failed(header.segment, &error)),
        }
    }

    pub(super) fn is_gone(&self, segment: SegmentId) -> bool {
        self.state().log.segment_header(segment).is_none()
    }

    pub(super) fn index(&self, header: &SegmentHeader) -> Result<Arc<IndexFile>, IndexError> {
        if let Some(index) = self.state().indexes.get(&header.segment) {
            return Ok(index.clone());
        }
        let index = Arc::new(IndexFile::open(&*self.storage, header)?);
        self.state().indexes.insert(header.segment, index.clone());
        Ok(index)
    }

    /// Reads and opens what was leased. What cannot be read is given up, counted and told of; the rest is returned. After an error it
    /// is for the caller to give the events back.
    pub(super) async fn read(&self, epoch: LeaseEpoch, grants: &[Grant]) -> Result<Vec<Leased>, ReadError> {
        let mut events = Vec::with_capacity(grants.len());
        let (mut rest, mut bytes) = (grants, Vec::new());
        let mut given_up = GivenUp::default();
        while !rest.is_empty() {
            let run = run(rest);
            let opened = self.open_run(run, &mut bytes, &mut events);
            rest = rest.get(opened..).unwrap_or_default();
            if opened < run.len()
                && let Some((grant, others)) = rest.split_first()
            {
                match self.open_or_give_up(epoch, grant).await? {
                    Ok(event) => events.push(event),
                    Err(reason) => given_up.count(reason),
                }
                rest = others;
            }
        }
        Ok(events)
    }

    /// Opens the first events of a run, with one read for all into `bytes`, until one is not as it should be. How many it opened.
    /// A seal that opens needs no checksum beside it; of one that does not the checksum is asked, by who finds out why.
    fn open_run(&self, run: &[Grant], bytes: &mut Vec<u8>, events: &mut Vec<Leased>) -> usize {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { return 0 };
        let start = first.entry.offset;
        let Some((header, file)) = self.segment_file(first.entry.location.segment) else { return 0 };
        let length = last.entry.offset + u64::from(last.entry.length) - start;
        bytes.resize(usize::try_from(length).unwrap_or_default(), 0);
        let Ok(read) = file.read_at(start, bytes) else { return 0 };
        bytes.truncate(read);
        let mut key = None;
        for (opened, grant) in run.iter().enumerate() {
            let from = usize::try_from(grant.entry.offset - start).unwrap_or(usize::MAX);
            let record = bytes.get_mut(from..).and_then(|rest| rest.get_mut(..grant.entry.length as usize));
            let Some(record) = record else { return opened };
            let event = self.open_sealed(&header, grant.entry, record, &mut key);
            let Some(event) = event.ok().and_then(|(header, content)| leased(grant, header, content)) else {
                return opened;
            };
            events.push(event);
        }
        run.len()
    }

    /// Opens an event by itself, and finds out what is to become of it if it cannot be opened.
    async fn open_or_give_up(
        &self,
        epoch: LeaseEpoch,
        grant: &Grant,
    ) -> Result<Result<Leased, Reason>, ReadError> {
        match self.open_granted(grant) {
            Ok((header, content)) => match leased(grant, header, &content) {
                Some(event) => Ok(Ok(event)),
                None => Err(io::Error::other("an event that opens, but is not one").into()),
            },
            Err(Lost::Reason(reason)) => {
                let lost = [(grant.token, EventId([0; 16]))];
                let settlement = self.append(Use::Control, |log| log.give_up(epoch, &lost, reason)).await?;
                self.settled(&settlement).await?;
                Ok(Err(reason))
            }
            Err(Lost::Error(error)) => Err(error),
        }
    }

    /// Opens an event that is leased. Since then its record may have been written again elsewhere, and its segment be gone.
    fn open_granted(&self, grant: &Grant) -> Result<(EventHeader, Vec<u8>), Lost> {
        let mut entry = grant.entry;
        loop {
            let opened = self.open_event(entry);
            if !matches!(opened, Err(Lost::Reason(Reason::Corrupt))) {
                return opened;
            }
            match self.state().log.entry_of(grant.token) {
                Some(elsewhere) if elsewhere.location != entry.location => entry = elsewhere,
                _ => return opened,
            }
        }
    }

    fn segment_file(&self, segment: SegmentId) -> Option<(SegmentHeader, Arc<dyn StorageFile>)> {
        let state = self.state();
        Some((state.log.segment_header(segment)?.clone(), state.files.get(&segment)?.clone()))
    }

    /// Reads a record whole; `None` if there is less of it, or no such segment.
    fn record_bytes(&self, entry: Entry) -> io::Result<Option<(SegmentHeader, Vec<u8>)>> {
        let Some((header, file)) = self.segment_file(entry.location.segment) else { return Ok(None) };
        let mut bytes = vec![0; entry.length as usize];
        let read = file.read_at(entry.offset, &mut bytes)?;
        Ok((read == bytes.len()).then_some((header, bytes)))
    }

    /// Reads the record of an event; `None` if it is not sound.
    pub(super) fn record(&self, entry: Entry) -> io::Result<Option<(SegmentHeader, Vec<u8>)>> {
        let Some((header, mut bytes)) = self.record_bytes(entry)? else { return Ok(None) };
        match record::parse(&bytes, Seed::of(header.salt), entry.offset) {
            Parsed::Sound(record) if record.kind == Kind::Event as u8 => {
                bytes.drain(..record::PREFIX_BYTES);
                Ok(Some((header, bytes)))
            }
            _ => Ok(None),
        }
    }

    pub(super) fn open_event(&self, entry: Entry) -> Result<(EventHeader, Vec<u8>), Lost> {
        let read = self.record_bytes(entry).map_err(|error| Lost::Error(error.into()))?;
        let (segment, mut bytes) = read.ok_or(Lost::Reason(Reason::Corrupt))?;
        if !matches!(record::parse(&bytes, Seed::of(segment.salt), entry.offset), Parsed::Sound(_)) {
            return Err(Lost::Reason(Reason::Corrupt));
        }
        let (header, content) = self.open_sealed(&segment, entry, &mut bytes, &mut None)?;
        Ok((header, content.to_vec()))
    }

    /// Opens the record of an event in place, whose checksum is not looked at. `key` is that of the last one opened in this segment.
    fn open_sealed<'a>(
        &self,
        segment: &SegmentHeader,
        entry: Entry,
        bytes: &'a mut [u8],
        key: &mut Option<(FunctionNumber, Arc<SegmentKey>)>,
    ) -> Result<(EventHeader, &'a [u8]), Lost> {
        const CORRUPT: Lost = Lost::Reason(Reason::Corrupt);
        let Parsed::Sound(record) = record::parse_unchecked(bytes, entry.offset) else {
            return Err(CORRUPT);
        };
        if record.kind != Kind::Event as u8 {
            return Err(CORRUPT);
        }
        let end = record::PREFIX_BYTES + record.body.len();
        let (header, sealed) = EventHeader::split(record.body).map_err(|_| CORRUPT)?;
        if header.ordinal != entry.location.ordinal {
            return Err(CORRUPT);
        }
        let start = end - sealed.len();
        let (plain, sealed) = bytes.split_at_mut(start);
        let plain = plain.get(record::PREFIX_BYTES..).unwrap_or_default();
        let sealed = sealed.get_mut(..end - start).unwrap_or_default();
        let key = match key {
            Some((function, key)) if *function == header.function => key,
            other => &mut other.insert((header.function, self.key_to_open(segment, header.function)?)).1,
        };
        let place = Place { log: segment.log, segment: segment.segment, offset: entry.offset };
        Ok((header, key.open(place, plain, sealed).ok_or(CORRUPT)?))
    }

    fn key_to_open(
        &self,
        segment: &SegmentHeader,
        function: FunctionNumber,
    ) -> Result<Arc<SegmentKey>, Lost> {
        match self.segment_key(segment, function) {
            Ok(key) => Ok(key),
            Err(KeyError::UnknownKey(_)) => Err(Lost::Reason(Reason::Shredded)),
            // The record with the function's key is lost.
            Err(_) if self.state().log.wrapped_key(function).is_none() => Err(Lost::Reason(Reason::Corrupt)),
            Err(error) => Err(Lost::Error(ReadError::Key(error.to_string()))),
        }
    }

    /// An event as it is, opened, to be written again elsewhere; `None` if it cannot be.
    pub(super) fn copy_event(&self, entry: Entry) -> Result<Option<(EventHeader, Vec<u8>)>, ReadError> {
        match self.open_event(entry) {
            Ok(event) => Ok(Some(event)),
            Err(Lost::Reason(_)) => Ok(None),
            Err(Lost::Error(error)) => Err(error),
        }
    }

    pub(super) fn segment_key(
        &self,
        segment: &SegmentHeader,
        function: FunctionNumber,
    ) -> Result<Arc<SegmentKey>, KeyError> {
        let at = (segment.segment, function);
        if let Some(key) = self.read_keys.lock().unwrap_or_else(PoisonError::into_inner).get(&at) {
            return Ok(key.clone());
        }
        let key = Arc::new(SegmentKey::derive(&self.key(function)?, segment.salt));
        let mut keys = self.read_keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= READ_KEYS {
            keys.clear();
        }
        keys.insert(at, key.clone());
        Ok(key)
    }

    /// Keys of the function's segments are derived again when they are needed.
    pub(super) fn forget_keys(&self, function: FunctionNumber) {
        let mut keys = self.read_keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.retain(|(_, of), _| *of != function);
    }

    /// The data key of a function, opened by the key service if it is not yet.
    pub(super) fn key(&self, function: FunctionNumber) -> Result<DataKey, KeyError> {
        let (context, wrapped) = {
            let state = self.state();
            if let Some(key) = state.log.key(function) {
                return Ok(key.clone());
            }
            let known = state.log.wrapped_key(function);
            known
                .map(|(context, wrapped)| (context.clone(), wrapped.clone()))
                .ok_or(KeyError::UnknownFormat)?
        };
        let key = self.keys.unwrap(&wrapped, &context)?;
        self.state().log.set_key(function, Some(key.clone()));
        Ok(key)
    }
}

pub(super) fn index_failed(segment: SegmentId, error: &IndexError) -> ReadError {
    io::Error::other(format!("index of segment {segment}: {error}")).into()
}

/// The first grants whose records lie one behind the other, close together.
fn run(grants: &[Grant]) -> &[Grant] {
    let Some(first) = grants.first() else { return grants };
    let start = first.entry.offset;
    let (mut end, mut count) = (start, 0);
    for Grant { entry, .. } in grants {
        let after = entry.offset + u64::from(entry.length);
        let follows = entry.location.segment == first.entry.location.segment
            && (end..=end + GAP_BYTES).contains(&entry.offset)
            && after - start <= RUN_BYTES;
        // One is read however large it is.
        if count > 0 && !follows {
            break;
        }
        (end, count) = (after, count + 1);
    }
    grants.get(..count).unwrap_or_default()
}

/// `None`: it is not what is written into an event.
fn leased(grant: &Grant, header: EventHeader, content: &[u8]) -> Option<Leased> {
    let (attributes, payload) = split_content(content).ok()?;
    Some(Leased {
        token: grant.token,
        id: header.id,
        function: header.function,
        partition: header.partition,
        accepted: Duration::from_millis(header.accepted_ms),
        attempts: grant.noted.attempts,
        attributes: attributes.to_vec(),
        payload: payload.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Noted;

    /// Grants of records at these offsets of these segments, each so many bytes long.
    fn grants(records: &[(u64, u64, u32)]) -> Vec<Grant> {
        let grant = |&(segment, offset, length)| {
            let token = Location::start_of(SegmentId(segment));
            let entry = Entry { location: token, offset, length, accepted_ms: 0, moved: false };
            Grant { token, entry, noted: Noted::default() }
        };
        records.iter().map(grant).collect()
    }

    #[test]
    fn a_run_is_what_lies_close_together_in_one_segment() {
        let (gap, most) = (GAP_BYTES, u32::try_from(RUN_BYTES).unwrap());
        for (records, expected) in [
            (&[][..], 0),
            (&[(1, 4096, 100), (1, 4208, 100), (1, 4208 + 100 + gap, 100)], 3),
            (&[(1, 4096, 100), (1, 4197 + gap, 100)], 1),
            (&[(1, 4096, 100), (2, 4208, 100)], 1),
            // One that came back lies before those that follow.
            (&[(1, 8192, 100), (1, 4096, 100)], 1),
            (&[(1, 4096, 2 * most), (1, 4096 + u64::from(2 * most), 100)], 1),
            (
                &[
                    (1, 4096, most - 100),
                    (1, 4096 + u64::from(most) - 100, 100),
                    (1, 4096 + u64::from(most), 1),
                ],
                2,
            ),
        ] {
            assert_eq!(run(&grants(records)).len(), expected, "{records:?}");
        }
    }
}
