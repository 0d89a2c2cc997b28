//! The frame around every record.
//!
//! ```text
//!   0    2      3   4        8        12         16                      16 + length    next multiple of 16
//!   ├────┼──────┼───┼────────┼────────┼──────────┼───────────────────────┼──────────────┤
//!   │ Wr │ kind │ f │ length │ crc32c │ offset/16│ body                  │ zeros        │
//! ```
//! `f` is 1 in the first record of a write: all before it had been synced when it was written. `offset` is the record's own
//! place in its segment. `crc32c` covers everything from `Wr` to the body's end but itself, and
//! begins with the segment's salt. Both together make a record sound in one place only.
//!
//! Behind the last sound record there is nothing more (zeros, or what a recycled file held before), or a write that was cut
//! off. What is not sound and has a later write behind it is damage. [`parse`] tells sound from not; who scans tells the rest.

use super::{FormatError, codec::small, segment::Salt};

/// Records begin at multiples of this.
pub(crate) const ALIGNMENT: usize = 16;
/// Bytes of a record before its body.
pub(crate) const PREFIX_BYTES: usize = 16;
/// Most bytes of a body: an event of 6 MB with what travels beside it, and room to spare. Bounds what a scan must hold.
pub(crate) const MAX_BODY_BYTES: usize = 8 * 1024 * 1024;
const MAGIC: [u8; 2] = *b"Wr";
const LENGTH: usize = 4;
const CRC: usize = 8;
const PLACE: usize = 12;

/// What a record is. The numbers are stable: they are on disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Kind {
    Event = 1,
    Done = 2,
    Note = 3,
    Checkpoint = 4,
    Redirect = 5,
    Function = 6,
    Partition = 7,
    Purge = 8,
}

impl Kind {
    pub(crate) const ALL: [Self; 8] = [
        Self::Event,
        Self::Done,
        Self::Note,
        Self::Checkpoint,
        Self::Redirect,
        Self::Function,
        Self::Partition,
        Self::Purge,
    ];
}

impl TryFrom<u8> for Kind {
    type Error = FormatError;

    fn try_from(number: u8) -> Result<Self, FormatError> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number).ok_or(FormatError::UnknownKind(number))
    }
}

/// The beginning of a segment's checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seed(u32);

impl Seed {
    pub(crate) fn of(salt: Salt) -> Self {
        Self(crc32c::crc32c(&salt.0))
    }
}

/// A record that is sound: in its place, and as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    /// As on disk: a kind that this program does not know is sound all the same.
    pub(crate) kind: u8,
    /// All before it had been synced when it was written.
    pub(crate) first: bool,
    pub(crate) body: &'a [u8],
}

impl Record<'_> {
    /// From this record's beginning to the next one's.
    pub(crate) fn span(&self) -> usize {
        span(self.body.len())
    }
}

/// What lies at an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parsed<'a> {
    Sound(Record<'a>),
    /// It begins like a record that needs so many bytes in all; more must be read to tell.
    Incomplete(usize),
    Unsound,
}

/// Bytes that a record with such a body takes, with its prefix and the zeros behind it.
pub(crate) fn span(body: usize) -> usize {
    (PREFIX_BYTES + body).next_multiple_of(ALIGNMENT)
}

/// Appends the prefix of a record that will lie at `offset`; the caller appends its body, and [`finish`] completes it. Returns
/// where it begins in `to`.
///
/// # Panics
/// If `offset` is no multiple of 16 or beyond 64 GiB: the log sees to it that it is not.
pub(crate) fn begin(to: &mut Vec<u8>, offset: u64, kind: Kind, first: bool) -> usize {
    assert!(offset.is_multiple_of(ALIGNMENT as u64), "a record at {offset}");
    let place = u32::try_from(offset / ALIGNMENT as u64).expect("a segment is below 64 GiB");
    let start = to.len();
    to.extend_from_slice(&MAGIC);
    to.extend_from_slice(&[kind as u8, u8::from(first)]);
    to.extend_from_slice(&[0; 8]);
    to.extend_from_slice(&place.to_le_bytes());
    start
}

/// Completes the record that [`begin`] began at `start`: its length, its checksum and the zeros behind it.
///
/// # Panics
/// If its body is too long: the log refuses it before.
pub(crate) fn finish(to: &mut Vec<u8>, seed: Seed, start: usize) {
    let body = to.len() - start - PREFIX_BYTES;
    assert!(body <= MAX_BODY_BYTES, "a record of {body} bytes");
    let (_, record) = to.split_at_mut(start);
    put_field(record, LENGTH, small(body));
    let crc = checksum(seed, record);
    put_field(record, CRC, crc);
    to.resize(start + span(body), 0);
}

fn put_field(record: &mut [u8], at: usize, number: u32) {
    let field = record.get_mut(at..at + size_of::<u32>()).expect("`begin` made room for the prefix");
    field.copy_from_slice(&number.to_le_bytes());
}

