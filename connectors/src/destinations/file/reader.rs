//! Reading a file's records, in this or another process, while it is being written or long after.

use std::{
    fmt,
    fs::{self, File, TryLockError},
    io::{self, BufRead, BufReader},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use types::{KeyError, Keys};

use super::{
    format::{ALIGNMENT, HEADER, Header, LENGTH, RECORD_BYTES, SegmentCipher, TAG, begins_segment},
    line,
};

/// Why a record, or a part of a file, cannot be read. Reading goes on behind it, except after `Io`.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// Altered, or cut short by a crash while it was written, before anybody was told that it was kept.
    #[error("{}: what begins at byte {at} is not a record", path.display())]
    Damaged { path: PathBuf, at: u64 },
    /// At the end of a sealed file that somebody has open for writing: not a record yet, or its length is altered.
    #[error("{}: what begins at byte {at} is unfinished: a server is writing it", path.display())]
    Unfinished { path: PathBuf, at: u64 },
    #[error("{}: the segment at byte {at} does not open: {source}", path.display())]
    Key { path: PathBuf, at: u64, source: KeyError },
}

/// The records of one file, oldest first, each a line of JSON without its newline. Blocks.
pub struct Records {
    path: PathBuf,
    form: Form,
    failed: bool,
}

enum Form {
    Plain { lines: BufReader<File>, at: u64 },
    Sealed(Sealed),
}

/// Opens a destination's file: of whichever form it is, under whatever path it was moved to. `name` is the destination's,
/// which a sealed file is bound to.
///
/// # Errors
///
/// When there is no such file, or it cannot be read.
pub fn read(path: &Path, name: &str, keys: Arc<dyn Keys>) -> Result<Records, ReadError> {
    let open = || {
        let file = File::open(path)?;
        Ok(match is_sealed(&file)? {
            true => Form::Sealed(Sealed::new(file, name, keys)),
            false => Form::Plain { lines: BufReader::new(file), at: 0 },
        })
    };
    let form = open().map_err(|source| ReadError::Io { path: path.to_owned(), source })?;
    Ok(Records { path: path.to_owned(), form, failed: false })
}

/// A destination's file, as it lies on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    pub name: String,
    pub bytes: u64,
    pub sealed: bool,
}

/// The files in a directory of destinations, by name; none, if there is no directory. Files that were moved aside in it are among
/// them.
///
/// # Errors
///
/// When it cannot be read.
pub fn list(directory: &Path) -> io::Result<Vec<FileEntry>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.starts_with('.') || !entry.file_type()?.is_file() {
            continue;
        }
        let file = match File::open(entry.path()) {
            // Moved away since.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        let (bytes, sealed) = (file.metadata()?.len(), is_sealed(&file)?);
        files.push(FileEntry { name, bytes, sealed });
    }
    files.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(files)
}

fn is_sealed(file: &File) -> io::Result<bool> {
    let mut beginning = [0; 8];
    let read = file.read_at(&mut beginning, 0)?;
    Ok(begins_segment(&beginning[..read]))
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Iterator for Records {
    type Item = Result<Vec<u8>, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = match &mut self.form {
            Form::Plain { lines, at } => next_line(lines, at),
            Form::Sealed(sealed) => sealed.next(),
        };
        let path = self.path.clone();
        Some(match next {
            Ok(piece) => match piece? {
                Piece::Record(record) => Ok(record),
                Piece::Damaged(at) => Err(ReadError::Damaged { path, at }),
                Piece::Unfinished(at) => Err(ReadError::Unfinished { path, at }),
                Piece::Locked(at, source) => Err(ReadError::Key { path, at, source }),
            },
            Err(source) => {
                self.failed = true;
                Err(ReadError::Io { path, source })
            }
        })
    }
}

/// What lies next in a file.
enum Piece {
    Record(Vec<u8>),
    Damaged(u64),
    Unfinished(u64),
    Locked(u64, KeyError),
}

fn next_line(lines: &mut BufReader<File>, at: &mut u64) -> io::Result<Option<Piece>> {
    loop {
        let began = *at;
        let mut line = Vec::new();
        *at += lines.read_until(b'\n', &mut line)? as u64;
        // Without its newline it is still being written, or was when the writer died.
        if line.pop() != Some(b'\n') {
            return Ok(None);
        }
        if !line.is_empty() {
            let record = line::is_json(&line);
            return Ok(Some(if record { Piece::Record(line) } else { Piece::Damaged(began) }));
        }
    }
}

