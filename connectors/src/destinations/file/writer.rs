//! Appending to one file. All of it blocks.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use types::{KeyError, Keys};

use super::format::{ALIGNMENT, HEADER, Header, SegmentCipher, begins_segment};

/// A segment ends at this size, bytes: what damage to one can cost at most.
const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;

/// Why nothing was appended, or nothing durably.
#[derive(Debug, thiserror::Error)]
pub(super) enum AppendError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("no key for the file: {0}")]
    Key(#[from] KeyError),
    #[error("another process is writing to the file")]
    Locked,
    /// It was begun when the configuration said otherwise.
    #[error("the file is {found}, and is to be {wanted} from now on: move it away")]
    OtherForm { found: &'static str, wanted: &'static str },
}

/// The writer of one file. It holds no open file between an error and the next record.
pub(super) struct Writer {
    path: PathBuf,
    name: String,
    sealed: bool,
    keys: Arc<dyn Keys>,
    open: Option<Open>,
}

struct Open {
    file: File,
    /// Where the next byte goes.
    end: u64,
    /// Up to where the file is known to be on the medium.
    kept: u64,
    /// It was there when it was opened, and nothing has been written since.
    begins: bool,
    /// `None` for a plain file.
    segment: Option<Segment>,
}

struct Segment {
    cipher: SegmentCipher,
    /// Index of the next frame. A failed write ends the segment, so none is sealed twice.
    frames: u64,
    began: u64,
}

impl Writer {
    pub(super) fn new(directory: &Path, name: &str, sealed: bool, keys: Arc<dyn Keys>) -> Self {
        Self { path: directory.join(name), name: name.to_owned(), sealed, keys, open: None }
    }

    /// Appends records; they are on the medium on return. After an error some may be in the file all the same.
    pub(super) fn append<'a>(
        &mut self,
        records: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<(), AppendError> {
        // Taken out, and put back only when all went well: what a failed write or sync left of the file is not trusted.
        let current = self.open.take().filter(|open| open.goes_on(&self.path));
        let mut open = match current {
            Some(open) => open,
            None => self.open()?,
        };
        let begins = open.begins;
        let write = || {
            if begins {
                self.begin(&mut open)?;
            }
            for record in records {
                open.write(record)?;
            }
            Ok(open.sync()?)
        };
        if let Err(error) = write() {
            // Nobody was told of what lies behind. On a full disk, repeated attempts would otherwise take the last of the room.
            let _ = open.file.set_len(open.kept);
            return Err(error);
        }
        open.kept = open.end;
        self.open = Some(open);
        Ok(())
    }

    fn open(&self) -> Result<Open, AppendError> {
        let file = match OpenOptions::new().read(true).write(true).open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.create(),
            file => file?,
        };
        lock(&file)?;
        let length = file.metadata()?.len();
        if length == 0 {
            return self.create();
        }
        self.check_form(&file)?;
        Ok(Open { file, end: length, kept: length, begins: true, segment: None })
    }

    /// Makes a file that was there ready for records.
    fn begin(&self, open: &mut Open) -> Result<(), AppendError> {
        open.begins = false;
        if self.sealed {
            // What a crash left of the last segment stays as it is. The next one has a key of its own.
            open.end = open.end.next_multiple_of(ALIGNMENT);
            open.begin_segment(&self.name, &*self.keys)?;
        } else if !open.ends_line()? {
            open.put(b"\n")?;
        }
        Ok(())
    }

    /// Makes the file. A sealed one appears with its first header whole, so that its form is never in doubt.
    fn create(&self) -> Result<Open, AppendError> {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        // No destination's name begins with a dot.
        let temporary = directory.join(format!(".{}.tmp", self.name));
        let mut options = OpenOptions::new();
        let file =
            options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&temporary)?;
        // Before it is emptied: it may be another process's, which has given it its name meanwhile.
        lock(&file)?;
        if !is_at(&file, &temporary) {
            return Err(AppendError::Locked);
        }
        file.set_len(0)?;
        let mut open = Open { file, end: 0, kept: 0, begins: false, segment: None };
        if self.sealed {
            open.begin_segment(&self.name, &*self.keys)?;
        }
        open.sync()?;
        #[cfg(test)]
        faults::step("rename")?;
        fs::rename(&temporary, &self.path)?;
        #[cfg(test)]
        faults::step("sync directory")?;
        File::open(directory)?.sync_all()?;
        open.kept = open.end;
        Ok(open)
    }

    fn check_form(&self, file: &File) -> Result<(), AppendError> {
        let mut beginning = [0; 8];
        let read = file.read_at(&mut beginning, 0)?;
        let (found, wanted) = (begins_segment(&beginning[..read]), self.sealed);
        let form = |sealed| if sealed { "sealed" } else { "plain" };
        match found == wanted {
            true => Ok(()),
            false => Err(AppendError::OtherForm { found: form(found), wanted: form(wanted) }),
        }
    }
}

