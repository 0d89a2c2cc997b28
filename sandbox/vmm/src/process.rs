//! The monitor's process: one virtual machine, from a document on descriptor 3 to an exit code.
//!
//! ```text
//!  read VmSpec ─► take descriptors ─► build filters, devices, machine ─► main thread's filter ─► run
//!                                                                                                  │
//!      SIGTERM ─────────────────────────────► stop ◄──── the server's end of the stream is gone ───┤
//!      SIGUSR1 ──► a line with the counts of exits, and on                                         │
//!      a virtual CPU ended the machine ──────► stop ◄──────────────────────────────────────────────┘
//!                                               │
//!                                 one line on stderr, exit code
//! ```
//!
//! | exit code | means |
//! |---|---|
//! | 0 | asked to stop |
//! | 10–15 | [`Exit::code`](crate::exit::Exit::code): restart, guest panic, triple fault, KVM's failure, a device's failure, a panic of the monitor |
//! | 64 | the document describes no machine |
//! | 70 | the machine could not be built |
//!
//! The process opens nothing and needs no file system, no network and no privilege. It leaves tearing down the machine to the
//! kernel: whoever waits for its stream to close does not wait for that.

use std::{
    fs::File,
    io::{self, Read, Seek},
    os::{
        fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
};

use kvm_ioctls::Kvm;
use rustix::event::{PollFd, PollFlags, poll};
use vmm_sys_util::eventfd::EventFd;

use crate::{
    arch::current::boot::Linux,
    command_line,
    config::{ConfigError, DeviceConfig, GUEST_CID, SPEC_DESCRIPTOR, STREAM_DESCRIPTOR, VSOCK_PORT, VmSpec},
    exit::{Ending, Exit},
    image_file::ImageFile,
    machine::{Machine, MachineError, Parts},
    memory::{self, MemoryError},
    seccomp::{Filters, ThreadKind},
    vcpu::ExitKind,
    virtio::{Block, Device, Rng, Vsock},
};

/// Largest document, bytes.
const SPEC_BYTES: u64 = 64 * 1024;

/// `EX_USAGE` and `EX_SOFTWARE` of sysexits.h.
const NO_MACHINE: u8 = 64;
const NOT_BUILT: u8 = 70;

/// Why there is no machine.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error("cannot read descriptor {SPEC_DESCRIPTOR}: {0}")]
    Spec(io::Error),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("descriptor {number} is not open: {source}")]
    Descriptor { number: RawFd, source: io::Error },
    #[error("{0}")]
    Filter(String),
    #[error("cannot {step}: {source}")]
    Host { step: &'static str, source: io::Error },
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error(transparent)]
    Machine(#[from] MachineError),
}

impl ProcessError {
    fn code(&self) -> u8 {
        match self {
            Self::Spec(_) | Self::Config(_) | Self::Descriptor { .. } => NO_MACHINE,
            Self::Filter(_) | Self::Host { .. } | Self::Memory(_) | Self::Machine(_) => NOT_BUILT,
        }
    }
}

/// Does what the module's picture shows, and tells the exit code.
///
/// # Safety
///
/// The process has one thread, and its descriptors from 3 on are nobody else's.
pub unsafe fn run() -> u8 {
    end_on_panic();
    // SAFETY: the caller's promise.
    match unsafe { build() } {
        Ok(process) => {
            let ending = process.serve();
            eprintln!("vmm: {ending}");
            ending.exit.code()
        }
        Err(error) => {
            eprintln!("vmm: {error}");
            error.code()
        }
    }
}

/// From now on a panic of any thread ends the process, with its line and its exit code: before the stack unwinds, if it would, so that it makes
/// no difference whether panics are built to unwind or to abort.
pub fn end_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let detail = panic.to_string().replace('\n', " ");
        let exit = Exit::MonitorPanic { detail };
        let line = format!("vmm: {exit}\n");
        // Not by way of `std`, whose lock the thread may hold. If it fails nobody is left to tell.
        let _ = rustix::io::write(rustix::stdio::stderr(), line.as_bytes());
        // SAFETY: it ends the process, without anything that a thread could have left half done.
        unsafe { libc::_exit(exit.code().into()) }
    }));
}

