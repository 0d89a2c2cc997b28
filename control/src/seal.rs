//! Sealing: what lies on a disk is AES-256-GCM under a data key that is used for one thing.
//!
//! **A value** (environment variables): one piece, random nonce, under a fresh data key.
//! ```text
//!  0       4        5          17                     n-16     n
//!  ├───────┼────────┼──────────┼──────────────────────┼────────┤
//!  │ WWSV  │ ver. 1 │ nonce    │ ciphertext           │ tag    │   AAD = first 5 bytes ‖ context
//! ```
//! **An artefact** (an image, a ZIP): chunks, counted nonces, under a data key that never sealed anything else.
//! ```text
//!  0       4        5         6      8                24       32
//!  ├───────┼────────┼─────────┼──────┼────────────────┼────────┼──────────┬─────┬──────────┬─────┬ ─ ─
//!  │ WWSA  │ ver. 1 │ kind    │ 0  0 │ artefact id    │ chunk  │ chunk 0  │ tag │ chunk 1  │ tag │
//!  │       │        │ 1 image │      │ (UUID)         │ bytes  │          │     │          │     │
//!  │       │        │ 2 ZIP   │      │                │ u64 BE │          │     │          │     │
//!
//!  nonce = 0000 ‖ index (u64 BE)          AAD = the 32 header bytes ‖ index (u64 BE) ‖ 1 if last, else 0
//! ```
//! Every chunk but the last is full; an empty artefact is one empty last chunk. So a flipped bit, a chunk of another
//! artefact or of another place, a missing end and an added end all fail to open.
//!
//! Versions and kinds are stable: they are on disks.

use std::io::{self, Read, Write};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};
use types::{DataKey, KeyContext};
use uuid::Uuid;
use zeroize::Zeroizing;

/// Plaintext bytes of a full chunk: large enough for AES at full speed, small enough to hold several.
const CHUNK: usize = 256 * 1024;
pub(crate) const TAG: usize = 16;

const VALUE_MAGIC: &[u8; 5] = b"WWSV\x01";
const VALUE_CIPHERTEXT: usize = VALUE_MAGIC.len() + NONCE_LEN;

const ARTEFACT_MAGIC: &[u8; 5] = b"WWSA\x01";
const ARTEFACT_KIND: usize = ARTEFACT_MAGIC.len();
const ARTEFACT_ID: usize = 8;
const ARTEFACT_CHUNK: usize = 24;
const ARTEFACT_HEADER: usize = 32;

/// Why something sealed did not open, or could not be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Not our format, or one of a newer version.
    #[error("not a sealed {0} of a known format")]
    UnknownFormat(&'static str),
    /// Altered, moved, cut short, or sealed under another key.
    #[error("a sealed {what} is damaged at byte {at}")]
    Damaged { what: &'static str, at: u64 },
    #[error("randomness is not available")]
    NoRandomness,
    #[error("reading or writing a sealed artefact failed: {0}")]
    Io(#[from] io::Error),
}

/// What an artefact is. The numbers are stable: they are on disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ArtefactKind {
    /// The read-only file system a function's code is mounted from.
    Image = 1,
    /// The package as it was uploaded.
    Zip = 2,
}

/// Which artefact a sealed file must be to be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ArtefactIdentity {
    pub(crate) id: Uuid,
    pub(crate) kind: ArtefactKind,
}

/// AES-256-GCM with a key of ours. The caller answers for the nonces.
pub(crate) struct Cipher(LessSafeKey);

impl Cipher {
    pub(crate) fn new(key: &DataKey) -> Self {
        let unbound =
            UnboundKey::new(&AES_256_GCM, key.expose()).expect("a data key has the length of an AES-256 key");
        Self(LessSafeKey::new(unbound))
    }

    /// Encrypts `buffer` in place and appends the tag.
    pub(crate) fn seal(&self, nonce: [u8; NONCE_LEN], aad: &[u8], buffer: &mut Vec<u8>) {
        self.0
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), buffer)
            .expect("no buffer of ours reaches the 64 GiB limit of AES-GCM");
    }

    /// Decrypts `buffer` (with its tag at the end) in place; `None` if it was not sealed with this key, nonce and AAD.
    pub(crate) fn open<'a>(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        buffer: &'a mut [u8],
    ) -> Option<&'a mut [u8]> {
        self.0.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(aad), buffer).ok()
    }
}

/// The nonce of the `index`th thing sealed under one key.
pub(crate) fn counted_nonce(index: u64) -> [u8; NONCE_LEN] {
    let mut nonce = [0; NONCE_LEN];
    nonce[NONCE_LEN - 8..].copy_from_slice(&index.to_be_bytes());
    nonce
}

/// Random bytes for keys, nonces and names.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], SealError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| SealError::NoRandomness)?;
    Ok(bytes)
}

