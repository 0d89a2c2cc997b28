//! A runtime's root as one read-only image, which microVMs mount as their root disk.
//!
//! ```text
//!   DIR/NAME/root-<digest>/          the root directory, for process isolation
//!           /root-<digest>.erofs     the same files, for microVMs
//! ```
//!
//! Uncompressed, because many VMs read the same pages from the host's cache; the same root always makes the same bytes.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    BuildError,
    error::IoContext,
    finish,
    tools::{MKFS_EROFS, Tool},
};

const EXTENSION: &str = "erofs";
/// Identifies the file system in a guest's mount table; there is one per VM.
const UUID: &str = "77617465-7277-6865-656c-726f6f740001";
/// The time of every file: 1980-01-01 00:00 UTC, which even zip archives can express.
const TIME: u32 = 315_532_800;

/// Where the image of `root` is, whether it is there or not.
pub(crate) fn path_of(root: &Path) -> PathBuf {
    // Not `with_extension`: a root's name might hold a dot.
    let mut name = root.as_os_str().to_owned();
    name.push(".");
    name.push(EXTENSION);
    name.into()
}

/// The name of the root that an image's file name belongs to; any other name is returned as it is.
pub(crate) fn root_name(name: &str) -> &str {
    name.strip_suffix(EXTENSION).and_then(|name| name.strip_suffix('.')).unwrap_or(name)
}

/// Makes the image of `root` in the file `image`, which appears only when it is whole and on disk.
pub(crate) fn make(root: &Path, image: &Path) -> Result<(), BuildError> {
    make_by(MKFS_EROFS, root, image)
}

fn make_by(tool: Tool, root: &Path, image: &Path) -> Result<(), BuildError> {
    let mut partial = image.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    finish::remove(&partial)?;
    let mut command = Command::new(tool.name);
    command.args(["--quiet", "--all-root", "-x-1", &format!("-T{TIME}"), &format!("-U{UUID}")]);
    tool.run(command.arg(&partial).arg(root))?;
    File::open(&partial).and_then(|file| file.sync_all()).context("sync", &partial)?;
    fs::rename(&partial, image).context("rename", &partial)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_images_name_is_its_roots_with_an_ending() {
        assert_eq!(path_of(Path::new("/d/python3.11/root-1")), Path::new("/d/python3.11/root-1.erofs"));
        assert_eq!(path_of(Path::new("/d/.partial")), Path::new("/d/.partial.erofs"));
        assert_eq!((root_name("root-1.erofs"), root_name("root-1")), ("root-1", "root-1"));
    }

    #[test]
    fn without_the_tool_no_image_appears() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        let tool = Tool { name: "no-such-mkfs", install: "apt-get install erofs-utils" };
        let error = make_by(tool, dir.path(), &image).unwrap_err();
        assert!(error.to_string().ends_with("install it with: apt-get install erofs-utils"), "{error}");
        assert!(!image.exists());
    }
}
