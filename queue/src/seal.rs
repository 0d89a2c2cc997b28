//! Sealing of events: AES-256-GCM under a key that one function has in one segment.
//!
//! ```text
//!   function's data key ──┐
//!                         ├─ HKDF-SHA-256 ──► key of this function in this segment      nonce = 0000 ‖ offset (u64)
//!   segment's salt ───────┘                                                             AAD   = log ‖ segment ‖ offset ‖ plain fields
//! ```
//! A segment's salt is 256 random bits that were durable before its first record, and an offset is sealed at once and never
//! again: whatever becomes of the write, what follows has a later offset, and after a crash, an error or on a restored copy
//! it has another segment, hence another salt. So no key sees a nonce twice. The AAD ties an event to its place: a record
//! copied to another offset, segment or log does not open, nor does one whose partition, function, id or time was changed.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf,
};
use rustc_hash::FxHashMap;
use types::DataKey;

use crate::{
    FunctionNumber, SegmentId,
    format::{
        event::MOVED_HEADER_BYTES,
        segment::{LogId, Salt},
    },
};

/// Bytes that sealing adds.
pub(crate) const TAG_BYTES: usize = 16;
const INFO: &[u8] = b"waterwheel queue event 1";
/// Of a place, as it is authenticated.
const PLACE_BYTES: usize = 32;

/// Where a record lies, as far as its seal is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) log: LogId,
    pub(crate) segment: SegmentId,
    pub(crate) offset: u64,
}

/// What one function's events of one segment are sealed with.
pub(crate) struct SegmentKey {
    key: LessSafeKey,
    #[cfg(test)]
    audited: audit::Identity,
}

impl std::fmt::Debug for SegmentKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SegmentKey(…)")
    }
}

impl SegmentKey {
    pub(crate) fn derive(key: &DataKey, salt: Salt) -> Self {
        let pseudorandom = hkdf::Salt::new(hkdf::HKDF_SHA256, &salt.0).extract(key.expose());
        let expanded =
            pseudorandom.expand(&[INFO], &AES_256_GCM).expect("32 bytes are far below HKDF's limit");
        Self {
            key: LessSafeKey::new(UnboundKey::from(expanded)),
            #[cfg(test)]
            audited: audit::Identity(*key.expose(), salt.0),
        }
    }

    /// Encrypts `record[content..]` in place and appends the tag; what stands before it in `record[plain..]` is authenticated.
    pub(crate) fn seal(&self, place: Place, record: &mut Vec<u8>, plain: usize, content: usize) {
        let (before, secret) = record.split_at_mut(content);
        let mut buffer = AAD_BUFFER;
        let aad = aad(&mut buffer, place, before.get(plain..).unwrap_or_default());
        #[cfg(test)]
        audit::seal(self.audited, place.offset);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(place), Aad::from(aad), secret)
            .expect("a record is far below the limit of AES-GCM");
        record.extend_from_slice(tag.as_ref());
    }

    /// Decrypts `sealed` in place; `None` if it is not what was sealed at this place beside these plain fields.
    pub(crate) fn open<'a>(&self, place: Place, plain: &[u8], sealed: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let mut buffer = AAD_BUFFER;
        let aad = aad(&mut buffer, place, plain);
        self.key.open_in_place(nonce(place), Aad::from(aad), sealed).ok()
    }
}

fn nonce(place: Place) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    let (_, counter) = bytes.split_at_mut(NONCE_LEN - size_of::<u64>());
    counter.copy_from_slice(&place.offset.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

const AAD_BUFFER: [u8; PLACE_BYTES + MOVED_HEADER_BYTES] = [0; PLACE_BYTES + MOVED_HEADER_BYTES];

/// In a buffer of the caller's: this is done for every event.
fn aad<'a>(
    buffer: &'a mut [u8; PLACE_BYTES + MOVED_HEADER_BYTES],
    place: Place,
    plain: &[u8],
) -> &'a mut [u8] {
    let parts = [&place.log.0[..], &place.segment.0.to_le_bytes(), &place.offset.to_le_bytes(), plain];
    let mut length = 0;
    for part in parts {
        let to = buffer.get_mut(length..length + part.len()).expect("plain fields are a header at the most");
        to.copy_from_slice(part);
        length += part.len();
    }
    buffer.get_mut(..length).unwrap_or_default()
}

