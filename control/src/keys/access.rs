//! The access keys that callers sign their requests with, in a file the AWS tools read themselves
//! (`AWS_SHARED_CREDENTIALS_FILE`).
//!
//! ```text
//! [default]
//! aws_access_key_id = AKIA…
//! aws_secret_access_key = …
//! ```
//! The file is made at the first start, for its owner only. Other profiles may be added by hand; each is a key pair.

use std::{
    collections::HashMap,
    fmt, fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use zeroize::{Zeroize, Zeroizing};

use crate::{durable, seal};

/// Letters of an access key id behind its prefix (base 32, as on AWS).
const ID_ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const ID_PREFIX: &str = "AKIA";
const ID_RANDOM_CHARS: usize = 16;
/// Letters of a secret (base 64).
const SECRET_ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const SECRET_CHARS: usize = 40;

/// Why the credentials file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("credentials file {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("credentials file {} can be read by others (mode {mode:o}); run: chmod 600 {}", path.display(), path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error("credentials file {}, line {line}: {problem}", path.display())]
    Malformed { path: PathBuf, line: usize, problem: &'static str },
    #[error("randomness is not available")]
    NoRandomness,
}

/// One key pair. Its debug form hides the secret; the secret is wiped when dropped.
pub struct AccessKey {
    id: String,
    secret: Zeroizing<String>,
}

/// All key pairs of the credentials file.
#[derive(Debug)]
pub struct AccessKeys {
    keys: HashMap<String, AccessKey>,
    /// Id of the first pair in the file.
    first: String,
}

// === impl AccessKey ===

impl AccessKey {
    /// `AKIA…`; public, it travels in every request.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What signatures are made with.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.secret
    }

    fn random() -> Result<Self, CredentialsError> {
        let id = letters::<ID_RANDOM_CHARS>(ID_ALPHABET)?;
        Ok(Self { id: format!("{ID_PREFIX}{}", *id), secret: letters::<SECRET_CHARS>(SECRET_ALPHABET)? })
    }
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessKey").field("id", &self.id).finish_non_exhaustive()
    }
}

// === impl AccessKeys ===

