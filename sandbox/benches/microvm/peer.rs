//! The other side: QEMU's microvm machine, with the same guest.
//!
//! ```text
//!   this program ── AF_VSOCK, port 1024 ◄── vhost_vsock (the host's kernel) ◄── agent ── virtio-mmio ── QEMU
//! ```
//!
//! What it is given to be at its best: no firmware options, no legacy devices, no ACPI, the kernel as ELF by PVH through
//! qboot (the smallest firmware), vsock inside the host's kernel. Its kernel command line says what our monitor's says, but for
//! the early console on a serial port, which it does not have: ours is silent, so neither costs an exit.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use image::{GuestKernel, InstalledRuntime, RuntimeCatalog};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockProtocol, SockType, VsockAddr, bind, listen, socket,
};
use protocol::{AgentFrame, Decoder, InvokerFrame, Start, guest};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{SocketFlags, accept_with},
    process::{Pid, PidfdFlags, pidfd_open},
};

use crate::{FUNCTION_MEMORY, Function, Monitor, PATIENCE, Vm, ours::RUNTIMES};

const PROGRAM: &str = "/usr/bin/qemu-system-x86_64";
const INITRAMFS: &str = "/run/initramfs";

const MACHINE: &str = "microvm,acpi=off,x-option-roms=off,pit=off,pic=off,rtc=off,isa-serial=off,\
                       auto-kernel-cmdline=on";
/// As our monitor has it (`sandbox/vmm/src/command_line.rs`) and as the server has it (`sandbox/src/microvm.rs`). The
/// devices are added by the machine (`auto-kernel-cmdline`).
const COMMAND_LINE: &str = "panic=-1 reboot=t 8250.nr_uarts=0 loglevel=1 \
    WATERWHEEL_GUEST=serve WATERWHEEL_TMP_BYTES=536870912 \
    GLIBC_TUNABLES=glibc.malloc.mmap_threshold=131072:glibc.malloc.trim_threshold=131072";
/// `VMADDR_CID_ANY` (linux/vm_sockets.h).
const ANY_CID: u32 = u32::MAX;
const READ: usize = 32 * 1024;
const RESPONSE_LIMIT: u32 = 6 << 20;
/// Users inside the guest.
const AGENT_UID: u32 = 992;
const FUNCTION_UID: u32 = 993;

#[derive(Debug)]
pub(crate) struct Peer {
    runtimes: RuntimeCatalog,
    kernel: PathBuf,
    memory_mib: u64,
    listener: OwnedFd,
}

pub(crate) struct PeerVm {
    qemu: Child,
    stream: File,
    decoder: Decoder,
}

impl Peer {
    /// The initramfs is the one that the server's part of this process has made for its own guests.
    pub(crate) fn new(guest_memory: u64) -> Result<Self> {
        let runtimes = RuntimeCatalog::open(&PathBuf::from(RUNTIMES));
        let kernel = GuestKernel::find(runtimes.dir()).context("no guest kernel")?.path;
        fs::write(INITRAMFS, initramfs()?)?;
        Ok(Self { runtimes, kernel, memory_mib: guest_memory >> 20, listener: listen_to_guests()? })
    }

    pub(crate) fn name(&self) -> Result<String> {
        let output = Command::new(PROGRAM).arg("--version").output().context(PROGRAM)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text.lines().next().context("QEMU tells no version")?.to_owned())
    }

    pub(crate) fn config(&self) -> String {
        let arguments = self.arguments("ROOT.erofs", "CODE.squashfs").join(" ");
        format!("qemu-system-x86_64 {arguments}; vsock by vhost in the host's kernel")
    }

    fn arguments(&self, root: &str, code: &str) -> Vec<String> {
        let disk = |id: &str, file: &str| format!("if=none,id={id},format=raw,readonly=on,file={file}");
        let mut arguments: Vec<String> =
            ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"].map(str::to_owned).to_vec();
        let mut with = |option: &str, value: &str| arguments.extend([option.to_owned(), value.to_owned()]);
        with("-M", MACHINE);
        with("-accel", "kvm");
        with("-cpu", "host");
        with("-smp", "1");
        with("-m", &format!("{}M", self.memory_mib));
        // Modern virtio: vsock knows no other, and it is the one that our monitor speaks.
        with("-global", "virtio-mmio.force-legacy=false");
        with("-kernel", &self.kernel.to_string_lossy());
        with("-initrd", INITRAMFS);
        with("-append", COMMAND_LINE);
        with("-drive", &disk("root", root));
        with("-device", "virtio-blk-device,drive=root");
        with("-drive", &disk("code", code));
        with("-device", "virtio-blk-device,drive=code");
        with("-device", &format!("vhost-vsock-device,guest-cid={}", guest::GUEST_CID));
        with("-object", "rng-builtin,id=rng");
        with("-device", "virtio-rng-device,rng=rng");
        arguments
    }

    /// Waits for the agent's connection, or for QEMU to end.
    fn connection(&self, qemu: &mut Child) -> Result<File> {
        let ended = pidfd_open(Pid::from_child(qemu), PidfdFlags::empty())?;
        let mut watched = [PollFd::new(&self.listener, PollFlags::IN), PollFd::new(&ended, PollFlags::IN)];
        poll(&mut watched, Some(&patience()))?;
        let [connection, end] = watched.map(|watched| !watched.revents().is_empty());
        if connection && !end {
            return Ok(accept_with(&self.listener, SocketFlags::CLOEXEC)?.into());
        }
        let _ = qemu.kill();
        let mut words = String::new();
        if let Some(mut stderr) = qemu.stderr.take() {
            stderr.read_to_string(&mut words)?;
        }
        bail!("no agent has come; QEMU {} and said: {words}", qemu.wait()?)
    }
}

