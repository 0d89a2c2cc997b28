//! The files, directories and links of a package, by path: what the image will hold, whatever order they came in.

use std::{collections::BTreeMap, io::Read};

use types::limits;

use super::{
    EntryProblem,
    zip::{Entry, EntryKind},
};

/// Longest path inside a package, bytes. Ours; with `/var/task/` before it, it stays far below Linux's PATH_MAX.
pub(super) const PATH_BYTES: usize = 1024;
/// Longest part of a path, bytes (Linux NAME_MAX; squashfs allows 256).
pub(super) const COMPONENT_BYTES: usize = 255;
/// Most parts of a path. Ours: it bounds the recursion, and the time, that writing the image takes.
pub(super) const DEPTH: usize = 32;

/// What lies at a path.
#[derive(Debug)]
pub(super) enum Node {
    Directory(Directory),
    File(Entry),
    /// Its target: relative, and inside the package.
    Symlink(String),
}

/// Nodes by their own name.
#[derive(Debug, Default)]
pub(super) struct Directory(BTreeMap<Box<str>, Node>);

#[derive(Debug)]
pub(super) enum InsertError {
    TooMany,
    Entry(EntryProblem),
}

impl From<EntryProblem> for InsertError {
    fn from(problem: EntryProblem) -> Self {
        Self::Entry(problem)
    }
}

/// All of a package. A path is walked part by part, so that long common beginnings cost nothing to compare.
#[derive(Debug, Default)]
pub(super) struct Tree {
    root: Directory,
    nodes: usize,
}

impl Tree {
    pub(super) fn len(&self) -> usize {
        self.nodes
    }

    /// Calls `visit` with each path (without a leading slash) and node: parents before what they hold, siblings in the order
    /// of their names' bytes.
    pub(super) fn visit<E>(&self, visit: &mut dyn FnMut(&str, &Node) -> Result<(), E>) -> Result<(), E> {
        self.root.visit(&mut String::new(), visit)
    }

    /// Adds an entry and the directories above it.
    pub(super) fn insert(&mut self, zip: &[u8], entry: &Entry) -> Result<(), InsertError> {
        let parts = components(entry.raw_name(zip))?;
        let Some((name, parents)) = parts.split_last() else {
            // `./`, the package's own root.
            return match entry.kind {
                EntryKind::Directory => Ok(()),
                _ => Err(EntryProblem::Unnamed.into()),
            };
        };
        let node = match entry.kind {
            EntryKind::Directory => Node::Directory(Directory::default()),
            EntryKind::File { .. } => Node::File(entry.clone()),
            EntryKind::Symlink => Node::Symlink(link_target(zip, entry, parents.len())?),
        };
        let Self { root, nodes } = self;
        let mut directory = root;
        for parent in parents {
            directory.put(parent, Node::Directory(Directory::default()), nodes)?;
            let Some(Node::Directory(next)) = directory.0.get_mut(*parent) else {
                return Err(EntryProblem::FileAndDirectory.into());
            };
            directory = next;
        }
        directory.put(name, node, nodes)
    }
}

impl Directory {
    fn put(&mut self, name: &str, node: Node, nodes: &mut usize) -> Result<(), InsertError> {
        match (self.0.get(name), node) {
            (None, _) if *nodes >= limits::ZIP_ENTRIES => Err(InsertError::TooMany),
            (None, node) => {
                *nodes += 1;
                self.0.insert(name.into(), node);
                Ok(())
            }
            // Named, or implied by what lies in it, or both.
            (Some(Node::Directory(_)), Node::Directory(_)) => Ok(()),
            (Some(Node::Directory(_)), _) | (_, Node::Directory(_)) => {
                Err(EntryProblem::FileAndDirectory.into())
            }
            _ => Err(EntryProblem::Duplicate.into()),
        }
    }

    /// Recurses at most [`DEPTH`] deep. `path` is this directory's, and is given back as it was.
    fn visit<E>(
        &self,
        path: &mut String,
        visit: &mut dyn FnMut(&str, &Node) -> Result<(), E>,
    ) -> Result<(), E> {
        let own = path.len();
        for (name, node) in &self.0 {
            if own > 0 {
                path.push('/');
            }
            path.push_str(name);
            visit(path, node)?;
            if let Node::Directory(directory) = node {
                directory.visit(path, visit)?;
            }
            path.truncate(own);
        }
        Ok(())
    }
}

/// The parts of a name that may be used as a path.
fn components(name: &[u8]) -> Result<Vec<&str>, EntryProblem> {
    let name = str::from_utf8(name).map_err(|_| EntryProblem::NotUtf8)?;
    if name.is_empty() {
        return Err(EntryProblem::Unnamed);
    }
    if name.starts_with('/') {
        return Err(EntryProblem::Absolute);
    }
    if name.contains('\\') {
        return Err(EntryProblem::Backslash);
    }
    if name.contains('\0') {
        return Err(EntryProblem::Nul);
    }
    let parts: Vec<&str> = name.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") {
        return Err(EntryProblem::Parent);
    }
    if name.len() > PATH_BYTES || parts.iter().any(|part| part.len() > COMPONENT_BYTES) {
        return Err(EntryProblem::NameTooLong);
    }
    if parts.len() > DEPTH {
        return Err(EntryProblem::TooDeep);
    }
    Ok(parts)
}

/// The target of a link that lies `depth` directories below the root. A link may lead through other links: each of them is
/// held to the same rule, and the environment sees nothing above the root but its own file system.
fn link_target(zip: &[u8], entry: &Entry, depth: usize) -> Result<String, EntryProblem> {
    if entry.size > PATH_BYTES as u64 {
        return Err(EntryProblem::LinkTarget);
    }
    let mut target = Vec::new();
    entry.open(zip).read_to_end(&mut target).map_err(|error| super::zip::problem_of(&error))?;
    let target = String::from_utf8(target).map_err(|_| EntryProblem::LinkTarget)?;
    if target.is_empty() || target.contains('\0') {
        return Err(EntryProblem::LinkTarget);
    }
    if target.starts_with('/') {
        return Err(EntryProblem::LinkEscapes);
    }
    let mut depth = depth;
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => depth = depth.checked_sub(1).ok_or(EntryProblem::LinkEscapes)?,
            _ => depth += 1,
        }
    }
    Ok(target)
}
