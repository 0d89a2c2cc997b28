//! Code images for tests, here and beside `sandbox`: made by `backhand`'s writer as the control plane makes real ones.

use std::io::Cursor;

use backhand::{
    BackhandError, FilesystemCompressor, FilesystemWriter, SuperBlock,
    compression::{CompressionAction, Compressor},
    kind::Kind,
};

/// Stores blocks as they are under a superblock that says zlib: the kernel can mount it, and no decompressor runs.
struct Stored;

static STORED: Stored = Stored;

impl CompressionAction for Stored {
    type Error = BackhandError;
    type Compressor = Compressor;
    type FilesystemCompressor = FilesystemCompressor;
    type SuperBlock = SuperBlock;

    fn decompress(&self, _: &[u8], _: &mut Vec<u8>, _: Compressor) -> Result<(), BackhandError> {
        Err(BackhandError::CorruptedOrInvalidSquashfs)
    }

    fn compress(&self, bytes: &[u8], _: FilesystemCompressor, _: u32) -> Result<Vec<u8>, BackhandError> {
        // A result longer than its input makes the writer keep the input.
        Ok(vec![0; bytes.len() + 1])
    }
}

/// A writer with nothing in it yet but a root that everybody may enter.
pub(crate) fn writer<'a>() -> FilesystemWriter<'a, 'a, 'a> {
    let mut writer = FilesystemWriter::default();
    writer.set_kind(Kind::new_v4(&STORED));
    writer.set_compressor(FilesystemCompressor::new(Compressor::Gzip, None).unwrap());
    writer.set_emit_compression_options(false);
    writer.set_only_root_id();
    writer.set_root_mode(0o755);
    writer
}

pub(crate) fn bytes_of(mut writer: FilesystemWriter<'_, '_, '_>) -> Vec<u8> {
    let mut image = Cursor::new(Vec::new());
    writer.write(&mut image).unwrap();
    image.into_inner()
}
