//! What the driver tells the jail.

use std::{os::fd::RawFd, path::PathBuf};

use serde::{Deserialize, Serialize};

/// One environment, as the driver wants it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JailSpec {
    /// Absent when the driver does not know them yet: the jail then puts up what it can, and waits for a second document
    /// with them.
    pub files: Option<Files>,
    pub hostname: String,
    /// Directories from [`crate::cgroup::Cgroup::procs_dirs`]; joined before anything else.
    pub cgroups: Vec<PathBuf>,
    #[serde(default)]
    pub program: Program,
    #[serde(default)]
    pub controls: Controls,
}

/// What the jail is around.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Program {
    /// The agent of process isolation: user 0 with what it takes to become others, in the root that [`Files`] describe.
    #[default]
    Agent,
    /// The monitor of one virtual machine: an empty read-only root, its own user, no capability, no second document.
    Monitor {
        /// User and group that it runs as.
        uid: u32,
        /// Number of the inherited descriptor with its own document; the monitor finds it as number 3.
        spec: RawFd,
        /// Numbers of the other inherited descriptors that it keeps, as they are. The stream, 5, is kept without being named.
        keep: Vec<RawFd>,
    },
}

/// The file systems of one environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// Directory that becomes `/`, read-only. It must already have the directories `/dev`, `/proc` and `/tmp` and the
    /// target of every bind: the jail never writes to it.
    pub root: PathBuf,
    pub binds: Vec<Bind>,
    /// Size of `/tmp`, bytes. It is memory and counts against the environment's cgroup.
    pub tmp_bytes: u64,
}

/// A directory or file of the host that the environment sees; always nosuid and nodev.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bind {
    /// Path on the host.
    pub source: PathBuf,
    /// Absolute path inside; its symbolic links are followed inside the new root.
    pub target: PathBuf,
    pub read_only: bool,
}

/// Which walls are put up: all, unless a test leaves one out to show that it carries weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches, each named for its wall")]
pub struct Controls {
    /// Processes outside are invisible and cannot be signalled.
    pub pid_namespace: bool,
    /// No interface but `lo`, no port or abstract socket of the host.
    pub network_namespace: bool,
    /// System V objects, message queues and the host name are the environment's own.
    pub ipc_and_uts_namespaces: bool,
    /// Root and read-only binds refuse writes.
    pub read_only: bool,
    /// Set-user-ID files have no effect.
    pub nosuid: bool,
    /// Device files in the root have no effect.
    pub nodev: bool,
    /// `/proc` shows a process only its own user's processes.
    pub hide_processes: bool,
    /// Kernel files in `/proc` are covered or read-only.
    pub mask_proc: bool,
    /// `/tmp` and `/dev/shm` are bounded.
    pub tmp_limit: bool,
    /// Open files, core dumps and the like are limited.
    pub resource_limits: bool,
    /// The processes are in the environment's cgroups.
    pub cgroups: bool,
    /// Only what the agent needs to change its user is left, and that only until it has. A monitor has none.
    pub capabilities: bool,
    /// A monitor runs as a user of its own. (An agent becomes its own user itself.)
    pub own_user: bool,
    /// `execve` never gains privileges. The filter needs it, so `seccomp` must be off too where this is.
    pub no_new_privs: bool,
    /// System calls outside of the allow-list answer `ENOSYS`.
    pub seccomp: bool,
}

impl Default for Controls {
    fn default() -> Self {
        Self {
            pid_namespace: true,
            network_namespace: true,
            ipc_and_uts_namespaces: true,
            read_only: true,
            nosuid: true,
            nodev: true,
            hide_processes: true,
            mask_proc: true,
            tmp_limit: true,
            resource_limits: true,
            cgroups: true,
            capabilities: true,
            own_user: true,
            no_new_privs: true,
            seccomp: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_that_names_no_controls_has_them_all() {
        let json = r#"{"files":{"root":"/r","binds":[],"tmp_bytes":1},"hostname":"h","cgroups":[]}"#;
        let spec: JailSpec = serde_json::from_str(json).unwrap();
        assert_eq!(spec.controls, Controls::default());
        let Ok(serde_json::Value::Object(switches)) = serde_json::to_value(spec.controls) else {
            panic!("controls are an object")
        };
        assert!(switches.values().all(|on| on == true), "{switches:?}");
    }

    #[test]
    fn a_misspelt_control_is_refused() {
        let json = r#"{"files":null,"hostname":"h","cgroups":[],"controls":{"secomp":false}}"#;
        assert!(serde_json::from_str::<JailSpec>(json).is_err());
    }
}
