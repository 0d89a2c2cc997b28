//! The system calls of an environment: one allow-list for the agent, the runtime and the function.
//!
//! It must let CPython, Node, the JVM, Go and Rust run as they do anywhere, so ordinary calls are all here. What is missing
//! is what reaches into the kernel's less travelled parts, into other processes, or across namespaces.
//!
//! A call that is missing answers `ENOSYS`, as a kernel built without it would: libraries probe for calls (io_uring,
//! perf events) and fall back, and a killed process would turn such a probe into a crash. `clone3` is missing because its flags
//! lie in memory that no filter can read; libc then uses `clone`, whose flags are checked here. Calls of another architecture
//! (`int 0x80`) kill the process; no runtime makes them.
//!
//! | refused | because |
//! |---|---|
//! | `unshare setns clone3`, `clone` with namespace flags | a user namespace gives back every capability to attack the kernel with |
//! | `mount umount2 pivot_root chroot fsopen open_tree move_mount …` | the tree is as the jail left it |
//! | `bpf perf_event_open userfaultfd io_uring_*` | large and young kernel interfaces with a history of exploits |
//! | `ptrace process_vm_* process_madvise kcmp pidfd_getfd` | other processes are not the function's |
//! | `keyctl add_key request_key` | keyrings have no namespace |
//! | `open_by_handle_at name_to_handle_at` | handles walk around the root |
//! | `*_module kexec_* reboot swap* acct quotactl sync iopl ioperm *settime* syslog` | the machine is the host's |
//! | `seccomp`, `prctl(PR_SET_SECCOMP)` | filters compile to kernel code; nobody inside needs one of their own |

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// The numbers of the calls named, on the architecture this is compiled for.
macro_rules! calls {
    ($($name:ident)*) => { &[$(libc::$name),*] };
}