/// Keys of one segment, made when they are first needed.
#[derive(Debug, Default)]
pub(crate) struct SegmentKeys(FxHashMap<FunctionNumber, SegmentKey>);

impl SegmentKeys {
    pub(crate) fn of(&mut self, function: FunctionNumber, key: &DataKey, salt: Salt) -> &SegmentKey {
        self.0.entry(function).or_insert_with(|| SegmentKey::derive(key, salt))
    }
}

/// Every seal that a test attempts: no key may see a nonce twice.
#[cfg(test)]
pub(crate) mod audit {
    use std::{
        cell::RefCell,
        collections::HashSet,
        sync::{Arc, Mutex, PoisonError},
    };

    /// The function's key and the segment's salt.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub(crate) struct Identity(pub(super) [u8; 32], pub(super) [u8; 32]);

    /// What the threads of one test have sealed.
    pub(crate) type Ledger = Arc<Mutex<HashSet<(Identity, u64)>>>;

    thread_local! {
        static SEALED: RefCell<Ledger> = RefCell::default();
    }

    pub(super) fn seal(key: Identity, offset: u64) {
        let fresh = sealed(|sealed| sealed.insert((key, offset)));
        assert!(fresh, "a key has sealed at offset {offset} twice");
    }

    /// How many seals were attempted since the last call; they are forgotten.
    pub(crate) fn count() -> usize {
        sealed(|sealed| std::mem::take(sealed).len())
    }

    /// This thread's, for another thread to go on with.
    pub(crate) fn ledger() -> Ledger {
        SEALED.with_borrow(Ledger::clone)
    }

    pub(crate) fn go_on_with(ledger: Ledger) {
        SEALED.set(ledger);
    }

    fn sealed<T>(with: impl FnOnce(&mut HashSet<(Identity, u64)>) -> T) -> T {
        SEALED.with_borrow(|sealed| with(&mut sealed.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const PLACE: Place = Place { log: LogId([1; 16]), segment: SegmentId(2), offset: 4096 };

    fn key(byte: u8) -> SegmentKey {
        SegmentKey::derive(&DataKey::new([byte; 32]), Salt([9; 32]))
    }

    fn sealed(plain: &[u8], secret: &[u8]) -> Vec<u8> {
        audit::count();
        let mut record = [b"before", plain, secret].concat();
        key(1).seal(PLACE, &mut record, 6, 6 + plain.len());
        record.split_off(6 + plain.len())
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens_in_its_place_only(plain in vec(any::<u8>(), 0..40), secret in vec(any::<u8>(), 0..80)) {
            let sealed = sealed(&plain, &secret);
            prop_assert_eq!(sealed.len(), secret.len() + TAG_BYTES);
            let open = |key: SegmentKey, place, plain: &[u8]| key.open(place, plain, &mut sealed.clone()).map(|open| open.to_vec());
            prop_assert_eq!(open(key(1), PLACE, &plain), Some(secret.clone()));
            prop_assert_eq!(open(key(2), PLACE, &plain), None);
            prop_assert_eq!(open(key(1), Place { offset: 4112, ..PLACE }, &plain), None);
            prop_assert_eq!(open(key(1), Place { segment: SegmentId(3), ..PLACE }, &plain), None);
            prop_assert_eq!(open(key(1), Place { log: LogId([2; 16]), ..PLACE }, &plain), None);
            prop_assert_eq!(open(key(1), PLACE, &[&plain[..], b"x"].concat()), None);
            let other_salt = SegmentKey::derive(&DataKey::new([1; 32]), Salt([8; 32]));
            prop_assert_eq!(open(other_salt, PLACE, &plain), None);
        }

        #[test]
        fn a_flipped_bit_does_not_open(secret in vec(any::<u8>(), 0..80), flip in any::<prop::sample::Index>()) {
            let mut sealed = sealed(b"plain", &secret);
            let bit = flip.index(sealed.len() * 8);
            sealed[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(key(1).open(PLACE, b"plain", &mut sealed).is_none());
        }
    }
}
