//! A segment's bytes.
//!
//! ```text
//!  <number>.log
//!  0      4        5       8                24       32        36
//!  ├──────┼────────┼───────┼────────────────┼────────┼─────────┼──────────────┬─────┬─────────┬ ─ ─
//!  │ WWLG │ ver. 1 │ 0 0 0 │ segment id     │ 0 … 0  │ length  │ frame 0,     │ tag │ length  │
//!  │      │        │       │ (UUID)         │        │ u32 BE  │ sealed       │     │         │
//!                                                      length = sealed bytes with their tag; 0 is no frame
//!  nonce = 0000 ‖ frame's index (u64 BE)               AAD = the 32 header bytes ‖ index (u64 BE)
//!
//!  in a frame, for each event:   │ at: ns since the epoch, u64 BE │ u16 BE │ stream │ u32 BE │ line │
//!
//!  <number>.key    JSON: format, ARN, segment id, the data key wrapped for (ARN, "logs/<segment id>")
//! ```
//! The key stands apart so that it can be wrapped anew without touching what it sealed.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use types::{FunctionArn, KeyContext, LogEvent, WrappedDataKey};
use uuid::Uuid;

use super::LogRecord;
use crate::seal::{self, Cipher, TAG};

const MAGIC: &[u8; 5] = b"WWLG\x01";
const SEGMENT_ID: usize = 8;
pub(super) const HEADER: usize = 32;
pub(super) const LENGTH: usize = 4;
/// Most plaintext bytes in a frame. Bounds what a reader holds for a length it cannot trust yet.
pub(super) const FRAME_BYTES: usize = 1024 * 1024;
/// Longest line kept, bytes (CloudWatch Logs' event size, from its quotas page). The rest is cut off.
pub(super) const LINE_BYTES: usize = 256 * 1024;
/// What an event takes beyond its stream's name and its line.
pub(super) const EVENT_OVERHEAD: usize = 8 + 2 + 4;
const KEY_FORMAT: u32 = 1;

/// A segment's name and its frames' keeper.
pub(super) struct SegmentCipher {
    header: [u8; HEADER],
    cipher: Cipher,
}

/// What a frame turned out to be.
#[derive(Debug)]
pub(super) enum Frame {
    /// Whole; the next one begins at this many bytes behind its beginning.
    Whole { records: Vec<LogRecord>, size: usize },
    /// Not, or not yet, all there.
    Torn,
    /// There, and not what was written.
    Damaged,
}

impl SegmentCipher {
    pub(super) fn new(id: Uuid, key: &types::DataKey) -> Self {
        let mut header = [0; HEADER];
        header[..MAGIC.len()].copy_from_slice(MAGIC);
        header[SEGMENT_ID..SEGMENT_ID + 16].copy_from_slice(id.as_bytes());
        Self { header, cipher: Cipher::new(key) }
    }

    pub(super) fn header(&self) -> &[u8; HEADER] {
        &self.header
    }

    /// The `index`th frame, with its length before it.
    pub(super) fn seal(&self, index: u64, mut events: Vec<u8>) -> Vec<u8> {
        events.reserve_exact(TAG);
        self.cipher.seal(seal::counted_nonce(index), &self.aad(index), &mut events);
        let length = u32::try_from(events.len()).expect("a frame is at most a little over 1 MiB");
        [&length.to_be_bytes()[..], &events].concat()
    }

    /// Opens the `index`th frame, which begins where `bytes` begin.
    pub(super) fn open(&self, index: u64, bytes: &[u8]) -> Frame {
        let Some((length, rest)) = bytes.split_first_chunk::<LENGTH>() else {
            return Frame::Torn;
        };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length == 0 {
            return Frame::Torn;
        }
        if !(TAG..=FRAME_BYTES + TAG).contains(&length) {
            return Frame::Damaged;
        }
        let Some(sealed) = rest.get(..length) else {
            return Frame::Torn;
        };
        let mut buffer = sealed.to_vec();
        let opened = self.cipher.open(seal::counted_nonce(index), &self.aad(index), &mut buffer);
        match opened.and_then(|events| decode(events)) {
            Some(records) => Frame::Whole { records, size: LENGTH + length },
            None => Frame::Damaged,
        }
    }

    fn aad(&self, index: u64) -> [u8; HEADER + 8] {
        let mut aad = [0; HEADER + 8];
        aad[..HEADER].copy_from_slice(&self.header);
        aad[HEADER..].copy_from_slice(&index.to_be_bytes());
        aad
    }
}

