//! A real edge on loopback over a real control plane; only the function behind Invoke is the test's own.

use std::{
    future::ready,
    io::Write as _,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use aws_lc_rs::{digest, hmac};
use bytes::Bytes;
use control::{AccessKeys, ControlConfig, ControlPlane, LocalKeyring};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use ingest::{Authentication, Config, Probes, Server, Services};
use invoker::{InvokeError, InvokeOutcome, InvokeRequest};
use poller_fleet::{
    AcceptEvents, AsyncInvocation, DeadLetters, WriteError,
    dead_letters::{Error, Order, Page, Progress, Query, Shown},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{Notify, oneshot},
    task::JoinHandle,
};
use tower::util::BoxCloneSyncService;
use types::{Clock, FunctionRef, RequestId, RuntimeName, Version};

pub(crate) type Invoker = BoxCloneSyncService<InvokeRequest, InvokeOutcome, InvokeError>;

/// 2026-11-22T14:00:00Z.
const NOW: Duration = Duration::from_secs(1_795_356_000);
const STAMP: &str = "20261122T140000Z";
pub(crate) const ROLE: &str = "arn:aws:iam::123456789012:role/r";

struct Fixed;

impl Clock for Fixed {
    fn now(&self) -> Duration {
        NOW
    }
}

/// Events that were accepted; refused while there is an error.
#[derive(Default)]
pub(crate) struct Accepted {
    pub(crate) events: Mutex<Vec<AsyncInvocation>>,
    pub(crate) error: Mutex<Option<WriteError>>,
}

impl AcceptEvents for Accepted {
    fn accept(&self, event: AsyncInvocation) -> BoxFuture<'_, Result<(), WriteError>> {
        let refused = self.error.lock().unwrap().clone();
        self.events.lock().unwrap().push(event);
        ready(refused.map_or(Ok(()), Err)).boxed()
    }
}

/// A store that is empty, and whose dead letters somebody else is redriving.
struct Empty;

impl DeadLetters for Empty {
    fn list(&self, _: Query) -> BoxFuture<'_, Result<Page, Error>> {
        ready(Ok(Page::default())).boxed()
    }

    fn show(&self, function: FunctionRef, id: RequestId) -> BoxFuture<'_, Result<Shown, Error>> {
        ready(Err(Error::NotFound { function: function.name.to_string(), id })).boxed()
    }

    fn redrive(&self, order: Order) -> BoxFuture<'_, Result<Progress, Error>> {
        let arn = order.filter.function.and_then(FunctionRef::into_arn);
        ready(arn.map_or(Ok(Progress::default()), |arn| Err(Error::UnderWay(arn)))).boxed()
    }

    fn purge(&self, _: Order) -> BoxFuture<'_, Result<Progress, Error>> {
        ready(Ok(Progress::default())).boxed()
    }
}

pub(crate) struct Edge {
    pub(crate) address: SocketAddr,
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) control: ControlPlane,
    pub(crate) accepted: Arc<Accepted>,
    pub(crate) key: (String, String),
    pub(crate) signs: bool,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
    _dir: TempDir,
}

pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Status, exception and message of an error.
    pub(crate) fn error(&self) -> (u16, &str, String) {
        let json = self.json();
        let message = json.get("message").or(json.get("Message")).and_then(Value::as_str).unwrap_or_default();
        (self.status.as_u16(), self.header("x-amzn-errortype").unwrap_or_default(), message.to_owned())
    }
}

pub(crate) fn config() -> Config {
    Config { listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))], ..Config::default() }
}

/// Answers with the payload.
pub(crate) fn echo() -> Invoker {
    BoxCloneSyncService::new(tower::service_fn(async |request: InvokeRequest| {
        Ok(outcome(vec![request.payload]))
    }))
}

pub(crate) fn outcome(chunks: Vec<Bytes>) -> InvokeOutcome {
    InvokeOutcome {
        executed_version: Version::Latest,
        function_error: None,
        log_tail: None,
        content_type: String::from("application/json"),
        body: futures::stream::iter(chunks.into_iter().map(Ok)).boxed(),
    }
}

/// An invoker that refuses always.
pub(crate) fn failing(error: InvokeError) -> Invoker {
    BoxCloneSyncService::new(tower::service_fn(move |_: InvokeRequest| {
        futures::future::ready(Err(error.clone()))
    }))
}

/// A control plane, keys and probes in `dir`, in front of `invoker`.
pub(crate) fn services(dir: &TempDir, invoker: Invoker) -> Services<Invoker> {
    let region = Config::default().region.parse().unwrap();
    let account = "123456789012".parse().unwrap();
    let installed = Arc::new(|| vec![RuntimeName::new("python3.11")]);
    let plane = ControlConfig::new(dir.path().join("data"), region, account, installed);
    let keyring = LocalKeyring::open_or_create(&dir.path().join("keyring")).unwrap();
    let control = ControlPlane::open(plane, Arc::new(keyring), Arc::new(Fixed)).unwrap();
    let keys = AccessKeys::open_or_create(&dir.path().join("credentials")).unwrap();
    let probes = Probes { metrics: Arc::new(|| String::from("a_metric 1\n")), ready: Arc::new(|| true) };
    let (keys, events) = (Arc::new(keys), Arc::new(Accepted::default()));
    Services { control, keys, invoker, events, dead_letters: Arc::new(Empty), clock: Arc::new(Fixed), probes }
}

