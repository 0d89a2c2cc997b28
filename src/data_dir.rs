//! The files of a data directory that this binary itself reads and writes. What the parts keep in theirs is their own.
//!
//! ```text
//!   <data>/               0700
//!     credentials         0600  access keys, in the AWS shared-credentials form   (control)
//!     keyring             0600  the keys that wrap every data key                  (control)
//!     endpoint            the URL of the running server; absent while none runs    (here)
//!     code/               memory: unsealed code, seen by the server alone          (sandbox)
//!     logs/ …             sealed logs of functions                                 (control)
//!     queue/ …            accepted events, sealed                                  (queue)
//!     destinations/ …     records of file destinations, sealed unless configured otherwise (connectors)
//!     runtimes/           root file systems and guest kernels, unless runtimes.dir says otherwise (image)
//! ```

use std::{
    fs::{self, DirBuilder},
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use crate::config::Config;

/// A data directory, opened or only named.
#[derive(Debug, Clone)]
pub(crate) struct DataDir(PathBuf);

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataDirError {
    #[error("cannot create the data directory {path}: {source}")]
    Create { path: PathBuf, source: io::Error },
    #[error("cannot read the data directory {path}: {source}")]
    Inspect { path: PathBuf, source: io::Error },
    #[error("{path} is not a directory")]
    NotADirectory { path: PathBuf },
    #[error("the data directory {path} is owned by user {owner}, not by this one ({me})")]
    ForeignOwner { path: PathBuf, owner: u32, me: u32 },
    #[error("the data directory {path} is open to others (mode {mode:o}); run: chmod 700 {path}")]
    OpenToOthers { path: PathBuf, mode: u32 },
}

/// The URL at which a client on this machine reaches a server that listens on `address`.
pub(crate) fn client_url(address: SocketAddr, tls: bool) -> String {
    let port = address.port();
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    match (tls, ip.is_loopback()) {
        // Certificates are made for names.
        (true, true) => format!("https://localhost:{port}"),
        (true, false) => format!("https://{}", SocketAddr::new(ip, port)),
        (false, _) => format!("http://{}", SocketAddr::new(ip, port)),
    }
}

/// The URL of the running server, in a file as long as this lives.
#[derive(Debug)]
pub(crate) struct PublishedEndpoint {
    path: PathBuf,
}

// === impl DataDir ===

impl DataDir {
    /// Names a directory without touching it.
    pub(crate) fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Makes the directory (0700) where it is missing; refuses one that others can enter.
    pub(crate) fn open_or_create(path: &Path) -> Result<Self, DataDirError> {
        let named = |source| DataDirError::Create { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(named)?;
        // Absolute, so that nothing depends on the directory this process happens to run in.
        let path = fs::canonicalize(path).map_err(named)?;
        Self::check(&path)?;
        Ok(Self(path))
    }

    /// Whether the directory is there, ours, and closed to others.
    fn check(path: &Path) -> Result<(), DataDirError> {
        let path = path.to_owned();
        let found =
            fs::metadata(&path).map_err(|source| DataDirError::Inspect { path: path.clone(), source })?;
        let me = rustix::process::geteuid().as_raw();
        let mode = found.permissions().mode() & 0o777;
        if !found.is_dir() {
            return Err(DataDirError::NotADirectory { path });
        }
        if found.uid() != me {
            return Err(DataDirError::ForeignOwner { path, owner: found.uid(), me });
        }
        if mode & 0o077 != 0 {
            return Err(DataDirError::OpenToOthers { path, mode });
        }
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn credentials(&self) -> PathBuf {
        self.0.join("credentials")
    }

    pub(crate) fn keyring(&self) -> PathBuf {
        self.0.join("keyring")
    }

    /// Mount point of the memory for unsealed code.
    pub(crate) fn code(&self) -> PathBuf {
        self.0.join("code")
    }

    /// Tells this directory from others on the machine, for what has one name space there (cgroups).
    pub(crate) fn tag(&self) -> String {
        let hash = types::stable_hash(self.0.as_os_str().as_bytes());
        format!("{hash:016x}")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }

    /// Where `file` destinations lie.
    pub(crate) fn destinations(&self) -> PathBuf {
        self.0.join("destinations")
    }

    pub(crate) fn queue(&self) -> PathBuf {
        self.0.join("queue")
    }

    pub(crate) fn endpoint(&self) -> PathBuf {
        self.0.join("endpoint")
    }

    /// Where runtimes are: as configured, else below this directory.
    pub(crate) fn runtimes(&self, config: &Config) -> PathBuf {
        config.runtimes.dir.clone().unwrap_or_else(|| self.0.join("runtimes"))
    }

    /// Publishes the server's URL: whole or not at all, and readable only for the owner.
    pub(crate) fn publish_endpoint(&self, url: &str) -> io::Result<PublishedEndpoint> {
        let path = self.endpoint();
        let mut file = tempfile::NamedTempFile::new_in(&self.0)?;
        writeln!(file, "{url}")?;
        file.persist(&path)?;
        Ok(PublishedEndpoint { path })
    }

    /// Removes what a killed server left published. Only for who holds the directory's lock.
    pub(crate) fn forget_endpoint(&self) -> io::Result<()> {
        match fs::remove_file(self.endpoint()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    /// The URL of the server that runs, or ran last and was killed, on this directory.
    pub(crate) fn read_endpoint(&self) -> io::Result<String> {
        Ok(fs::read_to_string(self.endpoint())?.trim_end().to_owned())
    }
}

// === impl PublishedEndpoint ===

impl Drop for PublishedEndpoint {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove the endpoint file");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_directory_is_closed_to_others_and_an_open_one_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let dir = DataDir::open_or_create(&path).unwrap();
        assert_eq!(fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777, 0o700);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
        let error = DataDir::open_or_create(&path).unwrap_err().to_string();
        assert!(error.contains("open to others (mode 750); run: chmod 700"), "{error}");
    }

    #[test]
    fn directories_have_different_tags_that_never_change() {
        assert_eq!(DataDir::at(Path::new("/var/lib/waterwheel")).tag(), "d04cacd2b0a8751a");
        assert_ne!(DataDir::at(Path::new("/a")).tag(), DataDir::at(Path::new("/b")).tag());
    }

    #[test]
    fn a_client_is_sent_to_an_address_it_can_reach() {
        let url = |address: &str, tls| client_url(address.parse().unwrap(), tls);
        assert_eq!(url("127.0.0.1:80", false), "http://127.0.0.1:80");
        assert_eq!(url("0.0.0.0:80", false), "http://127.0.0.1:80");
        assert_eq!(url("[::]:80", false), "http://[::1]:80");
        assert_eq!(url("0.0.0.0:80", true), "https://localhost:80");
        assert_eq!(url("192.0.2.1:80", true), "https://192.0.2.1:80");
    }

    #[test]
    fn the_endpoint_is_there_while_published_and_gone_after() {
        let parent = tempfile::tempdir().unwrap();
        let dir = DataDir::open_or_create(&parent.path().join("data")).unwrap();
        assert_eq!(dir.read_endpoint().unwrap_err().kind(), io::ErrorKind::NotFound);

        let published = dir.publish_endpoint("http://127.0.0.1:1").unwrap();
        assert_eq!(dir.read_endpoint().unwrap(), "http://127.0.0.1:1");
        assert_eq!(fs::metadata(dir.endpoint()).unwrap().permissions().mode() & 0o777, 0o600);

        drop(published);
        assert!(!dir.endpoint().exists());

        std::mem::forget(dir.publish_endpoint("http://127.0.0.1:2").unwrap());
        dir.forget_endpoint().unwrap();
        assert!(!dir.endpoint().exists());
        dir.forget_endpoint().unwrap();
    }
}
