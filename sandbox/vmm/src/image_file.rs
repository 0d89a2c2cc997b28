//! A file read from a position of its own.
//!
//! The server opens the kernel and the initramfs once and gives every monitor a duplicate: all of them have one position, and
//! two monitors that read at the same time through it would both get nonsense. Reading here names its position each time.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::{fd::AsRawFd, unix::fs::FileExt},
};

use vm_memory::{ReadVolatile, VolatileMemoryError, VolatileSlice, bitmap::BitmapSlice};

/// See the module.
#[derive(Debug)]
pub struct ImageFile {
    file: File,
    position: u64,
}

impl ImageFile {
    /// From its beginning.
    #[must_use]
    pub fn new(file: File) -> Self {
        Self { file, position: 0 }
    }
}

impl Read for ImageFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.read_at(buffer, self.position)?;
        self.position += bytes as u64;
        Ok(bytes)
    }
}

impl Seek for ImageFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => self.file.metadata()?.len().checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

impl ReadVolatile for ImageFile {
    fn read_volatile<B: BitmapSlice>(
        &mut self,
        buffer: &mut VolatileSlice<'_, B>,
    ) -> Result<usize, VolatileMemoryError> {
        let failed = VolatileMemoryError::IOError;
        let position = i64::try_from(self.position).map_err(|error| failed(io::Error::other(error)))?;
        let guard = buffer.ptr_guard_mut();
        // SAFETY: a volatile slice is writable for its length for as long as it lives, and nobody holds references into it.
        let read =
            unsafe { libc::pread(self.file.as_raw_fd(), guard.as_ptr().cast(), buffer.len(), position) };
        let bytes = usize::try_from(read).map_err(|_| failed(io::Error::last_os_error()))?;
        self.position += bytes as u64;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use vm_memory::{Bytes, GuestAddress};

    use super::*;

    #[test]
    fn duplicates_do_not_disturb_each_other() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let (mut one, mut other) = (ImageFile::new(file.try_clone().unwrap()), ImageFile::new(file));
        let mut two = [0; 2];
        one.read_exact(&mut two).unwrap();
        assert_eq!(other.seek(SeekFrom::End(-3)).unwrap(), 7);
        let memory = crate::memory::new(1).unwrap();
        memory.read_exact_volatile_from(GuestAddress(0), &mut one, 5).unwrap();
        other.read_exact(&mut two).unwrap();
        let mut five = [0; 5];
        memory.read_slice(&mut five, GuestAddress(0)).unwrap();
        assert_eq!((&five, &two), (b"23456", b"78"));
    }

    #[test]
    fn a_file_that_is_too_short_is_an_error() {
        let memory = crate::memory::new(1).unwrap();
        let mut file = ImageFile::new(tempfile::tempfile().unwrap());
        assert!(memory.read_exact_volatile_from(GuestAddress(0), &mut file, 1).is_err());
        assert!(file.seek(SeekFrom::Current(-1)).is_err());
    }
}