/// Reads the record at `offset`, of which `bytes` holds the beginning and perhaps more.
pub(crate) fn parse(bytes: &[u8], seed: Seed, offset: u64) -> Parsed<'_> {
    let parsed = parse_unchecked(bytes, offset);
    match parsed {
        Parsed::Sound(record)
            if bytes
                .get(..PREFIX_BYTES + record.body.len())
                .is_none_or(|whole| checksum(seed, whole) != stored_checksum(whole)) =>
        {
            Parsed::Unsound
        }
        _ => parsed,
    }
}

/// The same without the checksum: for whoever opens the seal of an event, which says more than the checksum does.
pub(crate) fn parse_unchecked(bytes: &[u8], offset: u64) -> Parsed<'_> {
    let Some((prefix, rest)) = bytes.split_first_chunk::<PREFIX_BYTES>() else {
        return Parsed::Incomplete(PREFIX_BYTES);
    };
    let [m0, m1, kind, first, l0, l1, l2, l3, _, _, _, _, p0, p1, p2, p3] = *prefix;
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    let place = u32::from_le_bytes([p0, p1, p2, p3]);
    let plausible = [m0, m1] == MAGIC && first <= 1 && length <= MAX_BODY_BYTES;
    if !plausible || u64::from(place) * ALIGNMENT as u64 != offset {
        return Parsed::Unsound;
    }
    let Some(body) = rest.get(..length) else { return Parsed::Incomplete(PREFIX_BYTES + length) };
    Parsed::Sound(Record { kind, first: first == 1, body })
}

fn stored_checksum(record: &[u8]) -> u32 {
    let field = record.get(CRC..).and_then(<[u8]>::first_chunk);
    field.map_or(0, |field| u32::from_le_bytes(*field))
}

/// Of a record from its magic to its body's end, without the checksum's own bytes.
fn checksum(seed: Seed, record: &[u8]) -> u32 {
    let (before, rest) = record.split_at(CRC);
    let (_, after) = rest.split_at(PLACE - CRC);
    crc32c::crc32c_append(crc32c::crc32c_append(seed.0, before), after)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const SEED: Seed = Seed(7);

    fn record(offset: u64, kind: Kind, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let start = begin(&mut bytes, offset, kind, true);
        bytes.extend_from_slice(body);
        finish(&mut bytes, SEED, start);
        bytes
    }

    #[test]
    fn kinds_keep_their_numbers() {
        assert_eq!(Kind::ALL.map(|kind| kind as u8), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(Kind::ALL.map(|kind| Kind::try_from(kind as u8)), Kind::ALL.map(Ok));
        assert_eq!(Kind::try_from(9), Err(FormatError::UnknownKind(9)));
    }

    proptest! {
        #[test]
        fn a_record_comes_back_whatever_follows(place in 0..1u64 << 32, body in vec(any::<u8>(), 0..100), after in vec(any::<u8>(), 0..40)) {
            let mut bytes = record(place * 16, Kind::Note, &body);
            prop_assert_eq!(bytes.len() % ALIGNMENT, 0);
            prop_assert_eq!(bytes.len(), span(body.len()));
            bytes.extend(after);
            prop_assert_eq!(parse(&bytes, SEED, place * 16), Parsed::Sound(Record { kind: 3, first: true, body: &body }));
        }

        #[test]
        fn of_a_beginning_it_is_known_how_much_is_missing(body in vec(any::<u8>(), 0..100), cut in any::<prop::sample::Index>()) {
            let bytes = record(32, Kind::Done, &body);
            let whole = PREFIX_BYTES + body.len();
            let length = cut.index(whole);
            let needed = if length < PREFIX_BYTES { PREFIX_BYTES } else { whole };
            prop_assert_eq!(parse(&bytes[..length], SEED, 32), Parsed::Incomplete(needed));
        }

        #[test]
        fn a_flipped_bit_is_never_sound(body in vec(any::<u8>(), 0..100), flip in any::<prop::sample::Index>()) {
            let mut bytes = record(32, Kind::Done, &body);
            let bit = flip.index((PREFIX_BYTES + body.len()) * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!matches!(parse(&bytes, SEED, 32), Parsed::Sound(_)));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in vec(any::<u8>(), 0..200), place in 0..1000u64) {
            prop_assert!(!matches!(parse(&bytes, SEED, place * 16), Parsed::Sound(_)));
        }
    }

    #[test]
    fn another_place_or_another_segment_is_not_sound() {
        let bytes = record(32, Kind::Event, b"body");
        assert!(matches!(parse(&bytes, SEED, 32), Parsed::Sound(_)));
        assert_eq!(parse(&bytes, SEED, 48), Parsed::Unsound);
        assert_eq!(parse(&bytes, Seed(8), 32), Parsed::Unsound);
        assert_eq!(parse(&[0; 64], SEED, 32), Parsed::Unsound);
    }
}
