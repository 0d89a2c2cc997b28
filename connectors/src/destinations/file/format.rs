//! The bytes of a sealed file.
//!
//! ```text
//!  a file:   │ segment │ 0 … │ segment │ 0 … │ segment ─ ─         each begins at a multiple of 4096
//!
//!  a segment
//!  0      4        5       8              24       32     1024                2560               4096
//!  ├──────┼────────┼───────┼──────────────┼────────┼──────┼───────────────────┼──────────────────┼──────┬──────┬ ─ ─
//!  │ WWDF │ ver. 1 │ 0 0 0 │ segment id   │ 0 … 0  │ 0 …  │ slot: u16 BE,     │ slot: the same,  │ fr.0 │ fr.1 │
//!  │      │        │       │ (UUID)       │        │      │ wrapped data key  │ or 0             │      │      │
//!
//!  a frame
//!  0         4
//!  ├─────────┼───────────────────────┬──────────┐
//!  │ length  │ record, sealed        │ tag (16) │       length = sealed bytes with their tag, u32 BE; 0 is no frame
//!
//!  nonce = 0000 ‖ frame's index in its segment (u64 BE)      AAD = the segment's first 32 bytes ‖ index (u64 BE)
//!  data key: wrapped for (the destination's ARN, "destination/<segment id>"), made for this segment, never used elsewhere
//! ```
//! A record is one line of JSON without its newline. There are two slots so that a key can be wrapped anew in place: the
//! new wrap is on the medium before the old one is overwritten, and whichever opens counts.
//!
//! Version and layout are stable: they are on disks.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use types::{DataKey, Destination, KeyContext, KeyError, Keys, WrappedDataKey};
use uuid::Uuid;

const MAGIC: &[u8; 8] = b"WWDF\x01\0\0\0";
const SEGMENT_ID: usize = MAGIC.len();
const IDENTITY: usize = 32;
const SLOTS: [usize; 2] = [1024, 2560];
const SLOT: usize = 1536;
const SLOT_LENGTH: usize = 2;
/// A segment's header, and what segments are aligned to.
pub(super) const HEADER: usize = 4096;
pub(super) const ALIGNMENT: u64 = HEADER as u64;
/// Of a frame.
pub(super) const LENGTH: usize = 4;
pub(super) const TAG: usize = 16;
/// Largest record, bytes: an envelope with the largest request and the largest response, and room. Bounds what a reader
/// holds for a length that it cannot trust yet.
pub(super) const RECORD_BYTES: usize = 16 * 1024 * 1024;

/// Whether bytes are those that a sealed file, and each of its segments, begins with.
pub(super) fn begins_segment(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// What stands at the beginning of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    id: Uuid,
    wraps: [Option<WrappedDataKey>; 2],
}

impl Header {
    /// Makes a segment's identity, its data key, and the wrap of it.
    pub(super) fn generate(name: &str, keys: &dyn Keys) -> Result<(Self, SegmentCipher), KeyError> {
        let mut header = Self { id: Uuid::new_v4(), wraps: [None, None] };
        let (key, wrapped) = keys.generate(&header.context(name))?;
        if wrapped.0.len() > SLOT - SLOT_LENGTH {
            return Err(KeyError::Unavailable(format!(
                "a wrapped key of {} bytes is too long",
                wrapped.0.len()
            )));
        }
        header.wraps[0] = Some(wrapped);
        let cipher = SegmentCipher::new(header.identity(), &key);
        Ok((header, cipher))
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        bytes[..IDENTITY].copy_from_slice(&self.identity());
        for (at, wrap) in SLOTS.into_iter().zip(&self.wraps) {
            let slot = slot(wrap.as_ref());
            bytes[at..at + SLOT].copy_from_slice(&slot);
        }
        bytes
    }

    /// `None` for what is not a header of this version.
    pub(super) fn decode(bytes: &[u8; HEADER]) -> Option<Self> {
        let id = bytes.strip_prefix(MAGIC)?.first_chunk::<16>()?;
        let wraps = SLOTS.map(|at| {
            let (length, rest) = bytes.get(at..at + SLOT)?.split_first_chunk::<SLOT_LENGTH>()?;
            let wrapped = rest.get(..usize::from(u16::from_be_bytes(*length)))?;
            (!wrapped.is_empty()).then(|| WrappedDataKey(wrapped.to_vec()))
        });
        Some(Self { id: Uuid::from_bytes(*id), wraps })
    }

