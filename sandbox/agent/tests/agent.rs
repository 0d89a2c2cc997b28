//! The agent with a scripted runtime, outside of any jail: it needs user 0 to give itself and the runtime users of their own.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use protocol::{AgentFrame, Decoder, Invoke, InvokerFrame, LogStream, ResponseMode, Start, VERSION};

const FUNCTION_UID: u32 = 961_101;
const AGENT_UID: u32 = 961_102;
const LIMIT: u32 = 6 * 1024 * 1024;

/// Longest wait for a frame; a test that needs it has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// What every scripted runtime has at hand.
const PRELUDE: &str = r#"
import http.client, os, socket, sys
host = os.environ["AWS_LAMBDA_RUNTIME_API"]
base = "/2018-06-01/runtime/"
api = http.client.HTTPConnection(host)

def call(method, path, body=None, headers={}, connection=None):
    connection = connection or api
    connection.request(method, base + path, body, headers)
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read()

def next():
    status, headers, body = call("GET", "invocation/next")
    assert status == 200, status
    return headers["Lambda-Runtime-Aws-Request-Id"], body

def respond(id, body, headers={}):
    return call("POST", f"invocation/{id}/response", body, headers)[0]

def wait_for_end_of_agent():
    name, port = host.split(":")
    socket.create_connection((name, int(port))).recv(1)

def out(text):
    sys.stdout.write(text)
    sys.stdout.flush()
"#;

struct Agent {
    process: Child,
    stream: UnixStream,
    decoder: Decoder,
}

impl Agent {
    /// Starts the agent with a Python program as the runtime.
    fn with(script: &str) -> Self {
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
        let command = ["/usr/bin/python3", "-c", &format!("{PRELUDE}\n{script}")].map(str::to_owned).to_vec();
        Self::start(command, port.to_string())
    }

    fn start(command: Vec<String>, address: String) -> Self {
        let (stream, theirs) = UnixStream::pair().expect("make a stream");
        stream.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
        let process = Command::new(env!("CARGO_BIN_EXE_agent"))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            // As the jail does: freed memory goes back at once.
            .env("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=131072:glibc.malloc.trim_threshold=131072")
            .stderr(Stdio::piped())
            .spawn()
            .expect("start the agent");
        let mut agent = Self { process, stream, decoder: Decoder::new() };
        agent.send(&InvokerFrame::Start(Start {
            version: VERSION,
            command,
            directory: "/".to_owned(),
            variables: vec![("AWS_LAMBDA_RUNTIME_API".to_owned(), address)],
            function_uid: FUNCTION_UID,
            agent_uid: AGENT_UID,
            response_limit: LIMIT,
        }));
        agent
    }