impl AccessKeys {
    /// Reads the file at `path`, or makes it with one new pair under `[default]`.
    ///
    /// # Errors
    ///
    /// A file others may read is refused, as is a file without any pair or with half of one.
    pub fn open_or_create(path: &Path) -> Result<Self, CredentialsError> {
        let io = |source| CredentialsError::Io { path: path.to_owned(), source };
        match fs::metadata(path) {
            Ok(metadata) if metadata.mode() & 0o077 != 0 => {
                Err(CredentialsError::Exposed { path: path.to_owned(), mode: metadata.mode() & 0o7777 })
            }
            Ok(_) => Self::parse(path, &Zeroizing::new(fs::read_to_string(path).map_err(io)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::create(path),
            Err(error) => Err(io(error)),
        }
    }

    /// The pair with this id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&AccessKey> {
        self.keys.get(id)
    }

    /// The first pair of the file: what `waterwheel env` hands to the AWS tools.
    #[must_use]
    pub fn first(&self) -> &AccessKey {
        &self.keys[&self.first]
    }

    fn create(path: &Path) -> Result<Self, CredentialsError> {
        let key = AccessKey::random()?;
        let text = Zeroizing::new(format!(
            "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
            key.id(),
            key.secret()
        ));
        let directory = path.parent().unwrap_or(Path::new("."));
        durable::create_private_directory(directory)
            .and_then(|()| durable::write_file(&durable::OsDisk, path, |out| out.write_all(text.as_bytes())))
            .map_err(|source| CredentialsError::Io { path: path.to_owned(), source })?;
        Ok(Self { first: key.id.clone(), keys: HashMap::from([(key.id.clone(), key)]) })
    }

    fn parse(path: &Path, text: &str) -> Result<Self, CredentialsError> {
        let malformed = |line, problem| CredentialsError::Malformed { path: path.to_owned(), line, problem };
        let mut pairs: Vec<(Option<String>, Option<Zeroizing<String>>)> = Vec::new();
        let mut lines = 0;
        for line in text.lines() {
            lines += 1;
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if line.starts_with('[') && line.ends_with(']') {
                pairs.push((None, None));
                continue;
            }
            let (name, value) =
                line.split_once('=').ok_or_else(|| malformed(lines, "expected [profile] or name = value"))?;
            let (id, secret) =
                pairs.last_mut().ok_or_else(|| malformed(lines, "a setting before any [profile]"))?;
            match name.trim() {
                "aws_access_key_id" => *id = Some(value.trim().to_owned()),
                "aws_secret_access_key" => *secret = Some(Zeroizing::new(value.trim().to_owned())),
                // The AWS tools keep regions, session tokens and more here: not ours.
                _ => {}
            }
        }
        let mut keys = HashMap::new();
        let mut first = None;
        for pair in pairs {
            match pair {
                (Some(id), Some(secret)) if !id.is_empty() && !secret.is_empty() => {
                    first.get_or_insert_with(|| id.clone());
                    keys.insert(id.clone(), AccessKey { id, secret });
                }
                (None, None) => {}
                _ => return Err(malformed(lines, "a profile has half of a key pair")),
            }
        }
        let first = first.ok_or_else(|| malformed(lines, "no key pair"))?;
        Ok(Self { keys, first })
    }
}

/// `N` random letters. The alphabets' sizes divide 256, so each letter is equally likely.
fn letters<const N: usize>(alphabet: &[u8]) -> Result<Zeroizing<String>, CredentialsError> {
    let mut random: [u8; N] = seal::random().map_err(|_| CredentialsError::NoRandomness)?;
    let text = random.iter().map(|byte| char::from(alphabet[usize::from(*byte) % alphabet.len()])).collect();
    random.zeroize();
    Ok(Zeroizing::new(text))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_first_start_makes_a_private_pair_that_later_starts_find() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("conf/credentials");
        let made = AccessKeys::open_or_create(&path).unwrap();
        let key = made.first();
        assert_eq!(key.id().len(), 20);
        assert!(key.id().starts_with("AKIA"));
        assert_eq!(key.secret().len(), 40);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);

        let found = AccessKeys::open_or_create(&path).unwrap();
        assert_eq!(found.get(key.id()).unwrap().secret(), key.secret());
        assert!(found.get("AKIAAAAAAAAAAAAAAAAA").is_none());
        assert!(!format!("{found:?}").contains(key.secret()));
    }

    #[test]
    fn two_files_hold_different_pairs() {
        let directory = tempfile::tempdir().unwrap();
        let open = |name: &str| AccessKeys::open_or_create(&directory.path().join(name)).unwrap();
        assert_ne!(open("a").first().secret(), open("b").first().secret());
    }

    #[test]
    fn an_exposed_file_is_refused_with_the_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("credentials");
        AccessKeys::open_or_create(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(AccessKeys::open_or_create(&path).unwrap_err().to_string().contains("chmod 600"));
    }

    #[test]
    fn every_profile_is_a_pair_and_half_a_pair_is_an_error() {
        let parse = |text| AccessKeys::parse(Path::new("credentials"), text);
        let keys = parse(
            "# ours\n[default]\naws_access_key_id=A\naws_secret_access_key = s=1\nregion = x\n\n[ci]\n\
             aws_access_key_id = B\naws_secret_access_key = t\n",
        )
        .unwrap();
        assert_eq!(keys.first().id(), "A");
        assert_eq!(keys.get("A").unwrap().secret(), "s=1");
        assert_eq!(keys.get("B").unwrap().secret(), "t");
        for text in
            ["", "[default]\n", "aws_access_key_id = A\n", "[a]\nnonsense\n", "[a]\naws_access_key_id = A\n"]
        {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
