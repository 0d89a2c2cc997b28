//! Code at rest: for each deployment that brought code, its image and the package as uploaded, sealed.
//!
//! ```text
//!  <data>/artefacts/<deployment>.image     sealed under the data key of purpose image/<deployment>
//!  <data>/artefacts/<deployment>.zip       sealed under the data key of purpose zip/<deployment>
//! ```
//! A file appears whole and durable before the record that names it is written, and goes after that record has gone. So a
//! crash leaves at most files that no record names; [`ArtefactStore::sweep`] removes them at start.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs,
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
};

use types::{DeploymentId, FunctionArn, KeyContext, KeyError, Keys};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{
    durable::{self, Disk},
    record::{CodeRecord, SealedKey},
    seal::{self, ArtefactIdentity, ArtefactKind, SealError},
};

/// Why an artefact could not be stored or opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArtefactError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error("artefact {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

#[derive(Debug)]
pub(crate) struct ArtefactStore {
    directory: PathBuf,
    disk: Arc<dyn Disk>,
}

/// The keys of a deployment's two artefacts, as the record keeps them.
#[derive(Debug, Clone)]
pub(crate) struct ArtefactKeys {
    pub(crate) image: SealedKey,
    pub(crate) zip: SealedKey,
}

impl ArtefactStore {
    pub(crate) fn open(directory: PathBuf, disk: Arc<dyn Disk>) -> io::Result<Self> {
        durable::create_private_directory(&directory)?;
        Ok(Self { directory, disk })
    }

    /// Seals and writes both artefacts of a deployment; durable on return. After an error nothing of it is left,
    /// unless the disk refuses that too.
    pub(crate) fn store(
        &self,
        keys: &dyn Keys,
        function: &FunctionArn,
        deployment: DeploymentId,
        image: &[u8],
        zip: &[u8],
    ) -> Result<ArtefactKeys, ArtefactError> {
        let stored =
            self.store_one(keys, function, deployment, ArtefactKind::Image, image).and_then(|image| {
                Ok(ArtefactKeys {
                    image,
                    zip: self.store_one(keys, function, deployment, ArtefactKind::Zip, zip)?,
                })
            });
        if stored.is_err() {
            let _ = self.remove(deployment);
        }
        stored
    }

    /// Opens the image into memory. Holds the image and one chunk.
    pub(crate) fn open_image(
        &self,
        keys: &dyn Keys,
        function: &FunctionArn,
        code: &CodeRecord,
    ) -> Result<Zeroizing<Vec<u8>>, ArtefactError> {
        self.open_to_memory(keys, function, code, ArtefactKind::Image)
    }

    /// Opens the package as it was uploaded into memory.
    pub(crate) fn open_zip(
        &self,
        keys: &dyn Keys,
        function: &FunctionArn,
        code: &CodeRecord,
    ) -> Result<Zeroizing<Vec<u8>>, ArtefactError> {
        self.open_to_memory(keys, function, code, ArtefactKind::Zip)
    }

    /// Opens both artefacts and throws the content away: proof that an environment can be built from them.
    pub(crate) fn verify(
        &self,
        keys: &dyn Keys,
        function: &FunctionArn,
        code: &CodeRecord,
    ) -> Result<(), ArtefactError> {
        for kind in [ArtefactKind::Image, ArtefactKind::Zip] {
            self.open_to(keys, function, code, kind, &mut io::sink())?;
        }
        Ok(())
    }

    /// Removes both artefacts; that they are gone already is success.
    pub(crate) fn remove(&self, deployment: DeploymentId) -> io::Result<()> {
        self.disk.remove(&self.path(deployment, ArtefactKind::Image))?;
        self.disk.remove(&self.path(deployment, ArtefactKind::Zip))?;
        self.disk.sync_directory(&self.directory)
    }

