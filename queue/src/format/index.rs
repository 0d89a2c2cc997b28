//! The footer of a segment, in a file of its own: which events it holds, by stream, and its other records once more.
//!
//! ```text
//!   file        page 0: header │ page 1 … n: 4092 bytes, then their crc32c, which begins with the salt and the page's number
//!
//!   header      0          8         12  16        32        40     72       76        80         84         88    92
//!               ├──────────┼─────────┼───┼─────────┼─────────┼──────┼────────┼─────────┼──────────┼──────────┼─────┤
//!               │ WWSINDEX │ version │ 0 │ log id  │ segment │ salt │ events │ streams │ postings │ controls │ crc │
//!                                                                                                   bytes
//!   content of the pages, joined:
//!   streams     partition │ function │ first posting │ postings     4 × u32, sorted; searched by halves
//!   postings    ordinal │ offset/16 │ length, top bit: moved │ accepted ms (u64)      by stream, then by ordinal
//!   controls    offset/16 │ length │ kind, 0 0 0 │ body        every record that is no event, as it is in the segment;
//!                                                             of a moved event its header
//! ```
//! It holds nothing that the segment does not: it can be made again, and it is, if it is missing or damaged. It is in a file of
//! its own because a segment that a crash ended is never written to again, and because making it delays nobody who waits for a
//! commit. The salt ties it to its segment. A page is checked when it is read, and only what is needed is read.

use super::{
    FORMAT_VERSION, FormatError,
    codec::{Fields, small},
    segment::{LogId, Salt, SegmentHeader},
};
use crate::{
    FunctionNumber, Location, Ordinal, PartitionNumber, SegmentId,
    entry::{Entry, StreamKey},
    log::Postings,
};

pub(crate) const PAGE_BYTES: usize = 4096;
/// Of them, bytes of content.
pub(crate) const PAGE_CONTENT: usize = PAGE_BYTES - 4;
const MAGIC: &[u8; 8] = b"WWSINDEX";
const CHECKED: usize = 88;
pub(crate) const STREAM_BYTES: usize = 16;
pub(crate) const POSTING_BYTES: usize = 20;
const MOVED: u32 = 1 << 31;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IndexHeader {
    pub(crate) log: LogId,
    pub(crate) segment: SegmentId,
    pub(crate) salt: Salt,
    pub(crate) events: u32,
    pub(crate) streams: u32,
    pub(crate) postings: u32,
    pub(crate) control_bytes: u32,
}

/// A row of the table of streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamRow {
    pub(crate) key: StreamKey,
    pub(crate) first: u32,
    pub(crate) count: u32,
}

/// A record that is not an event, or the header of a moved one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Control<'a> {
    pub(crate) offset: u64,
    /// Of the whole record in the segment.
    pub(crate) length: u32,
    pub(crate) kind: u8,
    pub(crate) body: &'a [u8],
}

/// A whole index, as it is written.
pub(crate) fn encode(
    segment: &SegmentHeader,
    events: u32,
    by_stream: &mut Postings,
    controls: &[u8],
) -> Vec<u8> {
    let (mut rows, mut postings) = (Vec::new(), Vec::new());
    let mut count = 0_u32;
    for key in by_stream.streams() {
        let first = count;
        for entry in by_stream.of(key) {
            put_posting(&mut postings, entry);
            count += 1;
        }
        put_u32s(&mut rows, [key.partition.0, key.function.0, first, count - first]);
    }
    let header = IndexHeader {
        log: segment.log,
        segment: segment.segment,
        salt: segment.salt,
        events,
        streams: small(rows.len() / STREAM_BYTES),
        postings: count,
        control_bytes: small(controls.len()),
    };
    let mut file = header.encode();
    for (number, content) in (1..).zip([&rows[..], &postings, controls].concat().chunks(PAGE_CONTENT)) {
        let mut page = content.to_vec();
        page.resize(PAGE_CONTENT, 0);
        let crc = page_crc(header.salt, number, &page);
        file.extend_from_slice(&page);
        file.extend_from_slice(&crc.to_le_bytes());
    }
    file
}

/// Appends a control to what [`encode`] takes.
pub(crate) fn put_control(to: &mut Vec<u8>, control: Control<'_>) {
    put_u32s(to, [small(control.offset / 16), control.length]);
    to.extend_from_slice(&[control.kind, 0, 0, 0]);
    super::codec::put_counted(to, control.body);
}

/// Takes the next control from the front.
pub(crate) fn take_control<'a>(fields: &mut Fields<'a>) -> Result<Control<'a>, FormatError> {
    let (offset, length) = (u64::from(fields.u32()?) * 16, fields.u32()?);
    let [kind, ..] = fields.array::<4>()?;
    Ok(Control { offset, length, kind, body: fields.counted()? })
}

fn put_posting(to: &mut Vec<u8>, entry: &Entry) {
    let length = entry.length | if entry.moved { MOVED } else { 0 };
    put_u32s(to, [entry.location.ordinal.0, small(entry.offset / 16), length]);
    to.extend_from_slice(&entry.accepted_ms.to_le_bytes());
}

