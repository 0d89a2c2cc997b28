//! Virtual CPUs: one thread each, in `KVM_RUN` most of the time.
//!
//! ```text
//!              resume                    kick: immediate_exit = 1, then a signal
//!   paused ──────────────► running ─────────────────────────────────────────────► paused
//!     ▲                       │ exit to user space: port or device memory           (nothing of an instruction pending)
//!     │ start                 │   ─► Bus ─► KVM_RUN again
//!   thread                    │ the guest is done for: triple fault, restart, KVM's failure, a panic of the thread
//!                             ▼
//!                          stopped, with an Exit; the machine's event is signalled
//! ```
//!
//! **Kick.** A thread in `KVM_RUN` comes back when a signal arrives; one that is on its way there would sleep through it. So the
//! byte `immediate_exit` in the page shared with KVM is set first: KVM looks at it on entry and comes back at once. The signal's
//! handler does nothing. A thread looks at what is wanted only after it was kicked, never in the middle of an access: KVM
//! completes a port or memory access at the *next* `KVM_RUN`, and registers saved before that would be between two
//! instructions.
//!
//! **Counts.** Exits that reach user space are counted by kind; those KVM handles itself are KVM's to count.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::{
    eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd},
    signal::{Killable, SIGRTMIN, register_signal_handler, unblock_signal},
};

use crate::{
    bus::{Bus, Meaning},
    exit::{Exit, panic_message},
    lock,
};

/// Why a virtual CPU came back to user space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitKind {
    PortRead,
    PortWrite,
    MemoryRead,
    MemoryWrite,
    /// A kick, or a signal of somebody else's.
    Interrupted,
    Other,
}

impl ExitKind {
    pub const ALL: [Self; 6] = [
        Self::PortRead,
        Self::PortWrite,
        Self::MemoryRead,
        Self::MemoryWrite,
        Self::Interrupted,
        Self::Other,
    ];
}

/// Exits to user space of all virtual CPUs.
#[derive(Debug, Default)]
pub struct ExitCounts([AtomicU64; ExitKind::ALL.len()]);

impl ExitCounts {
    fn count(&self, kind: ExitKind) {
        if let Some(counter) = self.0.get(kind as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// So far.
    #[must_use]
    pub fn of(&self, kind: ExitKind) -> u64 {
        self.0.get(kind as usize).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }
}

/// What the threads of a machine share.
#[derive(Debug)]
pub struct Control {
    state: Mutex<State>,
    changed: Condvar,
    /// Readable once a virtual CPU has ended the machine.
    ended: EventFd,
    pub exits: ExitCounts,
}

#[derive(Debug)]
struct State {
    wanted: Wanted,
    /// Threads that are in, or on their way into, `KVM_RUN`.
    running: usize,
    exit: Option<Exit>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Pause,
    Run,
    Stop,
}

impl Control {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            state: Mutex::new(State { wanted: Wanted::Pause, running: 0, exit: None }),
            changed: Condvar::new(),
            ended: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
            exits: ExitCounts::default(),
        })
    }

    pub fn ended(&self) -> &EventFd {
        &self.ended
    }

    /// Why the machine ended, if it has.
    #[must_use]
    pub fn exit(&self) -> Option<Exit> {
        lock(&self.state).exit.clone()
    }

    /// Ends the machine. The first reason counts.
    pub fn end(&self, exit: Exit) {
        let mut state = lock(&self.state);
        state.wanted = Wanted::Stop;
        state.exit.get_or_insert(exit);
        drop(state);
        self.changed.notify_all();
        // Fails only if the counter is full, and then it is readable.
        let _ = self.ended.write(1);
    }

    /// Waits until the machine ends.
    pub fn wait(&self) -> Exit {
        let mut state = lock(&self.state);
        loop {
            match &state.exit {
                Some(exit) => return exit.clone(),
                None => state = self.wait_for_change(state),
            }
        }
    }

    /// Whether a virtual CPU is in the guest, or may go there.
    pub(crate) fn runs(&self) -> bool {
        let state = lock(&self.state);
        state.running > 0 || state.wanted == Wanted::Run
    }

    fn want(&self, wanted: Wanted) {
        let mut state = lock(&self.state);
        if state.wanted != Wanted::Stop {
            state.wanted = wanted;
        }
        drop(state);
        self.changed.notify_all();
    }

    fn wait_until_none_runs(&self) {
        let mut state = lock(&self.state);
        while state.running > 0 {
            state = self.wait_for_change(state);
        }
    }

    fn wait_for_change<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Of a virtual CPU's thread: waits until it may run. `None`: never again.
    fn enter(&self) -> Option<Running<'_>> {
        let mut state = lock(&self.state);
        loop {
            match state.wanted {
                Wanted::Run => {
                    state.running += 1;
                    return Some(Running(self));
                }
                Wanted::Pause => state = self.wait_for_change(state),
                Wanted::Stop => return None,
            }
        }
    }

    fn may_go_on(&self) -> bool {
        lock(&self.state).wanted == Wanted::Run
    }
}

