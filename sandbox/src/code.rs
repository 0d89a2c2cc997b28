//! A deployment's unsealed code, as the isolation wants it: a directory to mount, or the image itself as a disk.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use image::{CodeTree, UnpackError};

/// Disks consist of these (virtio, "Block Device": capacity in 512-byte sectors): a shorter end would be cut off.
const SECTOR: usize = 512;

/// Shared by all environments of one deployment; gone when the last has dropped it.
#[derive(Debug)]
pub enum Code {
    /// For environments that mount it on this machine.
    Tree(CodeTree),
    /// For environments with a kernel of their own.
    Image(CodeImage),
}

/// A squashfs image in a file without a name, open for reading.
#[derive(Debug)]
pub struct CodeImage(File);

impl CodeImage {
    /// Writes `image` to a file beside `directory` (nothing else is called so), whose parent is to be in memory. The name
    /// is gone when this returns: nothing can be left behind.
    pub(crate) fn write(image: &[u8], directory: &Path) -> Result<Self, UnpackError> {
        let path = directory.with_extension("squashfs");
        let written = write_padded(image, &path).and_then(|()| File::open(&path));
        let removed = fs::remove_file(&path);
        let file = written.and_then(|file| removed.map(|()| file));
        file.map(Self).map_err(|source| UnpackError::Io { path, source })
    }

    pub(crate) fn file(&self) -> &File {
        &self.0
    }
}

impl Code {
    pub(crate) fn tree(image: &[u8], directory: PathBuf) -> Result<Self, UnpackError> {
        CodeTree::unpack(image, directory).map(Self::Tree)
    }

    pub(crate) fn image(image: &[u8], directory: &Path) -> Result<Self, UnpackError> {
        CodeImage::write(image, directory).map(Self::Image)
    }
}

fn write_padded(image: &[u8], path: &Path) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o400).open(path)?;
    file.write_all(image)?;
    let padding = image.len().next_multiple_of(SECTOR) - image.len();
    file.write_all(&[0; SECTOR][..padding])
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn an_image_is_whole_sectors_without_a_name() {
        let directory = tempfile::tempdir().unwrap();
        for length in [0, 1, 511, 512, 513] {
            let image = vec![7u8; length];
            let code = CodeImage::write(&image, &directory.path().join("d")).unwrap();
            let mut back = Vec::new();
            code.file().read_to_end(&mut back).unwrap();
            assert_eq!(back.len(), length.next_multiple_of(SECTOR));
            assert!(back.starts_with(&image) && back[length..].iter().all(|byte| *byte == 0));
        }
        assert_eq!(directory.path().read_dir().unwrap().count(), 0);
    }
}
