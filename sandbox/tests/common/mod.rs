//! What tests of both kinds of isolation have in common: specs, frames, cgroups.

#![allow(dead_code, reason = "each test program uses a part of it")]

#[path = "../../image/tests/common/mod.rs"]
mod code_image;
pub(crate) mod microvm;
pub(crate) mod traces;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Cursor,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use backhand::NodeHeader;
use jail::cgroup::Hierarchy;
use rustix::process::{Pid, Signal, kill_process};
use sandbox::{AgentFrame, Code, Environment, EnvironmentSpec, Invoke, InvokerFrame, Isolation};
use types::{DeploymentId, FunctionArn, FunctionSpec, MemorySize, RuntimeName, Version};

/// Longest wait for anything; a virtual machine in an emulated one is slow.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(2);

/// The cgroup of one test, removed with everything in it when the test ends.
pub(crate) struct Group(String);

impl Drop for Group {
    fn drop(&mut self) {
        let swept = Hierarchy::detect().and_then(|hierarchy| hierarchy.sweep(&self.0));
        assert!(swept.is_ok() || std::thread::panicking(), "{swept:?}");
    }
}

impl Group {
    pub(crate) fn new(test: &str) -> Self {
        Self(format!("waterwheel-test-{test}-{}", std::process::id()))
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// Directories of its environments' cgroups, in every hierarchy.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut todo = vec![PathBuf::from("/sys/fs/cgroup")];
        while let Some(directory) = todo.pop() {
            let entries = std::fs::read_dir(&directory).into_iter().flatten().flatten();
            let children = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            let children = children.map(|entry| entry.path());
            if directory.ends_with(&self.0) {
                found.extend(children);
            } else {
                todo.extend(children);
            }
        }
        found
    }

    /// The processes of each.
    pub(crate) fn jails(&self) -> Vec<BTreeSet<i32>> {
        let lists = self.cgroups().into_iter().map(|cgroup| cgroup.join("cgroup.procs"));
        let lists = lists.flat_map(std::fs::read_to_string);
        lists.map(|list| list.lines().flat_map(str::parse).collect()).collect()
    }

    pub(crate) fn processes(&self) -> BTreeSet<i32> {
        self.jails().into_iter().flatten().collect()
    }

    /// The users that they run as.
    pub(crate) fn users(&self) -> Vec<u32> {
        let processes = self.processes().into_iter().map(|pid| format!("/proc/{pid}"));
        processes.flat_map(std::fs::metadata).map(|process| process.uid()).collect()
    }
}

pub(crate) fn kill(processes: &BTreeSet<i32>) {
    for pid in processes.iter().copied().filter_map(Pid::from_raw) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Waits for what nobody is told of.
pub(crate) async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < LIMIT, "in vain: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits until the code is given up, which is what an environment does last: its processes and cgroups are gone then.
pub(crate) async fn gone(code: &Weak<Code>) {
    until("an environment ends", || (code.strong_count() == 0).then_some(())).await;
}

pub(crate) fn spec(
    isolation: &impl Isolation,
    directory: &Path,
    runtime: &str,
    code: &str,
) -> EnvironmentSpec {
    std::fs::create_dir_all(directory).unwrap();
    let mut writer = code_image::writer();
    let readable = NodeHeader { permissions: 0o644, ..NodeHeader::default() };
    writer.push_file(Cursor::new(code.as_bytes().to_vec()), "f.py", readable).unwrap();
    let image = code_image::bytes_of(writer);
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
    let code = isolation.open_code(&image, directory.join("code")).unwrap();
    EnvironmentSpec {
        function: Arc::new(function),
        variables: BTreeMap::from([("COLOUR".to_owned(), "blue".to_owned())]),
        code: Arc::new(code),
        log_stream: "2026/11/22/[$LATEST]0".into(),
    }
}

pub(crate) fn event(payload: &str) -> InvokerFrame {
    InvokerFrame::Invoke(Invoke {
        request_id: "8f4d1c0e-0000-4000-8000-000000000001".into(),
        deadline_ms: u64::MAX / 2,
        invoked_function_arn: "arn:aws:lambda:us-east-1:000000000000:function:f".into(),
        xray_trace_id: "Root=1-00000000-000000000000000000000000".into(),
        traceparent: None,
        client_context: None,
        cognito_identity: None,
        tenant_id: None,
        payload: payload.into(),
    })
}

/// An environment of the Python runtime that waits for its first event.
pub(crate) async fn initialised(isolation: &impl Isolation, directory: &Path, code: &str) -> Environment {
    let mut environment = isolation.start(spec(isolation, directory, "python3.11", code)).await.unwrap();
    while frame(&mut environment).await != AgentFrame::Idle {}
    environment
}

pub(crate) async fn frame(environment: &mut Environment) -> AgentFrame {
    tokio::time::timeout(LIMIT, environment.recv())
        .await
        .expect("a frame in time")
        .expect("a live environment")
}

/// Sends one event and returns every frame up to the next `Idle`.
pub(crate) async fn invoke(environment: &mut Environment, payload: &str) -> Vec<AgentFrame> {
    environment.send(&event(payload)).await.unwrap();
    let mut frames = Vec::new();
    loop {
        match frame(environment).await {
            AgentFrame::Idle => return frames,
            other => frames.push(other),
        }
    }
}

pub(crate) fn answer(frames: &[AgentFrame]) -> String {
    let chunks = frames.iter().filter_map(|frame| match frame {
        AgentFrame::ResponseChunk { bytes } => Some(bytes.as_slice()),
        _ => None,
    });
    String::from_utf8(chunks.flatten().copied().collect()).unwrap()
}

pub(crate) fn printed(frames: &[AgentFrame]) -> String {
    let logs = frames.iter().filter_map(|frame| match frame {
        AgentFrame::Log { bytes, .. } => Some(bytes.as_slice()),
        _ => None,
    });
    String::from_utf8(logs.flatten().copied().collect()).unwrap()
}

/// Sends an event that the environment does not survive; returns the runtime's exit status, if the agent could tell.
pub(crate) async fn last_event(environment: &mut Environment) -> Option<i32> {
    environment.send(&event("{}")).await.unwrap();
    loop {
        match tokio::time::timeout(LIMIT, environment.recv()).await.expect("an end in time") {
            Ok(AgentFrame::RuntimeExited { status }) => return Some(status),
            Ok(_) => {}
            Err(_) => return None,
        }
    }
}
