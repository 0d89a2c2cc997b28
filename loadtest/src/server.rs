//! Waterwheel as a child process, and a client of its API.

use std::{
    fs,
    net::{SocketAddr, ToSocketAddrs},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    http::{Answer, Connection},
    sigv4::{Credentials, Signer},
};
use anyhow::{Context, Result, bail, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use types::SystemClock;

use crate::function::Function;

/// The invocation type of what is queued.
const EVENT: &str = "Event";
const PATIENCE: Duration = Duration::from_secs(60);
/// How often something is looked at that tells nobody when it changes (a file, a function's state).
const GLANCE: Duration = Duration::from_millis(10);
/// Memory that gives a function one whole core.
pub const MEMORY_MB: u32 = 1769;

/// How a server is to be started. Cheap to change: each `with` adds to what is there.
#[derive(Debug, Clone)]
pub struct Launch {
    binary: PathBuf,
    runtimes: PathBuf,
    region: String,
    below: PathBuf,
    settings: Vec<(String, String)>,
    memory_limit: Option<u64>,
}

/// A running server. Stopped, with all its environments, when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    authority: String,
    credentials: Credentials,
    region: String,
    /// Removed with whoever holds the server.
    directory: TempDir,
}

// === impl Launch ===

impl Launch {
    /// A server with its defaults, whose data lie below the directory for temporary files.
    #[must_use]
    pub fn new(binary: &Path, runtimes: &Path, region: &str) -> Self {
        Self {
            binary: binary.to_owned(),
            runtimes: runtimes.to_owned(),
            region: region.to_owned(),
            below: std::env::temp_dir(),
            settings: Vec::new(),
            memory_limit: None,
        }
    }

    /// Its data lie in a directory that is made in this one.
    #[must_use]
    pub fn below(self, directory: &Path) -> Self {
        Self { below: directory.to_owned(), ..self }
    }

    /// Keys of the configuration and their values, such as `("SERVER__DRAIN_TIMEOUT", "1s")`.
    #[must_use]
    pub fn with(mut self, settings: &[(&str, &str)]) -> Self {
        let named = settings.iter().map(|(key, value)| (format!("WATERWHEEL_{key}"), (*value).to_owned()));
        self.settings.extend(named);
        self
    }

    /// It may have at most so many bytes of private memory; the kernel refuses it more.
    #[must_use]
    pub fn with_memory_limit(self, bytes: u64) -> Self {
        Self { memory_limit: Some(bytes), ..self }
    }

    #[must_use]
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Starts the server on the cores the calling thread is confined to, and waits until it serves.
    pub fn start(&self) -> Result<Server> {
        let directory = tempfile::tempdir_in(&self.below)?;
        // The server makes its directory itself, for its owner only.
        let own = directory.path().join("data");
        let log = fs::File::create(directory.path().join("server.log"))?;
        let mut command = match self.memory_limit {
            Some(bytes) => {
                let mut command = Command::new("prlimit");
                command.arg(format!("--data={bytes}")).arg("--").arg(&self.binary);
                command
            }
            None => Command::new(&self.binary),
        };
        let mut child = command
            .args(["serve", "--isolation", "process", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(&own)
            .arg("--runtimes-dir")
            .arg(&self.runtimes)
            .envs(self.settings.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.binary.display()))?;
        match wait_for_endpoint(&mut child, &own) {
            Ok((authority, credentials)) => {
                Ok(Server { child, authority, credentials, region: self.region.clone(), directory })
            }
            Err(error) => {
                stop(&mut child);
                let log = fs::read_to_string(directory.path().join("server.log")).unwrap_or_default();
                Err(error.context(log))
            }
        }
    }
}

// === impl Server ===

impl Server {
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Of its API.
    pub fn address(&self) -> Result<SocketAddr> {
        let mut addresses = self.authority.to_socket_addrs()?;
        addresses.next().with_context(|| format!("{} is no address", self.authority))
    }