    /// The cipher, by whichever wrap opens.
    pub(super) fn open(&self, name: &str, keys: &dyn Keys) -> Result<SegmentCipher, KeyError> {
        let mut refusal = KeyError::UnknownFormat;
        for wrap in self.wraps.iter().flatten() {
            match keys.unwrap(wrap, &self.context(name)) {
                Ok(key) => return Ok(SegmentCipher::new(self.identity(), &key)),
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }

    /// Wraps the data key anew: what to write where, in this order, each durable before the next.
    pub(super) fn rewrap(&self, name: &str, keys: &dyn Keys) -> Result<[(u64, Vec<u8>); 2], KeyError> {
        let context = self.context(name);
        let mut refusal = KeyError::UnknownFormat;
        for (old, new) in [(0, 1), (1, 0)] {
            let Some(wrap) = &self.wraps[old] else { continue };
            match keys.rewrap(wrap, &context) {
                Ok(again) if again.0.len() <= SLOT - SLOT_LENGTH => {
                    return Ok([(SLOTS[new] as u64, slot(Some(&again))), (SLOTS[old] as u64, slot(None))]);
                }
                Ok(again) => {
                    refusal = KeyError::Unavailable(format!(
                        "a wrapped key of {} bytes is too long",
                        again.0.len()
                    ));
                }
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }

    fn context(&self, name: &str) -> KeyContext {
        KeyContext {
            arn: Destination::File { name: name.to_owned() }.to_string(),
            purpose: format!("destination/{}", self.id),
        }
    }

    fn identity(&self) -> [u8; IDENTITY] {
        let mut identity = [0; IDENTITY];
        identity[..SEGMENT_ID].copy_from_slice(MAGIC);
        identity[SEGMENT_ID..SEGMENT_ID + 16].copy_from_slice(self.id.as_bytes());
        identity
    }
}

/// A slot with a wrap that is known to fit, or an empty one.
fn slot(wrap: Option<&WrappedDataKey>) -> Vec<u8> {
    let mut bytes = vec![0; SLOT];
    if let Some(WrappedDataKey(wrapped)) = wrap {
        let length = u16::try_from(wrapped.len()).expect("a wrap that fits its slot is shorter than 64 KiB");
        bytes[..SLOT_LENGTH].copy_from_slice(&length.to_be_bytes());
        bytes[SLOT_LENGTH..SLOT_LENGTH + wrapped.len()].copy_from_slice(wrapped);
    }
    bytes
}

/// Seals and opens the frames of one segment.
pub(super) struct SegmentCipher {
    identity: [u8; IDENTITY],
    key: LessSafeKey,
}

impl SegmentCipher {
    fn new(identity: [u8; IDENTITY], key: &DataKey) -> Self {
        let unbound =
            UnboundKey::new(&AES_256_GCM, key.expose()).expect("a data key has the length of an AES-256 key");
        Self { identity, key: LessSafeKey::new(unbound) }
    }

    /// The `index`th frame. The caller never seals the same index twice.
    pub(super) fn seal(&self, index: u64, record: &[u8]) -> Vec<u8> {
        let sealed = record.len() + TAG;
        // Room for all of it: the plaintext never lies in a buffer that is left behind.
        let mut frame = Vec::with_capacity(LENGTH + sealed);
        let length = u32::try_from(sealed).expect("a record is at most 16 MiB");
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(record);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(index), Aad::from(self.aad(index)), &mut frame[LENGTH..])
            .expect("a record is far below the limit of AES-GCM");
        frame.extend_from_slice(tag.as_ref());
        frame
    }

    /// The record of the `index`th frame; `None` if it is not what was sealed there.
    pub(super) fn open(&self, index: u64, mut sealed: Vec<u8>) -> Option<Vec<u8>> {
        let record =
            self.key.open_in_place(nonce(index), Aad::from(self.aad(index)), &mut sealed).ok()?.len();
        sealed.truncate(record);
        Some(sealed)
    }

    fn aad(&self, index: u64) -> [u8; IDENTITY + 8] {
        let mut aad = [0; IDENTITY + 8];
        aad[..IDENTITY].copy_from_slice(&self.identity);
        aad[IDENTITY..].copy_from_slice(&index.to_be_bytes());
        aad
    }
}

fn nonce(index: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[NONCE_LEN - 8..].copy_from_slice(&index.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cipher() -> SegmentCipher {
        let header = Header { id: Uuid::from_u128(1), wraps: [None, None] };
        SegmentCipher::new(header.identity(), &DataKey::new([4; DataKey::LEN]))
    }

    #[test]
    fn a_segment_keeps_its_bytes_on_disk() {
        let header = Header { id: Uuid::from_u128(1), wraps: [Some(WrappedDataKey(vec![7, 8])), None] };
        let bytes = header.encode();
        assert_eq!(hex::encode(&bytes[..32]), format!("5757444601000000{:032x}0000000000000000", 1));
        assert_eq!(hex::encode(&bytes[1024..1030]), "000207080000");
        assert!(bytes[1030..].iter().all(|byte| *byte == 0) && bytes.len() == 4096);
        assert_eq!(Header::decode(&bytes.try_into().unwrap()), Some(header));
        assert_eq!(hex::encode(cipher().seal(0, br#"{"a":1}"#)), GOLDEN_FRAME);
    }

    const GOLDEN_FRAME: &str = "000000170b3e4d55b2d73d69a0cf423649483e769ed1e45edd8510";

    #[test]
    fn a_frame_opens_in_its_own_place_only_and_unaltered() {
        let sealed = cipher().seal(3, b"record")[LENGTH..].to_vec();
        assert_eq!(cipher().open(3, sealed.clone()).as_deref(), Some(&b"record"[..]));
        assert_eq!(cipher().open(4, sealed.clone()), None);
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert_eq!(cipher().open(3, altered), None, "byte {at}");
        }
    }

    #[test]
    fn no_header_of_any_other_kind_is_taken_for_one() {
        let header = Header { id: Uuid::from_u128(1), wraps: [Some(WrappedDataKey(vec![7])), None] };
        let bytes: [u8; HEADER] = header.encode().try_into().unwrap();
        for at in 0..MAGIC.len() {
            let mut altered = bytes;
            altered[at] ^= 1;
            assert_eq!(Header::decode(&altered), None, "byte {at}");
        }
        let mut overlong = bytes;
        overlong[1024..1026].copy_from_slice(&u16::MAX.to_be_bytes());
        assert_eq!(Header::decode(&overlong).unwrap().wraps, [None, None]);
    }
}