/// Appends an event to a frame's plaintext.
pub(super) fn encode(out: &mut Vec<u8>, stream: &str, event: &LogEvent) {
    let at = u64::try_from(event.at.as_nanos()).unwrap_or(u64::MAX);
    let stream = &stream.as_bytes()[..stream.len().min(usize::from(u16::MAX))];
    let line = &event.line[..event.line.len().min(LINE_BYTES)];
    out.extend_from_slice(&at.to_be_bytes());
    out.extend_from_slice(&u16::try_from(stream.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(stream);
    out.extend_from_slice(&u32::try_from(line.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(line);
}

fn decode(mut bytes: &[u8]) -> Option<Vec<LogRecord>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let (at, rest) = bytes.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (stream, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
        let (length, rest) = rest.split_first_chunk()?;
        let (line, rest) = rest.split_at_checked(u32::from_be_bytes(*length).try_into().ok()?)?;
        records.push(LogRecord {
            stream: String::from_utf8_lossy(stream).into_owned(),
            event: LogEvent { at: Duration::from_nanos(u64::from_be_bytes(*at)), line: line.to_vec() },
        });
        bytes = rest;
    }
    Some(records)
}

/// The key file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SegmentKey {
    format: u32,
    arn: String,
    pub(super) segment: Uuid,
    key: String,
}

impl SegmentKey {
    pub(super) fn new(function: &FunctionArn, segment: Uuid, wrapped: &WrappedDataKey) -> Self {
        Self { format: KEY_FORMAT, arn: function.to_string(), segment, key: STANDARD.encode(&wrapped.0) }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a key file has string keys only")
    }

    /// `None` for what is not a key file of this format.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().filter(|key: &Self| key.format == KEY_FORMAT)
    }

    pub(super) fn context(&self) -> KeyContext {
        KeyContext { arn: self.arn.clone(), purpose: format!("logs/{}", self.segment) }
    }

    pub(super) fn wrapped(&self) -> WrappedDataKey {
        // What is not base64 unwraps to nothing, which says the same.
        WrappedDataKey(STANDARD.decode(&self.key).unwrap_or_default())
    }

    pub(super) fn with_wrap(self, wrapped: &WrappedDataKey) -> Self {
        Self { key: STANDARD.encode(&wrapped.0), ..self }
    }
}

#[cfg(test)]
mod tests {
    use types::DataKey;

    use super::*;

    fn cipher() -> SegmentCipher {
        SegmentCipher::new(Uuid::from_u128(1), &DataKey::new([4; DataKey::LEN]))
    }

    fn event() -> LogEvent {
        LogEvent { at: Duration::from_millis(1_795_356_185_123), line: b"hello \xff".to_vec() }
    }

    fn sealed(index: u64) -> Vec<u8> {
        let mut events = Vec::new();
        encode(&mut events, "s", &event());
        cipher().seal(index, events)
    }

    #[test]
    fn a_frame_keeps_its_bytes_on_disk() {
        assert_eq!(hex::encode(cipher().header()), format!("57574c4701000000{:032x}0000000000000000", 1));
        assert_eq!(
            hex::encode(sealed(0)),
            "0000002668f64e87a368cea3dac925eea39df6803c9cff7828918eba0692fea96388b75d6f88be032d17"
        );
    }

    #[test]
    fn a_frame_opens_in_its_own_place_only_and_unaltered() {
        let bytes = sealed(3);
        let Frame::Whole { records, size } = cipher().open(3, &bytes) else { panic!("does not open") };
        assert_eq!((size, &records[0].event, &*records[0].stream), (bytes.len(), &event(), "s"));
        assert!(matches!(cipher().open(4, &bytes), Frame::Damaged));
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            assert!(!matches!(cipher().open(3, &altered), Frame::Whole { .. }), "byte {at}");
            assert!(matches!(cipher().open(3, &bytes[..at]), Frame::Torn), "cut at {at}");
        }
        assert!(
            matches!(cipher().open(3, &[0; 64]), Frame::Torn),
            "what a power cut leaves of a file that had grown"
        );
    }

    #[test]
    fn an_overlong_line_is_cut() {
        let mut events = Vec::new();
        encode(&mut events, "s", &LogEvent { at: Duration::ZERO, line: vec![b'x'; LINE_BYTES + 1] });
        assert_eq!(decode(&events).unwrap()[0].event.line.len(), LINE_BYTES);
    }
}
