//! MicroVM isolation: the agent as the init of a virtual machine, each with a kernel of its own.
//!
//! ```text
//!   start() ──► monitor in a jail (see `monitor`) ── KVM ──► guest kernel ──► agent ──► runtime
//!      │                     │                                                   ▲
//!      └── Start frame ── Unix socket ──► vsock ─────────────────────────────────┘
//!          ◄─ Hello
//! ```
//!
//! The agent, its frames and the root file systems are those of process isolation; only what is around them differs. A VM
//! has the function's memory and [`GUEST_MEMORY`] more for its kernel and agent, and as many virtual CPUs as the function's
//! share of CPU needs; the share itself is the monitor's cgroup's.
//!
//! Whether a machine can do this at all is found out by doing it: [`test_boot`]. It needs no runtime and leaves nothing.

mod initramfs;
mod monitor;
mod test_boot;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::future::BoxFuture;
use image::{GuestKernel, InstalledRuntime, RuntimeCatalog, UnpackError};
use protocol::guest;
use tokio::sync::Notify;
use types::MemorySize;
use vmm::rate_limiter::Limits;

pub use test_boot::{NoMicrovm, has_hardware_virtualisation, test_boot};

use crate::{
    Code, Environment, EnvironmentSpec, Isolation, StartError,
    greeting::{greet, start_frame},
};
use monitor::{Machine, Monitors, open_read_only};
use test_boot::boot_and_sweep;

/// What a guest's kernel and agent need beyond the function's memory, MiB, and a 64th of that for the kernel's account of
/// each page. Measured: a function in a guest of 160 MiB is out of memory at 135 MiB.
const GUEST_MEMORY: u32 = 24;
const PAGE_ACCOUNTS: u32 = 64;

/// Memory that comes with one whole virtual CPU, MB (AWS Lambda developer guide, "Configure Lambda function memory").
const MB_PER_VCPU: u32 = 1769;

/// Users inside the guest; it has no others. The function's is the one that Lambda's images name.
const AGENT_UID: u32 = 992;
const FUNCTION_UID: u32 = 993;

/// As in a jail: memory that the agent frees goes back at once (see `jail::enter`).
const AGENT_VARIABLES: &str =
    "GLIBC_TUNABLES=glibc.malloc.mmap_threshold=131072:glibc.malloc.trim_threshold=131072";

/// Bounds of microVM isolation.
#[derive(Debug, Clone)]
pub struct MicrovmIsolationConfig {
    /// Name of the cgroup that all monitors of this worker live under. What is found in it at start is a leftover of a run
    /// that was killed, and is removed.
    pub cgroup: String,
    /// First of the user (and group) ids that monitors run as. No two live ones share one.
    pub uid_base: u32,
    /// Time from the monitor's start to the agent's first word.
    pub setup_timeout: Duration,
    pub limits: MicrovmLimits,
}

/// How fast the devices of one environment are. Nothing is limited by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MicrovmLimits {
    /// Of each disk: its runtime's, its code's.
    pub disk: Limits,
    /// Of the stream to the server, in each direction.
    pub stream: Limits,
}

/// See the module.
#[derive(Debug)]
pub struct MicrovmIsolation {
    config: MicrovmIsolationConfig,
    runtimes: RuntimeCatalog,
    monitors: Arc<Monitors>,
}

impl MicrovmIsolation {
    /// Prepares the worker: removes what a killed run left over, and opens the guest kernel that stands beside the runtimes,
    /// each of which must have its disk image.
    /// That VMs boot here is not looked into: [`Self::test_boot`] does.
    pub fn open(config: MicrovmIsolationConfig, runtimes: RuntimeCatalog) -> Result<Self, NoMicrovm> {
        if let Some(runtime) = runtimes.list().into_iter().find(|runtime| runtime.image.is_none()) {
            return Err(NoMicrovm::NoImage { runtime: runtime.name });
        }
        let kernel = find_kernel(runtimes.dir())?;
        let monitors = Monitors::open(&kernel, &config.cgroup, config.uid_base, config.limits)?;
        Ok(Self { config, runtimes, monitors: Arc::new(monitors) })
    }

    /// Boots the kernel to the agent's hello and says how long it took. Removes the cgroup: call it before any environment
    /// is started. Call within a tokio runtime.
    pub async fn test_boot(&self) -> Result<Duration, NoMicrovm> {
        boot_and_sweep(self.monitors.clone()).await
    }

