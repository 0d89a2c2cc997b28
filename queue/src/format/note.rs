//! A failed attempt: how many there were, and when the event may be tried again. It holds no payload.
//!
//! ```text
//!   0         8         12         16           24         40
//!   ├─────────┼─────────┼──────────┼────────────┼──────────┤
//!   │ segment │ ordinal │ attempts │ not before │ event id │
//!   │         │         │ failed   │ ms, Unix   │          │
//! ```
//! The newest note of an event counts.

use super::{FormatError, codec::Fields};
use crate::{EventId, Location};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) location: Location,
    pub(crate) attempts: u32,
    /// Milliseconds since the Unix epoch; 0: at once.
    pub(crate) not_before_ms: u64,
    pub(crate) id: EventId,
}

impl Note {
    pub(crate) fn put(&self, to: &mut Vec<u8>) {
        self.location.put(to);
        to.extend_from_slice(&self.attempts.to_le_bytes());
        to.extend_from_slice(&self.not_before_ms.to_le_bytes());
        to.extend_from_slice(&self.id.0);
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self, FormatError> {
        let mut fields = Fields::new(body);
        let note = Self {
            location: Location::take(&mut fields)?,
            attempts: fields.u32()?,
            not_before_ms: fields.u64()?,
            id: EventId(fields.array()?),
        };
        fields.end()?;
        Ok(note)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Ordinal, SegmentId};

    proptest! {
        #[test]
        fn it_comes_back(segment: u64, ordinal: u32, attempts: u32, not_before_ms: u64, id: [u8; 16]) {
            let location = Location { segment: SegmentId(segment), ordinal: Ordinal(ordinal) };
            let note = Note { location, attempts, not_before_ms, id: EventId(id) };
            let mut bytes = Vec::new();
            note.put(&mut bytes);
            prop_assert_eq!(Note::decode(&bytes), Ok(note));
            prop_assert!(Note::decode(&bytes[..bytes.len() - 1]).is_err());
        }
    }
}
