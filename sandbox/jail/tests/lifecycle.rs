//! How environments begin and end.

mod common;

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use common::{Environment, Wanted, programs};
use jail::{Bind, Controls, Files, JailSpec, SETUP_FAILED, cgroup::Hierarchy};
use protocol::{AgentFrame, InvokerFrame, VERSION};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// Waits until no process is left in the environment's cgroup: each is awaited by its own descriptor.
fn wait_until_empty(directory: &std::path::Path) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let pids = fs::read_to_string(directory.join("cgroup.procs")).expect("list processes");
        let Some(pid) = pids.lines().next().and_then(|pid| rustix::process::Pid::from_raw(pid.parse().ok()?))
        else {
            return;
        };
        assert!(Instant::now() < deadline, "processes are left: {pids:?}");
        let Ok(process) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else {
            continue;
        };
        let patience = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
        let mut watched = [rustix::event::PollFd::new(&process, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut watched, Some(&patience)).expect("wait for a process");
    }
}

/// A function that stays, with the agent serving it.
fn live() -> Environment {
    let mut environment = Environment::with_agent(&Wanted::probe(&["wait-for-end-of-agent"]));
    assert_eq!(environment.receive(), Some(AgentFrame::Hello { version: VERSION }));
    environment
}

#[test]
fn shutdown_ends_everything_and_the_jail_with_success() {
    let mut environment = live();
    environment.send(&InvokerFrame::Shutdown);
    assert!(environment.jail.wait().expect("wait for the jail").success());
    wait_until_empty(&environment.cgroup.procs_dirs()[0]);
}

#[test]
fn the_end_of_the_stream_ends_everything() {
    let mut environment = live();
    environment.stream.shutdown(std::net::Shutdown::Both).expect("shut the stream");
    environment.jail.wait().expect("wait for the jail");
    wait_until_empty(&environment.cgroup.procs_dirs()[0]);
}

#[test]
fn killing_the_supervisor_ends_everything() {
    let mut environment = live();
    environment.jail.kill().expect("kill the supervisor");
    environment.jail.wait().expect("wait for the jail");
    wait_until_empty(&environment.cgroup.procs_dirs()[0]);
}

/// Not a test: the driver that the next test kills.
#[test]
#[ignore = "run by a_killed_driver_leaves_no_process"]
fn a_driver_that_waits_to_be_killed() {
    let environment = live();
    println!("\ngroup {}", environment.group);
    std::io::stdin().read_to_end(&mut Vec::new()).expect("wait");
}

#[test]
fn a_killed_driver_leaves_no_process() {
    let mut driver = Command::new(std::env::current_exe().expect("this program"))
        .args(["--ignored", "--exact", "--nocapture", "a_driver_that_waits_to_be_killed"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start a driver");
    let lines = BufReader::new(driver.stdout.take().expect("piped")).lines();
    let group = lines
        .map(|line| line.expect("a line"))
        .find_map(|line| line.strip_prefix("group ").map(str::to_owned))
        .expect("the driver names its cgroups");
    let hierarchy = Hierarchy::detect().expect("find the cgroups");
    let directories = hierarchy.directories(&group);
    let members = directories[0].join("environment");
    assert_ne!(fs::read_to_string(members.join("cgroup.procs")).expect("list processes"), "");
    driver.kill().expect("kill the driver");
    driver.wait().expect("wait for the driver");
    wait_until_empty(&members);
    // As the next server does at its start.
    assert_eq!(hierarchy.sweep(&group).expect("sweep"), 1);
    assert!(directories.iter().all(|directory| !directory.exists()), "{directories:?}");
}

#[test]
fn a_function_out_of_memory_is_reported_by_an_agent_that_survives() {
    let mut environment = Environment::with_agent(&Wanted::probe(&["use-memory", "100"]));
    let (_, status) = environment.output();
    assert_eq!(status, -9);
    assert!(environment.cgroup.oom_kills().expect("count kills") >= 1);
    assert!(environment.cgroup.memory_peak().expect("the peak") > common::MEMORY_BYTES * 9 / 10);
    assert!(environment.cgroup.cpu_usage().expect("the time") > Duration::ZERO);
    environment.send(&InvokerFrame::Shutdown);
    assert!(environment.jail.wait().expect("wait for the jail").success(), "the agent was there to end well");
}

#[test]
fn a_runtime_that_cannot_start_is_named() {
    let mut wanted = Wanted::probe(&[]);
    wanted.command = vec!["/var/task/absent".to_owned()];
    let mut environment = Environment::with_agent(&wanted);
    let Some(AgentFrame::StartFailed { reason }) = environment.receive() else {
        panic!("it should not start")
    };
    assert!(reason.contains("/var/task/absent") && reason.contains("No such file"), "{reason}");
    assert_eq!(environment.receive(), None);
}

#[test]
fn the_function_has_no_privileges_at_all() {
    let (status, exit) = Environment::with_agent(&Wanted::probe(&["show", "/proc/self/status"])).output();
    assert_eq!(exit, 0, "{status}");
    let fields: BTreeMap<&str, &str> = status
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name, value.trim()))
        .collect();
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(fields[set], "0000000000000000", "{set}");
    }
    assert_eq!((fields["NoNewPrivs"], fields["Seccomp"], fields["Groups"]), ("1", "2", ""));
    let uid = common::FUNCTION_UID.to_string();
    let four_times = [uid.as_str(); 4].join("\t");
    assert_eq!((fields["Uid"], fields["Gid"]), (four_times.as_str(), four_times.as_str()));
}