/// Calls that are allowed whatever their arguments, by what they are for.
const GROUPS: &[&[i64]] = &[
    // Files and directories the mounts let a process reach.
    calls![
        SYS_read SYS_write SYS_close SYS_lseek SYS_pread64 SYS_pwrite64 SYS_readv SYS_writev SYS_preadv SYS_pwritev
        SYS_preadv2 SYS_pwritev2 SYS_openat SYS_openat2 SYS_faccessat SYS_faccessat2 SYS_fstat SYS_statx SYS_fchmod
        SYS_fchmodat SYS_fchmodat2 SYS_fchown SYS_fchownat SYS_mkdirat SYS_unlinkat SYS_linkat SYS_symlinkat SYS_readlinkat
        SYS_renameat2 SYS_truncate SYS_ftruncate SYS_fallocate SYS_fadvise64 SYS_readahead SYS_fsync SYS_fdatasync SYS_syncfs
        SYS_sync_file_range SYS_getdents64 SYS_getcwd SYS_chdir SYS_fchdir SYS_utimensat SYS_statfs SYS_fstatfs SYS_umask
        SYS_flock SYS_fcntl SYS_dup SYS_dup3 SYS_close_range SYS_copy_file_range SYS_sendfile SYS_splice SYS_tee
        SYS_vmsplice SYS_inotify_init1 SYS_inotify_add_watch SYS_inotify_rm_watch SYS_getxattr SYS_lgetxattr
        SYS_fgetxattr SYS_listxattr SYS_llistxattr SYS_flistxattr SYS_setxattr SYS_lsetxattr SYS_fsetxattr
        SYS_removexattr SYS_lremovexattr SYS_fremovexattr
    ],
    // Memory of the process itself.
    calls![
        SYS_brk SYS_mmap SYS_munmap SYS_mremap SYS_mprotect SYS_madvise SYS_mincore SYS_msync SYS_mlock SYS_mlock2 SYS_munlock
        SYS_mlockall SYS_munlockall SYS_memfd_create SYS_remap_file_pages SYS_pkey_alloc SYS_pkey_free SYS_pkey_mprotect
        SYS_get_mempolicy SYS_set_mempolicy SYS_mbind SYS_membarrier SYS_mseal
    ],
    // Processes and threads of its own user, in its own pid namespace.
    calls![
        SYS_execve SYS_execveat SYS_exit SYS_exit_group SYS_wait4 SYS_waitid SYS_kill SYS_tkill SYS_tgkill SYS_pidfd_open
        SYS_pidfd_send_signal SYS_getpid SYS_getppid SYS_gettid SYS_getpgid SYS_setpgid SYS_getsid SYS_setsid
        SYS_set_tid_address SYS_set_robust_list SYS_get_robust_list SYS_rseq SYS_futex SYS_futex_waitv
        SYS_sched_yield SYS_sched_getaffinity SYS_sched_setaffinity SYS_sched_getparam
        SYS_sched_setparam SYS_sched_getscheduler SYS_sched_setscheduler SYS_sched_getattr SYS_sched_setattr
        SYS_sched_get_priority_max SYS_sched_get_priority_min SYS_sched_rr_get_interval SYS_getpriority
        SYS_setpriority SYS_ioprio_get SYS_ioprio_set SYS_getrusage SYS_getrlimit SYS_setrlimit SYS_prlimit64 SYS_times
        SYS_getcpu SYS_uname SYS_sysinfo SYS_getrandom
    ],
    // Users: for the agent, until it has given up its privileges; asking, for everybody.
    calls![
        SYS_getuid SYS_geteuid SYS_getgid SYS_getegid SYS_getresuid SYS_getresgid SYS_getgroups SYS_setuid SYS_setgid
        SYS_setreuid SYS_setregid SYS_setresuid SYS_setresgid SYS_setgroups SYS_setfsuid SYS_setfsgid SYS_capget SYS_capset
        SYS_landlock_create_ruleset SYS_landlock_add_rule SYS_landlock_restrict_self
    ],
    // Signals, timers and clocks (to read).
    calls![
        SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigpending SYS_rt_sigtimedwait SYS_rt_sigqueueinfo
        SYS_rt_tgsigqueueinfo SYS_rt_sigreturn SYS_rt_sigsuspend SYS_sigaltstack SYS_restart_syscall SYS_nanosleep
        SYS_clock_nanosleep SYS_clock_gettime SYS_clock_getres SYS_gettimeofday SYS_getitimer SYS_setitimer
        SYS_timer_create SYS_timer_settime SYS_timer_gettime SYS_timer_getoverrun SYS_timer_delete SYS_timerfd_create
        SYS_timerfd_settime SYS_timerfd_gettime
    ],
    // Waiting for events.
    calls![
        SYS_ppoll SYS_pselect6 SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_eventfd2 SYS_signalfd4
        SYS_pipe2 SYS_io_setup SYS_io_submit SYS_io_getevents SYS_io_cancel SYS_io_destroy
    ],
    // Sockets once they exist.
    calls![
        SYS_bind SYS_listen SYS_accept SYS_accept4 SYS_connect SYS_getsockname SYS_getpeername SYS_getsockopt
        SYS_setsockopt SYS_sendto SYS_recvfrom SYS_sendmsg SYS_recvmsg SYS_sendmmsg SYS_recvmmsg SYS_shutdown
    ],
    // System V and POSIX message passing inside the ipc namespace.
    calls![
        SYS_shmget SYS_shmat SYS_shmdt SYS_shmctl SYS_semget SYS_semop SYS_semctl SYS_semtimedop SYS_msgget SYS_msgsnd
        SYS_msgrcv SYS_msgctl SYS_mq_open SYS_mq_unlink SYS_mq_timedsend SYS_mq_timedreceive SYS_mq_notify
        SYS_mq_getsetattr
    ],
    #[cfg(target_arch = "x86_64")]
    // Calls that newer architectures replaced by those above.
    calls![
        SYS_open SYS_creat SYS_stat SYS_lstat SYS_access SYS_chmod SYS_chown SYS_lchown SYS_mkdir SYS_rmdir SYS_unlink
        SYS_link SYS_symlink SYS_readlink SYS_rename SYS_renameat SYS_getdents SYS_newfstatat SYS_utime SYS_utimes
        SYS_futimesat SYS_dup2 SYS_pipe SYS_poll SYS_select SYS_epoll_create SYS_epoll_wait SYS_eventfd SYS_signalfd
        SYS_inotify_init SYS_fork SYS_vfork SYS_getpgrp SYS_pause SYS_alarm SYS_time SYS_arch_prctl
    ],
    #[cfg(target_arch = "aarch64")]
    // Calls that x86_64 has under another name.
    calls![SYS_newfstatat SYS_renameat],
];

/// A call that is allowed if one of its rules holds; a rule holds if all its conditions do.
struct Checked {
    call: i64,
    rules: &'static [&'static [Condition]],
}

/// Compares the lower 32 bits of argument `argument`: that is all the kernel looks at in these calls.
struct Condition {
    argument: u8,
    test: Test,
}

enum Test {
    Is(u32),
    IsNot(u32),
    /// The bits of the first, in the argument, are those of the second.
    Bits(u32, u32),
}

const fn when(argument: u8, test: Test) -> Condition {
    Condition { argument, test }
}

/// Every `CLONE_NEW…` that `clone` can take (`CLONE_NEWTIME` shares its bit with the exit signal; `clone` ignores it).
const NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;

