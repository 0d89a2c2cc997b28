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
    commit::{Use, WriteError},
    index::{IndexError, IndexFile},
};
use crate::{
    EventId, FunctionNumber, Location, Ordinal, PartitionNumber, SegmentId,
    entry::Entry,
    format::{
        done::Reason,
        event::{EventHeader, split_content},
        record::{self, Kind, Parsed, Seed},
        segment::SegmentHeader,
    },
    log::{Grant, LeaseEpoch, LoadRequest},
    seal::{Place, SegmentKey},
};

/// Postings that are read for a stream at once.
const LOAD: u32 = 64;
/// Keys of segments that are kept; each costs some 500 bytes.
const READ_KEYS: usize = 4096;

/// An event that is leased, opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leased {
    /// What the lease calls it.
    pub token: Location,
    pub id: EventId,
    pub function: FunctionNumber,
    pub partition: PartitionNumber,
    /// Unix time.
    pub accepted: Duration,
    /// Failed attempts that are known of.
    pub attempts: u32,
    pub attributes: Vec<u8>,
    pub payload: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("reading from the log failed: {0}")]
    Io(#[from] io::Error),
    #[error("the key service failed: {0}")]
    Key(String),
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Keys of segments, opened for reading.
pub(super) type ReadKeys = HashMap<(SegmentId, FunctionNumber), Arc<SegmentKey>>;

/// Why an event cannot be had.
enum Lost {
    Reason(Reason),
    Error(ReadError),
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
                let next = segment.map_or(from, |(header, _)| start_of(header.segment));
                self.state().log.loaded(load, &[], next.max(load.from));
                return Ok(());
            };
            from = from.max(start_of(header.segment));
            let entries = match self.index(&header) {
                Ok(index) => index.from(load.stream, from, LOAD),
                Err(error) => Err(error),
            };
            let entries = match entries {
                Ok(entries) => entries,
                // It was deleted just now: all its events are done.
                Err(IndexError::Io(error))
                    if error.kind() == io::ErrorKind::NotFound && self.is_gone(header.segment) =>
                {
                    Vec::new()
                }
                Err(error) => {
                    return Err(
                        io::Error::other(format!("index of segment {}: {error}", header.segment)).into()
                    );
                }
            };
            if let Some(last) = entries.last() {
                let ordinal = Ordinal(last.location.ordinal.0 + 1);
                self.state().log.loaded(load, &entries, Location { ordinal, ..last.location });
                return Ok(());
            }
            from = start_of(SegmentId(header.segment.0 + 1));
        }
    }

    fn is_gone(&self, segment: SegmentId) -> bool {
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

    /// Reads and opens what was leased. What cannot be read is given up, and counted; the rest is returned.
    pub(super) async fn read(&self, epoch: LeaseEpoch, grants: &[Grant]) -> Result<Vec<Leased>, ReadError> {
        let mut events = Vec::with_capacity(grants.len());
        for grant in grants {
            match self.open_event(grant.entry) {
                Ok((header, content)) => {
                    let (attributes, payload) =
                        split_content(&content).map_err(|error| io::Error::other(error.to_string()))?;
                    events.push(Leased {
                        token: grant.token,
                        id: header.id,
                        function: header.function,
                        partition: header.partition,
                        accepted: Duration::from_millis(header.accepted_ms),
                        attempts: grant.noted.attempts,
                        attributes: attributes.to_vec(),
                        payload: payload.to_vec(),
                    });
                }
                Err(Lost::Reason(reason)) => {
                    let lost = [(grant.token, EventId([0; 16]))];
                    let settlement =
                        self.append(Use::Control, |log| log.give_up(epoch, &lost, reason)).await?;
                    self.settled(&settlement).await?;
                }
                Err(Lost::Error(error)) => {
                    let rest: Vec<Location> = grants.iter().map(|grant| grant.token).collect();
                    let mut state = self.state();
                    for token in rest {
                        // Some may have been given up above.
                        let _ = state.log.release(epoch, &[token]);
                    }
                    return Err(error);
                }
            }
        }
        Ok(events)
    }

    /// Reads the record of an event; `None` if it is not sound.
    fn record(&self, entry: Entry) -> io::Result<Option<(SegmentHeader, Vec<u8>)>> {
        let (header, file) = {
            let state = self.state();
            let segment = entry.location.segment;
            (state.log.segment_header(segment).cloned(), state.files.get(&segment).cloned())
        };
        let (Some(header), Some(file)) = (header, file) else { return Ok(None) };
        let mut bytes = vec![0; entry.length as usize];
        let read = file.read_at(entry.offset, &mut bytes)?;
        bytes.truncate(read);
        match record::parse(&bytes, Seed::of(header.salt), entry.offset) {
            Parsed::Sound(record) if record.kind == Kind::Event as u8 => {
                bytes.drain(..record::PREFIX_BYTES);
                Ok(Some((header, bytes)))
            }
            _ => Ok(None),
        }
    }

    fn open_event(&self, entry: Entry) -> Result<(EventHeader, Vec<u8>), Lost> {
        const CORRUPT: Lost = Lost::Reason(Reason::Corrupt);
        let record = self.record(entry).map_err(|error| Lost::Error(error.into()))?;
        let (segment, mut body) = record.ok_or(CORRUPT)?;
        let (header, sealed) = EventHeader::split(&body).map_err(|_| CORRUPT)?;
        if header.ordinal != entry.location.ordinal {
            return Err(CORRUPT);
        }
        let plain_bytes = body.len() - sealed.len();
        let key = match self.segment_key(&segment, header.function) {
            Ok(key) => key,
            Err(KeyError::UnknownKey(_)) => return Err(Lost::Reason(Reason::Shredded)),
            // The record with the function's key is lost.
            Err(_) if self.state().log.wrapped_key(header.function).is_none() => return Err(CORRUPT),
            Err(error) => return Err(Lost::Error(ReadError::Key(error.to_string()))),
        };
        let place = Place { log: segment.log, segment: segment.segment, offset: entry.offset };
        let (plain, sealed) = body.split_at_mut(plain_bytes);
        let content = key.open(place, plain, sealed).ok_or(CORRUPT)?.to_vec();
        Ok((header, content))
    }

    /// An event as it is, opened, to be written again elsewhere; `None` if it cannot be.
    pub(super) fn copy_event(&self, entry: Entry) -> Result<Option<(EventHeader, Vec<u8>)>, ReadError> {
        match self.open_event(entry) {
            Ok(event) => Ok(Some(event)),
            Err(Lost::Reason(_)) => Ok(None),
            Err(Lost::Error(error)) => Err(error),
        }
    }

    fn segment_key(
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

pub(super) fn start_of(segment: SegmentId) -> Location {
    Location { segment, ordinal: Ordinal(0) }
}
