//! A live environment for tests: the real jail, the real agent, and a probe in place of the runtime.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::{
    fs::{self, File, Permissions},
    io::{Read, Seek, Write},
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use command_fds::{CommandFdExt, FdMapping};
use jail::{
    Bind, Controls, Files, JailSpec,
    cgroup::{Cgroup, CpuQuota, Hierarchy, Limits},
};
use protocol::{AgentFrame, Decoder, InvokerFrame, Start, VERSION};
use tempfile::TempDir;

/// Nobody else on the machine should have these.
pub(crate) const FUNCTION_UID: u32 = 961_001;
pub(crate) const AGENT_UID: u32 = 961_002;

/// Of every test environment.
pub(crate) const MEMORY_BYTES: u64 = 64 * 1024 * 1024;
pub(crate) const PIDS: u64 = 40;
pub(crate) const TMP_BYTES: u64 = 8 * 1024 * 1024;

/// Longest wait for a frame; a test that needs it has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Static programs, built once per test binary.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) jail: PathBuf,
    pub(crate) agent: PathBuf,
    pub(crate) probe: PathBuf,
}

pub(crate) fn programs() -> &'static Programs {
    static PROGRAMS: OnceLock<Programs> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("guest");
        let flags = format!("CARGO_TARGET_{}_RUSTFLAGS", host.to_uppercase().replace('-', "_"));
        let built = Command::new(env!("CARGO"))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["build", "--quiet", "--locked", "--profile", "guest", "--target", &host, "--target-dir"])
            .arg(&target)
            .args([
                "-p",
                "agent",
                "-p",
                "jail",
                "--bin",
                "agent",
                "--bin",
                "jail",
                "--example",
                "escape-probe",
            ])
            .env(flags, "-C target-feature=+crt-static -C relocation-model=static")
            .env_remove("RUSTFLAGS")
            .status()
            .expect("run cargo");
        assert!(built.success(), "the guest programs did not build");
        let directory = target.join(host).join("guest");
        Programs {
            jail: directory.join("jail"),
            agent: directory.join("agent"),
            probe: directory.join("examples/escape-probe"),
        }
    })
}

/// A root file system with nothing in it but what the jail needs, and some temptations.
pub(crate) fn root() -> TempDir {
    let root = tempfile::tempdir().expect("create a root");
    // Walked through by the function's user.
    fs::set_permissions(root.path(), Permissions::from_mode(0o755)).expect("open the root");
    for directory in ["dev", "proc", "tmp", "var/task", "writable"] {
        fs::create_dir_all(root.path().join(directory)).expect("create a mount point");
    }
    fs::set_permissions(root.path().join("writable"), Permissions::from_mode(0o777)).expect("open /writable");
    fs::copy(&programs().probe, root.path().join("setuid-probe")).expect("copy the probe");
    fs::set_permissions(root.path().join("setuid-probe"), Permissions::from_mode(0o4755))
        .expect("set-user-ID");
    let device = root.path().join("device");
    let (mode, null) = (rustix::fs::Mode::from_raw_mode(0o666), rustix::fs::makedev(1, 3));
    rustix::fs::mknodat(rustix::fs::CWD, &device, rustix::fs::FileType::CharacterDevice, mode, null)
        .expect("make a device file");
    fs::set_permissions(device, Permissions::from_mode(0o666)).expect("open the device");
    root
}

/// A directory with the probe, bound to `/var/task`.
pub(crate) fn task() -> TempDir {
    let task = tempfile::tempdir().expect("create a task directory");
    fs::set_permissions(task.path(), Permissions::from_mode(0o777)).expect("open the task directory");
    fs::copy(&programs().probe, task.path().join("probe")).expect("copy the probe");
    fs::set_permissions(task.path().join("probe"), Permissions::from_mode(0o755))
        .expect("make it executable");
    task
}

/// What a test may choose.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) controls: Controls,
    pub(crate) function_uid: u32,
    pub(crate) agent_uid: u32,
    pub(crate) command: Vec<String>,
}

impl Wanted {
    pub(crate) fn probe(arguments: &[&str]) -> Self {
        let command = std::iter::once("/var/task/probe").chain(arguments.iter().copied());
        Self {
            controls: Controls::default(),
            function_uid: FUNCTION_UID,
            agent_uid: AGENT_UID,
            command: command.map(str::to_owned).collect(),
        }
    }
}

/// A jail that has been started. Dropping it ends everything in it.
#[derive(Debug)]
pub(crate) struct Environment {
    pub(crate) jail: Child,
    pub(crate) cgroup: Cgroup,
    /// The cgroup's group: this environment's own, apart from those of other tests and of servers on the same machine.
    pub(crate) group: String,
    pub(crate) stream: UnixStream,
    decoder: Decoder,
    _root: TempDir,
    _task: TempDir,
}