    /// Removes every file that belongs to none of the `live` deployments, and returns how many those were.
    pub(crate) fn sweep(&self, live: &HashSet<DeploymentId>) -> io::Result<usize> {
        let mut removed = 0;
        for file in fs::read_dir(&self.directory)? {
            let path = file?.path();
            let kept = [ArtefactKind::Image, ArtefactKind::Zip]
                .iter()
                .any(|kind| path.extension() == Some(OsStr::new(extension(*kind))))
                && path
                    .file_stem()
                    .and_then(OsStr::to_str)
                    .and_then(|stem| stem.parse().ok())
                    .is_some_and(|id| live.contains(&id));
            if !kept {
                self.disk.remove(&path)?;
                removed += 1;
            }
        }
        if removed > 0 {
            self.disk.sync_directory(&self.directory)?;
        }
        Ok(removed)
    }

    fn store_one(
        &self,
        keys: &dyn Keys,
        function: &FunctionArn,
        deployment: DeploymentId,
        kind: ArtefactKind,
        content: &[u8],
    ) -> Result<SealedKey, ArtefactError> {
        let (key, wrapped) = keys.generate(&context(function, deployment, kind))?;
        let path = self.path(deployment, kind);
        durable::write_file(&*self.disk, &path, |out| {
            seal::seal_artefact(&key, identity(deployment, kind), content, out)
        })
        .map_err(|error| with_path(error, path))?;
        Ok(SealedKey(wrapped))
    }

    fn open_to_memory(
        &self,
        keys: &dyn Keys,
        function: &FunctionArn,
        code: &CodeRecord,
        kind: ArtefactKind,
    ) -> Result<Zeroizing<Vec<u8>>, ArtefactError> {
        let mut content = Zeroizing::new(Vec::new());
        // Reserved at once: growing would leave plaintext in freed memory.
        content.reserve_exact(self.sealed_length(code, kind)?);
        self.open_to(keys, function, code, kind, &mut *content)?;
        Ok(content)
    }

    fn open_to(
        &self,
        keys: &dyn Keys,
        function: &FunctionArn,
        code: &CodeRecord,
        kind: ArtefactKind,
        output: &mut dyn Write,
    ) -> Result<(), ArtefactError> {
        let deployment = code.artefact;
        let sealed = match kind {
            ArtefactKind::Image => &code.image_key,
            ArtefactKind::Zip => &code.zip_key,
        };
        let key = keys.unwrap(&sealed.0, &context(function, deployment, kind))?;
        let path = self.path(deployment, kind);
        fs::File::open(&path)
            .map_err(SealError::Io)
            .and_then(|file| seal::open_artefact(&key, identity(deployment, kind), file, output))
            .map(drop)
            .map_err(|error| with_path(error, path))
    }

    /// An upper bound of the plaintext's length.
    fn sealed_length(&self, code: &CodeRecord, kind: ArtefactKind) -> Result<usize, ArtefactError> {
        let path = self.path(code.artefact, kind);
        fs::metadata(&path)
            .and_then(|metadata| usize::try_from(metadata.len()).map_err(io::Error::other))
            .map_err(|source| ArtefactError::Io { path, source })
    }

    fn path(&self, deployment: DeploymentId, kind: ArtefactKind) -> PathBuf {
        self.directory.join(format!("{deployment}.{}", extension(kind)))
    }
}

/// What the data key of an artefact is bound to.
pub(crate) fn context(function: &FunctionArn, deployment: DeploymentId, kind: ArtefactKind) -> KeyContext {
    KeyContext { arn: function.to_string(), purpose: format!("{}/{deployment}", extension(kind)) }
}

fn extension(kind: ArtefactKind) -> &'static str {
    match kind {
        ArtefactKind::Image => "image",
        ArtefactKind::Zip => "zip",
    }
}

fn identity(deployment: DeploymentId, kind: ArtefactKind) -> ArtefactIdentity {
    let id = Uuid::parse_str(&deployment.to_string()).expect("a deployment is named by a UUID");
    ArtefactIdentity { id, kind }
}

fn with_path(error: SealError, path: PathBuf) -> ArtefactError {
    match error {
        SealError::Io(source) => ArtefactError::Io { path, source },
        error => ArtefactError::Seal(error),
    }
}