/// A key context as additional authenticated data: each part after its length, so that no two contexts look alike.
pub(crate) fn context_bytes(prefix: &[u8], context: &KeyContext) -> Vec<u8> {
    let mut bytes = prefix.to_vec();
    for part in [&context.arn, &context.purpose] {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    bytes
}

/// Seals a small value. `key` should be fresh; the nonce is random all the same.
pub(crate) fn seal_value(key: &DataKey, context: &KeyContext, plain: &[u8]) -> Result<Vec<u8>, SealError> {
    Ok(seal_value_with(key, context, plain, random()?))
}

fn seal_value_with(key: &DataKey, context: &KeyContext, plain: &[u8], nonce: [u8; NONCE_LEN]) -> Vec<u8> {
    // The plaintext never lies in a buffer that may be reallocated without being wiped.
    let mut buffer = Vec::with_capacity(plain.len() + TAG);
    buffer.extend_from_slice(plain);
    Cipher::new(key).seal(nonce, &context_bytes(VALUE_MAGIC, context), &mut buffer);
    [VALUE_MAGIC, &nonce[..], &buffer].concat()
}

/// Opens what [`seal_value`] sealed under the same key and context.
pub(crate) fn open_value(
    key: &DataKey,
    context: &KeyContext,
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, SealError> {
    const UNKNOWN: SealError = SealError::UnknownFormat("value");
    let rest = sealed.strip_prefix(VALUE_MAGIC).ok_or(UNKNOWN)?;
    let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_LEN>().ok_or(UNKNOWN)?;
    let mut buffer = Zeroizing::new(ciphertext.to_vec());
    let plain = Cipher::new(key)
        .open(*nonce, &context_bytes(VALUE_MAGIC, context), &mut buffer)
        .ok_or(SealError::Damaged { what: "value", at: VALUE_CIPHERTEXT as u64 })?
        .len();
    buffer.truncate(plain);
    Ok(buffer)
}

/// Seals all of `input` to `output`, holding one chunk in memory. `key` must never have sealed anything, and must
/// never seal anything else, whether this succeeds or not.
pub(crate) fn seal_artefact(
    key: &DataKey,
    identity: ArtefactIdentity,
    mut input: impl Read,
    output: &mut dyn Write,
) -> Result<(), SealError> {
    let cipher = Cipher::new(key);
    let header = artefact_header(identity);
    output.write_all(&header)?;
    let mut chunk = read_chunk(&mut input, CHUNK)?;
    for index in 0_u64.. {
        let next = if chunk.len() == CHUNK { read_chunk(&mut input, CHUNK)? } else { Zeroizing::default() };
        let last = next.is_empty();
        cipher.seal(counted_nonce(index), &chunk_aad(&header, index, last), &mut chunk);
        output.write_all(&chunk)?;
        if last {
            break;
        }
        chunk = next;
    }
    Ok(())
}

/// Opens an artefact from `input` to `output` and returns its length, holding two chunks in memory. What was written
/// before an error is a true beginning of the artefact; only `Ok` says that it is all of it.
pub(crate) fn open_artefact(
    key: &DataKey,
    identity: ArtefactIdentity,
    mut input: impl Read,
    output: &mut dyn Write,
) -> Result<u64, SealError> {
    let cipher = Cipher::new(key);
    let mut header = [0; ARTEFACT_HEADER];
    input.read_exact(&mut header).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => SealError::UnknownFormat("artefact"),
        _ => SealError::Io(error),
    })?;
    if !header.starts_with(ARTEFACT_MAGIC) {
        return Err(SealError::UnknownFormat("artefact"));
    }
    if header != artefact_header(identity) {
        return Err(SealError::Damaged { what: "artefact", at: 0 });
    }
    let mut length = 0;
    let mut at = ARTEFACT_HEADER as u64;
    let mut chunk = read_chunk(&mut input, CHUNK + TAG)?;
    for index in 0_u64.. {
        let read = chunk.len();
        let next =
            if read == CHUNK + TAG { read_chunk(&mut input, CHUNK + TAG)? } else { Zeroizing::default() };
        let last = next.is_empty();
        let plain = cipher
            .open(counted_nonce(index), &chunk_aad(&header, index, last), &mut chunk)
            .ok_or(SealError::Damaged { what: "artefact", at })?;
        output.write_all(plain)?;
        length += plain.len() as u64;
        at += read as u64;
        if last {
            break;
        }
        chunk = next;
    }
    Ok(length)
}

fn artefact_header(identity: ArtefactIdentity) -> [u8; ARTEFACT_HEADER] {
    let mut header = [0; ARTEFACT_HEADER];
    header[..ARTEFACT_KIND].copy_from_slice(ARTEFACT_MAGIC);
    header[ARTEFACT_KIND] = identity.kind as u8;
    header[ARTEFACT_ID..ARTEFACT_CHUNK].copy_from_slice(identity.id.as_bytes());
    header[ARTEFACT_CHUNK..].copy_from_slice(&(CHUNK as u64).to_be_bytes());
    header
}

fn chunk_aad(header: &[u8; ARTEFACT_HEADER], index: u64, last: bool) -> [u8; ARTEFACT_HEADER + 9] {
    let mut aad = [0; ARTEFACT_HEADER + 9];
    aad[..ARTEFACT_HEADER].copy_from_slice(header);
    aad[ARTEFACT_HEADER..ARTEFACT_HEADER + 8].copy_from_slice(&index.to_be_bytes());
    aad[ARTEFACT_HEADER + 8] = u8::from(last);
    aad
}

/// Reads up to `size` bytes; less only at the end of the input. Room for a tag is reserved, so that sealing in place
/// does not reallocate and leave plaintext behind.
fn read_chunk(input: &mut impl Read, size: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut chunk = Zeroizing::new(Vec::with_capacity(size + TAG));
    input.by_ref().take(size as u64).read_to_end(&mut chunk)?;
    Ok(chunk)
}

#[cfg(test)]
#[path = "seal_tests.rs"]
mod tests;