/// A built machine and what the main thread waits for.
struct Process {
    machine: Machine,
    signals: File,
    /// The server's end of the stream is gone. Never, without a vsock device.
    hangup: EventFd,
}

/// # Safety
///
/// As for [`run`].
unsafe fn build() -> Result<Process, ProcessError> {
    let mut json = Vec::new();
    // SAFETY: descriptor 3 is nobody else's (the caller's promise).
    let mut document = File::from(unsafe { take(SPEC_DESCRIPTOR) }?);
    // A memory file stands where its writer left it; a pipe cannot seek and need not.
    let _ = document.rewind();
    document.take(SPEC_BYTES).read_to_end(&mut json).map_err(ProcessError::Spec)?;
    let spec = VmSpec::parse(&json)?;

    // SAFETY: `VmSpec::parse` has checked that no descriptor is named twice, nor one of the process's own.
    let mut inherited = unsafe { Inherited::take(&spec) }?;

    let signals = block_signals().map_err(host("block signals"))?;
    let kvm = inherited.file(spec.kvm)?;
    // SAFETY: the descriptor is given away here. One that is not KVM's answers ENOTTY at its first use.
    let kvm = unsafe { Kvm::from_raw_fd(kvm.into_raw_fd()) };
    let mut hangup = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(host("make an event"))?;
    let mut devices = Vec::new();
    for device in &spec.machine.devices {
        devices.push(plug(device, &mut inherited, &mut hangup)?);
    }
    let initramfs = spec.boot.initramfs.map(|number| inherited.file(number)).transpose()?;
    let mut linux = Linux {
        kernel: ImageFile::new(inherited.file(spec.boot.kernel)?),
        initramfs: initramfs.map(ImageFile::new),
        command_line: command_line::complete(&spec.boot.command_line, devices.len(), spec.debug_console),
    };
    let filters = Filters::new(spec.seccomp).map_err(ProcessError::Filter)?;
    let parts = Parts {
        vcpus: spec.machine.vcpus,
        memory: memory::new(spec.machine.memory_mib)?,
        devices,
        debug_console: spec.debug_console,
        filters: filters.clone(),
    };
    let machine = Machine::with_linux(kvm, parts, &mut linux)?;
    drop(linux);
    filters.apply(ThreadKind::Main).map_err(ProcessError::Filter)?;
    Ok(Process { machine, signals, hangup })
}

/// What the server has opened. All of it is taken before the process makes a descriptor of its own, which would get the number of one
/// that is missing.
struct Inherited {
    /// Only for a machine with a vsock device.
    stream: Option<OwnedFd>,
    files: Vec<(RawFd, OwnedFd)>,
}

impl Inherited {
    /// # Safety
    ///
    /// Descriptor 5 and those that `spec` names are nobody else's, and no two are the same.
    unsafe fn take(spec: &VmSpec) -> Result<Self, ProcessError> {
        let is_vsock = |device: &DeviceConfig| matches!(device, DeviceConfig::Vsock { .. });
        let stream = spec.machine.devices.iter().any(is_vsock).then_some(STREAM_DESCRIPTOR);
        // SAFETY: the caller's promise.
        let stream = stream.map(|number| unsafe { take(number) }).transpose()?;
        // SAFETY: as above.
        let files = spec.descriptors().map(|number| unsafe { take(number) }.map(|owned| (number, owned)));
        Ok(Self { stream, files: files.collect::<Result<_, _>>()? })
    }

    fn file(&mut self, number: RawFd) -> Result<File, ProcessError> {
        let position = self.files.iter().position(|(named, _)| *named == number);
        let found = position.map(|position| File::from(self.files.swap_remove(position).1));
        found.ok_or(ProcessError::Config(ConfigError::Descriptor(number)))
    }

