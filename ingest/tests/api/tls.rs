//! TLS, and the errors of its files.

use std::{path::Path, sync::Arc};

use ingest::{Config, Server, StartError, TlsError, TlsFiles};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::{Connection, Edge, config, echo, services, unsigned};

struct Files {
    dir: TempDir,
    certificate: CertifiedKey<rcgen::KeyPair>,
}

impl Files {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let certificate = generate_simple_self_signed([String::from("localhost")]).unwrap();
        std::fs::write(dir.path().join("cert.pem"), certificate.cert.pem()).unwrap();
        std::fs::write(dir.path().join("key.pem"), certificate.signing_key.serialize_pem()).unwrap();
        Self { dir, certificate }
    }

    fn config(&self) -> Config {
        let file = |name: &str| self.dir.path().join(name);
        Config { tls: Some(TlsFiles { certificate: file("cert.pem"), key: file("key.pem") }), ..config() }
    }
}

async fn bind_error(config: Config) -> TlsError {
    let dir = TempDir::new().unwrap();
    match Server::bind(config, services(&dir, echo())).await {
        Err(StartError::Tls(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_api_is_served_over_tls() {
    let files = Files::new();
    let edge = Edge::start(files.config(), echo()).await;
    let mut roots = RootCertStore::empty();
    roots.add(files.certificate.cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(edge.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let tls = TlsConnector::from(Arc::new(client)).connect(name, tcp).await.unwrap();
    assert_eq!(Connection::over(tls).await.send(unsigned("GET", "/healthz")).await.status, 200);
}

#[tokio::test]
async fn unusable_files_are_named() {
    let files = Files::new();
    let write = |name: &str, text: &str| std::fs::write(files.dir.path().join(name), text).unwrap();

    write("key.pem", &Files::new().certificate.signing_key.serialize_pem());
    let error = bind_error(files.config()).await;
    assert!(matches!(error, TlsError::Unusable { .. }), "{error}");
    assert!(error.to_string().contains("key.pem"), "{error}");

    write("key.pem", "no key at all");
    assert!(
        matches!(bind_error(files.config()).await, TlsError::NoKey { path } if path.ends_with("key.pem"))
    );

    write("cert.pem", "");
    assert!(matches!(bind_error(files.config()).await, TlsError::NoCertificate { .. }));

    let mut missing = files.config();
    missing.tls.as_mut().unwrap().certificate = Path::new("/no/such/file.pem").to_owned();
    assert!(bind_error(missing).await.to_string().contains("/no/such/file.pem"));
}
