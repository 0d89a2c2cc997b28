//! `LocalKeyring`: the key service of one machine, a file of wrapping keys beside the data they protect.
//!
//! It protects a copied disk image or backup *without* this file. It does not protect against who can read this file: keep it
//! on another disk, or use an outside key service, where that matters.
//!
//! ```text
//!  keyring (0600, in a 0700 directory)              a wrapped data key, 81 bytes
//!  ┌───────────────────────────────────────────┐    0      4        5          21       33          65    81
//!  │ waterwheel-keyring 1                      │    ├──────┼────────┼──────────┼────────┼───────────┼─────┤
//!  │ current 7d9c…                             │    │ WWWK │ ver. 1 │ id of    │ nonce  │ data key, │ tag │
//!  │ key 1f00… <64 hex digits>                 │    │      │        │ the key  │        │ sealed    │     │
//!  │ key 7d9c… <64 hex digits>                 │
//!  └───────────────────────────────────────────┘    AAD = first 21 bytes ‖ KeyContext
//! ```
//! Nonces are random: a wrapping key is good for 2^32 wraps (NIST SP 800-38D, 8.3); `rotate` long before.
//!
//! Several processes may hold the same ring (the server, `waterwheel logs`, `waterwheel keys`). Changes are made under a lock
//! file and replace the file atomically; a process that meets a wrap under a key it does not know reads the file again.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
};

use aws_lc_rs::aead::NONCE_LEN;
use types::{DataKey, KeyContext, KeyError, Keys, WrappedDataKey};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{
    durable,
    metrics::{self, KeyOperation},
    seal::{self, Cipher, TAG},
};

const FIRST_LINE: &str = "waterwheel-keyring 1";

const WRAP_MAGIC: &[u8; 5] = b"WWWK\x01";
const WRAP_KEY_ID: usize = WRAP_MAGIC.len();
const WRAP_NONCE: usize = WRAP_KEY_ID + 16;
const WRAP_SEALED: usize = WRAP_NONCE + NONCE_LEN;
const WRAP_LEN: usize = WRAP_SEALED + DataKey::LEN + TAG;

/// Names a wrapping key. Not secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WrappingKeyId(Uuid);

impl fmt::Display for WrappingKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl std::str::FromStr for WrappingKeyId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// Why the ring cannot be used or changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    #[error("keyring {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is open to others (mode {mode:o}, at most {allowed:o}); run: chmod {allowed:o} {}", path.display(), path.display())]
    Exposed { path: PathBuf, mode: u32, allowed: u32 },
    #[error("keyring {}, line {line}: {problem}", path.display())]
    Malformed { path: PathBuf, line: usize, problem: &'static str },
    #[error("there is no keyring at {}", .0.display())]
    Missing(PathBuf),
    #[error("wrapping key {0} is the current one; rotate and re-wrap before destroying it")]
    StillCurrent(WrappingKeyId),
    #[error("wrapping key {0} is not in the keyring")]
    Unknown(WrappingKeyId),
    #[error("randomness is not available")]
    NoRandomness,
}

/// Wrapping keys by id, one of them current.
#[derive(Clone)]
struct Ring {
    current: WrappingKeyId,
    keys: BTreeMap<WrappingKeyId, DataKey>,
}

/// The ring and where it lives. Share it in an `Arc`.
pub struct LocalKeyring {
    path: PathBuf,
    ring: RwLock<Ring>,
}

impl fmt::Debug for LocalKeyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalKeyring").field("path", &self.path).finish_non_exhaustive()
    }
}

// === impl LocalKeyring ===

impl LocalKeyring {
    /// Opens the ring at `path`, or makes one with one key in it. A missing directory is made with mode 0700.
    ///
    /// # Errors
    ///
    /// Refuses a file or a directory that group or others have any right to.
    pub fn open_or_create(path: &Path) -> Result<Self, KeyringError> {
        let directory = directory_of(path);
        durable::create_private_directory(directory).map_err(|source| io_error(path, source))?;
        let _lock = lock(path)?;
        match read(path) {
            Err(KeyringError::Missing(_)) => {
                let (id, key) = fresh_key()?;
                let ring = Ring { current: id, keys: BTreeMap::from([(id, key)]) };
                write(path, &ring)?;
                Ok(Self { path: path.to_owned(), ring: RwLock::new(ring) })
            }
            ring => Ok(Self { path: path.to_owned(), ring: RwLock::new(ring?) }),
        }
    }

    /// Opens an existing ring: for a process that only reads.
    ///
    /// # Errors
    ///
    /// As [`open_or_create`](Self::open_or_create), and when there is none.
    pub fn open(path: &Path) -> Result<Self, KeyringError> {
        Ok(Self { path: path.to_owned(), ring: RwLock::new(read(path)?) })
    }