/// A virtual CPU that is in, or on its way into, `KVM_RUN`; not any more when this is dropped, be it by a panic.
struct Running<'a>(&'a Control);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).running -= 1;
        self.0.changed.notify_all();
    }
}

/// A virtual CPU and its thread.
#[derive(Debug)]
pub struct Vcpu {
    /// Locked by the thread while it runs, so that registers are read and written only when it does not.
    fd: Arc<Mutex<VcpuFd>>,
    immediate_exit: ImmediateExit,
    thread: Option<JoinHandle<()>>,
}

/// The byte that makes `KVM_RUN` come back, in the page that KVM shares.
#[derive(Debug, Clone, Copy)]
struct ImmediateExit(*mut u8);

// SAFETY: it is only used through `set`, whose caller answers for its life; the byte is only accessed atomically.
unsafe impl Send for ImmediateExit {}
// SAFETY: as above.
unsafe impl Sync for ImmediateExit {}

impl ImmediateExit {
    /// # Safety
    ///
    /// The virtual CPU's descriptor, which maps the page, is still there.
    unsafe fn set(self, value: u8) {
        // SAFETY: the page is mapped (the caller's promise), and nobody here accesses this byte in another way.
        unsafe { AtomicU8::from_ptr(self.0) }.store(value, Ordering::Release);
    }
}

/// Prepares the process for kicks. Once is enough; more does no harm.
pub fn prepare_process() -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    register_signal_handler(SIGRTMIN(), nothing)?;
    // Masks are inherited across execve: whoever started us may have blocked it, and a halted processor would not hear a kick.
    unblock_signal(SIGRTMIN()).map_err(|error| io::Error::other(format!("{error:?}")))
}

impl Vcpu {
    /// Starts the thread of virtual CPU `number`, paused. `first` runs on it before everything else: its system-call filter.
    pub fn spawn(
        number: u8,
        mut fd: VcpuFd,
        bus: Arc<Bus>,
        control: Arc<Control>,
        first: impl FnOnce() -> Result<(), String> + Send + 'static,
    ) -> io::Result<Self> {
        let immediate_exit = ImmediateExit(&raw mut fd.get_kvm_run().immediate_exit);
        let fd = Arc::new(Mutex::new(fd));
        let runner = Runner { fd: Arc::clone(&fd), immediate_exit, bus, control };
        let thread = std::thread::Builder::new().name(format!("vcpu{number}")).spawn(move || {
            // What a panic has left half done is of no interest: the machine ends.
            let exit = match catch_unwind(AssertUnwindSafe(|| first().map(|()| runner.serve()))) {
                Ok(Ok(())) => return,
                Ok(Err(detail)) => Exit::InternalError { detail },
                Err(panic) => Exit::MonitorPanic { detail: panic_message(panic.as_ref()) },
            };
            runner.control.end(exit);
        })?;
        Ok(Self { fd, immediate_exit, thread: Some(thread) })
    }

    /// For reading and writing its state. Waits while it runs.
    pub fn fd(&self) -> MutexGuard<'_, VcpuFd> {
        lock(&self.fd)
    }

    fn kick(&self) {
        // SAFETY: `self.fd` holds the descriptor.
        unsafe { self.immediate_exit.set(1) };
        if let Some(thread) = &self.thread {
            // A thread that has ended cannot be signalled and need not be.
            let _ = thread.kill(SIGRTMIN());
        }
    }
}

/// Lets all of a machine's virtual CPUs run.
pub fn resume(control: &Control) {
    control.want(Wanted::Run);
}

/// Stops all of a machine's virtual CPUs, to go on later. Returns when none runs.
pub fn pause(vcpus: &[Vcpu], control: &Control) {
    control.want(Wanted::Pause);
    vcpus.iter().for_each(Vcpu::kick);
    control.wait_until_none_runs();
}

/// Ends the threads of all of a machine's virtual CPUs.
pub fn stop(vcpus: &mut [Vcpu], control: &Control) {
    control.end(Exit::Shutdown);
    vcpus.iter().for_each(Vcpu::kick);
    for vcpu in vcpus {
        if let Some(thread) = vcpu.thread.take() {
            // If it has panicked the machine is over all the same.
            let _ = thread.join();
        }
    }
}