    /// A client with a connection of its own.
    pub fn client(&self) -> Result<Client> {
        Ok(Client {
            connection: Connection::open(&self.authority, PATIENCE)?,
            signer: Signer::new(self.credentials.clone(), &self.region, "lambda", SystemClock),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        stop(&mut self.child);
    }
}

/// Asks the server to end, and makes it if it does not.
fn stop(child: &mut Child) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let asked = pid.is_some_and(|pid| kill_process(pid, Signal::TERM).is_ok());
    let begin = Instant::now();
    while asked && begin.elapsed() < Duration::from_secs(10) {
        if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
            return;
        }
        thread::sleep(GLANCE);
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn wait_for_endpoint(child: &mut Child, data: &Path) -> Result<(String, Credentials)> {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            bail!("the server ended before it served: {status}");
        }
        if let Ok(endpoint) = fs::read_to_string(data.join("endpoint")) {
            let authority = authority(&endpoint)?;
            let text =
                fs::read_to_string(data.join("credentials")).context("no credentials beside the endpoint")?;
            return Ok((
                authority,
                Credentials::parse(&text).context("no default profile in the credentials")?,
            ));
        }
        ensure!(begin.elapsed() < PATIENCE, "the server did not serve within {PATIENCE:?}");
        thread::sleep(GLANCE);
    }
}

/// `http://127.0.0.1:8080` → `127.0.0.1:8080`
fn authority(endpoint: &str) -> Result<String> {
    let authority = endpoint.trim().trim_end_matches('/').strip_prefix("http://");
    let authority = authority.with_context(|| format!("the endpoint is {endpoint:?}"))?;
    authority.to_socket_addrs().with_context(|| format!("the endpoint is {endpoint:?}"))?;
    Ok(authority.to_owned())
}

/// Speaks the Lambda API, signed, over one connection.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
    signer: Signer<SystemClock>,
}

impl Client {
    fn send(&mut self, method: &str, path: &str, body: &[u8]) -> Result<Answer> {
        self.compose(method, path, None, body)?;
        Ok(self.connection.exchange()?)
    }

    /// Signs a request and makes it ready to be sent.
    fn compose(&mut self, method: &str, path: &str, kind: Option<&str>, body: &[u8]) -> Result<()> {
        let kind = kind.map(|kind| ("x-amz-invocation-type", kind));
        let signature =
            self.signer.sign_with(method, self.connection.authority(), path, kind.as_slice(), body);
        let mut headers = vec![
            ("x-amz-date", signature.date.as_str()),
            ("authorization", signature.authorization.as_str()),
            ("content-type", "application/json"),
        ];
        headers.extend(kind);
        Ok(self.connection.compose(method, path, &headers, body)?)
    }