    /// The key new wraps are made with.
    #[must_use]
    pub fn current(&self) -> WrappingKeyId {
        self.ring().current
    }

    /// All wrapping keys.
    #[must_use]
    pub fn ids(&self) -> Vec<WrappingKeyId> {
        self.ring().keys.keys().copied().collect()
    }

    /// Adds a new wrapping key and makes it current; durable on return. The old ones still open what they wrapped.
    pub fn rotate(&self) -> Result<WrappingKeyId, KeyringError> {
        self.change(|ring| {
            let (id, key) = fresh_key()?;
            ring.keys.insert(id, key);
            ring.current = id;
            Ok(id)
        })
    }

    /// Removes a wrapping key and overwrites the file it stood in; durable on return. What it wrapped is then lost for good.
    ///
    /// # Errors
    ///
    /// The current key is refused.
    pub fn destroy(&self, id: WrappingKeyId) -> Result<(), KeyringError> {
        self.change(|ring| {
            if ring.current == id {
                return Err(KeyringError::StillCurrent(id));
            }
            ring.keys.remove(&id).map(drop).ok_or(KeyringError::Unknown(id))
        })
    }

    /// Applies a change to the ring as it is on disk now, then to memory.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut Ring) -> Result<T, KeyringError>,
    ) -> Result<T, KeyringError> {
        let _lock = lock(&self.path)?;
        let mut ring = read(&self.path)?;
        let result = change(&mut ring)?;
        write(&self.path, &ring)?;
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) = ring;
        Ok(result)
    }

    fn ring(&self) -> std::sync::RwLockReadGuard<'_, Ring> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn wrapping_key(&self, id: WrappingKeyId) -> Result<DataKey, KeyError> {
        if let Some(key) = self.ring().keys.get(&id) {
            return Ok(key.clone());
        }
        // Another process may have rotated. What it destroyed goes from here too.
        let fresh = read(&self.path).map_err(|error| KeyError::Unavailable(error.to_string()))?;
        let key = fresh.keys.get(&id).cloned();
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        key.ok_or_else(|| KeyError::UnknownKey(id.to_string()))
    }

    fn wrap(&self, key: &DataKey, context: &KeyContext) -> Result<WrappedDataKey, KeyError> {
        let ring = self.ring();
        let nonce = seal::random().map_err(|error| KeyError::Unavailable(error.to_string()))?;
        Ok(wrap_with(ring.current, &ring.keys[&ring.current], key, context, nonce))
    }

    fn open_wrap(&self, wrapped: &WrappedDataKey, context: &KeyContext) -> Result<DataKey, KeyError> {
        let bytes: &[u8; WRAP_LEN] = wrapped.0.as_slice().try_into().map_err(|_| KeyError::UnknownFormat)?;
        if !bytes.starts_with(WRAP_MAGIC) {
            return Err(KeyError::UnknownFormat);
        }
        let id = Uuid::from_slice(&bytes[WRAP_KEY_ID..WRAP_NONCE]).map_err(|_| KeyError::UnknownFormat)?;
        let wrapping = self.wrapping_key(WrappingKeyId(id))?;
        let nonce = bytes[WRAP_NONCE..WRAP_SEALED].try_into().map_err(|_| KeyError::UnknownFormat)?;
        let mut sealed = Zeroizing::new(bytes[WRAP_SEALED..].to_vec());
        let aad = seal::context_bytes(&bytes[..WRAP_NONCE], context);
        Cipher::new(&wrapping)
            .open(nonce, &aad, &mut sealed)
            .and_then(|plain| plain.first_chunk().copied())
            .map(DataKey::new)
            .ok_or_else(|| KeyError::WrongContext {
                arn: context.arn.clone(),
                purpose: context.purpose.clone(),
            })
    }
}

impl Keys for LocalKeyring {
    fn generate(&self, context: &KeyContext) -> Result<(DataKey, WrappedDataKey), KeyError> {
        metrics::key_used(KeyOperation::Generate, || {
            let key = DataKey::new(seal::random().map_err(|error| KeyError::Unavailable(error.to_string()))?);
            let wrapped = self.wrap(&key, context)?;
            Ok((key, wrapped))
        })
    }

    fn unwrap(&self, wrapped: &WrappedDataKey, context: &KeyContext) -> Result<DataKey, KeyError> {
        metrics::key_used(KeyOperation::Unwrap, || self.open_wrap(wrapped, context))
    }

    fn rewrap(&self, wrapped: &WrappedDataKey, context: &KeyContext) -> Result<WrappedDataKey, KeyError> {
        metrics::key_used(KeyOperation::Rewrap, || self.wrap(&self.open_wrap(wrapped, context)?, context))
    }
}

