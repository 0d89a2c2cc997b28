//! What process isolation is built from, tried piece by piece.

use std::{fs, io, process::Command};

use jail::cgroup::{Cgroup, CpuQuota, Hierarchy, Limits};

use super::{Finding, place};

/// What an environment's filter answers a forbidden call with, and what it ends a hostile process with.
const SECCOMP_ACTIONS: [&str; 3] = ["allow", "errno", "kill_process"];
/// Namespaces of an environment, as `unshare` of util-linux spells them.
const NAMESPACES: [&str; 6] = ["pid", "mount", "net", "ipc", "uts", "cgroup"];

pub(super) fn user() -> Finding {
    judge_user(rustix::process::geteuid().as_raw())
}

pub(super) fn examine() -> [Finding; 3] {
    let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail");
    [cgroups(), namespaces(), judge_seccomp(actions)]
}

fn judge_user(uid: u32) -> Finding {
    const TOPIC: &str = "user";
    if uid == 0 {
        return Finding::ok(TOPIC, "root", "environments can be given users, mounts and limits of their own")
            .required();
    }
    let meaning = "process isolation needs root in this version; run the server, and this, with sudo";
    Finding::missing(TOPIC, format!("uid {uid}, not root"), meaning).required()
}

/// Makes a limited cgroup and removes it.
fn cgroups() -> Finding {
    const TOPIC: &str = "cgroups";
    let hierarchy = match Hierarchy::detect() {
        Ok(hierarchy) => hierarchy,
        Err(error) => {
            let meaning = "functions cannot be held to their memory, CPU and process limits; mount cgroups \
                           (version 2, or 1 with memory, cpu, cpuacct and pids)";
            return Finding::missing(TOPIC, error.to_string(), meaning).required();
        }
    };
    let version = hierarchy.version();
    match try_cgroup(&hierarchy) {
        Ok(()) => Finding::ok(
            TOPIC,
            format!("version {version}: a cgroup with memory, CPU and process limits can be made"),
            "functions are held to their limits",
        )
        .required(),
        Err(error) => Finding::missing(
            TOPIC,
            format!("version {version}: {error}"),
            "functions cannot be held to their limits; run as root, outside containers that mount cgroups read-only",
        )
        .required(),
    }
}

fn try_cgroup(hierarchy: &Hierarchy) -> io::Result<()> {
    // What is there is a killed doctor's.
    hierarchy.sweep(place::GROUP)?;
    let limits = Limits {
        memory_bytes: 64 << 20,
        pids: 8,
        cpu_quota: Some(CpuQuota { quota_us: 10_000, period_us: 20_000 }),
        cpu_shares: 128,
    };
    let tried = Cgroup::create(hierarchy, place::GROUP, "try", limits).and_then(Cgroup::remove);
    let swept = hierarchy.sweep(place::GROUP);
    tried.and(swept.map(drop))
}

/// Starts a process in every kind of namespace that an environment has.
fn namespaces() -> Finding {
    let flags = NAMESPACES.map(|name| format!("--{name}"));
    let output = Command::new("unshare").args(flags).args(["--fork", "true"]).output();
    judge_namespaces(output.map(|output| {
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if output.status.success() { Ok(()) } else { Err(words) }
    }))
}

fn judge_namespaces(tried: io::Result<Result<(), String>>) -> Finding {
    const TOPIC: &str = "namespaces";
    match tried {
        Ok(Ok(())) => {
            let fact = format!("a process can be started in its own {}", NAMESPACES.join(", "));
            Finding::ok(TOPIC, fact, "functions see neither each other nor this machine").required()
        }
        Ok(Err(words)) => {
            let meaning =
                "functions cannot be separated; run as root, outside containers that forbid namespaces";
            Finding::missing(TOPIC, words, meaning).required()
        }
        Err(error) => {
            let meaning =
                "it was not tried whether namespaces can be made; install util-linux to have it tried";
            Finding::warn(TOPIC, format!("unshare does not start: {error}"), meaning).required()
        }
    }
}

fn judge_seccomp(actions: io::Result<String>) -> Finding {
    const TOPIC: &str = "seccomp";
    const MEANING: &str =
        "functions cannot be kept from dangerous system calls; a kernel with SECCOMP_FILTER is needed";
    let actions = match actions {
        Ok(actions) => actions,
        Err(error) => return Finding::missing(TOPIC, format!("no filters: {error}"), MEANING).required(),
    };
    let lacks: Vec<_> = SECCOMP_ACTIONS
        .into_iter()
        .filter(|wanted| !actions.split_whitespace().any(|a| a == *wanted))
        .collect();
    if lacks.is_empty() {
        Finding::ok(
            TOPIC,
            "filters can answer and kill",
            "functions are kept to an allow-list of system calls",
        )
        .required()
    } else {
        Finding::missing(TOPIC, format!("filters lack: {}", lacks.join(", ")), MEANING).required()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::doctor::Mark;

    #[test]
    fn only_root_can_isolate() {
        assert_eq!(judge_user(0).mark, Mark::Ok);
        let finding = judge_user(1000);
        assert_eq!((finding.mark, finding.required), (Mark::Missing, true));
        assert_eq!(finding.fact, "uid 1000, not root");
    }

    #[test]
    fn every_seccomp_action_we_use_must_be_there() {
        let judge = |actions: &str| judge_seccomp(Ok(actions.to_owned()));
        assert_eq!(judge("kill_process kill_thread trap errno trace log allow\n").mark, Mark::Ok);
        let finding = judge("kill_thread errno allow");
        assert_eq!((finding.mark, finding.fact.as_str()), (Mark::Missing, "filters lack: kill_process"));
        assert_eq!(judge_seccomp(Err(io::ErrorKind::NotFound.into())).mark, Mark::Missing);
    }

    #[test]
    fn refused_namespaces_stop_functions_and_untried_ones_do_not() {
        let refused = judge_namespaces(Ok(Err("unshare: unshare failed: Operation not permitted".into())));
        assert_eq!(refused.mark, Mark::Missing);
        assert_eq!(judge_namespaces(Err(io::ErrorKind::NotFound.into())).mark, Mark::Warn);
        assert_eq!(judge_namespaces(Ok(Ok(()))).mark, Mark::Ok);
    }
}
