//! Signed requests to the server of a data directory: over a connection for each, or over one that is kept.
//!
//! hyper and rustls are what the server itself speaks with, and the signer is the AWS SDK's own, which the destinations link in any
//! case: nothing here reads a protocol or signs by itself.

mod tls;

use std::{
    io::ErrorKind,
    path::PathBuf,
    time::{Duration, UNIX_EPOCH},
};

use anyhow::{Context as _, bail};
use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4,
};
use bytes::Bytes;
use control::AccessKeys;
use http::{Method, Request, Response, StatusCode, Uri, header::HOST};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};
use types::{Clock as _, SystemClock};

use crate::{cli::Global, config::Config, data_dir::DataDir};

/// Where the operations of our own are.
const PREFIX: &str = "/waterwheel/2026-11-23/";
/// More than twice as long as the server takes for one answer.
const ANSWER: Duration = Duration::from_secs(60);

/// A request as it is sent.
pub(super) type Signed = Request<Full<Bytes>>;

pub(super) struct Client {
    directory: PathBuf,
    endpoint: Uri,
    region: String,
    credentials: Credentials,
    /// What the server shows to prove who it is, if it speaks TLS.
    certificate: Option<PathBuf>,
}

/// A connection that is kept. After an error it is of no further use.
pub(super) struct Connection {
    requests: http1::SendRequest<Full<Bytes>>,
    driver: JoinHandle<hyper::Result<()>>,
}

/// An error as the API shapes it.
#[derive(Deserialize, Default)]
struct Refusal {
    #[serde(alias = "Message", default)]
    message: String,
}

impl Client {
    pub(super) fn of(global: &Global) -> anyhow::Result<Self> {
        let config = Config::read(&global.layers()?)?;
        let directory = DataDir::at(&global.data_dir);
        let endpoint = match directory.read_endpoint() {
            Ok(endpoint) => endpoint,
            Err(error) if error.kind() == ErrorKind::NotFound => bail!(not_running(&global.data_dir)),
            Err(error) => return Err(error).context("cannot read the server's endpoint file"),
        };
        let endpoint = endpoint.parse().context("the server's endpoint file holds no URL")?;
        let keys =
            AccessKeys::open_or_create(&directory.credentials()).context("cannot read the access keys")?;
        let key = keys.first();
        Ok(Self {
            directory: global.data_dir.clone(),
            endpoint,
            region: config.account.region.to_string(),
            credentials: Credentials::new(key.id(), key.secret(), None, None, "waterwheel"),
            certificate: config.server.tls.map(|(certificate, _)| certificate),
        })
    }

    pub(super) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.ask(Method::GET, path, Bytes::new()).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.ask(Method::POST, path, Bytes::from(serde_json::to_vec(body)?)).await
    }

    async fn ask(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Value> {
        let request = self.signed(method, &format!("{PREFIX}{path}"), &[], body)?;
        let answer = self.connect().await?.exchange(request).await?;
        if answer.status() != StatusCode::OK {
            bail!("the server refuses: {}", refusal(&answer));
        }
        serde_json::from_slice(answer.body()).context("the server's answer is no JSON")
    }

    /// `headers` are signed, too.
    pub(super) fn signed(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: Bytes,
    ) -> anyhow::Result<Signed> {
        let authority = self.endpoint.authority().context("the server's endpoint file names no host")?;
        let identity = self.credentials.clone().into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name("lambda")
            .time(UNIX_EPOCH + SystemClock.now())
            .settings(SigningSettings::default())
            .build()?
            .into();
        let url = format!("{}://{authority}{path}", self.endpoint.scheme_str().unwrap_or("http"));
        let signed = [("host", authority.as_str())].into_iter().chain(headers.iter().copied());
        let signable = SignableRequest::new(method.as_str(), &url, signed, SignableBody::Bytes(&body))?;
        let (instructions, _) = sign(signable, &parameters)?.into_parts();
        let mut request = Request::builder().method(method).uri(path).header(HOST, authority.as_str());
        for (name, value) in headers.iter().copied().chain(instructions.headers()) {
            request = request.header(name, value);
        }
        Ok(request.body(Full::new(body))?)
    }

    pub(super) async fn connect(&self) -> anyhow::Result<Connection> {
        in_time(self.connect_now()).await
    }

    async fn connect_now(&self) -> anyhow::Result<Connection> {
        let authority = self.endpoint.authority().context("the server's endpoint file names no host")?;
        let https = self.endpoint.scheme_str() == Some("https");
        let port = authority.port_u16().unwrap_or(if https { 443 } else { 80 });
        let host = authority.host().trim_matches(['[', ']']);
        let stream = match TcpStream::connect((host, port)).await {
            Ok(stream) => stream,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => bail!(not_running(&self.directory)),
            Err(error) => return Err(error).with_context(|| format!("cannot connect to {}", self.endpoint)),
        };
        if !https {
            return Connection::over(stream).await;
        }
        let certificate = self.certificate.as_ref().with_context(|| {
            "the server speaks TLS, and the configuration does not say with which certificate; \
             --config or WATERWHEEL_CONFIG names its file"
        })?;
        Connection::over(tls::connect(stream, host, certificate).await?).await
    }
}

