//! What each kind of thread may ask of the host's kernel.
//!
//! A guest that takes over a thread of the monitor gets no further than these lists. They are allow-lists, one for each kind of
//! thread, with the arguments checked where a call can do too much: of all `ioctl`s a virtual CPU has only `KVM_RUN` and devices only `KVM_SIGNAL_MSI`, memory is
//! never made executable, and nothing here opens a file, makes a socket, a process or a thread.
//!
//! | thread | does | filter goes on |
//! |---|---|---|
//! | main | waits for signals and the end, kicks and joins threads | once the machine is built |
//! | vCPU | `KVM_RUN`; device registers, so also a device's reset; its work is the device thread's | first of all |
//! | devices | waits for doorbells, moves data, sends interrupts by `KVM_SIGNAL_MSI` | first of all |
//! | console | writes what the guest prints to stderr; only while debugging | first of all |
//!
//! A call outside of the list kills the process ([`SeccompMode::Kill`]); there is nothing to return to in a thread that does
//! what it never does.

use std::{collections::BTreeMap, sync::Arc};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use crate::config::SeccompMode;

/// A kind of thread of the monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThreadKind {
    Main,
    Vcpu,
    Devices,
    Console,
}

impl ThreadKind {
    pub const ALL: [Self; 4] = [Self::Main, Self::Vcpu, Self::Devices, Self::Console];
}

/// Largest list of a virtual CPU's thread.
pub const MOST_VCPU_CALLS: usize = 19;

/// `_IO(KVMIO, 0x80)` (linux/kvm.h).
const KVM_RUN: u64 = 0xAE80;

/// `_IOW(KVMIO, 0xA5, struct kvm_msi)`.
const KVM_SIGNAL_MSI: u64 = 0x4020_AEA5;

const PROT_EXEC: u64 = libc::PROT_EXEC as u64;

/// A system call; with a condition, only if it holds.
#[derive(Debug, Clone, Copy)]
struct Call(i64, Option<Condition>);

/// About the lower 32 bits of one argument.
#[derive(Debug, Clone, Copy)]
enum Condition {
    Is(u8, u64),
    /// None of the bits is set.
    Without(u8, u64),
}

const fn any(call: i64) -> Call {
    Call(call, None)
}

/// Locks, the allocator, the clock, and the ends of a thread and of the process.
const EVERYWHERE: &[Call] = &[
    any(libc::SYS_futex),
    any(libc::SYS_brk),
    Call(libc::SYS_mmap, Some(Condition::Without(2, PROT_EXEC))),
    Call(libc::SYS_mprotect, Some(Condition::Without(2, PROT_EXEC))),
    any(libc::SYS_mremap),
    any(libc::SYS_munmap),
    any(libc::SYS_madvise),
    any(libc::SYS_sched_getaffinity), // the allocator asks how many CPUs there are
    any(libc::SYS_clock_gettime),     // where the host's clock is not readable from user space
    any(libc::SYS_rt_sigprocmask),
    any(libc::SYS_sigaltstack),
    any(libc::SYS_restart_syscall),
    any(libc::SYS_write), // events, stderr
    any(libc::SYS_close),
    any(libc::SYS_exit),
    any(libc::SYS_exit_group),
];

/// What devices do.
const OF_DEVICES: &[Call] = &[
    any(libc::SYS_preadv),
    any(libc::SYS_readv),
    any(libc::SYS_sendmsg),
    any(libc::SYS_sendto),
    any(libc::SYS_shutdown),
    any(libc::SYS_getrandom),
    any(libc::SYS_timerfd_settime),
];

const OF_A_VCPU: &[Call] = &[
    Call(libc::SYS_ioctl, Some(Condition::Is(1, KVM_RUN))),
    any(libc::SYS_rt_sigreturn), // from a kick
    any(libc::SYS_shutdown),     // of the stream, when the driver resets the socket device
];

const OF_THE_DEVICE_THREAD: &[Call] = &[
    Call(libc::SYS_ioctl, Some(Condition::Is(1, KVM_SIGNAL_MSI))),
    any(libc::SYS_epoll_wait),
    any(libc::SYS_epoll_pwait),
    any(libc::SYS_epoll_ctl), // what a device waits for changes: a full stream is watched until it takes more
];

const OF_MAIN: &[Call] = &[
    any(libc::SYS_poll),
    any(libc::SYS_ppoll),
    any(libc::SYS_read), // signals
    any(libc::SYS_getpid),
    any(libc::SYS_gettid),
    any(libc::SYS_tgkill), // kicks
    any(libc::SYS_rt_sigreturn),
];

impl ThreadKind {
    fn calls(self) -> impl Iterator<Item = Call> {
        let own: [&[Call]; 2] = match self {
            Self::Main => [OF_MAIN, &[]],
            Self::Vcpu => [OF_A_VCPU, &[]],
            Self::Devices => [OF_THE_DEVICE_THREAD, OF_DEVICES],
            Self::Console => [&[], &[]],
        };
        [EVERYWHERE].into_iter().chain(own).flatten().copied()
    }

    /// How many system calls the thread has.
    #[must_use]
    pub fn call_count(self) -> usize {
        self.calls().count()
    }

    /// The program that the kernel runs at each call.
    fn filter(self, otherwise: SeccompAction) -> Result<BpfProgram, String> {
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
        for Call(number, condition) in self.calls() {
            let alternatives = rules.entry(number).or_default();
            if let Some(condition) = condition {
                alternatives.push(rule(condition).map_err(|error| error.to_string())?);
            }
        }
        let architecture = std::env::consts::ARCH.try_into().map_err(|error| format!("{error}"))?;
        SeccompFilter::new(rules, otherwise, SeccompAction::Allow, architecture)
            .and_then(TryInto::try_into)
            .map_err(|error| error.to_string())
    }
}

fn rule(condition: Condition) -> Result<SeccompRule, seccompiler::BackendError> {
    let (argument, operator, value) = match condition {
        Condition::Is(argument, value) => (argument, SeccompCmpOp::Eq, value),
        Condition::Without(argument, bits) => (argument, SeccompCmpOp::MaskedEq(bits), 0),
    };
    SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?])
}

/// The filters of a machine, ready to be put on.
#[derive(Debug, Clone)]
pub struct Filters(Arc<[(ThreadKind, BpfProgram)]>);

impl Filters {
    /// Builds all of them; nothing is restricted yet.
    pub fn new(mode: SeccompMode) -> Result<Self, String> {
        let otherwise = match mode {
            SeccompMode::Kill => SeccompAction::KillProcess,
            SeccompMode::Log => SeccompAction::Log,
            SeccompMode::Off => return Ok(Self::none()),
        };
        let build = |kind: ThreadKind| kind.filter(otherwise.clone()).map(|filter| (kind, filter));
        Ok(Self(ThreadKind::ALL.into_iter().map(build).collect::<Result<_, _>>()?))
    }

    /// No filters.
    #[must_use]
    pub fn none() -> Self {
        Self(Arc::new([]))
    }

    /// Restricts the calling thread, for good.
    pub fn apply(&self, kind: ThreadKind) -> Result<(), String> {
        let Some((_, filter)) = self.0.iter().find(|(of, _)| *of == kind) else { return Ok(()) };
        seccompiler::apply_filter(filter)
            .map_err(|error| format!("cannot put on the {kind:?} filter: {error}"))
    }
}

#[cfg(test)]
mod tests;