impl Edge {
    pub(crate) async fn start(config: Config, invoker: Invoker) -> Self {
        let dir = TempDir::new().unwrap();
        let signs = config.authentication == Authentication::Required;
        let accepted = Arc::new(Accepted::default());
        let services = Services { events: Arc::clone(&accepted) as _, ..services(&dir, invoker) };
        let (control, keys) = (services.control.clone(), Arc::clone(&services.keys));
        let server = Server::bind(config, services).await.unwrap();
        let (address, metrics) = (server.addresses()[0], server.metrics_address());
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(server.serve(async {
            let _ = stopped.await;
        }));
        let key = (keys.first().id().to_owned(), keys.first().secret().to_owned());
        Self { address, metrics, control, accepted, key, signs, stop: Some(stop), serving, _dir: dir }
    }

    /// Begins the shutdown.
    pub(crate) fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// Waits for its end.
    pub(crate) async fn stopped(self) {
        self.serving.await.unwrap();
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        send(self.address, self.request(method, target, headers, body.into())).await
    }

    /// A signed request, as an SDK sends it: no declared payload hash.
    pub(crate) fn request(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Request<Full<Bytes>> {
        let host = self.address.to_string();
        let mut signed: Vec<(String, String)> =
            vec![(String::from("host"), host), (String::from("x-amz-date"), STAMP.into())];
        signed.extend(headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), (*value).to_owned())));
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in &signed {
            request = request.header(name, value);
        }
        if self.signs {
            request =
                request.header("authorization", authorization(&self.key, method, target, signed, &body));
        }
        request.body(Full::new(body)).unwrap()
    }

    pub(crate) async fn create(&self, name: &str) -> Reply {
        let body = json!({
            "FunctionName": name, "Role": ROLE, "Runtime": "python3.11", "Handler": "app.handler",
            "Code": {"ZipFile": package()},
        });
        let reply = self.send("POST", "/2015-03-31/functions", &[], body.to_string()).await;
        self.control.settled().await;
        reply
    }

    pub(crate) async fn invoke(&self, headers: &[(&str, &str)], payload: impl Into<Bytes>) -> Reply {
        self.send("POST", "/2015-03-31/functions/echo/invocations", headers, payload).await
    }
}

/// One request on a connection of its own.
pub(crate) async fn send(address: SocketAddr, request: Request<Full<Bytes>>) -> Reply {
    let stream = TcpStream::connect(address).await.unwrap();
    Connection::over(stream).await.send(request).await
}

/// A connection kept alive between requests.
pub(crate) struct Connection(SendRequest<Full<Bytes>>);

impl Connection {
    pub(crate) async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Reply {
        let (head, body) = self.0.send_request(request).await.unwrap().into_parts();
        Reply { status: head.status, headers: head.headers, body: body.collect().await.unwrap().to_bytes() }
    }
}

/// A function that says when it was called and answers when it is told to.
#[derive(Clone, Default)]
pub(crate) struct Gate {
    pub(crate) called: Arc<Notify>,
    pub(crate) answer: Arc<Notify>,
}

impl Gate {
    pub(crate) fn invoker(&self) -> Invoker {
        let gate = self.clone();
        BoxCloneSyncService::new(tower::service_fn(move |_: InvokeRequest| {
            let gate = gate.clone();
            async move {
                gate.called.notify_one();
                gate.answer.notified().await;
                Ok(outcome(vec![Bytes::from_static(b"null")]))
            }
        }))
    }
}

pub(crate) fn unsigned(method: &str, target: &str) -> Request<Full<Bytes>> {
    Request::builder().method(method).uri(target).header("host", "localhost").body(Full::default()).unwrap()
}

/// Base64 of a package with one Python file.
pub(crate) fn package() -> String {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    BASE64_STANDARD.encode(zip_bytes())
}

pub(crate) fn zip_bytes() -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    zip.start_file("app.py", zip::write::SimpleFileOptions::default()).unwrap();
    zip.write_all(b"def handler(event, context): return event\n").unwrap();
    zip.finish().unwrap().into_inner()
}

/// Signature Version 4 as a client makes it, written apart from the verifier.
fn authorization(
    (id, secret): &(String, String),
    method: &str,
    target: &str,
    mut headers: Vec<(String, String)>,
    body: &[u8],
) -> String {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut query: Vec<String> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| if pair.contains('=') { pair.to_owned() } else { format!("{pair}=") })
        .collect();
    query.sort();
    headers.sort();
    let names = headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(";");
    let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let hash = |bytes: &[u8]| hex::encode(digest::digest(&digest::SHA256, bytes));
    let payload = headers
        .iter()
        .find(|(name, _)| name == "x-amz-content-sha256")
        .map_or_else(|| hash(body), |(_, v)| v.clone());
    let canonical =
        format!("{method}\n{}\n{}\n{lines}\n{names}\n{payload}", path.replace('%', "%25"), query.join("&"));
    let scope = "20261122/us-east-1/lambda/aws4_request";
    let text = format!("AWS4-HMAC-SHA256\n{STAMP}\n{scope}\n{}", hash(canonical.as_bytes()));
    let sign = |key: &[u8], text: &str| {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
    };
    let mut key = format!("AWS4{secret}").into_bytes();
    for step in scope.split('/') {
        key = sign(&key, step);
    }
    format!(
        "AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={}",
        hex::encode(sign(&key, &text))
    )
}
