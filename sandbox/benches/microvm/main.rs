//! The half of `make bench NAME=microvm` that runs where KVM boots kernels: boots the same guest under our monitor and under
//! QEMU, in turn, and prints what KVM counted. The other half is `loadtest/src/bin/bench-microvm`.
//!
//! ```text
//!            ┌ ours: MicrovmIsolation ─► jail ─► monitor ┐
//!  round N ──┤                                           ├─► guest: the same kernel, initramfs, images, memory
//!            └ peer: qemu-system-x86_64 -M microvm ──────┘
//!
//!  request ─► Hello: counters ─► Idle: memory ─► first answer ─► warm-up ─► counters ─► N invocations ─► counters
//! ```
//!
//! Both sides are driven by the same code below, over the same frames, and are looked at from outside: by KVM's own counters
//! and `/proc`. Needs root; `tests/nested/bench_microvm.py` fills the root directory it finds itself in.

#![forbid(unsafe_code)]

mod ours;
mod peer;

use std::{
    fs,
    io::ErrorKind,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use loadtest::{
    kvm::{Counters, DEBUGFS, Machines, Reasons, TRACEFS},
    microvm::{Boot, Line, Setting, Side},
    procfs::monitor_memory,
};
use sandbox::{AgentFrame, Invoke, InvokerFrame};

use ours::Ours;
use peer::Peer;

/// Rounds that count, after one that does not.
const ROUNDS: usize = 5;
/// Warm invocations that count, after some that do not.
const INVOCATIONS: u32 = 200;
const WARM_UP: u32 = 50;
/// Memory of the function, MB.
pub(crate) const FUNCTION_MEMORY: u32 = 256;
const PAYLOAD: usize = 1024;
/// Longest wait for anything; a machine in an emulated one is slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// What the guest runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Function {
    pub(crate) name: &'static str,
    pub(crate) runtime: &'static str,
    pub(crate) handler: &'static str,
    /// Its squashfs image.
    pub(crate) code: &'static str,
}

const FUNCTIONS: [Function; 2] = [
    Function {
        name: "python",
        runtime: "python3.11",
        handler: "lambda_function.lambda_handler",
        code: "/functions/echo-python.squashfs",
    },
    Function {
        name: "rust",
        runtime: "provided.al2023",
        handler: "bootstrap",
        code: "/functions/echo-rust.squashfs",
    },
];

/// A way to boot virtual machines.
pub(crate) trait Monitor {
    type Vm: Vm;
    /// From the request until the agent has said hello.
    fn start(&mut self, function: Function) -> Result<Self::Vm>;
}

/// A virtual machine with an agent that has said hello.
pub(crate) trait Vm {
    fn send(&mut self, frame: &InvokerFrame) -> Result<()>;
    fn recv(&mut self) -> Result<AgentFrame>;
    /// Nothing of it is left afterwards.
    fn end(self) -> Result<()>;
}

fn main() -> Result<()> {
    mount(DEBUGFS, "debugfs")?;
    mount(TRACEFS, "tracefs")?;
    // Where the kernel cannot trace, reasons stay empty.
    let reasons = Reasons::count().ok();
    let mut ours = Ours::open()?;
    let guest_memory = guest_memory(&mut ours)?;
    let mut peer = Peer::new(guest_memory)?;
    let direct = std::env::args().any(|argument| argument == "--direct");
    let (peer_name, peer_config) = (peer.name()?, peer.config());
    println!("{}", Line::Setting(Setting { peer_name, peer_config, direct }));
    for round in 0..=ROUNDS {
        for function in FUNCTIONS {
            let pair = [
                measure(&mut ours, Side::Ours, function, reasons.as_ref())?,
                measure(&mut peer, Side::Peer, function, reasons.as_ref())?,
            ];
            for boot in pair {
                match round.checked_sub(1) {
                    Some(round) => println!("{}", Line::Boot(Boot { round, ..boot })),
                    None => println!("warm-up round: {} {:?}", boot.function, boot.side),
                }
            }
        }
    }
    Ok(())
}

/// The size of the guest's memory is the product's choice: the peer gets the same.
fn guest_memory(ours: &mut Ours) -> Result<u64> {
    let [function, ..] = FUNCTIONS;
    let vm = ours.start(function)?;
    let memory = monitor_memory(monitor()?, u64::from(FUNCTION_MEMORY) << 20)?;
    vm.end()?;
    ensure!(memory.guest % (1 << 20) == 0, "{} bytes are not the guest's memory alone", memory.guest);
    Ok(memory.guest)
}

