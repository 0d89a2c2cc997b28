//! A real environment: the Python runtime in its jail, driven as the invoker drives it. Needs root and the runtimes that
//! `waterwheel runtimes build` puts into `target/runtimes` (`make test` does both).

use std::{
    collections::BTreeMap,
    io::Cursor,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use backhand::{FilesystemCompressor, FilesystemWriter, NodeHeader, compression::Compressor};
use jail::cgroup::Hierarchy;
use sandbox::{
    AgentFrame, CodeTree, Environment, EnvironmentSpec, Invoke, InvokerFrame, Isolation, ProcessIsolation,
    ProcessIsolationConfig, RuntimeCatalog, StartError,
};
use types::{DeploymentId, FunctionArn, FunctionSpec, MemorySize, RuntimeName, Version};

const LIMIT: Duration = Duration::from_secs(30);

fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target")
}

/// The cgroup of one test, removed with everything in it when the test ends.
struct Group(String);

impl Drop for Group {
    fn drop(&mut self) {
        let swept = Hierarchy::detect().and_then(|hierarchy| hierarchy.sweep(&self.0));
        assert!(swept.is_ok() || std::thread::panicking(), "{swept:?}");
    }
}

fn isolation(cgroup: &str) -> (Group, ProcessIsolation) {
    let group = format!("waterwheel-test-{cgroup}-{}", std::process::id());
    let config = ProcessIsolationConfig {
        cgroup: group.clone(),
        uid_base: 1_500_000_000,
        prepared_jails: 1,
        setup_timeout: LIMIT,
    };
    let runtimes = RuntimeCatalog::open(&target().join("runtimes"));
    (Group(group), ProcessIsolation::open(config, runtimes).expect("root and cgroups"))
}

fn spec(directory: &Path, runtime: &str, code: &str) -> EnvironmentSpec {
    std::fs::create_dir_all(directory).unwrap();
    let mut writer = FilesystemWriter::default();
    writer.set_compressor(FilesystemCompressor::new(Compressor::Uncompressed, None).unwrap());
    writer.set_root_mode(0o755);
    let readable = NodeHeader { permissions: 0o644, ..NodeHeader::default() };
    writer.push_file(Cursor::new(code.as_bytes().to_vec()), "f.py", readable).unwrap();
    let mut image = Cursor::new(Vec::new());
    writer.write(&mut image).unwrap();
    let function = FunctionSpec {
        arn: FunctionArn {
            region: "us-east-1".parse().unwrap(),
            account: "000000000000".parse().unwrap(),
            name: "f".parse().unwrap(),
        },
        version: Version::Latest,
        deployment: DeploymentId::random(),
        runtime: RuntimeName::new(runtime),
        handler: "f.handler".into(),
        memory: MemorySize(256),
        ephemeral_storage: MemorySize(512),
        timeout: Duration::from_secs(3),
        role: "arn:aws:iam::000000000000:role/r".into(),
    };
    let code = CodeTree::unpack(image.get_ref(), directory.join("code")).unwrap();
    EnvironmentSpec {
        function: Arc::new(function),
        variables: BTreeMap::from([("COLOUR".to_owned(), "blue".to_owned())]),
        code: Arc::new(code),
        log_stream: "2026/11/22/[$LATEST]0".into(),
    }
}

async fn frame(environment: &mut Environment) -> AgentFrame {
    tokio::time::timeout(LIMIT, environment.recv())
        .await
        .expect("a frame in time")
        .expect("a live environment")
}

/// Sends one event and returns every frame up to the next `Idle`.
async fn invoke(environment: &mut Environment, payload: &str) -> Vec<AgentFrame> {
    let event = Invoke {
        request_id: "8f4d1c0e-0000-4000-8000-000000000001".into(),
        deadline_ms: u64::MAX / 2,
        invoked_function_arn: "arn:aws:lambda:us-east-1:000000000000:function:f".into(),
        xray_trace_id: "Root=1-00000000-000000000000000000000000".into(),
        traceparent: None,
        client_context: None,
        cognito_identity: None,
        tenant_id: None,
        payload: payload.into(),
    };
    environment.send(&InvokerFrame::Invoke(event)).await.unwrap();
    let mut frames = Vec::new();
    loop {
        match frame(environment).await {
            AgentFrame::Idle => return frames,
            other => frames.push(other),
        }
    }
}

fn answer(frames: &[AgentFrame]) -> String {
    let chunks = frames.iter().filter_map(|frame| match frame {
        AgentFrame::ResponseChunk { bytes } => Some(bytes.as_slice()),
        _ => None,
    });
    String::from_utf8(chunks.flatten().copied().collect()).unwrap()
}

fn printed(frames: &[AgentFrame]) -> String {
    let logs = frames.iter().filter_map(|frame| match frame {
        AgentFrame::Log { bytes, .. } => Some(bytes.as_slice()),
        _ => None,
    });
    String::from_utf8(logs.flatten().copied().collect()).unwrap()
}

