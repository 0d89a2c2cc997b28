//! The image: a squashfs 4.0 file system, made the same from the same package on every machine.
//!
//! Everything belongs to root, all times are zero, files are `0644` or, where the package marks them executable, `0755`;
//! directories are `0755`. Never setuid, no devices.
//!
//! Blocks are stored as they are: an image lives in memory while an environment needs it, and the page cache would hold
//! the inflated form beside the deflated one. The superblock says zlib, which every kernel with squashfs knows, and every
//! block says that it is not compressed; so no decompressor ever runs.

use std::io::{self, Cursor, Seek, SeekFrom, Write};

use backhand::{
    BackhandError, FilesystemCompressor, FilesystemWriter, NodeHeader, SuperBlock,
    compression::{CompressionAction, Compressor},
    kind::Kind,
};
use zeroize::{Zeroize, Zeroizing};

use super::{
    ImageError,
    tree::{Node, Tree},
    zip::EntryKind,
};

/// Bytes of a data block. Fewer, larger blocks read faster once; smaller ones waste less on a page fault.
const BLOCK: u32 = 128 * 1024;
/// What a node needs beyond its name and content: inode, directory entry, rounding. Only used to reserve memory.
const NODE_OVERHEAD: usize = 64;

/// Stores every block as it is.
#[derive(Debug, Clone, Copy)]
struct Stored;

static STORED: Stored = Stored;

impl CompressionAction for Stored {
    type Error = BackhandError;
    type Compressor = Compressor;
    type FilesystemCompressor = FilesystemCompressor;
    type SuperBlock = SuperBlock;

    fn decompress(&self, _: &[u8], _: &mut Vec<u8>, _: Compressor) -> Result<(), BackhandError> {
        // Nothing we write is marked as compressed.
        Err(BackhandError::CorruptedOrInvalidSquashfs)
    }

    fn compress(&self, bytes: &[u8], _: FilesystemCompressor, _: u32) -> Result<Vec<u8>, BackhandError> {
        // "Longer than before" is how the writer learns that a block is better stored as it is; it reads no more of
        // the answer than its length.
        Ok(vec![0; bytes.len() + 1])
    }
}

/// Writes the image of a checked package to memory.
pub(super) fn build(zip: &[u8], tree: &Tree) -> Result<Zeroizing<Vec<u8>>, ImageError> {
    let header = |permissions| NodeHeader::new(permissions, 0, 0, 0);
    let mut writer = FilesystemWriter::default();
    writer.set_kind(Kind::new_v4(&STORED));
    writer.set_compressor(FilesystemCompressor::new(Compressor::Gzip, None)?);
    writer.set_block_size(BLOCK);
    writer.set_time(0);
    writer.set_root_mode(0o755);
    writer.set_only_root_id();
    // Its duplicates are found by a 64-bit hash alone, which who uploads can make collide.
    writer.set_no_duplicate_files(false);
    writer.set_emit_compression_options(false);
    let mut expected = BLOCK as usize;
    tree.visit(&mut |path, node| {
        expected += NODE_OVERHEAD + path.len();
        match node {
            Node::Directory(_) => writer.push_dir(path, header(0o755)),
            Node::Symlink(target) => writer.push_symlink(target, path, header(0o777)),
            Node::File(entry) => {
                expected += usize::try_from(entry.size).unwrap_or_default();
                let executable = entry.kind == EntryKind::File { executable: true };
                writer.push_file(entry.open(zip), path, header(if executable { 0o755 } else { 0o644 }))
            }
        }
    })?;
    let mut image = Buffer::with_capacity(expected);
    writer.write(&mut image)?;
    Ok(image.bytes)
}

/// A growing buffer that wipes what it outgrows: code must not stay behind in freed memory.
struct Buffer {
    bytes: Zeroizing<Vec<u8>>,
    at: usize,
}

impl Buffer {
    fn with_capacity(capacity: usize) -> Self {
        Self { bytes: Zeroizing::new(Vec::with_capacity(capacity)), at: 0 }
    }
}

impl Write for Buffer {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let end = self.at + data.len();
        if end > self.bytes.capacity() {
            let mut larger = Vec::with_capacity(end + end / 8);
            larger.extend_from_slice(&self.bytes);
            self.bytes.zeroize();
            self.bytes = Zeroizing::new(larger);
        }
        if end > self.bytes.len() {
            self.bytes.resize(end, 0);
        }
        self.bytes[self.at..end].copy_from_slice(data);
        self.at = end;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Buffer {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        // Places are computed as a cursor computes them.
        let mut cursor = Cursor::new(&**self.bytes);
        cursor.set_position(self.at as u64);
        let at = cursor.seek(to)?;
        self.at = usize::try_from(at).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(at)
    }
}
