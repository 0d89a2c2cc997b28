//! A deployment package: from the ZIP a stranger uploaded to the file system its environments mount.
//!
//! ```text
//!  Bytes ─► zip::Directory ─► Package::check ─────────────────────────► image::build ─► squashfs image
//!           where entries lie  names, types, links, overlaps; every       in memory
//!           and what they say  entry inflated to nowhere: size and CRC
//! ```
//! Nothing is written anywhere before the whole package is checked, and nothing is ever extracted to a disk. While a
//! package is checked, memory grows with its names only: at most 65,535 paths of at most 1 KiB, and one
//! inflating window. Building the image takes the unzipped size (at most 250 MB) once, and a few MiB.

mod image;
mod tree;
mod zip;

use std::io;

use bytes::Bytes;
use types::{ApiError, ErrorCode, limits};
use zeroize::Zeroizing;

use tree::Tree;

/// Why a package is refused. The display form is the API's message; it names entries, never their content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackageRefused {
    /// No ZIP, or a broken one. AWS's own sentence.
    #[error("Could not unzip uploaded file. Please check your file, then try to upload again.")]
    NotAZip,
    /// AWS's own sentence.
    #[error("Uploaded file must be a non-empty zip")]
    Empty,
    /// AWS's own sentence.
    #[error("Unzipped size must be smaller than {} bytes", limits::UNZIPPED_BYTES)]
    TooLarge,
    #[error("Zip file must be smaller than {} bytes", limits::ZIP_BYTES)]
    ZipTooLarge,
    #[error("Uploaded file must have at most {} entries and directories", limits::ZIP_ENTRIES)]
    TooManyEntries,
    #[error("Could not unzip uploaded file. Entry {name}: {problem}.")]
    Entry { name: EntryName, problem: EntryProblem },
}

/// What is wrong with one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryProblem {
    #[error("its name is absolute")]
    Absolute,
    #[error("its name contains '..'")]
    Parent,
    #[error("its name contains a backslash")]
    Backslash,
    #[error("its name contains a NUL byte")]
    Nul,
    #[error("its name is empty")]
    Unnamed,
    #[error("its name is not UTF-8")]
    NotUtf8,
    #[error(
        "its name is longer than {} bytes, or a part of it than {}",
        tree::PATH_BYTES,
        tree::COMPONENT_BYTES
    )]
    NameTooLong,
    #[error("its name has more than {} parts", tree::DEPTH)]
    TooDeep,
    #[error("its name is there twice")]
    Duplicate,
    #[error("its name is a file here and a directory there")]
    FileAndDirectory,
    #[error("it is encrypted")]
    Encrypted,
    #[error("it is neither stored nor deflated")]
    Method,
    #[error("it is neither a file, a directory nor a symbolic link")]
    Special,
    #[error("it is a directory with content")]
    DirectoryWithContent,
    #[error("it is a symbolic link out of the package")]
    LinkEscapes,
    #[error("it is a symbolic link with an unusable target")]
    LinkTarget,
    #[error("it overlaps another entry")]
    Overlap,
    #[error("it is described in two different ways")]
    Contradiction,
    #[error("its content does not have the size it states")]
    Size,
    #[error("its content is damaged")]
    Damaged,
}

/// The name of an entry as it may be shown: printable and not too long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryName(String);

impl EntryName {
    /// Bytes of a name that are shown.
    const SHOWN: usize = 200;

    fn new(raw: &[u8]) -> Self {
        let shown = String::from_utf8_lossy(&raw[..raw.len().min(Self::SHOWN)]);
        let more = if raw.len() > Self::SHOWN { "…" } else { "" };
        Self(format!("{:?}{more}", shown.trim_end_matches(char::REPLACEMENT_CHARACTER)))
    }
}

impl std::fmt::Display for EntryName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<PackageRefused> for ApiError {
    fn from(refused: PackageRefused) -> Self {
        let code = match refused {
            PackageRefused::ZipTooLarge => ErrorCode::RequestTooLarge,
            _ => ErrorCode::InvalidParameterValue,
        };
        Self::new(code, refused.to_string())
    }
}

/// A checked package. Its entries may be inflated again without a surprise.
pub(crate) struct Package {
    zip: Bytes,
    tree: Tree,
}

impl std::fmt::Debug for Package {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Package")
            .field("bytes", &self.zip.len())
            .field("nodes", &self.tree.len())
            .finish_non_exhaustive()
    }
}

impl Package {
    /// Checks all of an uploaded ZIP. Takes as long as inflating it; for a blocking thread.
    pub(crate) fn check(zip: Bytes) -> Result<Self, PackageRefused> {
        if zip.len() as u64 > limits::ZIP_BYTES {
            return Err(PackageRefused::ZipTooLarge);
        }
        let directory = zip::read_directory(&zip)?;
        if directory.is_empty() {
            return Err(PackageRefused::Empty);
        }
        let stated = directory.iter().fold(0_u64, |sum, entry| sum.saturating_add(entry.size));
        if stated > limits::UNZIPPED_BYTES {
            return Err(PackageRefused::TooLarge);
        }
        zip::refuse_overlaps(&zip, &directory)?;
        let mut tree = Tree::default();
        for entry in directory {
            let name = entry.raw_name(&zip);
            let refuse = |problem| PackageRefused::Entry { name: EntryName::new(name), problem };
            tree.insert(&zip, &entry).map_err(|error| match error {
                tree::InsertError::TooMany => PackageRefused::TooManyEntries,
                tree::InsertError::Entry(problem) => refuse(problem),
            })?;
            // A link's content was read as its target, a directory has none.
            if entry.is_regular() {
                io::copy(&mut entry.open(&zip), &mut io::sink())
                    .map_err(|error| refuse(zip::problem_of(&error)))?;
            }
        }
        Ok(Self { zip, tree })
    }

    /// The read-only file system with the package's content.
    pub(crate) fn build_image(&self) -> Result<Zeroizing<Vec<u8>>, ImageError> {
        image::build(&self.zip, &self.tree)
    }

    #[cfg(test)]
    fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        let all = self.tree.visit::<std::convert::Infallible>(&mut |path, _| {
            paths.push(path.to_owned());
            Ok(())
        });
        all.map(|()| paths).unwrap_or_default()
    }
}

/// Why a checked package could not become an image.
#[derive(Debug, thiserror::Error)]
#[error("the image of a package could not be made: {0}")]
pub(crate) struct ImageError(#[from] backhand::BackhandError);

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