impl Open {
    /// Whether this is still the file of that name, nobody else has written to it, and its segment is not too large.
    fn goes_on(&self, path: &Path) -> bool {
        let alone = self.file.metadata().is_ok_and(|open| open.len() == self.end);
        alone
            && is_at(&self.file, path)
            && self.segment.as_ref().is_none_or(|segment| self.end - segment.began < SEGMENT_BYTES)
    }

    fn begin_segment(&mut self, name: &str, keys: &dyn Keys) -> Result<(), AppendError> {
        let (header, cipher) = Header::generate(name, keys)?;
        self.segment = Some(Segment { cipher, frames: 0, began: self.end });
        debug_assert_eq!(self.end % HEADER as u64, 0, "segments are aligned");
        Ok(self.put(&header.encode())?)
    }

    fn write(&mut self, record: &[u8]) -> io::Result<()> {
        let bytes = match &mut self.segment {
            Some(segment) => {
                let index = segment.frames;
                segment.frames += 1;
                segment.cipher.seal(index, record)
            }
            None => [record, b"\n"].concat(),
        };
        self.put(&bytes)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        faults::step("write").inspect_err(|_| {
            // As a disk that is full takes the half of it.
            let _ = self.file.write_all_at(&bytes[..bytes.len() / 2], self.end);
        })?;
        self.file.write_all_at(bytes, self.end)?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// Returns when all that was written, and the file's length, are on the medium.
    fn sync(&self) -> io::Result<()> {
        #[cfg(test)]
        faults::step("sync")?;
        self.file.sync_data()
    }

    fn ends_line(&self) -> io::Result<bool> {
        let mut last = [0];
        self.file.read_exact_at(&mut last, self.end - 1)?;
        Ok(last == *b"\n")
    }
}

/// Whether a path leads to the open file.
fn is_at(file: &File, path: &Path) -> bool {
    match (fs::metadata(path), file.metadata()) {
        (Ok(named), Ok(open)) => (named.dev(), named.ino()) == (open.dev(), open.ino()),
        _ => false,
    }
}

fn lock(file: &File) -> Result<(), AppendError> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => AppendError::Locked,
        TryLockError::Error(error) => error.into(),
    })
}

/// Wraps the data key of each segment of a file anew, and returns how many. Segments whose key does not open any more stay
/// as they are.
pub(super) fn rewrap(path: &Path, name: &str, keys: &dyn Keys) -> io::Result<usize> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let (mut at, mut count) = (0, 0);
    while let Some((found, header)) = super::reader::find_segment(&file, at, u64::MAX)? {
        match header.rewrap(name, keys) {
            Ok(changes) => {
                for (slot, bytes) in changes {
                    file.write_all_at(&bytes, found + slot)?;
                    file.sync_data()?;
                }
                count += 1;
            }
            Err(KeyError::Unavailable(why)) => return Err(io::Error::other(why)),
            Err(error) => {
                tracing::warn!(path = %path.display(), at = found, %error, "the key of a segment does not open");
            }
        }
        at = found + ALIGNMENT;
    }
    Ok(count)
}

#[cfg(test)]
pub(super) mod faults {
    //! What a writer does to the disk, in order, and a fault in the middle of it. For the thread that asks.

    use std::{
        cell::{Cell, RefCell},
        io,
    };

    thread_local! {
        static STEPS: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
        static FAIL_AT: Cell<Option<usize>> = const { Cell::new(None) };
    }

    /// Forgets the steps until now; of those to come, fails the nth.
    pub(in super::super) fn inject(nth: Option<usize>) {
        STEPS.take();
        FAIL_AT.set(nth);
    }

    pub(in super::super) fn steps() -> Vec<&'static str> {
        STEPS.with_borrow(Clone::clone)
    }

    pub(super) fn step(name: &'static str) -> io::Result<()> {
        let nth = STEPS.with_borrow_mut(|steps| {
            steps.push(name);
            steps.len() - 1
        });
        if FAIL_AT.get() == Some(nth) { Err(io::Error::other("injected")) } else { Ok(()) }
    }
}