    fn stream(&mut self) -> Result<UnixStream, ProcessError> {
        let stream = self.stream.take().map(UnixStream::from);
        stream.ok_or(ProcessError::Config(ConfigError::Descriptor(STREAM_DESCRIPTOR)))
    }
}

fn plug(
    device: &DeviceConfig,
    inherited: &mut Inherited,
    hangup: &mut EventFd,
) -> Result<Box<dyn Device>, ProcessError> {
    match device {
        DeviceConfig::Block { image, limits } => {
            let block = Block::new(inherited.file(*image)?, *limits).map_err(host("make a disk"))?;
            Ok(Box::new(block))
        }
        DeviceConfig::Vsock { limits } => {
            let vsock = Vsock::new(GUEST_CID, VSOCK_PORT, inherited.stream()?, *limits)
                .map_err(host("make a socket device"))?;
            *hangup = vsock.hangup().map_err(host("make an event"))?;
            Ok(Box::new(vsock))
        }
        DeviceConfig::Rng { limits } => {
            Ok(Box::new(Rng::new(*limits).map_err(host("make a source of randomness"))?))
        }
    }
}

/// # Safety
///
/// The descriptor is nobody else's.
unsafe fn take(number: RawFd) -> Result<OwnedFd, ProcessError> {
    // SAFETY: it reads a flag of a descriptor, or fails.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(ProcessError::Descriptor { number, source: io::Error::last_os_error() });
    }
    // SAFETY: it is open, and nobody else's (the caller's promise).
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn host(step: &'static str) -> impl Fn(io::Error) -> ProcessError {
    move |source| ProcessError::Host { step, source }
}

const SIGNALS: [libc::c_int; 2] = [libc::SIGTERM, libc::SIGUSR1];

/// Signals to the process are read from a descriptor; no thread is interrupted by them.
fn block_signals() -> io::Result<File> {
    let signals = vmm_sys_util::signal::create_sigset(&SIGNALS)?;
    // SAFETY: the set lives until the call returns, and threads that are started later inherit the mask.
    if unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const signals, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the set lives until the call returns.
    let descriptor =
        unsafe { libc::signalfd(-1, &raw const signals, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was opened just now.
    Ok(unsafe { File::from_raw_fd(descriptor) })
}

enum Asked {
    Stop,
    Counts,
}

impl Process {
    fn serve(mut self) -> Ending {
        self.machine.resume();
        while let Asked::Counts = self.next() {
            let exits = &self.machine.control().exits;
            let counts = ExitKind::ALL.map(|kind| format!("{kind:?}={}", exits.of(kind)));
            eprintln!("vmm: exits {}", counts.join(" "));
        }
        let ending = self.machine.stop();
        // The kernel tears it down faster, and after everybody who waits for the stream has been told.
        std::mem::forget(self);
        ending
    }

    fn next(&mut self) -> Asked {
        loop {
            let ended = self.machine.control().ended();
            // SAFETY: all three are open for as long as `self` lives.
            let [ended, hangup] = [ended, &self.hangup].map(|event| unsafe {
                std::os::fd::BorrowedFd::borrow_raw(std::os::fd::AsRawFd::as_raw_fd(event))
            });
            let mut watched = [
                PollFd::new(&self.signals, PollFlags::IN),
                PollFd::from_borrowed_fd(ended, PollFlags::IN),
                PollFd::from_borrowed_fd(hangup, PollFlags::IN),
            ];
            if poll(&mut watched, None).is_err() {
                continue; // a signal that is none of ours
            }
            let [signals, others @ ..] = &watched;
            if others.iter().any(|event| !event.revents().is_empty()) {
                return Asked::Stop;
            }
            if !signals.revents().is_empty() {
                return self.signal();
            }
        }
    }

    /// The first field of `signalfd_siginfo` is the number.
    fn signal(&mut self) -> Asked {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        let number = self.signals.read(&mut info).ok().and_then(|_| info.first_chunk::<4>().copied());
        match number.map(i32::from_ne_bytes) {
            Some(libc::SIGUSR1) => Asked::Counts,
            _ => Asked::Stop,
        }
    }
}