    /// A control-plane call that must succeed.
    fn call(&mut self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(body)? };
        let answer = self.send(method, path, &body)?;
        ensure!(
            (200..300).contains(&answer.status),
            "{method} {path}: {} {}",
            answer.status,
            String::from_utf8_lossy(&answer.body)
        );
        Ok(serde_json::from_slice(&answer.body)?)
    }

    /// Creates the function, with a core to itself, and waits until it can be invoked.
    pub fn create(&mut self, name: &str, function: Function, functions: &Path) -> Result<()> {
        self.create_with(name, function, functions, MEMORY_MB)
    }

    /// The same with another size of memory.
    pub fn create_with(
        &mut self,
        name: &str,
        function: Function,
        functions: &Path,
        memory_mb: u32,
    ) -> Result<()> {
        let body = json!({
            "FunctionName": name,
            "Runtime": function.runtime,
            "Handler": function.handler,
            "Role": "arn:aws:iam::000000000000:role/bench",
            "Code": {"ZipFile": STANDARD.encode(function.archive(functions)?)},
            "MemorySize": memory_mb,
            "Timeout": 60,
        });
        self.call("POST", "/2015-03-31/functions", &body)?;
        self.wait_until_settled(name)
    }

    /// Changes the function in a way nothing sees but the server: its next invocation needs a fresh environment.
    pub fn touch(&mut self, name: &str, mark: &str) -> Result<()> {
        let path = format!("/2015-03-31/functions/{name}/configuration");
        self.call("PUT", &path, &json!({"Description": mark}))?;
        self.wait_until_settled(name)
    }

    fn wait_until_settled(&mut self, name: &str) -> Result<()> {
        let path = format!("/2015-03-31/functions/{name}/configuration");
        let begin = Instant::now();
        loop {
            let state = self.call("GET", &path, &Value::Null)?;
            if state["State"] == "Active" && state["LastUpdateStatus"] == "Successful" {
                return Ok(());
            }
            ensure!(
                state["State"] != "Failed" && begin.elapsed() < PATIENCE,
                "{name} is not usable: {state}"
            );
            thread::sleep(GLANCE);
        }
    }

    /// One invocation that must succeed, whatever it answers.
    pub fn invoke_any(&mut self, name: &str, payload: &[u8]) -> Result<Answer> {
        self.prepare(name, payload)?;
        self.run(name)
    }

    /// Makes an invocation ready for [`Client::run`].
    pub fn prepare(&mut self, name: &str, payload: &[u8]) -> Result<()> {
        self.compose("POST", &invocations(name), None, payload)
    }

    /// The invocation that was prepared; `name` is for the error.
    pub fn run(&mut self, name: &str) -> Result<Answer> {
        let answer = self.connection.exchange()?;
        ensure!(
            answer.status == 200 && answer.header("x-amz-function-error").is_none(),
            "invoking {name}: {} {}",
            answer.status,
            String::from_utf8_lossy(&answer.body)
        );
        Ok(answer)
    }

    /// Makes an event ready for [`Client::run_event`].
    pub fn prepare_event(&mut self, name: &str, payload: &[u8]) -> Result<()> {
        self.compose("POST", &invocations(name), Some(EVENT), payload)
    }

    /// Has the event that was prepared accepted; `name` is for the error.
    pub fn run_event(&mut self, name: &str) -> Result<Answer> {
        let answer = self.connection.exchange()?;
        let text = String::from_utf8_lossy(&answer.body);
        ensure!(answer.status == 202, "queueing an event for {name}: {} {text}", answer.status);
        Ok(answer)
    }

    /// All bytes of a signed invocation, for whoever sends them by other means while the signature is good.
    pub fn invocation_request(mut self, name: &str, payload: &[u8]) -> Result<Vec<u8>> {
        self.prepare(name, payload)?;
        Ok(self.connection.into_request())
    }

    /// All bytes of a signed request that queues an event.
    pub fn event_request(mut self, name: &str, payload: &[u8]) -> Result<Vec<u8>> {
        self.prepare_event(name, payload)?;
        Ok(self.connection.into_request())
    }

    /// What `/metrics` says, which needs no signature.
    pub fn metrics(&mut self) -> Result<String> {
        let answer = self.connection.send("GET", "/metrics", &[], b"")?;
        let text = String::from_utf8(answer.body)?;
        ensure!(answer.status == 200, "GET /metrics: {} {text}", answer.status);
        Ok(text)
    }
}

fn invocations(name: &str) -> String {
    format!("/2015-03-31/functions/{name}/invocations")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_endpoint_is_taken() {
        assert_eq!(authority("http://127.0.0.1:8080\n").unwrap(), "127.0.0.1:8080");
        assert!(authority("https://127.0.0.1:8080").is_err());
        assert!(authority("http://nowhere").is_err());
    }

    #[test]
    fn a_server_that_ends_early_is_told_with_its_output() {
        let error = Launch::new(Path::new("/bin/sh"), Path::new("/"), "us-east-1").start().unwrap_err();
        let text = format!("{error:?}");
        assert!(text.contains("serve") && text.contains("ended before it served"), "{text}");
    }
}
