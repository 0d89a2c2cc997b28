//! Ways out of a monitor's jail, each tried by a program in the monitor's place: with all walls up, and without the wall that
//! stops it.

mod common;

use std::{
    fs::File,
    io::{Read, Seek, Write},
    net::TcpListener,
    os::{
        fd::OwnedFd,
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    process::{Child, Command, Stdio},
    time::Duration,
};

use command_fds::{CommandFdExt, FdMapping};
use common::programs;
use jail::{Controls, JailSpec, Program};

/// Nobody else on the machine should have it.
const UID: u32 = 961_003;

fn file(content: &[u8]) -> OwnedFd {
    let mut file = tempfile::tempfile().expect("create a file");
    file.write_all(content).expect("write");
    file.rewind().expect("rewind");
    file.into()
}

/// What came of `attempt` in a monitor's place, as one line, and the exit code.
///
/// Descriptor 6 is the attempt, 7 is kept, 8 is not.
fn monitor(attempt: &str, controls: Controls, program: &std::path::Path) -> (String, Option<i32>) {
    let (_ours, mut jail) = start(attempt, controls, program);
    let mut said = String::new();
    jail.stderr.take().expect("a pipe").read_to_string(&mut said).expect("stderr");
    (said.trim().to_owned(), jail.wait().expect("an end").code())
}

fn start(attempt: &str, controls: Controls, program: &std::path::Path) -> (UnixStream, Child) {
    let spec = JailSpec {
        files: None,
        hostname: "microvm".to_owned(),
        cgroups: Vec::new(),
        program: Program::Monitor { uid: UID, spec: 6, keep: vec![7] },
        controls,
    };
    let (ours, theirs) = UnixStream::pair().expect("make a stream");
    let descriptors = [
        file(&serde_json::to_vec(&spec).expect("JSON")),
        File::open(program).expect("open the program").into(),
        theirs.into(),
        file(attempt.as_bytes()),
        file(b"kept"),
        file(b"not kept"),
    ];
    let mapping = |(parent_fd, child_fd)| FdMapping { parent_fd, child_fd };
    let mut command = Command::new(&programs().jail);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.fd_mappings(descriptors.into_iter().zip(3..).map(mapping).collect()).expect("descriptors");
    (ours, command.spawn().expect("start the jail"))
}

fn try_out(attempt: &str, without: impl Fn(&mut Controls)) -> String {
    let mut controls = Controls::default();
    without(&mut controls);
    monitor(attempt, controls, &programs().probe).0
}

/// An attempt, how it is refused, what takes the wall away, and what happens then.
type Row<'a> = (&'a str, &'static str, fn(&mut Controls), &'static str);