impl Monitor for Peer {
    type Vm = PeerVm;

    fn start(&mut self, function: Function) -> Result<PeerVm> {
        let runtime = self.runtimes.get(function.runtime).context(function.runtime)?;
        let root = runtime.image.as_ref().context("the runtime has no disk image")?;
        let mut qemu = Command::new(PROGRAM)
            .args(self.arguments(&root.to_string_lossy(), function.code))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context(PROGRAM)?;
        let stream = self.connection(&mut qemu)?;
        let mut vm = PeerVm { qemu, stream, decoder: Decoder::new() };
        vm.send(&start_frame(&runtime, function))?;
        match vm.recv()? {
            AgentFrame::Hello { version: protocol::VERSION } => Ok(vm),
            other => bail!("the agent's first word is {other:?}"),
        }
    }
}

impl Vm for PeerVm {
    fn send(&mut self, frame: &InvokerFrame) -> Result<()> {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        Ok(self.stream.write_all(&bytes)?)
    }

    fn recv(&mut self) -> Result<AgentFrame> {
        loop {
            if let Some(frame) = AgentFrame::decode(&mut self.decoder)? {
                return Ok(frame);
            }
            let ready = poll(&mut [PollFd::new(&self.stream, PollFlags::IN)], Some(&patience()))?;
            ensure!(ready > 0, "no word in time");
            let mut bytes = [0; READ];
            let read = self.stream.read(&mut bytes)?;
            ensure!(read > 0, "the agent closed its stream");
            self.decoder.extend(&bytes[..read]);
        }
    }

    fn end(mut self) -> Result<()> {
        self.qemu.kill()?;
        self.qemu.wait()?;
        Ok(())
    }
}

impl Drop for PeerVm {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

fn patience() -> Timespec {
    Timespec { tv_sec: i64::try_from(PATIENCE.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 }
}

fn listen_to_guests() -> Result<OwnedFd> {
    let protocol: Option<SockProtocol> = None;
    let listener = socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, protocol)
        .context("no vsock here: is vhost_vsock loaded?")?;
    bind(listener.as_raw_fd(), &VsockAddr::new(ANY_CID, guest::PORT))?;
    listen(&listener, Backlog::new(1)?)?;
    Ok(listener)
}

/// The memory file that [`sandbox::MicrovmIsolation`] hands to each of its monitors.
fn initramfs() -> Result<Vec<u8>> {
    for entry in fs::read_dir("/proc/self/fd")? {
        let path = entry?.path();
        let target = fs::read_link(&path).unwrap_or_default();
        if target.to_string_lossy().starts_with("/memfd:initramfs") {
            return Ok(fs::read(path)?);
        }
    }
    bail!("the isolation holds no initramfs")
}

/// What the server tells an agent (`sandbox/src/variables.rs`), in short.
fn start_frame(runtime: &InstalledRuntime, function: Function) -> InvokerFrame {
    let mut variables = runtime.variables.clone();
    let memory = FUNCTION_MEMORY.to_string();
    let reserved = [
        ("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001"),
        ("AWS_LAMBDA_FUNCTION_NAME", "echo"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", &memory),
        ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/echo"),
        ("AWS_LAMBDA_LOG_STREAM_NAME", "2026/11/22/[$LATEST]0"),
        ("AWS_LAMBDA_LOG_FORMAT", "Text"),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("_HANDLER", function.handler),
        ("LAMBDA_TASK_ROOT", "/var/task"),
        ("LAMBDA_RUNTIME_DIR", "/var/runtime"),
        ("TZ", ":UTC"),
    ];
    variables.extend(reserved.map(|(name, value)| (name.to_owned(), value.to_owned())));
    InvokerFrame::Start(Start {
        version: protocol::VERSION,
        command: runtime.command.clone(),
        directory: runtime.directory.clone(),
        variables,
        function_uid: FUNCTION_UID,
        agent_uid: AGENT_UID,
        response_limit: RESPONSE_LIMIT,
    })
}