#[test]
fn the_function_sees_its_own_mounts_and_no_others() {
    let (mounts, _) = Environment::with_agent(&Wanted::probe(&["show", "/proc/self/mountinfo"])).output();
    let points: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(4)).collect();
    for point in ["/", "/var/task", "/tmp", "/dev", "/dev/shm", "/dev/null", "/proc", "/proc/sys"] {
        assert!(points.contains(&point), "{point} is missing from {points:?}");
    }
    let known = |point: &&str| {
        ["/", "/tmp"].contains(point)
            || ["/var/task", "/dev", "/proc"].iter().any(|below| point.starts_with(below))
    };
    assert!(points.iter().all(known), "{points:?}");
    let read_only = mounts.lines().filter(|line| line.contains(" / ro,nosuid,nodev")).count();
    assert!(read_only >= 1, "{mounts}");
}

#[test]
fn a_missing_mount_point_is_said_in_one_line() {
    let root = common::root();
    let spec = JailSpec {
        files: Some(Files {
            root: root.path().to_owned(),
            binds: vec![Bind {
                source: root.path().to_owned(),
                target: "/var/absent".into(),
                read_only: true,
            }],
            tmp_bytes: common::TMP_BYTES,
        }),
        hostname: "jailed".to_owned(),
        cgroups: Vec::new(),
        program: jail::Program::Agent,
        controls: Controls::default(),
    };
    let (_ours, theirs) = UnixStream::pair().expect("make a stream");
    let output =
        common::spawn(&spec, &programs().agent, theirs.into()).wait_with_output().expect("run the jail");
    assert_eq!(output.status.code(), Some(SETUP_FAILED));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("/var/absent") && said.contains("runtime image"), "{said}");
}

#[test]
fn a_link_in_the_image_cannot_lead_a_mount_out_of_it() {
    let root = common::root();
    let outside = tempfile::tempdir().expect("a directory outside");
    std::os::unix::fs::symlink(outside.path(), root.path().join("var/link")).expect("make a link");
    let spec = JailSpec {
        files: Some(Files {
            root: root.path().to_owned(),
            binds: vec![Bind { source: root.path().to_owned(), target: "/var/link".into(), read_only: true }],
            tmp_bytes: common::TMP_BYTES,
        }),
        hostname: "jailed".to_owned(),
        cgroups: Vec::new(),
        program: jail::Program::Agent,
        controls: Controls::default(),
    };
    let (_ours, theirs) = UnixStream::pair().expect("make a stream");
    let output =
        common::spawn(&spec, &programs().agent, theirs.into()).wait_with_output().expect("run the jail");
    // The link's target is looked up inside, where there is no such directory.
    assert_eq!(output.status.code(), Some(SETUP_FAILED), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A prepared jail and the driver's end of its documents.
fn prepared(program: &std::path::Path) -> (std::process::Child, OwnedFd, UnixStream) {
    let (documents, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .unwrap();
    let spec = JailSpec {
        files: None,
        hostname: "jailed".to_owned(),
        cgroups: Vec::new(),
        program: jail::Program::Agent,
        controls: Controls::default(),
    };
    rustix::io::write(&documents, &serde_json::to_vec(&spec).unwrap()).unwrap();
    let (ours, stream) = UnixStream::pair().expect("make a stream");
    (common::spawn_with(theirs, program, stream.into()), documents, ours)
}

#[test]
fn a_prepared_jail_goes_on_when_its_files_come() {
    let root = common::root();
    let (jail, documents, _stream) = prepared(&programs().agent);
    let absent = Bind { source: root.path().to_owned(), target: "/var/absent".into(), read_only: true };
    let files = Files { root: root.path().to_owned(), binds: vec![absent], tmp_bytes: common::TMP_BYTES };
    rustix::io::write(&documents, &serde_json::to_vec(&files).unwrap()).unwrap();
    let output = jail.wait_with_output().expect("run the jail");
    // It came as far as the mount that cannot be made.
    assert!(String::from_utf8_lossy(&output.stderr).contains("/var/absent"), "{output:?}");
}

#[test]
fn a_prepared_jail_that_nobody_wants_ends_by_itself() {
    let (jail, documents, _stream) = prepared(&programs().agent);
    drop(documents);
    let output = jail.wait_with_output().expect("run the jail");
    assert_eq!(output.status.code(), Some(SETUP_FAILED), "{output:?}");
}