/// The thread's part.
struct Runner {
    fd: Arc<Mutex<VcpuFd>>,
    immediate_exit: ImmediateExit,
    bus: Arc<Bus>,
    control: Arc<Control>,
}

impl Runner {
    fn serve(&self) {
        while let Some(_running) = self.control.enter() {
            if let Some(exit) = self.run() {
                self.control.end(exit);
            }
        }
    }

    /// Runs until the machine is to pause (`None`), or has ended.
    fn run(&self) -> Option<Exit> {
        let mut fd = lock(&self.fd);
        loop {
            let exit = fd.run();
            let kind = exit.as_ref().map_or(ExitKind::Interrupted, kind);
            self.control.exits.count(kind);
            match exit {
                Ok(exit) => match self.handle(exit) {
                    After::GoOn => {}
                    After::End(exit) => return Some(exit),
                    After::Ask => return Some(internal_error(&mut fd)),
                },
                Err(error) if error.errno() == libc::EINTR => {
                    // Before looking at what is wanted: a kick that comes later sets it again.
                    // SAFETY: `self.fd` holds the descriptor.
                    unsafe { self.immediate_exit.set(0) };
                    if !self.control.may_go_on() {
                        return None;
                    }
                }
                Err(error) if error.errno() == libc::EAGAIN => {}
                Err(error) => return Some(Exit::InternalError { detail: format!("KVM_RUN: {error}") }),
            }
        }
    }

    fn handle(&self, exit: VcpuExit<'_>) -> After {
        match exit {
            VcpuExit::IoOut(port, data) => match self.bus.port_out(port, data) {
                Meaning::Nothing => After::GoOn,
                Meaning::Reset => After::End(self.reset()),
            },
            VcpuExit::IoIn(port, data) => {
                self.bus.port_in(port, data);
                After::GoOn
            }
            VcpuExit::MmioRead(address, data) => {
                self.bus.mmio_read(address, data);
                After::GoOn
            }
            VcpuExit::MmioWrite(address, data) => {
                self.bus.mmio_write(address, data);
                After::GoOn
            }
            VcpuExit::Shutdown => After::End(Exit::TripleFault),
            VcpuExit::InternalError => After::Ask,
            VcpuExit::FailEntry(reason, cpu) => {
                let detail = format!("the processor refuses to enter the guest: {reason:#x} on CPU {cpu}");
                After::End(Exit::InternalError { detail })
            }
            VcpuExit::Intr | VcpuExit::IrqWindowOpen => After::GoOn,
            other => After::End(Exit::InternalError { detail: format!("an exit nobody expects: {other:?}") }),
        }
    }

    /// A kernel that has panicked restarts at once (`panic=-1`); what it said before tells the two apart.
    fn reset(&self) -> Exit {
        match lock(&self.bus.console).panic_message() {
            Some(message) => Exit::GuestPanic { message: message.to_owned() },
            None => Exit::Reset,
        }
    }
}

enum After {
    GoOn,
    End(Exit),
    /// What the page shared with KVM says.
    Ask,
}

fn kind(exit: &VcpuExit<'_>) -> ExitKind {
    match exit {
        VcpuExit::IoIn(..) => ExitKind::PortRead,
        VcpuExit::IoOut(..) => ExitKind::PortWrite,
        VcpuExit::MmioRead(..) => ExitKind::MemoryRead,
        VcpuExit::MmioWrite(..) => ExitKind::MemoryWrite,
        VcpuExit::Intr => ExitKind::Interrupted,
        _ => ExitKind::Other,
    }
}

/// KVM's own words: a sub-reason and, if it could not emulate an instruction, its bytes.
fn internal_error(fd: &mut VcpuFd) -> Exit {
    // SAFETY: KVM has just said KVM_EXIT_INTERNAL_ERROR, so this is the member of the union that it has filled.
    let error = unsafe { fd.get_kvm_run().__bindgen_anon_1.internal };
    let data: Vec<_> =
        error.data.iter().take(error.ndata as usize).map(|word| format!("{word:#x}")).collect();
    let place = fd.get_regs().map_or_else(|error| error.to_string(), |regs| format!("{:#x}", regs.rip));
    let reason = match error.suberror {
        kvm_bindings::KVM_INTERNAL_ERROR_EMULATION => "cannot emulate an instruction",
        kvm_bindings::KVM_INTERNAL_ERROR_SIMUL_EX => "two exceptions at once",
        kvm_bindings::KVM_INTERNAL_ERROR_DELIVERY_EV => "cannot deliver an event",
        _ => "internal error",
    };
    Exit::InternalError { detail: format!("{reason} ({}) at {place} [{}]", error.suberror, data.join(" ")) }
}
