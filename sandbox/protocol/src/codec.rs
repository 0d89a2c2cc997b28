//! Reading and writing fields, and cutting a byte stream into frames.

use crate::MAX_FRAME;

/// Why bytes are not a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecodeError {
    /// A frame claims to be larger than [`MAX_FRAME`], or empty.
    Length(u32),
    /// No frame has this kind.
    Kind(u8),
    /// The body ends in the middle of a field.
    Truncated,
    /// The body goes on behind its last field.
    LeftOver(usize),
    /// A text field is not UTF-8.
    NotUtf8,
    /// A field has a value outside of its range.
    Value(&'static str),
}

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Length(length) => write!(f, "frame length {length} is not between 1 and {MAX_FRAME}"),
            Self::Kind(kind) => write!(f, "frame kind {kind} is unknown"),
            Self::Truncated => f.write_str("frame ends in the middle of a field"),
            Self::LeftOver(bytes) => write!(f, "frame has {bytes} bytes behind its last field"),
            Self::NotUtf8 => f.write_str("text field is not UTF-8"),
            Self::Value(field) => write!(f, "field {field} is out of range"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// Bytes of the length prefix.
const LENGTH: usize = 4;

/// Appends one frame to `out`: `kind`, then whatever `body` writes.
pub(crate) fn frame(out: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Writer<'_>)) {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH]);
    out.push(kind);
    body(&mut Writer { out });
    let length = u32::try_from(out.len() - start - LENGTH).unwrap_or(u32::MAX);
    if let Some(prefix) = out.get_mut(start..start + LENGTH) {
        prefix.copy_from_slice(&length.to_le_bytes());
    }
}

pub(crate) struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl Writer<'_> {
    pub(crate) fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) {
        self.u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
        self.out.extend_from_slice(value);
    }

    pub(crate) fn optional(&mut self, value: Option<&str>) {
        self.u8(u8::from(value.is_some()));
        if let Some(text) = value {
            self.bytes(text.as_bytes());
        }
    }
}

/// Reads fields from the body of one frame.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.rest.split_at_checked(bytes).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.take(N)?.try_into().map_err(|_| DecodeError::Truncated)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn i32(&mut self) -> Result<i32, DecodeError> {
        self.array().map(i32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.u32()?;
        self.take(usize::try_from(length).map_err(|_| DecodeError::Truncated)?)
    }

    pub(crate) fn text(&mut self) -> Result<String, DecodeError> {
        std::str::from_utf8(self.bytes()?).map(str::to_owned).map_err(|_| DecodeError::NotUtf8)
    }

    pub(crate) fn optional(&mut self) -> Result<Option<String>, DecodeError> {
        match self.u8()? {
            0 => Ok(None),
            1 => self.text().map(Some),
            _ => Err(DecodeError::Value("presence of an optional text")),
        }
    }

    pub(crate) fn finish<T>(self, value: T) -> Result<T, DecodeError> {
        if self.rest.is_empty() { Ok(value) } else { Err(DecodeError::LeftOver(self.rest.len())) }
    }
}

/// Cuts arriving bytes into frames.
///
/// Feed what arrives with [`Decoder::extend`] (or read straight into [`Decoder::buffer`]) and take frames until `None`.
/// After an error the stream is out of step: close it.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
}

impl Decoder {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes that arrived.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.buffer().extend_from_slice(bytes);
    }

    /// The buffer that arriving bytes are appended to; what has been taken is dropped first.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        &mut self.buffer
    }

    /// Takes the next whole frame, as `parse` reads it from its kind and body.
    pub(crate) fn next<T>(
        &mut self,
        parse: impl FnOnce(u8, Reader<'_>) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        let arrived = self.buffer.get(self.start..).unwrap_or_default();
        let Some((prefix, rest)) = arrived.split_first_chunk::<LENGTH>() else {
            return Ok(None);
        };
        let claimed = u32::from_le_bytes(*prefix);
        let length = usize::try_from(claimed).map_err(|_| DecodeError::Length(claimed))?;
        if length == 0 || length > MAX_FRAME {
            return Err(DecodeError::Length(claimed));
        }
        let Some((kind, body)) = rest.get(..length).and_then(<[u8]>::split_first) else {
            return Ok(None);
        };
        let frame = parse(*kind, Reader { rest: body })?;
        self.start += LENGTH + length;
        Ok(Some(frame))
    }
}
