//! The floor: a runtime process driven by the barest Runtime API server there can be.
//!
//! One thread, blocking sockets, `poll` over the listener and its few connections, no parsing beyond what the two calls
//! need. The process is the one an environment runs: the same root (bound into a mount namespace of this bench, with the
//! function at `/var/task`), entered by `chroot`, started by the runtime's own command with its own variables. What it lacks
//! is everything this project adds: HTTP edge, signatures, isolation, agent.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    mount::{UnmountFlags, mount_bind_recursive, unmount},
};
use tempfile::TempDir;

use crate::function::{Function, Runtime};

/// How the floor is described in the report.
pub const CONFIG: &str = "single-threaded blocking Runtime API server; same root by chroot, same command and variables, same core, root user";

/// Longest wait for the runtime to say something.
const PATIENCE: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };
/// Set in the process that has mounts of its own.
const OWN_MOUNTS: &str = "BENCH_OWN_MOUNTS";

/// Replaces this process by itself in a mount namespace of its own, so that no mount outlives it however it ends.
pub fn enter_own_mounts() -> Result<()> {
    if std::env::var_os(OWN_MOUNTS).is_some() {
        return Ok(());
    }
    let error = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(OWN_MOUNTS, "1")
        .exec();
    Err(error).context("unshare(1) from util-linux makes the bench's mount namespace")
}

/// A runtime root with a function in it.
#[derive(Debug)]
pub struct Prepared {
    // The mounts go before the directories below them: see `Drop`.
    dir: TempDir,
    runtime: Runtime,
    handler: &'static str,
}

impl Prepared {
    pub fn new(runtimes: &Path, functions: &Path, function: Function) -> Result<Self> {
        let runtime = Runtime::read(runtimes, function.runtime)?;
        let prepared = Self { dir: tempfile::tempdir()?, runtime, handler: function.handler };
        let (root, code) = (prepared.dir.path().join("root"), prepared.dir.path().join("code"));
        fs::create_dir(&root)?;
        fs::create_dir(&code)?;
        function.unpack(functions, &code)?;
        for (what, at) in [
            (prepared.runtime.root().as_path(), root.clone()),
            (code.as_path(), root.join("var/task")),
            (Path::new("/proc"), root.join("proc")),
            (Path::new("/dev"), root.join("dev")),
        ] {
            mount_bind_recursive(what, &at).with_context(|| format!("cannot bind {}", what.display()))?;
        }
        Ok(prepared)
    }

    /// Starts the process and returns once it has been handed its first event and has answered.
    pub fn start(&self, payload: &[u8]) -> Result<(Floor, Duration)> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let api = listener.local_addr()?.to_string();
        let begin = Instant::now();
        // By its path: the PATH of the runtime's variables is one inside the root.
        let child = Command::new("/usr/sbin/chroot")
            .arg(self.dir.path().join("root"))
            .args(&self.runtime.command)
            .env_clear()
            .envs(self.runtime.variables.iter().map(|(name, value)| (name, value)))
            .envs([
                ("AWS_LAMBDA_RUNTIME_API", api.as_str()),
                ("_HANDLER", self.handler),
                ("AWS_LAMBDA_FUNCTION_NAME", "floor"),
                ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
                ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "1769"),
                ("AWS_REGION", "us-east-1"),
            ])
            .stdin(Stdio::null())
            .spawn()
            .context("chroot(8) starts the floor")?;
        let mut floor = Floor { child, api: RuntimeApi::new(listener) };
        floor.prepare(payload)?;
        floor.run()?;
        Ok((floor, begin.elapsed()))
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        // Not there when preparing failed; the namespace would take it along anyway.
        let _ = unmount(self.dir.path().join("root"), UnmountFlags::DETACH);
    }
}

/// A running runtime process and the server it asks for work.
#[derive(Debug)]
pub struct Floor {
    child: Child,
    api: RuntimeApi,
}

impl Floor {
    /// Waits until the runtime asks for an event and makes the event ready to be handed out.
    pub fn prepare(&mut self, payload: &[u8]) -> Result<()> {
        let prepared = self.api.prepare(payload);
        self.explain(prepared)
    }

    /// The event that was prepared: from handing it out to having read the answer.
    pub fn run(&mut self) -> Result<Duration> {
        let ran = self.api.run();
        self.explain(ran)
    }

