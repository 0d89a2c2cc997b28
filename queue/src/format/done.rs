//! Events that are done: their segments may be deleted as far as they are concerned, and they are never leased again.
//!
//! ```text
//!   0        4       8 + 28 i     +8        +12
//!   ├────────┼───────┼────────────┼─────────┼──────────┤
//!   │ reason │ count │ segment    │ ordinal │ event id │  … count times
//! ```
//! `segment` and `ordinal` say where the event was when this was written. Segments are deleted oldest first, so this record
//! outlives the event it speaks of. The event's id is there for whoever reads the log with `waterwheel queue inspect`, and
//! so that a record which speaks of another event than the one that lies there is found.

use super::{
    FormatError,
    codec::{Fields, small},
};
use crate::{EventId, Location};

/// Bytes of one entry.
const ENTRY_BYTES: usize = Location::BYTES + 16;

/// Why events are done. The numbers are stable: they are on disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum Reason {
    /// Whoever leased it said so.
    Acked = 1,
    /// It cannot be read: the checksum or the seal is broken. Its bytes stay until its segment goes.
    Corrupt = 2,
    /// Its key is destroyed.
    Shredded = 3,
}

impl Reason {
    pub(crate) const ALL: [Self; 3] = [Self::Acked, Self::Corrupt, Self::Shredded];
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) reason: Reason,
    pub(crate) events: Vec<(Location, EventId)>,
}

impl Done {
    pub(crate) fn put(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&(self.reason as u32).to_le_bytes());
        to.extend_from_slice(&small(self.events.len()).to_le_bytes());
        for (location, id) in &self.events {
            location.put(to);
            to.extend_from_slice(&id.0);
        }
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self, FormatError> {
        let mut fields = Fields::new(body);
        let number = fields.u32()?;
        let reason = Reason::ALL.into_iter().find(|reason| *reason as u32 == number);
        let reason = reason.ok_or(FormatError::Damaged("an unknown reason"))?;
        let count = fields.u32()? as usize;
        if count.checked_mul(ENTRY_BYTES) != Some(fields.rest().len()) {
            return Err(FormatError::Damaged("a count"));
        }
        let mut events = Vec::with_capacity(count);
        for _ in 0..count {
            let location = Location::take(&mut fields)?;
            events.push((location, EventId(fields.array()?)));
        }
        Ok(Self { reason, events })
    }

    /// Bytes of a body that speaks of so many events.
    pub(crate) fn body_bytes(events: usize) -> usize {
        8 + ENTRY_BYTES * events
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{Ordinal, SegmentId};

    proptest! {
        #[test]
        fn it_comes_back(reason in prop::sample::select(&Reason::ALL[..]), events in vec(any::<(u64, u32, [u8; 16])>(), 0..20)) {
            let events = events.into_iter().map(|(segment, ordinal, id)| {
                (Location { segment: SegmentId(segment), ordinal: Ordinal(ordinal) }, EventId(id))
            });
            let done = Done { reason, events: events.collect() };
            let mut bytes = Vec::new();
            done.put(&mut bytes);
            prop_assert_eq!(bytes.len(), Done::body_bytes(done.events.len()));
            prop_assert_eq!(Done::decode(&bytes), Ok(done));
            bytes.push(0);
            prop_assert!(Done::decode(&bytes).is_err());
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in vec(any::<u8>(), 0..100)) {
            let _ = Done::decode(&bytes);
        }
    }

    #[test]
    fn reasons_keep_their_numbers() {
        assert_eq!(Reason::ALL.map(|reason| reason as u8), [1, 2, 3]);
    }
}