impl Environment {
    /// Starts `program` in the agent's place.
    pub(crate) fn start(program: &Path, controls: Controls) -> Self {
        let hierarchy = Hierarchy::detect().expect("find the cgroups");
        let (root, task) = (root(), task());
        let unique = root.path().file_name().expect("temporary directories have names").to_string_lossy();
        let group = format!("waterwheel-jail-test-{}", unique.trim_start_matches('.'));
        let limits = Limits {
            memory_bytes: MEMORY_BYTES,
            pids: PIDS,
            cpu_quota: Some(CpuQuota { quota_us: 20_000, period_us: 20_000 }),
            cpu_shares: 1024,
        };
        let cgroup = Cgroup::create(&hierarchy, &group, "environment", limits).expect("create a cgroup");
        let spec = JailSpec {
            files: Some(Files {
                root: root.path().to_owned(),
                binds: vec![Bind {
                    source: task.path().to_owned(),
                    target: "/var/task".into(),
                    read_only: true,
                }],
                tmp_bytes: TMP_BYTES,
            }),
            hostname: "jailed".to_owned(),
            cgroups: cgroup.procs_dirs(),
            program: jail::Program::Agent,
            controls,
        };
        let (stream, theirs) = UnixStream::pair().expect("make a stream");
        stream.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
        let jail = spawn(&spec, program, theirs.into());
        Self { jail, cgroup, group, stream, decoder: Decoder::new(), _root: root, _task: task }
    }

    /// Starts the agent, and the runtime that is wanted.
    pub(crate) fn with_agent(wanted: &Wanted) -> Self {
        let mut environment = Self::start(&programs().agent, wanted.controls);
        environment.send(&InvokerFrame::Start(Start {
            version: VERSION,
            command: wanted.command.clone(),
            directory: "/var/task".to_owned(),
            variables: vec![
                ("AWS_LAMBDA_RUNTIME_API".to_owned(), "127.0.0.1:9001".to_owned()),
                ("SECRET".to_owned(), "not the agent's".to_owned()),
            ],
            function_uid: wanted.function_uid,
            agent_uid: wanted.agent_uid,
            response_limit: 6 * 1024 * 1024,
        }));
        environment
    }

    pub(crate) fn send(&mut self, frame: &InvokerFrame) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        // An agent that could not start has closed the stream; its diagnostics say why.
        if self.stream.write_all(&bytes).is_err() {
            panic!("the environment is gone: {}", self.diagnostics());
        }
    }

    /// The next frame; `None` if the environment is gone.
    pub(crate) fn receive(&mut self) -> Option<AgentFrame> {
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

    /// All that the runtime prints until it ends, and how it ends.
    pub(crate) fn output(&mut self) -> (String, i32) {
        let mut printed = Vec::new();
        loop {
            match self.receive() {
                Some(AgentFrame::Log { bytes, .. }) => printed.extend(bytes),
                Some(AgentFrame::RuntimeExited { status }) => {
                    return (String::from_utf8_lossy(&printed).into_owned(), status);
                }
                Some(AgentFrame::Hello { .. }) => {}
                Some(frame) => panic!("unexpected {frame:?}"),
                None => panic!("the environment is gone: {}", self.diagnostics()),
            }
        }
    }

    /// What the jail or the agent wrote to standard error, once it has ended.
    pub(crate) fn diagnostics(&mut self) -> String {
        let mut text = String::new();
        let mut stderr = self.jail.stderr.take().expect("taken once");
        stderr.read_to_string(&mut text).expect("read diagnostics");
        text
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        let _ = self.jail.kill();
        let _ = self.jail.wait();
        // Fails if a process outlives its SIGKILL: then the test that comes to see it says so better.
        let _ = Hierarchy::detect().and_then(|hierarchy| hierarchy.sweep(&self.group));
    }
}

/// Runs the jail as the driver does.
pub(crate) fn spawn(spec: &JailSpec, program: &Path, stream: OwnedFd) -> Child {
    let mut json = tempfile::tempfile().expect("create a file");
    serde_json::to_writer(&mut json, spec).expect("write the specification");
    json.rewind().expect("rewind");
    spawn_with(json.into(), program, stream)
}

/// Starts the jail with whatever its documents come from.
pub(crate) fn spawn_with(documents: OwnedFd, program: &Path, stream: OwnedFd) -> Child {
    let mappings = vec![
        FdMapping { parent_fd: documents, child_fd: 3 },
        FdMapping { parent_fd: File::open(program).expect("open the program").into(), child_fd: 4 },
        FdMapping { parent_fd: stream, child_fd: 5 },
    ];
    let mut command = Command::new(&programs().jail);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.fd_mappings(mappings).expect("three different descriptors");
    command.spawn().expect("start the jail")
}