    fn explain<T>(&mut self, outcome: Result<T>) -> Result<T> {
        outcome.with_context(|| match self.child.try_wait() {
            Ok(Some(status)) => format!("the runtime process has ended: {status}"),
            _ => "the runtime process did not answer".to_owned(),
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The two calls of the Runtime API that a healthy function makes.
#[derive(Debug)]
struct RuntimeApi {
    listener: TcpListener,
    connections: Vec<Incoming>,
    /// Number of the event that is out.
    event: u64,
    out: Vec<u8>,
    /// Of the event that is prepared: which connection asked for it, and how many bytes it has.
    asker: usize,
    payload: usize,
}

#[derive(Debug)]
struct Incoming {
    stream: TcpStream,
    input: Vec<u8>,
    /// Of `input`, filled so far.
    filled: usize,
}

/// A request as far as it matters: which call, and where in `input` its body is.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    call: Call,
    head: usize,
    body: usize,
    wants_continue: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Call {
    Next,
    Response { id: u64 },
}

impl RuntimeApi {
    fn new(listener: TcpListener) -> Self {
        Self { listener, connections: Vec::new(), event: 0, out: Vec::new(), asker: 0, payload: 0 }
    }

    fn prepare(&mut self, payload: &[u8]) -> Result<()> {
        let (at, request) = self.request()?;
        ensure!(request.call == Call::Next, "the runtime sent {:?} instead of asking for work", request.call);
        self.connections[at].consume(&request);
        self.event += 1;
        self.out.clear();
        write!(
            self.out,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nLambda-Runtime-Aws-Request-Id: {:032}\r\n\
             Lambda-Runtime-Deadline-Ms: 4102444800000\r\nLambda-Runtime-Trace-Id: Root=1-5759e988-bd862e3fe1be46a994272793\r\n\
             Lambda-Runtime-Invoked-Function-Arn: arn:aws:lambda:us-east-1:000000000000:function:floor\r\n\
             Content-Length: {}\r\n\r\n",
            self.event,
            payload.len()
        )?;
        self.out.extend_from_slice(payload);
        (self.asker, self.payload) = (at, payload.len());
        Ok(())
    }

    fn run(&mut self) -> Result<Duration> {
        let begin = Instant::now();
        self.connections[self.asker].stream.write_all(&self.out)?;
        let (at, request) = self.request()?;
        let elapsed = begin.elapsed();
        ensure!(
            request.call == Call::Response { id: self.event },
            "the runtime sent {:?} instead of the answer to event {}",
            request.call,
            self.event
        );
        // Both functions echo; an answer to something else would be no floor.
        ensure!(request.body >= self.payload, "the answer has {} bytes", request.body);
        self.connections[at].consume(&request);
        self.connections[at].stream.write_all(
            b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{\"status\":\"OK\"}\n",
        )?;
        Ok(elapsed)
    }

    /// The next whole request on any connection.
    fn request(&mut self) -> Result<(usize, Request)> {
        loop {
            for (at, connection) in self.connections.iter_mut().enumerate() {
                if let Some(request) = connection.whole_request()? {
                    return Ok((at, request));
                }
            }
            self.wait()?;
        }
    }

    /// Waits until something arrives and takes it in.
    fn wait(&mut self) -> Result<()> {
        let mut ready = Vec::with_capacity(1 + self.connections.len());
        ready.push(PollFd::new(&self.listener, PollFlags::IN));
        ready
            .extend(self.connections.iter().map(|connection| PollFd::new(&connection.stream, PollFlags::IN)));
        ensure!(poll(&mut ready, Some(&PATIENCE))? > 0, "silence for {} s", PATIENCE.tv_sec);
        let ready: Vec<bool> = ready.iter().map(|fd| !fd.revents().is_empty()).collect();
        let mut closed = Vec::new();
        for (at, connection) in self.connections.iter_mut().enumerate() {
            if ready[at + 1] && !connection.fill()? {
                closed.push(at);
            }
        }
        for at in closed.into_iter().rev() {
            self.connections.swap_remove(at);
        }
        if ready[0] {
            let (stream, _) = self.listener.accept()?;
            stream.set_nodelay(true)?;
            self.connections.push(Incoming { stream, input: vec![0; 256 * 1024], filled: 0 });
        }
        Ok(())
    }
}

impl Incoming {
    /// Reads what is there; false at the end of the connection.
    fn fill(&mut self) -> Result<bool> {
        if self.filled == self.input.len() {
            self.input.resize(self.input.len() * 2, 0);
        }
        let read = self.stream.read(&mut self.input[self.filled..])?;
        self.filled += read;
        Ok(read > 0)
    }

    fn whole_request(&mut self) -> Result<Option<Request>> {
        if self.filled == 0 {
            return Ok(None);
        }
        let Some(request) = parse(&self.input[..self.filled])? else {
            return Ok(None);
        };
        if self.filled >= request.head + request.body {
            return Ok(Some(request));
        }
        if request.wants_continue && self.filled == request.head {
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        Ok(None)
    }

    fn consume(&mut self, request: &Request) {
        let end = request.head + request.body;
        self.input.copy_within(end..self.filled, 0);
        self.filled -= end;
    }
}

/// The request that `input` begins with, once its head is whole.
fn parse(input: &[u8]) -> Result<Option<Request>> {
    const INVOCATION: &str = "/2018-06-01/runtime/invocation/";
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head) = request.parse(input)? else {
        return Ok(None);
    };
    let path = request.path.unwrap_or_default();
    let call = match path.strip_prefix(INVOCATION).map(|rest| rest.split_once('/').unwrap_or((rest, ""))) {
        Some(("next", "")) => Call::Next,
        Some((id, "response")) => Call::Response { id: id.parse().context("id of another event")? },
        _ => bail!("the runtime calls {path}: {}", String::from_utf8_lossy(&input[head..])),
    };
    let header = |name: &str| {
        let found = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok()
    };
    ensure!(header("transfer-encoding").is_none(), "the runtime streams its answer");
    let body = header("content-length").map_or(Ok(0), str::parse).context("content-length")?;
    let wants_continue = header("expect").is_some();
    Ok(Some(Request { call, head, body, wants_continue }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    /// A runtime that echoes, on one connection, sending its answers in pieces.
    fn echo(api: &str, events: usize, piece: usize) -> thread::JoinHandle<()> {
        let mut stream = TcpStream::connect(api).unwrap();
        thread::spawn(move || {
            for _ in 0..events {
                stream
                    .write_all(b"GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: x\r\n\r\n")
                    .unwrap();
                let (head, body) = read_answer(&mut stream);
                let id = head
                    .lines()
                    .find_map(|line| line.strip_prefix("Lambda-Runtime-Aws-Request-Id: "))
                    .unwrap();
                let mut answer = format!(
                    "POST /2018-06-01/runtime/invocation/{id}/response HTTP/1.1\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                )
                .into_bytes();
                answer.extend(body);
                answer.chunks(piece).for_each(|part| stream.write_all(part).unwrap());
                assert!(read_answer(&mut stream).0.starts_with("HTTP/1.1 202 "));
            }
        })
    }

    fn read_answer(stream: &mut TcpStream) -> (String, Vec<u8>) {
        let mut bytes = Vec::new();
        let mut byte = [0];
        while !bytes.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            bytes.push(byte[0]);
        }
        let head = String::from_utf8(bytes).unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut body).unwrap();
        (head, body)
    }

    #[test]
    fn events_go_out_and_answers_come_back_on_any_connection_in_any_pieces() {
        for piece in [7, 1 << 20] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let mut api = RuntimeApi::new(listener);
            for _ in 0..2 {
                let runtime = echo(&address, 2, piece);
                for payload in [&b"{}"[..], &vec![b'7'; 600_000]] {
                    api.prepare(payload).unwrap();
                    assert!(api.run().unwrap() > Duration::ZERO);
                }
                runtime.join().unwrap();
            }
            assert_eq!(api.event, 4);
        }
    }

    #[test]
    fn anything_but_the_two_calls_is_told() {
        let error = parse(b"POST /2018-06-01/runtime/init/error HTTP/1.1\r\n\r\nno handler").unwrap_err();
        assert!(error.to_string().contains("init/error: no handler"), "{error}");
        assert!(parse(b"GET /2018-06-01/runtime/invocation/x HTTP/1.1\r\n\r\n").is_err());
        assert!(parse(b"GET /2018-06-01/runtime/invocation/1/error HTTP/1.1\r\n\r\n").is_err());
        assert_eq!(parse(b"GET /2018-06-01/runtime/invocation/ne").unwrap(), None);
    }
}
