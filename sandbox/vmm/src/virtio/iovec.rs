//! System calls on guest memory, without a copy in between.
//!
//! The guest may change its memory while the kernel copies; no Rust reference to it ever exists, only addresses for the kernel. The addresses
//! come from ranges that were checked to be mapped ([`super::chain`]), and the mapping outlives the call because the memory is borrowed.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

use vm_memory::GuestMemoryBackend;

use super::{Memory, chain::Segment};

/// Ranges handed to the kernel at a time; more are left for the next call. Far below the kernel's 1024.
const ENTRIES: usize = 64;

/// Addresses of guest memory for one call.
pub(super) struct IoVectors<'a> {
    entries: [libc::iovec; ENTRIES],
    count: usize,
    memory: PhantomData<&'a Memory>,
}

impl<'a> IoVectors<'a> {
    /// The ranges, or as many of them as go into one call.
    pub(super) fn new(memory: &'a Memory, ranges: impl Iterator<Item = Segment>) -> io::Result<Self> {
        let mut entries = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; ENTRIES];
        let mut count = 0;
        let slices = ranges.flat_map(|range| memory.get_slices(range.address, range.length as usize));
        for (entry, slice) in entries.iter_mut().zip(slices) {
            let slice = slice.map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
            *entry = libc::iovec { iov_base: slice.ptr_guard_mut().as_ptr().cast(), iov_len: slice.len() };
            count += 1;
        }
        Ok(Self { entries, count, memory: PhantomData })
    }

    /// Reads from a file at an offset. 0: the end of the file.
    pub(super) fn read_at(&mut self, file: BorrowedFd<'_>, offset: u64) -> io::Result<usize> {
        let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        retry(|| {
            // SAFETY: `count` entries of the array are initialised, and each describes memory of the guest that is mapped for as long as
            // `self.memory` is borrowed; that is written by others at any time, so writing to it breaks no promise.
            unsafe { libc::preadv(file.as_raw_fd(), self.entries.as_ptr(), self.count(), offset) }
        })
    }

    /// Reads from a non-blocking socket. 0: the end of the stream.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        retry(|| {
            // SAFETY: as in `read_at`.
            unsafe { libc::readv(socket.as_raw_fd(), self.entries.as_ptr(), self.count()) }
        })
    }

    /// Writes to a non-blocking socket; an end that has gone is an error, not a signal.
    pub(super) fn send(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: all fields of a msghdr may be zero: no address, no control data, no flags.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = self.entries.as_mut_ptr();
        message.msg_iovlen = self.count;
        retry(|| {
            // SAFETY: as in `read_at`, and the kernel only reads; the message lives until the call has returned.
            unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) }
        })
    }

    /// At most [`ENTRIES`].
    fn count(&self) -> libc::c_int {
        libc::c_int::try_from(self.count).unwrap_or(0)
    }
}

fn retry(mut call: impl FnMut() -> libc::ssize_t) -> io::Result<usize> {
    loop {
        match usize::try_from(call()) {
            Ok(bytes) => return Ok(bytes),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
}