struct Sealed {
    file: File,
    name: String,
    keys: Arc<dyn Keys>,
    /// Where the next frame, or the search for the next segment, begins.
    at: u64,
    segment: Option<Segment>,
}

struct Segment {
    cipher: SegmentCipher,
    frame: u64,
    /// The frame before did not open: where this one begins may be wrong.
    doubtful: bool,
}

impl Sealed {
    fn new(file: File, name: &str, keys: Arc<dyn Keys>) -> Self {
        Self { file, name: name.to_owned(), keys, at: 0, segment: None }
    }

    fn next(&mut self) -> io::Result<Option<Piece>> {
        loop {
            match self.segment.take() {
                Some(segment) => {
                    if let Some(piece) = self.next_frame(segment)? {
                        return Ok(Some(piece));
                    }
                }
                None => {
                    let Some((at, header)) = find_segment(&self.file, self.at, u64::MAX)? else {
                        return Ok(None);
                    };
                    self.at = at + ALIGNMENT;
                    match header.open(&self.name, &*self.keys) {
                        Ok(cipher) => self.segment = Some(Segment { cipher, frame: 0, doubtful: false }),
                        Err(error) => return Ok(Some(Piece::Locked(at, error))),
                    }
                }
            }
        }
    }

    /// The segment's next frame. Where the segment ends, it is not put back, and the next one is looked for.
    fn next_frame(&mut self, mut segment: Segment) -> io::Result<Option<Piece>> {
        let began = self.at;
        // One report for each damaged place.
        let damaged = (!segment.doubtful).then_some(Piece::Damaged(began));
        let sealed = match self.read_frame(began)? {
            Frame::Nothing => return Ok(None),
            Frame::Broken => return Ok(damaged),
            Frame::Cut if self.is_being_written(began)? => {
                return Ok(damaged.and(Some(Piece::Unfinished(began))));
            }
            Frame::Cut => return Ok(damaged),
            Frame::Sealed(sealed) => sealed,
        };
        let end = began + (LENGTH + sealed.len()) as u64;
        let record = segment.cipher.open(segment.frame, sealed);
        // The frame behind one that does not open is where its length says, unless the length is what is damaged, or the rest
        // was never written and another segment begins there.
        if record.is_none() && (segment.doubtful || find_segment(&self.file, began, end)?.is_some()) {
            return Ok(damaged);
        }
        self.at = end;
        segment.frame += 1;
        segment.doubtful = record.is_none();
        self.segment = Some(segment);
        Ok(record.map(Piece::Record).or(damaged))
    }

    fn read_frame(&self, at: u64) -> io::Result<Frame> {
        let mut length = [0; LENGTH];
        if !read_all(&self.file, &mut length, at)? || length == [0; LENGTH] {
            return Ok(Frame::Nothing);
        }
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if !(TAG..=RECORD_BYTES + TAG).contains(&length) {
            return Ok(Frame::Broken);
        }
        let mut sealed = vec![0; length];
        let whole = read_all(&self.file, &mut sealed, at + LENGTH as u64)?;
        Ok(if whole { Frame::Sealed(sealed) } else { Frame::Cut })
    }

    /// Whether what is cut short here is the end of the file, and somebody may be about to write the rest.
    fn is_being_written(&self, from: u64) -> io::Result<bool> {
        if find_segment(&self.file, from, u64::MAX)?.is_some() {
            return Ok(false);
        }
        match self.file.try_lock_shared() {
            Ok(()) => self.file.unlock().map(|()| false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// What stands where a frame may.
enum Frame {
    Nothing,
    /// A length that is none.
    Broken,
    /// A length that leads beyond the end of the file.
    Cut,
    Sealed(Vec<u8>),
}

/// The first segment that begins in `from..until`, and its header.
pub(super) fn find_segment(file: &File, from: u64, until: u64) -> io::Result<Option<(u64, Header)>> {
    let mut at = from.next_multiple_of(ALIGNMENT);
    let mut bytes = [0; HEADER];
    while at < until && read_all(file, &mut bytes, at)? {
        if let Some(header) = Header::decode(&bytes) {
            return Ok(Some((at, header)));
        }
        at += ALIGNMENT;
    }
    Ok(None)
}

/// Fills `buffer`; `false` if the file ends before.
fn read_all(file: &File, buffer: &mut [u8], at: u64) -> io::Result<bool> {
    match file.read_exact_at(buffer, at) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| true),
    }
}