    async fn start_environment(&self, spec: EnvironmentSpec) -> Result<Environment, StartError> {
        let name = spec.function.runtime.as_str();
        let runtime = self.runtimes.get(name);
        let runtime = runtime.ok_or_else(|| StartError::RuntimeNotInstalled { runtime: name.to_owned() })?;
        let machine = machine(&spec, &runtime)?;
        let environment =
            begin(self.monitors.clone(), machine, Some(spec.code.clone()), spec.function.memory).await?;
        let start = start_frame(&spec, &runtime, (AGENT_UID, FUNCTION_UID));
        let mut environment = greet(environment, &start, self.config.setup_timeout).await?;
        environment.init_begins();
        Ok(environment)
    }
}

impl Isolation for MicrovmIsolation {
    fn start(&self, spec: EnvironmentSpec) -> BoxFuture<'_, Result<Environment, StartError>> {
        Box::pin(self.start_environment(spec))
    }

    fn open_code(&self, image: &[u8], directory: PathBuf) -> Result<Code, UnpackError> {
        Code::image(image, &directory)
    }

    fn overhead(&self, memory: MemorySize) -> MemorySize {
        MemorySize(guest_memory(memory) - memory.0 + monitor::MONITOR_MIB)
    }

    /// Nothing is prepared ahead: a jail that waits takes a document, a monitor takes descriptors; and most of a start is the
    /// guest's boot, which only a snapshot saves.
    fn close(&self) {}

    fn runtimes(&self) -> Vec<String> {
        self.runtimes.list().into_iter().map(|runtime| runtime.name).collect()
    }
}

fn find_kernel(directory: &Path) -> Result<GuestKernel, NoMicrovm> {
    GuestKernel::find(directory).ok_or_else(|| NoMicrovm::NoKernel { directory: directory.to_owned() })
}

/// Starts a monitor; its VM boots when this returns. `memory` is the function's.
async fn begin(
    monitors: Arc<Monitors>,
    machine: Machine,
    code: Option<Arc<Code>>,
    memory: MemorySize,
) -> Result<Environment, StartError> {
    // An environment when it comes out of there: if nobody waits for it any more, it ends as every environment does.
    let start = move || {
        let (stream, remains) = monitors.start(machine, code)?;
        Environment::new(stream, memory, remains, Arc::new(Notify::new()))
    };
    let started = tokio::task::spawn_blocking(start).await;
    started.map_err(|error| StartError::Spawn(io::Error::other(error)))?
}

/// The VM of one environment.
fn machine(spec: &EnvironmentSpec, runtime: &InstalledRuntime) -> Result<Machine, StartError> {
    let Code::Image(code) = &*spec.code else {
        return Err(StartError::Code);
    };
    let no_image = || StartError::NoImage { runtime: runtime.name.clone() };
    let root = open_read_only(runtime.image.as_deref().ok_or_else(no_image)?);
    let root = root.map_err(|source| StartError::Image { runtime: runtime.name.clone(), source })?;
    let code = code.file().try_clone().map_err(StartError::Spawn)?;
    let tmp_bytes = spec.function.ephemeral_storage.bytes();
    Ok(Machine {
        cpu_shares: u64::from(spec.function.memory.0),
        memory_mib: guest_memory(spec.function.memory),
        vcpus: vcpus(spec.function.memory),
        // In this order they are guest::ROOT_DEVICE and guest::CODE_DEVICE.
        disks: vec![root, code],
        command_line: format!(
            "{}={} {}={tmp_bytes} {AGENT_VARIABLES}",
            guest::VARIABLE,
            guest::SERVE,
            guest::TMP_BYTES_VARIABLE
        ),
    })
}

fn guest_memory(function: MemorySize) -> u32 {
    function.0 + GUEST_MEMORY + function.0 / PAGE_ACCOUNTS
}

fn vcpus(function: MemorySize) -> u8 {
    u8::try_from(function.0.div_ceil(MB_PER_VCPU).max(1)).unwrap_or(u8::MAX)
}

/// Of a kernel: a file that is only read.
fn open_kernel(kernel: &GuestKernel) -> io::Result<File> {
    open_read_only(&kernel.path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_has_room_for_its_kernel_beside_the_function() {
        assert_eq!(guest_memory(MemorySize(128)), 154);
        assert_eq!(guest_memory(MemorySize(10_240)), 10_424);
    }

    #[test]
    fn virtual_cpus_follow_memory() {
        let counts = [128, 1769, 1770, 3538, 10_240].map(|mb| vcpus(MemorySize(mb)));
        assert_eq!(counts, [1, 1, 2, 2, 6]);
    }
}