fn check(rows: &[Row<'_>]) {
    let mut wrong = Vec::new();
    for (attempt, refused, without, then) in rows {
        let (with, without) = (try_out(attempt, |_| {}), try_out(attempt, without));
        if with != *refused || without != *then {
            wrong.push(format!(
                "{attempt}: {with:?}, not {refused:?}; without the wall {without:?}, not {then:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn root(controls: &mut Controls) {
    controls.own_user = false;
    controls.capabilities = false;
}

#[test]
fn a_monitor_has_no_privilege() {
    check(&[
        ("effective-user-is-root", "EPERM", |controls| controls.own_user = false, "succeeded"),
        // sethostname("", 0)
        ("system-call 170 0 0", "EPERM", root, "succeeded"),
        // swapoff(null)
        ("system-call 168 0", "EPERM", root, "EFAULT"),
        ("make-root-writable", "EPERM", root, "succeeded"),
        // As user 0 without capabilities it is no better off.
        ("system-call 168 0", "EPERM", |controls| controls.own_user = false, "EPERM"),
    ]);
}

#[test]
fn a_monitor_has_no_files() {
    for path in ["/proc", "/dev", "/etc", "/tmp", "/sys", "/root"] {
        assert_eq!(try_out(&format!("list {path}"), |_| {}), "ENOENT", "{path}");
    }
    assert_eq!(try_out("list /", |_| {}), "succeeded");
    fn writable(controls: &mut Controls) {
        root(controls);
        controls.read_only = false;
    }
    check(&[("create /x", "EROFS", writable, "succeeded")]);
}

#[test]
fn a_monitor_cannot_write_a_file_even_if_it_has_one() {
    fn unlimited(controls: &mut Controls) {
        root(controls);
        controls.read_only = false;
        controls.resource_limits = false;
    }
    fn limited(controls: &mut Controls) {
        unlimited(controls);
        controls.resource_limits = true;
    }
    assert_eq!(try_out("fill / 1", limited), "EFBIG");
    assert_eq!(try_out("fill / 1", unlimited), "ENOSPC", "only the size of the root stops it");
}

#[test]
fn a_monitor_reaches_no_process_and_no_socket_of_the_host() {
    let tcp = TcpListener::bind("127.0.0.1:0").expect("listen");
    let tcp = format!("connect-tcp {}", tcp.local_addr().expect("an address"));
    let name = format!("waterwheel-monitor-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("an address");
    let _listener = UnixListener::bind_addr(&address).expect("listen");
    let (own, local) = (format!("signal {}", std::process::id()), format!("connect-abstract {name}"));
    check(&[
        (&own, "ESRCH", |controls| controls.pid_namespace = false, "EPERM"),
        (&local, "ECONNREFUSED", |controls| controls.network_namespace = false, "succeeded"),
        (&tcp, "ENETUNREACH", |_| {}, "ENETUNREACH"),
    ]);
}

#[test]
fn a_monitor_has_the_descriptors_it_was_promised_and_no_others() {
    for (descriptor, outcome) in
        [(4, "EBADF"), (5, "succeeded"), (6, "EBADF"), (7, "succeeded"), (8, "EBADF")]
    {
        assert_eq!(try_out(&format!("descriptor {descriptor}"), |_| {}), outcome, "{descriptor}");
    }
    for descriptor in 9..64 {
        assert_eq!(try_out(&format!("descriptor {descriptor}"), |_| {}), "EBADF", "{descriptor}");
    }
}

#[test]
fn killing_the_supervisor_ends_a_monitor() {
    let (mut ours, mut jail) = start("greet-the-server-and-stay", Controls::default(), &programs().probe);
    ours.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let mut said = [0; 1];
    ours.read_exact(&mut said).expect("a greeting");
    jail.kill().expect("kill the supervisor");
    assert_eq!(ours.read(&mut said).expect("the end of the stream"), 0);
    jail.wait().expect("an end");
}

#[test]
fn limits_cannot_be_raised() {
    // RLIMIT_NOFILE and RLIMIT_FSIZE
    let raised = |limit| try_out(limit, |_| {});
    assert_eq!(raised("raise-limit 7 4096"), "EPERM");
    assert_eq!(raised("raise-limit 1 4096"), "EPERM");
    assert_eq!(try_out("raise-limit 1 4096", |controls| controls.resource_limits = false), "succeeded");
}

#[test]
fn a_descriptor_that_is_not_there_is_said_in_one_line() {
    let spec = JailSpec {
        files: None,
        hostname: "microvm".to_owned(),
        cgroups: Vec::new(),
        program: Program::Monitor { uid: UID, spec: 77, keep: Vec::new() },
        controls: Controls::default(),
    };
    let (_ours, theirs) = UnixStream::pair().expect("make a stream");
    let mut jail = common::spawn(&spec, &programs().probe, theirs.into());
    let mut said = String::new();
    jail.stderr.take().expect("a pipe").read_to_string(&mut said).expect("stderr");
    assert_eq!(jail.wait().expect("an end").code(), Some(jail::SETUP_FAILED));
    assert!(said.starts_with("jail: cannot hand over the monitor's document: "), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}