/// Cgroup directories of the test's group, in every hierarchy.
fn cgroups_left(group: &str) -> Vec<PathBuf> {
    let mounts = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten();
    let group = format!("waterwheel-test-{group}-{}", std::process::id());
    let found = |directory: PathBuf| {
        let mut found = Vec::new();
        let mut todo = vec![directory];
        while let Some(directory) = todo.pop() {
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    if entry.file_name().to_string_lossy().starts_with("environment-")
                        && entry.path().to_string_lossy().contains(&group)
                    {
                        found.push(entry.path());
                    }
                    todo.push(entry.path());
                }
            }
        }
        found
    };
    mounts.flat_map(|mount| found(mount.path())).collect()
}

#[tokio::test]
async fn a_python_function_runs_prints_keeps_its_state_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let code = "import os\ncount = 0\ndef handler(event, context):\n    global count\n    count += 1\n    \
                print('got', event)\n    return [event, count, os.environ['COLOUR'], os.getpid() != 1]\n";
    let (_group, isolation) = isolation("state");
    let mut environment = isolation.start(spec(directory.path(), "python3.11", code)).await.unwrap();
    while frame(&mut environment).await != AgentFrame::Idle {}
    environment.end_init_boost().unwrap();
    assert!(!cgroups_left("state").is_empty(), "a live environment has cgroups");

    let first = invoke(&mut environment, "\"a\"").await;
    assert_eq!(answer(&first), r#"["a", 1, "blue", true]"#);
    assert_eq!(printed(&first), "got a\n");
    let second = invoke(&mut environment, "{}").await;
    assert_eq!(answer(&second), r#"[{}, 2, "blue", true]"#);
    assert!(environment.memory_peak() > 1024 * 1024);
    assert!(!environment.out_of_memory());

    environment.stop().await;
    drop(isolation);
    assert_eq!(cgroups_left("state"), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn dropping_an_environment_ends_it() {
    let directory = tempfile::tempdir().unwrap();
    let (_group, isolation) = isolation("drop");
    let spec = spec(directory.path(), "python3.11", "def handler(event, context): pass\n");
    let code = Arc::downgrade(&spec.code);
    let environment = isolation.start(spec).await.unwrap();
    drop(environment);
    // The code tree is given up last, when processes and cgroups are gone.
    let gone = tokio::task::spawn_blocking(move || {
        let begun = std::time::Instant::now();
        while code.strong_count() > 0 && begun.elapsed() < LIMIT {
            std::thread::yield_now();
        }
    });
    gone.await.unwrap();
    drop(isolation);
    assert_eq!(cgroups_left("drop"), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn what_the_kernel_killed_for_memory_is_told_apart_from_other_ends() {
    let directory = tempfile::tempdir().unwrap();
    let (_group, isolation) = isolation("memory");
    let code = "def handler(event, context):\n    return len(bytearray(1 << 30))\n";
    let mut environment = isolation.start(spec(directory.path(), "python3.11", code)).await.unwrap();
    while frame(&mut environment).await != AgentFrame::Idle {}
    let event = InvokerFrame::Invoke(Invoke {
        request_id: "8f4d1c0e-0000-4000-8000-000000000001".into(),
        deadline_ms: u64::MAX / 2,
        invoked_function_arn: String::new(),
        xray_trace_id: String::new(),
        traceparent: None,
        client_context: None,
        cognito_identity: None,
        tenant_id: None,
        payload: b"{}".to_vec(),
    });
    environment.send(&event).await.unwrap();
    let end = loop {
        match tokio::time::timeout(LIMIT, environment.recv()).await.expect("an end in time") {
            Ok(AgentFrame::RuntimeExited { status }) => break Some(status),
            Ok(_) => {}
            Err(_) => break None,
        }
    };
    assert!(environment.out_of_memory(), "ended with {end:?}");
    environment.stop().await;
}

#[tokio::test]
async fn a_prepared_jail_that_was_killed_is_replaced_unnoticed() {
    let directory = tempfile::tempdir().unwrap();
    let (_group, isolation) = isolation("killed");
    let code = "def handler(event, context): return 'alive'\n";
    // The first start leaves a prepared jail behind as soon as its init phase is over.
    let mut first = isolation.start(spec(directory.path(), "python3.11", code)).await.unwrap();
    while frame(&mut first).await != AgentFrame::Idle {}
    first.end_init_boost().unwrap();
    // Supervisor and PID 1; an environment with a runtime has more.
    let pids = tokio::task::spawn_blocking(|| {
        let begun = std::time::Instant::now();
        loop {
            for cgroup in cgroups_left("killed") {
                let pids = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
                let pids: Vec<i32> = pids.lines().flat_map(str::parse).collect();
                if pids.len() == 2 {
                    return pids;
                }
            }
            assert!(begun.elapsed() < LIMIT, "no jail was prepared");
            std::thread::yield_now();
        }
    });
    for pid in pids.await.unwrap().into_iter().filter_map(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    let mut second =
        isolation.start(spec(&directory.path().join("second"), "python3.11", code)).await.unwrap();
    while frame(&mut second).await != AgentFrame::Idle {}
    assert_eq!(answer(&invoke(&mut second, "{}").await), "\"alive\"");
}

#[tokio::test]
async fn a_runtime_that_is_not_installed_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let (_group, isolation) = isolation("missing");
    let error = isolation.start(spec(directory.path(), "cobol85", "")).await.unwrap_err();
    assert!(matches!(error, StartError::RuntimeNotInstalled { runtime } if runtime == "cobol85"));
}
