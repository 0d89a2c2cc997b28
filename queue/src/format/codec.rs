//! Reading and writing of plain fields. A [`Fields`] ends every read beyond its end with an error.

use super::FormatError;

/// Bytes that are read from the front.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (front, rest) =
            self.0.split_first_chunk::<N>().ok_or(FormatError::Damaged("a field is cut short"))?;
        self.0 = rest;
        Ok(*front)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, FormatError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, FormatError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Result<&'a [u8], FormatError> {
        let (front, rest) =
            self.0.split_at_checked(length).ok_or(FormatError::Damaged("a field is cut short"))?;
        self.0 = rest;
        Ok(front)
    }

    /// Bytes after their length.
    pub(crate) fn counted(&mut self) -> Result<&'a [u8], FormatError> {
        let length = self.u32()?;
        self.bytes(usize::try_from(length).map_err(|_| FormatError::Damaged("a length"))?)
    }

    /// UTF-8 after its length.
    pub(crate) fn text(&mut self) -> Result<&'a str, FormatError> {
        std::str::from_utf8(self.counted()?).map_err(|_| FormatError::Damaged("text that is not UTF-8"))
    }

    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }

    /// All must have been read.
    pub(crate) fn end(self) -> Result<(), FormatError> {
        if self.0.is_empty() { Ok(()) } else { Err(FormatError::Damaged("bytes behind the last field")) }
    }
}

/// A number of things in one segment, or of bytes in one record, as it is stored.
///
/// # Panics
/// If it takes more than 32 bits. A segment is no larger than 32 GiB, and a place in it is a multiple of 16.
pub(crate) fn small(number: impl TryInto<u32>) -> u32 {
    number.try_into().ok().expect("what is in one segment can be counted with 32 bits")
}

/// Writes bytes after their length.
pub(crate) fn put_counted(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend_from_slice(&small(bytes.len()).to_le_bytes());
    to.extend_from_slice(bytes);
}
