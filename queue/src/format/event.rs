//! An event: plain fields that the log works with, then what only the function's key opens.
//!
//! ```text
//!   0           4          8         12      16            24         40
//!   ├───────────┼──────────┼─────────┼───────┼─────────────┼──────────┼─ ─
//!   │ partition │ function │ ordinal │ flags │ accepted ms │ event id │
//!   │           │          │         │       │ Unix        │          │
//!
//!   only if flag 1, moved:
//!   40         44  48           56               64        68         76        80
//!   ├──────────┼───┼────────────┼────────────────┼─────────┼──────────┼─────────┼─ ─
//!   │ attempts │ 0 │ not before │ origin         │ origin  │ previous │ previous│
//!   │ failed   │   │ ms, Unix   │ segment        │ ordinal │ segment  │ ordinal │
//!
//!   40 or 80                                     n − 16   n
//!   ├ ─ ─ sealed: length of attributes (u32) ────┼────────┤
//!   │             ‖ attributes ‖ payload         │ tag    │
//! ```
//! `partition` and `function` are numbers that Partition and Function records gave to names. `ordinal` counts the events of
//! the segment from 0, so that after damage it is known which are missing. An event that was rewritten at the tail says
//! where it was written first (which is its place in its order) and where it was before this (that copy is done), and
//! carries what was known of its failed attempts: all in one record, so that no crash leaves two copies or none.

use super::{FormatError, codec::Fields};
use crate::{EventId, FunctionNumber, Location, Ordinal, PartitionNumber, SegmentId};

const MOVED: u32 = 1;
/// Bytes of the header of an event that was moved, the longer one.
pub(crate) const MOVED_HEADER_BYTES: usize = 80;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EventHeader {
    pub(crate) partition: PartitionNumber,
    pub(crate) function: FunctionNumber,
    pub(crate) ordinal: Ordinal,
    pub(crate) accepted_ms: u64,
    pub(crate) id: EventId,
    pub(crate) moved: Option<Moved>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) attempts: u32,
    /// 0: at once.
    pub(crate) not_before_ms: u64,
    pub(crate) origin: Location,
    pub(crate) previous: Location,
}

impl EventHeader {
    pub(crate) fn put(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.partition.0.to_le_bytes());
        to.extend_from_slice(&self.function.0.to_le_bytes());
        to.extend_from_slice(&self.ordinal.0.to_le_bytes());
        to.extend_from_slice(&(if self.moved.is_some() { MOVED } else { 0 }).to_le_bytes());
        to.extend_from_slice(&self.accepted_ms.to_le_bytes());
        to.extend_from_slice(&self.id.0);
        if let Some(moved) = self.moved {
            to.extend_from_slice(&moved.attempts.to_le_bytes());
            to.extend_from_slice(&[0; 4]);
            to.extend_from_slice(&moved.not_before_ms.to_le_bytes());
            moved.origin.put(to);
            moved.previous.put(to);
        }
    }

    /// Splits a body into its header and what is sealed.
    pub(crate) fn split(body: &[u8]) -> Result<(Self, &[u8]), FormatError> {
        let mut fields = Fields::new(body);
        let (partition, function) = (PartitionNumber(fields.u32()?), FunctionNumber(fields.u32()?));
        let (ordinal, flags) = (Ordinal(fields.u32()?), fields.u32()?);
        let (accepted_ms, id) = (fields.u64()?, EventId(fields.array()?));
        let moved = match flags {
            0 => None,
            MOVED => {
                let attempts = fields.u32()?;
                fields.array::<4>()?;
                let not_before_ms = fields.u64()?;
                let (origin, previous) = (Location::take(&mut fields)?, Location::take(&mut fields)?);
                Some(Moved { attempts, not_before_ms, origin, previous })
            }
            _ => return Err(FormatError::Damaged("an event's flags")),
        };
        Ok((Self { partition, function, ordinal, accepted_ms, id, moved }, fields.rest()))
    }
}

impl Location {
    /// Bytes of a location on disk.
    pub(crate) const BYTES: usize = 12;

    pub(crate) fn put(self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.segment.0.to_le_bytes());
        to.extend_from_slice(&self.ordinal.0.to_le_bytes());
    }

    pub(crate) fn take(fields: &mut Fields<'_>) -> Result<Self, FormatError> {
        Ok(Self { segment: SegmentId(fields.u64()?), ordinal: Ordinal(fields.u32()?) })
    }
}

/// What is sealed: attributes and payload, in one buffer.
pub(crate) fn put_content(to: &mut Vec<u8>, attributes: &[u8], payload: &[u8]) {
    super::codec::put_counted(to, attributes);
    to.extend_from_slice(payload);
}

/// Where attributes end and the payload begins in what [`put_content`] wrote: two slices of it.
pub(crate) fn split_content(content: &[u8]) -> Result<(&[u8], &[u8]), FormatError> {
    let mut fields = Fields::new(content);
    let attributes = fields.counted()?;
    Ok((attributes, fields.rest()))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn location() -> impl Strategy<Value = Location> {
        any::<(u64, u32)>().prop_map(|(segment, ordinal)| Location {
            segment: SegmentId(segment),
            ordinal: Ordinal(ordinal),
        })
    }

    fn moved() -> impl Strategy<Value = Moved> {
        (any::<(u32, u64)>(), location(), location()).prop_map(
            |((attempts, not_before_ms), origin, previous)| Moved {
                attempts,
                not_before_ms,
                origin,
                previous,
            },
        )
    }

    fn header() -> impl Strategy<Value = EventHeader> {
        (any::<[u32; 3]>(), any::<u64>(), any::<[u8; 16]>(), prop::option::of(moved())).prop_map(
            |([partition, function, ordinal], accepted_ms, id, moved)| EventHeader {
                partition: PartitionNumber(partition),
                function: FunctionNumber(function),
                ordinal: Ordinal(ordinal),
                accepted_ms,
                id: EventId(id),
                moved,
            },
        )
    }

    proptest! {
        #[test]
        fn a_header_comes_back(header in header(), sealed in vec(any::<u8>(), 0..40)) {
            let mut bytes = Vec::new();
            header.put(&mut bytes);
            prop_assert_eq!(bytes.len(), if header.moved.is_some() { 80 } else { 40 });
            bytes.extend_from_slice(&sealed);
            prop_assert_eq!(EventHeader::split(&bytes), Ok((header, &sealed[..])));
        }

        #[test]
        fn content_comes_back(attributes in vec(any::<u8>(), 0..40), payload in vec(any::<u8>(), 0..40)) {
            let mut bytes = Vec::new();
            put_content(&mut bytes, &attributes, &payload);
            prop_assert_eq!(split_content(&bytes), Ok((&attributes[..], &payload[..])));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in vec(any::<u8>(), 0..100)) {
            let _ = EventHeader::split(&bytes);
            let _ = split_content(&bytes);
        }
    }
}
