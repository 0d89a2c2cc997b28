//! A function's code, unpacked from its squashfs image into a directory in memory.
//!
//! The image is authenticated by the caller and was made by the control plane from a checked ZIP, yet it began as an
//! upload. So unpacking trusts no path in it: every name is opened relative to a held directory, below the root, without
//! following links, and must not exist yet.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Cursor},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::{Component, Path, PathBuf},
};

use backhand::{FilesystemReader, InnerNode, Node, SquashfsFileReader};
use rustix::fs::{Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT};

/// The code of one function version. Its directory is removed when this is dropped.
#[derive(Debug)]
pub struct CodeTree {
    dir: PathBuf,
}

/// Why an image was not unpacked. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("the code image cannot be read")]
    Image(#[source] backhand::BackhandError),
    /// Something other than a file, a directory or a symbolic link.
    #[error("{path:?} in the code image is a {kind}")]
    Kind { path: PathBuf, kind: &'static str },
    /// A name that is not below the root.
    #[error("{path:?} in the code image is not a path below its root")]
    Path { path: PathBuf },
    /// A link that is absolute or climbs above the root.
    #[error("the link {path:?} in the code image leads outside, to {target:?}")]
    Link { path: PathBuf, target: PathBuf },
    /// Fewer bytes than the image's own index says.
    #[error("{path:?} in the code image has {got} of {expected} bytes")]
    Truncated { path: PathBuf, got: u64, expected: u64 },
    #[error("cannot unpack {path}")]
    Io { path: PathBuf, source: io::Error },
}

impl CodeTree {
    /// Unpacks `image` into `dir`, which must not exist; its parent must, and is to be in memory.
    ///
    /// Files and directories get the image's permission bits (the owner may always read and search its directories) and
    /// modification times, and belong to the caller. Set-user-id, set-group-id and sticky bits are dropped.
    pub fn unpack(image: &[u8], dir: PathBuf) -> Result<Self, UnpackError> {
        let reader = FilesystemReader::from_reader(Cursor::new(image)).map_err(UnpackError::Image)?;
        fs::DirBuilder::new().mode(0o755).create(&dir).in_path(&dir)?;
        // From here on the directory is ours: dropping the tree on an error removes it.
        let tree = Self { dir };
        Unpacker::new(&tree.dir, &reader)?.run()?;
        Ok(tree)
    }

    /// The directory, as it is to be mounted on `/var/task`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.dir
    }
}

impl Drop for CodeTree {
    fn drop(&mut self) {
        // `remove_dir_all` follows no links.
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            tracing::error!(path = %self.dir.display(), %error, "unpacked code could not be removed");
        }
    }
}

struct Unpacker<'a, 'b> {
    dir: &'a Path,
    root: OwnedFd,
    reader: &'a FilesystemReader<'b>,
    /// The directory opened last: nodes come sorted, so most share their parent with the one before.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Modes of directories, set last so that a read-only directory can be filled.
    modes: Vec<(PathBuf, Mode)>,
}

impl<'a, 'b> Unpacker<'a, 'b> {
    fn new(dir: &'a Path, reader: &'a FilesystemReader<'b>) -> Result<Self, UnpackError> {
        let root = rustix::fs::open(dir, DIRECTORY, Mode::empty()).in_path(dir)?;
        Ok(Self { dir, root, reader, parent: None, modes: Vec::new() })
    }

    fn run(mut self) -> Result<(), UnpackError> {
        let reader = self.reader;
        for node in reader.files() {
            self.node(node)?;
        }
        // Children before their parents: a parent without search permission would hide them from a caller without root.
        while let Some((path, mode)) = self.modes.pop() {
            let directory = if path.as_os_str().is_empty() {
                self.root.try_clone().in_path(&path)?
            } else {
                open_directory(&self.root, &path)?
            };
            rustix::fs::fchmod(&directory, mode).in_path(&path)?;
        }
        Ok(())
    }