fn wrap_with(
    id: WrappingKeyId,
    wrapping: &DataKey,
    key: &DataKey,
    context: &KeyContext,
    nonce: [u8; NONCE_LEN],
) -> WrappedDataKey {
    let mut wrapped = [&WRAP_MAGIC[..], id.0.as_bytes()].concat();
    let mut sealed = Vec::with_capacity(DataKey::LEN + TAG);
    sealed.extend_from_slice(key.expose());
    Cipher::new(wrapping).seal(nonce, &seal::context_bytes(&wrapped, context), &mut sealed);
    wrapped.extend_from_slice(&nonce);
    wrapped.extend_from_slice(&sealed);
    WrappedDataKey(wrapped)
}

fn fresh_key() -> Result<(WrappingKeyId, DataKey), KeyringError> {
    let key = seal::random().map_err(|_| KeyringError::NoRandomness)?;
    Ok((WrappingKeyId(Uuid::new_v4()), DataKey::new(key)))
}

// === the file ===

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn io_error(path: &Path, source: io::Error) -> KeyringError {
    KeyringError::Io { path: path.to_owned(), source }
}

/// Held while the file is changed; freed with the returned handle, or by the kernel.
fn lock(path: &Path) -> Result<fs::File, KeyringError> {
    let lock = path.with_extension("lock");
    durable::open_lock_file(&lock)
        .and_then(|file| file.lock().map(|()| file))
        .map_err(|source| io_error(&lock, source))
}

fn refuse_exposed(path: &Path, allowed: u32) -> Result<(), KeyringError> {
    let mode = fs::metadata(path).map_err(|source| io_error(path, source))?.mode() & 0o7777;
    match mode & !allowed {
        0 => Ok(()),
        _ => Err(KeyringError::Exposed { path: path.to_owned(), mode, allowed }),
    }
}

fn read(path: &Path) -> Result<Ring, KeyringError> {
    if !path.try_exists().map_err(|source| io_error(path, source))? {
        return Err(KeyringError::Missing(path.to_owned()));
    }
    refuse_exposed(directory_of(path), 0o700)?;
    refuse_exposed(path, 0o600)?;
    let text = Zeroizing::new(fs::read_to_string(path).map_err(|source| io_error(path, source))?);
    parse(&text).map_err(|(line, problem)| KeyringError::Malformed { path: path.to_owned(), line, problem })
}

fn write(path: &Path, ring: &Ring) -> Result<(), KeyringError> {
    durable::replace_secret(&durable::OsDisk, path, print(ring).as_bytes())
        .map_err(|source| io_error(path, source))
}

fn print(ring: &Ring) -> Zeroizing<String> {
    // Reserved at once: growing would leave copies of keys in freed memory.
    let mut text = Zeroizing::new(String::with_capacity(128 + ring.keys.len() * 128));
    text.push_str(&format!("{FIRST_LINE}\ncurrent {}\n", ring.current));
    for (id, key) in &ring.keys {
        text.push_str(&format!("key {id} "));
        let mut digits = Zeroizing::new([0; DataKey::LEN * 2]);
        hex::encode_to_slice(key.expose(), &mut *digits).expect("two digits for each byte");
        text.extend(digits.iter().map(|digit| char::from(*digit)));
        text.push('\n');
    }
    text
}

/// The problem of a malformed ring comes with its line, and never with the line's content.
fn parse(text: &str) -> Result<Ring, (usize, &'static str)> {
    let mut lines = text.lines().zip(1..);
    if lines.next().map(|(line, _)| line) != Some(FIRST_LINE) {
        return Err((1, "not a keyring of a format this version knows"));
    }
    let mut current = None;
    let mut keys = BTreeMap::new();
    for (line, number) in lines {
        let mut words = line.split(' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("current"), Some(id), None, None) if current.is_none() => {
                current = Some(id.parse().map_err(|_| (number, "the id of a key is a UUID"))?);
            }
            (Some("key"), Some(id), Some(digits), None) => {
                let mut key = Zeroizing::new([0; DataKey::LEN]);
                hex::decode_to_slice(digits, &mut *key)
                    .map_err(|_| (number, "a key is 64 hexadecimal digits"))?;
                let id = id.parse().map_err(|_| (number, "the id of a key is a UUID"))?;
                if keys.insert(id, DataKey::new(*key)).is_some() {
                    return Err((number, "a key is there twice"));
                }
            }
            _ => return Err((number, "expected one 'current ID' and 'key ID DIGITS'")),
        }
    }
    match current {
        Some(current) if keys.contains_key(&current) => Ok(Ring { current, keys }),
        _ => Err((2, "the current key is missing")),
    }
}

#[cfg(test)]
#[path = "keyring_tests.rs"]
mod tests;