fn measure<M: Monitor>(
    monitors: &mut M,
    side: Side,
    function: Function,
    reasons: Option<&Reasons>,
) -> Result<Boot> {
    let by_reason = || reasons.map_or(Ok(Counters::default()), Reasons::read);
    reasons.map_or(Ok(()), Reasons::reset)?;
    let machines = Machines::now()?;
    let begun = Instant::now();
    let mut vm = monitors.start(function).with_context(|| format!("{side:?}"))?;
    let init = begun.elapsed();
    let machine = machines.appeared()?;
    let until_init = machine.read()?;
    let until_init_by_reason = by_reason()?;
    wait_for_idle(&mut vm)?;
    let idle = begun.elapsed();
    let memory = monitor_memory(monitor()?, u64::from(FUNCTION_MEMORY) << 20)?.beyond;
    let payload = format!("\"{}\"", "x".repeat(PAYLOAD - 2));
    // The guest has waited while its monitor was weighed: that is nobody's time.
    let asked = Instant::now();
    ask(&mut vm, &payload)?;
    let answer = idle + asked.elapsed();
    wait_for_idle(&mut vm)?;
    for _ in 0..WARM_UP {
        invoke(&mut vm, &payload)?;
    }
    reasons.map_or(Ok(()), Reasons::reset)?;
    let before = machine.read()?;
    for _ in 0..INVOCATIONS {
        invoke(&mut vm, &payload)?;
    }
    let warm = machine.read()?.since(&before);
    let warm_by_reason = by_reason()?;
    vm.end()?;
    Ok(Boot {
        side,
        round: 0,
        function: function.name.to_owned(),
        until_init,
        until_init_by_reason,
        init_ms: init.as_secs_f64() * 1e3,
        answer_ms: answer.as_secs_f64() * 1e3,
        rss_bytes: memory.rss,
        pss_bytes: memory.pss,
        invocations: INVOCATIONS,
        warm,
        warm_by_reason,
    })
}

/// One warm invocation: from an environment that waits to one that waits again.
fn invoke(vm: &mut impl Vm, payload: &str) -> Result<()> {
    ask(vm, payload)?;
    wait_for_idle(vm)
}

/// Sends an event and waits for the end of the answer, which must be an echo.
fn ask(vm: &mut impl Vm, payload: &str) -> Result<()> {
    vm.send(&event(payload))?;
    let mut answer = Vec::new();
    loop {
        match vm.recv()? {
            AgentFrame::ResponseChunk { bytes } => answer.extend(bytes),
            AgentFrame::ResponseEnd { error_type: None, .. } => break,
            AgentFrame::ResponseHead { .. } | AgentFrame::Log { .. } | AgentFrame::Usage(_) => {}
            other => bail!("the function answered with {other:?}"),
        }
    }
    ensure!(answer == payload.as_bytes(), "the echo has {} bytes", answer.len());
    Ok(())
}

fn wait_for_idle(vm: &mut impl Vm) -> Result<()> {
    loop {
        match vm.recv()? {
            AgentFrame::Idle => return Ok(()),
            AgentFrame::Log { .. } | AgentFrame::Usage(_) => {}
            other => bail!("instead of waiting for an event: {other:?}"),
        }
    }
}

fn event(payload: &str) -> InvokerFrame {
    InvokerFrame::Invoke(Invoke {
        request_id: "8f4d1c0e-0000-4000-8000-000000000001".into(),
        deadline_ms: u64::MAX / 2,
        invoked_function_arn: "arn:aws:lambda:us-east-1:000000000000:function:echo".into(),
        xray_trace_id: "Root=1-00000000-000000000000000000000000".into(),
        traceparent: None,
        client_context: None,
        cognito_identity: None,
        tenant_id: None,
        payload: payload.into(),
    })
}

/// The process that has a virtual machine: there is one at a time, whoever started it.
fn monitor() -> Result<u32> {
    let processes = fs::read_dir("/proc")?.flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut found = ids.filter(|pid| has_machine(*pid));
    match (found.next(), found.next()) {
        (Some(pid), None) => Ok(pid),
        (None, _) => bail!("no process has a virtual machine"),
        _ => bail!("several processes have virtual machines"),
    }
}

fn has_machine(pid: u32) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut targets = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.any(|target| target == Path::new("anon_inode:kvm-vm"))
}

fn mount(at: &str, kind: &str) -> Result<()> {
    let flags = rustix::mount::MountFlags::empty();
    match rustix::mount::mount(kind, at, kind, flags, c"").map_err(std::io::Error::from) {
        // This machine's own way has mounted it before.
        Err(error) if error.kind() == ErrorKind::ResourceBusy => Ok(()),
        mounted => mounted.with_context(|| format!("cannot mount {kind}")),
    }
}