    fn send(&mut self, frame: &InvokerFrame) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.stream.write_all(&bytes).expect("write a frame");
    }

    fn receive(&mut self) -> Option<AgentFrame> {
        loop {
            if let Some(frame) = AgentFrame::decode(&mut self.decoder).expect("frames") {
                return Some(frame);
            }
            let mut bytes = [0; 64 * 1024];
            match self.stream.read(&mut bytes).expect("a frame in time") {
                0 => return None,
                read => self.decoder.extend(&bytes[..read]),
            }
        }
    }

    /// The frames up to the one that `is_last`; log frames of one stream are joined.
    fn until(&mut self, is_last: impl Fn(&AgentFrame) -> bool) -> Vec<AgentFrame> {
        let mut frames: Vec<AgentFrame> = Vec::new();
        loop {
            let frame = self.receive().expect("the agent lives");
            let last = is_last(&frame);
            match (frames.last_mut(), frame) {
                (Some(AgentFrame::Log { stream: before, bytes: all }), AgentFrame::Log { stream, bytes })
                    if *before == stream =>
                {
                    all.extend(bytes);
                }
                (_, frame) => frames.push(frame),
            }
            if last {
                return frames;
            }
        }
    }

    fn until_idle(&mut self) -> Vec<AgentFrame> {
        self.until(|frame| *frame == AgentFrame::Idle)
    }

    fn until_exit(&mut self) -> Vec<AgentFrame> {
        self.until(|frame| matches!(frame, AgentFrame::RuntimeExited { .. }))
    }

    fn invoke(&mut self, id: &str, payload: Vec<u8>) {
        self.send(&InvokerFrame::Invoke(Invoke {
            request_id: id.to_owned(),
            deadline_ms: 1,
            invoked_function_arn: "arn".to_owned(),
            xray_trace_id: "Root=1".to_owned(),
            traceparent: None,
            client_context: None,
            cognito_identity: None,
            tenant_id: None,
            payload,
        }));
    }

    /// Of the agent process, from /proc: a line such as `VmRSS`.
    fn status(&self, field: &str) -> String {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("read its status");
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.expect("the field").trim().to_owned()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Outside of a pid namespace nobody else ends the runtime; it is the agent's only child.
        let children = format!("/proc/{0}/task/{0}/children", self.process.id());
        for child in fs::read_to_string(children).unwrap_or_default().split_whitespace() {
            if let Some(pid) = child.parse().ok().and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn log(text: &str) -> AgentFrame {
    AgentFrame::Log { stream: LogStream::Stdout, bytes: text.as_bytes().to_vec() }
}

fn response(id: &str, content_type: &str, body: &[u8]) -> [AgentFrame; 3] {
    let head = AgentFrame::ResponseHead {
        request_id: id.to_owned(),
        content_type: content_type.to_owned(),
        mode: ResponseMode::Buffered,
    };
    let end = AgentFrame::ResponseEnd { error_type: None, error_body: None };
    [head, AgentFrame::ResponseChunk { bytes: body.to_vec() }, end]
}

const ECHO: &str = r#"
out("getting ready\n")
while True:
    id, event = next()
    out(f"working on {id}\n")
    assert respond(id, event) == 202
"#;

#[test]
fn events_are_answered_one_after_the_other_and_logs_come_before_answers() {
    let mut agent = Agent::with(ECHO);
    assert_eq!(
        agent.until_idle(),
        [AgentFrame::Hello { version: VERSION }, log("getting ready\n"), AgentFrame::Idle]
    );
    for id in ["one", "two", "three"] {
        agent.invoke(id, br#"{"x":1}"#.to_vec());
        let mut expected = vec![log(&format!("working on {id}\n"))];
        expected.extend(response(id, "application/json", br#"{"x":1}"#));
        expected.push(AgentFrame::Idle);
        assert_eq!(agent.until_idle(), expected);
    }
    agent.send(&InvokerFrame::Shutdown);
    assert_eq!(agent.receive(), None);
    assert!(agent.process.wait().expect("wait for the agent").success());
}

#[test]
fn nothing_privileged_is_left_when_the_agent_says_hello() {
    let mut agent = Agent::with(ECHO);
    agent.until_idle();
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(agent.status(set), "0000000000000000", "{set}");
    }
    assert_eq!(agent.status("Uid"), [AGENT_UID.to_string().as_str(); 4].join("\t"));
    assert_eq!(agent.status("Groups"), "");
    assert_eq!(agent.status("Threads"), "1");
    // Not dumpable: its files in /proc belong to user 0, not to its own user.
    let owner = std::os::unix::fs::MetadataExt::uid(
        &fs::metadata(format!("/proc/{}/mem", agent.process.id())).expect("stat"),
    );
    assert_eq!(owner, 0);
}

#[test]
fn large_events_and_answers_pass_through_and_leave_the_agent_small() {
    let mut agent = Agent::with(ECHO);
    agent.until_idle();
    let payload: Vec<u8> = (0..LIMIT).map(|at| b'a' + u8::try_from(at % 23).expect("small")).collect();
    for id in ["1", "2"] {
        agent.invoke(id, payload.clone());
        let frames = agent.until_idle();
        assert!(frames[1..4] == response(id, "application/json", &payload), "{} frames", frames.len());
    }
    let resident = agent.status("VmRSS");
    let kib: u64 = resident.trim_end_matches(" kB").parse().expect("a number");
    // A debug build; the program itself is most of it. Each payload kept would be 6 MiB.
    assert!(kib < 6 * 1024, "{resident}");
}

#[test]
fn too_large_an_answer_gets_413_and_the_next_event_is_served() {
    let mut agent = Agent::with(
        r#"
id, _ = next()
status, _, body = call("POST", f"invocation/{id}/response", b"x" * (6 * 1024 * 1024 + 1))
out(f"{status} {body.decode()}")
next()
"#,
    );
    agent.until_idle();
    agent.invoke("1", b"{}".to_vec());
    let frames = agent.until_idle();
    assert_eq!(
        frames[0],
        AgentFrame::ResponseTooLarge { request_id: "1".to_owned(), bytes: u64::from(LIMIT) + 1 }
    );
    let AgentFrame::Log { bytes, .. } = &frames[1] else { panic!("{frames:?}") };
    let said = String::from_utf8_lossy(bytes);
    assert!(said.starts_with("413 ") && said.contains("RequestEntityTooLarge"), "{said}");
}

#[test]
fn a_streamed_answer_arrives_before_it_is_complete() {
    let pipe = std::env::temp_dir().join(format!("waterwheel-agent-test-{}", std::process::id()));
    let _ = fs::remove_file(&pipe);
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0)
        .expect("make a named pipe");
    std::os::unix::fs::chown(&pipe, Some(FUNCTION_UID), None).expect("give it to the function");
    let mut agent = Agent::with(
        r#"
id, _ = next()
def chunks():
    yield b"first"
    # The next one only when the first has been seen: the test writes to this pipe then.
    open(PIPE).read()
    yield b"second"
api.request("POST", f"{base}invocation/{id}/response", chunks(), {
    "Lambda-Runtime-Function-Response-Mode": "streaming", "Content-Type": "text/plain"}, encode_chunked=True)
assert api.getresponse().read() == b'{"status":"OK"}'
next()
"#
        .replace("PIPE", &format!("{:?}", pipe.display().to_string()))
        .as_str(),
    );
    agent.until_idle();
    agent.invoke("1", b"{}".to_vec());
    let seen = agent.until(|frame| matches!(frame, AgentFrame::ResponseChunk { .. }));
    assert_eq!(seen.last(), Some(&AgentFrame::ResponseChunk { bytes: b"first".to_vec() }));
    drop(fs::File::options().write(true).open(&pipe).expect("let the function go on"));
    fs::remove_file(&pipe).expect("remove the pipe");
    let rest = agent.until_idle();
    assert_eq!(rest[0], AgentFrame::ResponseChunk { bytes: b"second".to_vec() });
    assert_eq!(rest[1], AgentFrame::ResponseEnd { error_type: None, error_body: None });
}

#[test]
fn a_hundred_megabytes_of_log_arrive_whole_and_do_not_grow_the_agent() {
    let mut agent = Agent::with(
        r#"
id, _ = next()
block = ("x" * 1023 + "\n") * 1024
for _ in range(100):
    out(block)
respond(id, b"{}")
next()
"#,
    );
    agent.until_idle();
    agent.invoke("1", b"{}".to_vec());
    // The invoker is slow: it only starts to read when the function cannot print any more.
    let mut total = 0;
    let mut answered = false;
    loop {
        match agent.receive().expect("the agent lives") {
            AgentFrame::Log { bytes, .. } => {
                assert!(!answered, "log behind the answer");
                total += bytes.len();
            }
            AgentFrame::ResponseHead { .. } => answered = true,
            AgentFrame::Idle => break,
            _ => {}
        }
    }
    assert_eq!(total, 100 * 1024 * 1024);
    let peak = agent.status("VmHWM");
    let kib: u64 = peak.trim_end_matches(" kB").parse().expect("a number");
    assert!(kib < 12 * 1024, "{peak}");
}

#[test]
fn what_the_runtime_printed_and_sent_before_it_ended_is_told_before_its_end() {
    let mut agent = Agent::with(
        r#"
id, _ = next()
body = b"z" * 1000000
import socket
host, port = host.split(":")
connection = socket.create_connection((host, int(port)))
connection.sendall(f"POST {base}invocation/{id}/response HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
sys.stderr.write("good-bye")
sys.stderr.flush()
os._exit(3)
"#,
    );
    agent.until_idle();
    agent.invoke("1", b"{}".to_vec());
    let frames = agent.until_exit();
    assert!(frames.contains(&AgentFrame::Log { stream: LogStream::Stderr, bytes: b"good-bye".to_vec() }));
    assert!(
        frames.iter().any(|frame| matches!(frame, AgentFrame::ResponseEnd { .. })),
        "the answer is whole"
    );
    assert_eq!(frames.last(), Some(&AgentFrame::RuntimeExited { status: 3 }));
}

#[test]
fn a_runtime_ended_by_a_signal_is_told_apart() {
    let mut agent = Agent::with("import signal; os.kill(os.getpid(), signal.SIGSEGV)");
    assert_eq!(agent.until_exit().last(), Some(&AgentFrame::RuntimeExited { status: -11 }));
}

#[test]
fn a_child_that_outlives_the_runtime_does_not_hold_up_the_report_of_its_end() {
    let mut agent = Agent::with(
        r#"
import subprocess
child = subprocess.Popen(["/bin/sleep", "600"])
out(str(child.pid))
os._exit(0)
"#,
    );
    let frames = agent.until_exit();
    let AgentFrame::Log { bytes, .. } = &frames[1] else { panic!("{frames:?}") };
    let pid =
        String::from_utf8_lossy(bytes).parse().ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
    assert_eq!(frames.last(), Some(&AgentFrame::RuntimeExited { status: 0 }));
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it is alive");
}

#[test]
fn hostile_http_hurts_nobody_else() {
    let mut agent = Agent::with(
        r#"
import socket
name, port = host.split(":")
def raw(data):
    connection = socket.create_connection((name, int(port)))
    try:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return connection.recv(100)
    except ConnectionError:
        return b""
assert raw(b"\x00\xff garbage\r\n\r\n").startswith(b"HTTP/1.1 400"), 1
assert raw(b"GET / HTTP/1.1\r\na: " + b"x" * 100000).startswith(b"HTTP/1.1 400") or True
assert raw(b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n").startswith(b"HTTP/1.1 400"), 2
raw(b"POST " + base.encode() + b"init/error HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\nabc")
# More connections than there is room for, all silent, and then one that works.
crowd = [socket.create_connection((name, int(port))) for _ in range(200)]
for connection in crowd:
    connection.close()
for _ in range(3):
    try:
        id, event = next()
        break
    except (ConnectionError, http.client.HTTPException):
        api.close()
assert respond("of-another", b"{}") == 400
assert respond(id, event) == 202
assert respond(id, event) == 400
out("done")
next()
"#,
    );
    agent.until_idle();
    agent.invoke("1", b"{}".to_vec());
    let frames = agent.until_idle();
    assert_eq!(frames[..3], response("1", "application/json", b"{}"));
    assert_eq!(frames[3..], [log("done"), AgentFrame::Idle]);
}

#[test]
fn a_runtime_that_does_not_read_its_event_does_not_keep_the_agent_from_ending() {
    let mut agent = Agent::with(
        r#"
import socket
name, port = host.split(":")
connection = socket.create_connection((name, int(port)))
connection.sendall(b"GET " + base.encode() + b"invocation/next HTTP/1.1\r\n\r\n")
wait_for_end_of_agent()
"#,
    );
    agent.until_idle();
    agent.invoke("1", vec![b'x'; 6 * 1024 * 1024]);
    agent.send(&InvokerFrame::Shutdown);
    assert_eq!(agent.receive(), None);
}

#[test]
fn an_invoker_that_speaks_out_of_turn_ends_the_agent_with_a_reason() {
    let mut agent = Agent::with("wait_for_end_of_agent()");
    assert_eq!(agent.receive(), Some(AgentFrame::Hello { version: VERSION }));
    agent.invoke("1", b"{}".to_vec());
    assert_eq!(agent.receive(), None);
    let mut said = String::new();
    agent.process.stderr.take().expect("piped").read_to_string(&mut said).expect("read");
    assert!(said.contains("Invoke without Idle"), "{said}");
}

#[test]
fn an_address_that_others_could_reach_is_refused() {
    for (address, reason) in
        [("0.0.0.0:9001", "not a loopback address"), ("nonsense", "not an address and a port")]
    {
        let mut agent = Agent::start(vec!["/bin/true".to_owned()], address.to_owned());
        let Some(AgentFrame::StartFailed { reason: said }) = agent.receive() else { panic!("{address}") };
        assert!(said.contains(reason), "{said}");
    }
}