// === impl Connection ===

impl Connection {
    async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> anyhow::Result<Self> {
        let (requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
        Ok(Self { requests, driver: tokio::spawn(connection) })
    }

    /// Sends a request and reads its whole answer.
    pub(super) async fn exchange(&mut self, request: Signed) -> anyhow::Result<Response<Bytes>> {
        in_time(async {
            self.requests.ready().await.context("the server closed the connection")?;
            let answer = self.requests.send_request(request).await.context("the server did not answer")?;
            let (head, body) = answer.into_parts();
            let body = body.collect().await.context("the server's answer broke off")?.to_bytes();
            Ok(Response::from_parts(head, body))
        })
        .await
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

async fn in_time<T>(answer: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    timeout(ANSWER, answer)
        .await
        .with_context(|| format!("the server has not answered for {} s", ANSWER.as_secs()))?
}

/// Why the server refused, in its own words where it has any.
pub(super) fn refusal(answer: &Response<Bytes>) -> String {
    let refusal: Refusal = serde_json::from_slice(answer.body()).unwrap_or_default();
    if refusal.message.is_empty() { answer.status().to_string() } else { refusal.message }
}

fn not_running(directory: &std::path::Path) -> String {
    format!(
        "no server runs on {directory}: start it with `waterwheel --data-dir {directory} serve`, or name another \
         directory with --data-dir or WATERWHEEL_DATA_DIR",
        directory = directory.display()
    )
}

/// As it stands in a path or a query.
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_signed_with_its_headers_its_body_and_its_query() {
        let client = Client {
            directory: PathBuf::new(),
            endpoint: "http://127.0.0.1:1".parse().unwrap(),
            region: "us-east-1".into(),
            credentials: Credentials::new("AKIA", "secret", None, None, "test"),
            certificate: None,
        };
        let signature = |path: &str, headers: &[(&'static str, &str)], body: &'static [u8]| {
            let request = client.signed(Method::POST, path, headers, Bytes::from_static(body)).unwrap();
            assert!(headers.iter().all(|(name, value)| request.headers()[*name] == *value));
            let authorization = request.headers()["authorization"].to_str().unwrap().to_owned();
            assert!(authorization.contains("/us-east-1/lambda/aws4_request"), "{authorization}");
            authorization.rsplit_once("Signature=").unwrap().1.to_owned()
        };
        let signatures = [
            signature("/a", &[], b"1"),
            signature("/a", &[], b"2"),
            signature("/a?b=c", &[], b"1"),
            signature("/a", &[("x-amz-invocation-type", "Event")], b"1"),
        ];
        let different: std::collections::HashSet<_> = signatures.iter().collect();
        assert_eq!(different.len(), signatures.len(), "{signatures:?}");
    }

    #[test]
    fn an_arn_is_one_segment_of_a_path() {
        assert_eq!(encoded("arn:aws/x y~-._é"), "arn%3Aaws%2Fx%20y~-._%C3%A9");
    }
}
