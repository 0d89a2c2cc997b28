//! What tests of both kinds of isolation have in common: specs, frames, cgroups.

use std::{
    collections::BTreeMap,
    io::Cursor,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use backhand::{
    BackhandError, FilesystemCompressor, FilesystemWriter, NodeHeader, SuperBlock,
    compression::{CompressionAction, Compressor},
    kind::Kind,
};
use jail::cgroup::Hierarchy;
use sandbox::{AgentFrame, Environment, EnvironmentSpec, Invoke, InvokerFrame, Isolation};
use types::{DeploymentId, FunctionArn, FunctionSpec, MemorySize, RuntimeName, Version};

/// Longest wait for anything; a virtual machine in an emulated one is slow.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

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
}

/// Stores every block as it is, as `control` does for real packages: the kernel can mount it.
struct Stored;

static STORED: Stored = Stored;

impl CompressionAction for Stored {
    type Error = BackhandError;
    type Compressor = Compressor;
    type FilesystemCompressor = FilesystemCompressor;
    type SuperBlock = SuperBlock;

    fn decompress(&self, _: &[u8], _: &mut Vec<u8>, _: Compressor) -> Result<(), BackhandError> {
        Err(BackhandError::CorruptedOrInvalidSquashfs)
    }

    fn compress(&self, bytes: &[u8], _: FilesystemCompressor, _: u32) -> Result<Vec<u8>, BackhandError> {
        Ok(vec![0; bytes.len() + 1])
    }
}

pub(crate) fn spec(
    isolation: &impl Isolation,
    directory: &Path,
    runtime: &str,
    code: &str,
) -> EnvironmentSpec {
    std::fs::create_dir_all(directory).unwrap();
    let mut writer = FilesystemWriter::default();
    writer.set_kind(Kind::new_v4(&STORED));
    writer.set_compressor(FilesystemCompressor::new(Compressor::Gzip, None).unwrap());
    writer.set_emit_compression_options(false);
    writer.set_only_root_id();
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
    let code = isolation.open_code(image.get_ref(), directory.join("code")).unwrap();
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