// linux/socket.h, linux/netlink.h, asm-generic/ioctls.h, linux/prctl.h, linux/personality.h, linux/stat.h
const AF_UNIX: u32 = 1;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const AF_NETLINK: u32 = 16;
const NETLINK_ROUTE: u32 = 0;
const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: u32 = 0x541C;
const TIOCCONS: u32 = 0x541D;
const TIOCSETD: u32 = 0x5423;
const PR_SET_SECCOMP: u32 = 22;
const PERSONALITY_LINUX: u32 = 0;
const PERSONALITY_QUERY: u32 = u32::MAX;
const S_IFMT: u32 = 0o170_000;
const S_IFIFO: u32 = 0o010_000;
const S_IFREG: u32 = 0o100_000;
const S_IFSOCK: u32 = 0o140_000;

/// Calls whose arguments decide.
const CHECKED: &[Checked] = &[
    // New processes and threads, but no new namespaces.
    Checked { call: libc::SYS_clone, rules: &[&[when(0, Test::Bits(NAMESPACES, 0))]] },
    // The network, local sockets, and asking for interfaces and addresses; no packet, vsock, alg, bluetooth … families.
    Checked {
        call: libc::SYS_socket,
        rules: &[
            &[when(0, Test::Is(AF_UNIX))],
            &[when(0, Test::Is(AF_INET))],
            &[when(0, Test::Is(AF_INET6))],
            &[when(0, Test::Is(AF_NETLINK)), when(2, Test::Is(NETLINK_ROUTE))],
        ],
    },
    Checked { call: libc::SYS_socketpair, rules: &[&[when(0, Test::Is(AF_UNIX))]] },
    // All but putting input into somebody's terminal, and terminals' line disciplines.
    Checked {
        call: libc::SYS_ioctl,
        rules: &[&[
            when(1, Test::IsNot(TIOCSTI)),
            when(1, Test::IsNot(TIOCLINUX)),
            when(1, Test::IsNot(TIOCCONS)),
            when(1, Test::IsNot(TIOCSETD)),
        ]],
    },
    Checked { call: libc::SYS_prctl, rules: &[&[when(0, Test::IsNot(PR_SET_SECCOMP))]] },
    // The everyday one, and asking; others switch off address randomisation or bring back old bugs.
    Checked {
        call: libc::SYS_personality,
        rules: &[&[when(0, Test::Is(PERSONALITY_LINUX))], &[when(0, Test::Is(PERSONALITY_QUERY))]],
    },
    // Pipes, sockets and files; no devices.
    Checked { call: libc::SYS_mknodat, rules: NO_DEVICE_IN_ARGUMENT_2 },
    #[cfg(target_arch = "x86_64")]
    Checked { call: libc::SYS_mknod, rules: NO_DEVICE_IN_ARGUMENT_1 },
];

const NO_DEVICE_IN_ARGUMENT_2: &[&[Condition]] = &[
    &[when(2, Test::Bits(S_IFMT, S_IFIFO))],
    &[when(2, Test::Bits(S_IFMT, S_IFREG))],
    &[when(2, Test::Bits(S_IFMT, S_IFSOCK))],
    &[when(2, Test::Bits(S_IFMT, 0))],
];

#[cfg(target_arch = "x86_64")]
const NO_DEVICE_IN_ARGUMENT_1: &[&[Condition]] = &[
    &[when(1, Test::Bits(S_IFMT, S_IFIFO))],
    &[when(1, Test::Bits(S_IFMT, S_IFREG))],
    &[when(1, Test::Bits(S_IFMT, S_IFSOCK))],
    &[when(1, Test::Bits(S_IFMT, 0))],
];

/// The program that the kernel runs at each call.
pub fn filter() -> Result<BpfProgram, String> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in GROUPS.iter().copied().flatten() {
        rules.insert(*call, Vec::new());
    }
    for checked in CHECKED {
        let alternatives = checked.rules.iter().map(|conditions| rule(conditions)).collect::<Result<_, _>>();
        rules.insert(checked.call, alternatives.map_err(|error| error.to_string())?);
    }
    let architecture = std::env::consts::ARCH.try_into().map_err(|error| format!("{error}"))?;
    let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    SeccompFilter::new(rules, missing, SeccompAction::Allow, architecture)
        .and_then(TryInto::try_into)
        .map_err(|error| error.to_string())
}

fn rule(conditions: &[Condition]) -> Result<SeccompRule, seccompiler::BackendError> {
    let conditions = conditions.iter().map(|condition| {
        let (operator, value) = match condition.test {
            Test::Is(value) => (SeccompCmpOp::Eq, value),
            Test::IsNot(value) => (SeccompCmpOp::Ne, value),
            Test::Bits(mask, value) => (SeccompCmpOp::MaskedEq(mask.into()), value),
        };
        SeccompCondition::new(condition.argument, SeccompCmpArgLen::Dword, operator, value.into())
    });
    SeccompRule::new(conditions.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests;
