//! Ways out of an environment, each tried by a live function: with all walls up, and without the wall that stops it.
//!
//! An attempt that fails for another reason than its wall would prove nothing. So every row says how the attempt is refused,
//! and what happens without the wall: it succeeds, or the next wall refuses it in another way.

#![allow(unsafe_code, reason = "System V shared memory has no safe form")]

mod common;

use std::{
    io::Write,
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
};

use common::{AGENT_UID, Environment, Wanted, programs};

/// One way out.
struct Escape {
    /// What [`escape-probe`](../examples/escape-probe.rs) is told.
    attempt: String,
    refused: &'static str,
    /// Takes the wall away.
    without: fn(&mut Wanted),
    then: &'static str,
}

fn escape(
    attempt: impl Into<String>,
    refused: &'static str,
    without: fn(&mut Wanted),
    then: &'static str,
) -> Escape {
    Escape { attempt: attempt.into(), refused, without, then }
}

fn check(escapes: &[Escape], run: fn(&str, &Wanted) -> String) {
    let mut wrong = Vec::new();
    for Escape { attempt, refused, without, then } in escapes {
        let walled = Wanted::probe(&[]);
        let mut open = walled.clone();
        without(&mut open);
        let (with, without) = (run(attempt, &walled), run(attempt, &open));
        if with != *refused || without != *then {
            wrong.push(format!(
                "{attempt}: {with:?}, not {refused:?}; without the wall {without:?}, not {then:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Runs as the function, below the agent.
fn as_function(attempt: &str, wanted: &Wanted) -> String {
    let mut wanted = wanted.clone();
    wanted.command.extend(attempt.split_whitespace().map(str::to_owned));
    let (printed, status) = Environment::with_agent(&wanted).output();
    if status < 0 { format!("killed by signal {}", -status) } else { printed.trim().to_owned() }
}

/// Runs in the agent's place: as if the agent had been taken over before it gave up user 0.
fn as_agent(attempt: &str, wanted: &Wanted) -> String {
    let mut environment = Environment::start(&programs().probe, wanted.controls);
    environment.stream.write_all(format!("{attempt}\n").as_bytes()).expect("tell the probe");
    environment.diagnostics().trim().to_owned()
}

fn no_filter(wanted: &mut Wanted) {
    wanted.controls.seccomp = false;
}

fn no_filter_all_capabilities(wanted: &mut Wanted) {
    wanted.controls.seccomp = false;
    wanted.controls.capabilities = false;
}

fn all_capabilities(wanted: &mut Wanted) {
    wanted.controls.capabilities = false;
}

fn visible(wanted: &mut Wanted) {
    wanted.controls.hide_processes = false;
}

fn same_user(wanted: &mut Wanted) {
    wanted.function_uid = AGENT_UID;
}

#[test]
fn files_stay_as_the_image_has_them() {
    let writable: fn(&mut Wanted) = |wanted| wanted.controls.read_only = false;
    let unbounded: fn(&mut Wanted) = |wanted| wanted.controls.tmp_limit = false;
    check(
        &[
            escape("create /writable/file", "EROFS", writable, "succeeded"),
            escape("create /var/task/file", "EROFS", writable, "succeeded"),
            escape("open-to-write /device", "EACCES", |wanted| wanted.controls.nodev = false, "succeeded"),
            escape(
                "run-setuid /setuid-probe",
                "EPERM",
                |wanted| {
                    wanted.controls.nosuid = false;
                    wanted.controls.no_new_privs = false;
                    wanted.controls.seccomp = false;
                },
                "succeeded",
            ),
            escape("fill /tmp 12", "ENOSPC", unbounded, "succeeded"),
            escape("many-files /tmp 3000", "ENOSPC", unbounded, "succeeded"),
        ],
        as_function,
    );
}

/// `nosuid` and `no_new_privs` each stop a set-user-ID program alone.
#[test]
fn a_set_user_id_program_meets_two_walls() {
    for without in [(|wanted| wanted.controls.nosuid = false) as fn(&mut Wanted), |wanted| {
        wanted.controls.no_new_privs = false;
        wanted.controls.seccomp = false;
    }] {
        let mut wanted = Wanted::probe(&[]);
        without(&mut wanted);
        assert_eq!(as_function("run-setuid /setuid-probe", &wanted), "EPERM");
    }
}

#[test]
fn the_agent_is_out_of_reach() {
    let ptrace_attach = format!("system-call {} {} 1", libc::SYS_ptrace, libc::PTRACE_ATTACH);
    check(
        &[
            escape("open-to-read /proc/1/environ", "ENOENT", visible, "EACCES"),
            escape("open-to-read /proc/1/mem", "ENOENT", visible, "EACCES"),
            escape("list /proc/1/fd", "ENOENT", visible, "EACCES"),
            escape("list /proc/1", "ENOENT", visible, "succeeded"),
            escape("signal 1", "EPERM", same_user, "succeeded"),
            escape(ptrace_attach, "ENOSYS", no_filter, "EPERM"),
            escape(
                format!("system-call {} 1 0 0 0 0 0", libc::SYS_process_vm_readv),
                "ENOSYS",
                no_filter,
                "succeeded",
            ),
            escape("effective-user-is-root", "EPERM", |wanted| wanted.function_uid = 0, "succeeded"),
            escape(
                format!("system-call {} 0", libc::SYS_setuid),
                "EPERM",
                |wanted| wanted.function_uid = 0,
                "succeeded",
            ),
        ],
        as_function,
    );
}

/// Even a function that had the agent's user and could see it could not look into it: it is not dumpable.
#[test]
fn the_agents_memory_is_closed_to_its_own_user() {
    let mut wanted = Wanted::probe(&[]);
    same_user(&mut wanted);
    visible(&mut wanted);
    no_filter(&mut wanted);
    for attempt in ["open-to-read /proc/1/environ", "open-to-read /proc/1/mem", "list /proc/1/fd"] {
        assert_eq!(as_function(attempt, &wanted), "EACCES", "{attempt}");
    }
    let ptrace_attach = format!("system-call {} {} 1", libc::SYS_ptrace, libc::PTRACE_ATTACH);
    assert_eq!(as_function(&ptrace_attach, &wanted), "EPERM");
}

#[test]
fn the_function_inherits_no_descriptor_of_the_agents() {
    assert_eq!(as_function("only-standard-descriptors", &Wanted::probe(&[])), "EBADF");
}

#[test]
fn the_rest_of_the_machine_is_out_of_reach() {
    let name = format!("waterwheel-hardening-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("an abstract address");
    let _abstract_socket = UnixListener::bind_addr(&address).expect("listen on an abstract socket");
    let port = TcpListener::bind("127.0.0.1:0").expect("listen on a port");
    let port_address = port.local_addr().expect("an address");
    let key = 0x5761_7465;
    // SAFETY: shmget takes no pointers.
    let segment = unsafe { libc::shmget(key, 4096, libc::IPC_CREAT | 0o666) };
    assert!(segment >= 0, "make a shared memory segment");
    let shmget = format!("system-call {} {key} 0 0", libc::SYS_shmget);
    let outside = std::process::id();
    // Without a network namespace, the agent listens on the machine's port 9001; nothing else may.
    let shared_network: fn(&mut Wanted) = |wanted| wanted.controls.network_namespace = false;
    let shared_ipc: fn(&mut Wanted) = |wanted| wanted.controls.ipc_and_uts_namespaces = false;
    check(
        &[
            escape(format!("connect-abstract {name}"), "ECONNREFUSED", shared_network, "succeeded"),
            escape(format!("connect-tcp {port_address}"), "ECONNREFUSED", shared_network, "succeeded"),
            escape(
                format!("signal {outside}"),
                "ESRCH",
                |wanted| wanted.controls.pid_namespace = false,
                "EPERM",
            ),
            escape(shmget, "ENOENT", shared_ipc, "succeeded"),
        ],
        as_function,
    );
    // SAFETY: IPC_RMID takes no pointer.
    unsafe { libc::shmctl(segment, libc::IPC_RMID, std::ptr::null_mut()) };
}

#[test]
fn namespaces_cannot_be_made_or_joined() {
    let (user, thread) = (libc::CLONE_NEWUSER, libc::SIGCHLD);
    check(
        &[
            escape(format!("system-call {} {user}", libc::SYS_unshare), "ENOSYS", no_filter, "succeeded"),
            escape(
                format!("system-call {} {}", libc::SYS_clone, user | thread),
                "ENOSYS",
                no_filter,
                "succeeded",
            ),
            escape(format!("system-call {}", libc::SYS_clone3), "ENOSYS", no_filter, "EINVAL"),
            escape("join-namespace", "ENOSYS", no_filter, "EPERM"),
            escape("mount", "ENOSYS", no_filter, "EPERM"),
            escape("make-root-writable", "ENOSYS", no_filter, "EPERM"),
        ],
        as_function,
    );
}

#[test]
fn an_agent_taken_over_early_is_still_in_jail() {
    let unmasked: fn(&mut Wanted) = |wanted| wanted.controls.mask_proc = false;
    let raw_ip = format!("system-call {} {} {} 255", libc::SYS_socket, libc::AF_INET, libc::SOCK_RAW);
    let mut escapes = vec![
        escape("mount", "ENOSYS", no_filter, "EPERM"),
        escape("mount", "ENOSYS", no_filter_all_capabilities, "succeeded"),
        escape("make-root-writable", "ENOSYS", no_filter_all_capabilities, "succeeded"),
        escape(raw_ip, "EPERM", all_capabilities, "succeeded"),
        escape("join-namespace", "ENOSYS", no_filter_all_capabilities, "succeeded"),
        escape("open-to-write /proc/sys/kernel/hostname", "EROFS", unmasked, "succeeded"),
        escape("open-to-read /proc/timer_list", "EACCES", unmasked, "succeeded"),
    ];
    // Kernels are built with or without these.
    for (path, attempt) in [
        ("/proc/sysrq-trigger", "open-to-write"),
        ("/proc/keys", "open-to-read"),
        ("/proc/kallsyms", "open-to-read"),
    ] {
        if std::path::Path::new(path).exists() {
            escapes.push(escape(format!("{attempt} {path}"), "EACCES", unmasked, "succeeded"));
        }
    }
    check(&escapes, as_agent);
}

#[test]
fn resources_are_bounded() {
    let no_cgroups: fn(&mut Wanted) = |wanted| wanted.controls.cgroups = false;
    let unlimited: fn(&mut Wanted) = |wanted| wanted.controls.resource_limits = false;
    // 4 is RLIMIT_CORE; 1 byte is more than none.
    check(
        &[
            escape("fork 60", "EAGAIN", no_cgroups, "succeeded"),
            escape("use-memory 100", "killed by signal 9", no_cgroups, "succeeded"),
            escape("many-descriptors 1100", "EMFILE", unlimited, "succeeded"),
            escape("raise-limit 4 1", "EPERM", unlimited, "succeeded"),
        ],
        as_function,
    );
}

/// Calls that the filter refuses, whatever their arguments: without it the kernel has another answer to zeroes.
#[test]
fn the_kernels_less_travelled_parts_are_closed() {
    let calls = [
        libc::SYS_acct,
        libc::SYS_add_key,
        libc::SYS_bpf,
        libc::SYS_chroot,
        libc::SYS_clock_adjtime,
        libc::SYS_clock_settime,
        libc::SYS_delete_module,
        libc::SYS_fanotify_init,
        libc::SYS_finit_module,
        libc::SYS_fsopen,
        libc::SYS_init_module,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_io_uring_setup,
        libc::SYS_kcmp,
        libc::SYS_kexec_load,
        libc::SYS_keyctl,
        libc::SYS_mount_setattr,
        libc::SYS_move_mount,
        libc::SYS_name_to_handle_at,
        libc::SYS_open_by_handle_at,
        libc::SYS_open_tree,
        libc::SYS_perf_event_open,
        libc::SYS_pidfd_getfd,
        libc::SYS_pivot_root,
        libc::SYS_process_madvise,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_quotactl,
        libc::SYS_reboot,
        libc::SYS_request_key,
        libc::SYS_sethostname,
        libc::SYS_settimeofday,
        libc::SYS_swapon,
        libc::SYS_syslog,
        libc::SYS_umount2,
        libc::SYS_userfaultfd,
    ];
    let mut open = Wanted::probe(&[]);
    no_filter(&mut open);
    let mut shown = 0;
    for call in calls {
        let attempt = format!("system-call {call}");
        assert_eq!(as_function(&attempt, &Wanted::probe(&[])), "ENOSYS", "{attempt}");
        if as_function(&attempt, &open) != "ENOSYS" {
            shown += 1;
        } else {
            // Nothing is shown if this machine's kernel was built without it; that it was must be true outside too.
            assert_eq!(outside(&attempt), "ENOSYS", "{attempt}: no wall but the filter should say so");
        }
    }
    assert!(shown >= 25, "this kernel lacks too much to show anything: {shown} of {}", calls.len());
}

/// Runs as the function's user, but in no jail.
fn outside(attempt: &str) -> String {
    use std::os::unix::process::CommandExt;
    let task = common::task();
    std::fs::set_permissions(task.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("open the directory");
    let mut probe = std::process::Command::new(task.path().join("probe"));
    let output =
        probe.args(attempt.split_whitespace()).uid(common::FUNCTION_UID).gid(common::FUNCTION_UID).output();
    String::from_utf8_lossy(&output.expect("run the probe").stdout).trim().to_owned()
}

/// Calls of which the arguments decide.
#[test]
fn harmless_calls_do_not_open_harmful_ones() {
    let socket = |family: libc::c_int| format!("system-call {} {family} 3 0", libc::SYS_socket);
    let device = format!("system-call {} 0 0 {} 0", libc::SYS_mknodat, libc::S_IFCHR);
    let terminal_input = format!("system-call {} 0 {:#x} 0", libc::SYS_ioctl, libc::TIOCSTI);
    // ADDR_NO_RANDOMIZE
    let personality = format!("system-call {} 0x40000", libc::SYS_personality);
    // SECCOMP_MODE_STRICT, from which nobody returns
    let seccomp = format!("system-call {} {} 1", libc::SYS_prctl, libc::PR_SET_SECCOMP);
    check(
        &[
            escape(socket(libc::AF_PACKET), "ENOSYS", no_filter, "EPERM"),
            escape(socket(libc::AF_NETLINK).replace("3 0", "3 9"), "ENOSYS", no_filter, "succeeded"),
            escape(device, "ENOSYS", no_filter, "EFAULT"),
            escape(terminal_input, "ENOSYS", no_filter, "ENOTTY"),
            escape(personality, "ENOSYS", no_filter, "succeeded"),
            escape(seccomp, "ENOSYS", no_filter, "killed by signal 9"),
        ],
        as_function,
    );
}