pub(crate) fn take_posting(segment: SegmentId, fields: &mut Fields<'_>) -> Result<Entry, FormatError> {
    let ordinal = Ordinal(fields.u32()?);
    let offset = u64::from(fields.u32()?) * 16;
    let length = fields.u32()?;
    Ok(Entry {
        location: Location { segment, ordinal },
        offset,
        length: length & !MOVED,
        accepted_ms: fields.u64()?,
        moved: length & MOVED != 0,
    })
}

pub(crate) fn take_row(fields: &mut Fields<'_>) -> Result<StreamRow, FormatError> {
    let key =
        StreamKey { partition: PartitionNumber(fields.u32()?), function: FunctionNumber(fields.u32()?) };
    Ok(StreamRow { key, first: fields.u32()?, count: fields.u32()? })
}

fn put_u32s<const N: usize>(to: &mut Vec<u8>, numbers: [u32; N]) {
    numbers.iter().for_each(|number| to.extend_from_slice(&number.to_le_bytes()));
}

/// The content of page `number`, from 1 on, if it is sound.
pub(crate) fn page_content(salt: Salt, number: u32, page: &[u8]) -> Result<&[u8], FormatError> {
    let damaged = FormatError::Damaged("a page of an index");
    let (content, crc) = page.split_at_checked(PAGE_CONTENT).ok_or(damaged.clone())?;
    let expected = page_crc(salt, number, content);
    if Fields::new(crc).u32()? != expected { Err(damaged) } else { Ok(content) }
}

pub(crate) fn page_crc(salt: Salt, number: u32, content: &[u8]) -> u32 {
    let seed = crc32c::crc32c_append(crc32c::crc32c(&salt.0), &number.to_le_bytes());
    crc32c::crc32c_append(seed, content)
}

impl IndexHeader {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        put_u32s(&mut bytes, [FORMAT_VERSION, 0]);
        bytes.extend_from_slice(&self.log.0);
        bytes.extend_from_slice(&self.segment.0.to_le_bytes());
        bytes.extend_from_slice(&self.salt.0);
        put_u32s(&mut bytes, [self.events, self.streams, self.postings, self.control_bytes]);
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.resize(PAGE_BYTES, 0);
        bytes
    }

    pub(crate) fn decode(page: &[u8]) -> Result<Self, FormatError> {
        let mut fields = Fields::new(page);
        let mut checked = fields;
        let checked = checked.bytes(CHECKED)?;
        if fields.array()? != *MAGIC
            || crc32c::crc32c(checked) != Fields::new(page.get(CHECKED..).unwrap_or_default()).u32()?
        {
            return Err(FormatError::Damaged("an index's header"));
        }
        let version = fields.u32()?;
        if version != FORMAT_VERSION {
            return Err(FormatError::UnknownVersion(version));
        }
        fields.array::<4>()?;
        Ok(Self {
            log: LogId(fields.array()?),
            segment: SegmentId(fields.u64()?),
            salt: Salt(fields.array()?),
            events: fields.u32()?,
            streams: fields.u32()?,
            postings: fields.u32()?,
            control_bytes: fields.u32()?,
        })
    }

    /// Where the sections begin in the joined content, and where the last ends.
    pub(crate) fn sections(&self) -> [u64; 4] {
        let postings = u64::from(self.streams) * STREAM_BYTES as u64;
        let controls = postings + u64::from(self.postings) * POSTING_BYTES as u64;
        [0, postings, controls, controls + u64::from(self.control_bytes)]
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn header() -> impl Strategy<Value = IndexHeader> {
        (any::<[u8; 16]>(), any::<u64>(), any::<[u8; 32]>(), any::<[u32; 4]>()).prop_map(
            |(log, segment, salt, [events, streams, postings, control_bytes])| IndexHeader {
                log: LogId(log),
                segment: SegmentId(segment),
                salt: Salt(salt),
                events,
                streams,
                postings,
                control_bytes,
            },
        )
    }

    proptest! {
        #[test]
        fn a_header_comes_back_and_flipped_bits_are_found(header in header(), bit in 0..(CHECKED + 4) * 8) {
            let mut page = header.encode();
            prop_assert_eq!(page.len(), PAGE_BYTES);
            prop_assert_eq!(IndexHeader::decode(&page), Ok(header));
            page[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(matches!(IndexHeader::decode(&page), Err(FormatError::Damaged(_))));
        }

        #[test]
        fn a_page_is_sound_in_its_place_only(salt: [u8; 32], number in 1..u32::MAX, content in vec(any::<u8>(), PAGE_CONTENT), bit in 0..PAGE_BYTES * 8) {
            let salt = Salt(salt);
            let mut page = content.clone();
            page.extend_from_slice(&page_crc(salt, number, &content).to_le_bytes());
            prop_assert_eq!(page_content(salt, number, &page), Ok(&content[..]));
            prop_assert!(page_content(salt, number + 1, &page).is_err());
            page[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(page_content(salt, number, &page).is_err());
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in vec(any::<u8>(), 0..200)) {
            prop_assert!(IndexHeader::decode(&bytes).is_err());
            prop_assert!(page_content(Salt([0; 32]), 1, &bytes).is_err());
            let mut fields = Fields::new(&bytes);
            let _ = take_row(&mut fields);
            let _ = take_posting(SegmentId(1), &mut fields);
            while take_control(&mut fields).is_ok() {}
        }
    }
}
