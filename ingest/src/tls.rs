//! TLS from two PEM files, with errors that say which file is wrong and why.

use std::{path::Path, sync::Arc};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
};
use tokio_rustls::TlsAcceptor;

use crate::config::TlsFiles;

/// Why a certificate and key cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("TLS {what} file {path} cannot be read: {source}")]
    Unreadable { what: &'static str, path: String, source: pem::Error },
    #[error("TLS key file {path} holds no private key")]
    NoKey { path: String },
    #[error("TLS file {path} holds no certificate")]
    NoCertificate { path: String },
    #[error("certificate {certificate} and key {key} cannot be used together: {source}")]
    Unusable { certificate: String, key: String, source: rustls::Error },
}

/// Reads the files. TLS 1.2 and 1.3, HTTP/1.1.
pub(crate) fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, TlsError> {
    let name = |path: &Path| path.display().to_string();
    let unreadable = |what, path: &Path| {
        let path = name(path);
        move |source| TlsError::Unreadable { what, path, source }
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect)
        .map_err(unreadable("certificate", &files.certificate))?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate { path: name(&files.certificate) });
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsError::NoKey { path: name(&files.key) },
        other => unreadable("key", &files.key)(other),
    })?;
    let unusable =
        |source| TlsError::Unusable { certificate: name(&files.certificate), key: name(&files.key), source };
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