    fn node(&mut self, node: &Node<SquashfsFileReader>) -> Result<(), UnpackError> {
        let path = relative(&node.fullpath)?;
        let mode = Mode::from_raw_mode(u32::from(node.header.permissions) & 0o777);
        if let InnerNode::Dir(_) = node.inner {
            self.modes.push((path.clone(), mode | Mode::RUSR | Mode::XUSR));
        }
        let Some(name) = path.file_name() else {
            return match node.inner {
                InnerNode::Dir(_) => Ok(()),
                _ => Err(UnpackError::Path { path: node.fullpath.clone() }),
            };
        };
        let kind = match &node.inner {
            InnerNode::Dir(_) => {
                let parent = self.parent(&path)?;
                return rustix::fs::mkdirat(parent, name, Mode::RWXU).in_path(&path);
            }
            InnerNode::File(file) => return self.file(&path, name, mode, node.header.mtime, file),
            InnerNode::Symlink(link) => return self.link(&path, name, &link.link),
            InnerNode::CharacterDevice(_) => "character device",
            InnerNode::BlockDevice(_) => "block device",
            InnerNode::NamedPipe => "named pipe",
            InnerNode::Socket => "socket",
        };
        Err(UnpackError::Kind { path, kind })
    }

    fn file(
        &mut self,
        path: &Path,
        name: &OsStr,
        mode: Mode,
        mtime: u32,
        file: &SquashfsFileReader,
    ) -> Result<(), UnpackError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd =
            rustix::fs::openat(self.parent(path)?, name, flags, Mode::RUSR | Mode::WUSR).in_path(path)?;
        let mut out = File::from(fd);
        let expected = file.file_len() as u64;
        let mut contents = self.reader.file(file).reader_checked().map_err(UnpackError::Image)?;
        let got = io::copy(&mut contents, &mut out).in_path(path)?;
        if got != expected {
            return Err(UnpackError::Truncated { path: path.to_owned(), got, expected });
        }
        rustix::fs::fchmod(&out, mode).in_path(path)?;
        // Compiled Python modules are valid only for the modification time of their source.
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: i64::from(mtime), tv_nsec: 0 },
        };
        rustix::fs::futimens(&out, &times).in_path(path)
    }

    fn link(&mut self, path: &Path, name: &OsStr, target: &Path) -> Result<(), UnpackError> {
        if !stays_inside(path, target) {
            return Err(UnpackError::Link { path: path.to_owned(), target: target.to_owned() });
        }
        rustix::fs::symlinkat(target, self.parent(path)?, name).in_path(path)
    }

    /// The open directory that holds `path`.
    fn parent(&mut self, path: &Path) -> Result<&OwnedFd, UnpackError> {
        let parent = path.parent().unwrap_or(Path::new(""));
        if parent.as_os_str().is_empty() {
            return Ok(&self.root);
        }
        if self.parent.as_ref().is_none_or(|(open, _)| open != parent) {
            self.parent = Some((parent.to_owned(), open_directory(&self.root, parent)?));
        }
        match &self.parent {
            Some((_, fd)) => Ok(fd),
            None => Err(UnpackError::Path { path: self.dir.join(path) }),
        }
    }
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn open_directory(root: &impl AsFd, path: &Path) -> Result<OwnedFd, UnpackError> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, DIRECTORY, Mode::empty(), resolve).in_path(path)
}

/// The path without the leading slash; refused if it has anything but plain names.
fn relative(path: &Path) -> Result<PathBuf, UnpackError> {
    let mut relative = PathBuf::new();
    for component in path.components() {
        match component {
            Component::RootDir => {}
            Component::Normal(name) => relative.push(name),
            _ => {
                return Err(UnpackError::Path { path: path.to_owned() });
            }
        }
    }
    Ok(relative)
}

/// Whether a link at `path` (relative to the root) that says `target` stays below the root, read name by name.
fn stays_inside(path: &Path, target: &Path) -> bool {
    let mut depth = path.components().count() - 1;
    for component in target.components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            _ => return false,
        }
    }
    true
}

trait InPath<T> {
    fn in_path(self, path: &Path) -> Result<T, UnpackError>;
}

impl<T, E: Into<io::Error>> InPath<T> for Result<T, E> {
    fn in_path(self, path: &Path) -> Result<T, UnpackError> {
        self.map_err(|source| UnpackError::Io { path: path.to_owned(), source: source.into() })
    }
}
