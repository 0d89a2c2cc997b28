//! Starts monitors: a process for each VM, in a jail of its own, with everything it may touch as an open descriptor.
//!
//! ```text
//!   server ── spawns ──► jail ── execs ──► monitor         3  VmSpec             6  /dev/kvm
//!                         (its user, cgroup, namespaces)   5  stream             7  kernel     8  initramfs     9 …  disks
//! ```
//!
//! The server opens files without following a link in their last name, and for reading only. Memory of the guest is memory
//! of the monitor, so the monitor's cgroup bounds both.

use std::{
    fs::File,
    io,
    os::{
        fd::{OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    path::Path,
    sync::Arc,
};

use image::GuestKernel;
use jail::{
    Controls, JailSpec, Program,
    cgroup::{self, Cgroup, Hierarchy},
};
use rustix::fs::{Mode, OFlags};
use vmm::{
    config::{BootSource, DeviceConfig, FIRST_DESCRIPTOR, MachineConfig, SeccompMode, VmSpec},
    rate_limiter::Limits,
};

use super::{MicrovmLimits, NoMicrovm, initramfs, open_kernel};
use crate::{
    Code, StartError,
    environment::Remains,
    guest::{self, GuestPrograms, JailProcess, sealed},
    uids::{UidLease, UidPool},
};

/// Memory of the monitor beside the guest's, MiB, and a part of the guest's for the page tables of its host: the kernel
/// charges them to the cgroup too.
pub(super) const MONITOR_MIB: u32 = 16;
const PAGE_TABLES: u64 = 256;

/// Threads of the jail and the monitor: one for each virtual CPU and device loop, and room.
const MAX_PIDS: u64 = 64;

const MIB: u64 = 1024 * 1024;

/// One VM, as its environment needs it.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) memory_mib: u32,
    pub(super) vcpus: u8,
    /// Weight against other environments when CPU is short.
    pub(super) cpu_shares: u64,
    pub(super) disks: Vec<File>,
    pub(super) command_line: String,
}

/// Everything that monitors share.
#[derive(Debug)]
pub(super) struct Monitors {
    hierarchy: Hierarchy,
    group: String,
    uids: Arc<UidPool>,
    programs: GuestPrograms,
    kernel: File,
    initramfs: OwnedFd,
    limits: MicrovmLimits,
}

impl Monitors {
    /// Removes what a killed run left in `group`.
    pub(super) fn open(
        kernel: &GuestKernel,
        group: &str,
        uid_base: u32,
        limits: MicrovmLimits,
    ) -> Result<Self, NoMicrovm> {
        // Named first: without it nothing else matters.
        open_kvm().map_err(NoMicrovm::NoKvm)?;
        let prepared = || {
            let hierarchy = Hierarchy::detect()?;
            hierarchy.sweep(group)?;
            Ok::<_, io::Error>(Self {
                hierarchy,
                group: group.to_owned(),
                uids: Arc::new(UidPool::new(uid_base)),
                programs: GuestPrograms::load()?,
                kernel: open_kernel(kernel)?,
                initramfs: initramfs::make(guest::AGENT)?,
                limits,
            })
        };
        prepared().map_err(NoMicrovm::Prepare)
    }

    /// Removes the group, with what is in it.
    pub(super) fn sweep(&self) -> io::Result<()> {
        self.hierarchy.sweep(&self.group).map(drop)
    }

    /// Starts a monitor; its VM boots when this returns. Blocks for as long as the kernel needs. `code` is held until the
    /// VM is gone.
    pub(super) fn start(
        &self,
        machine: Machine,
        code: Option<Arc<Code>>,
    ) -> Result<(UnixStream, Remains), StartError> {
        let uids = UidPool::lease(&self.uids);
        let name = format!("microvm-{}", uids.agent());
        let cgroup = Cgroup::create(&self.hierarchy, &self.group, &name, cgroup_limits(&machine))
            .map_err(StartError::Cgroup)?;
        self.spawn(machine, cgroup, uids, code).map_err(StartError::Spawn)
    }

    fn spawn(
        &self,
        machine: Machine,
        cgroup: Cgroup,
        uids: UidLease,
        code: Option<Arc<Code>>,
    ) -> io::Result<(UnixStream, Remains)> {
        let (stream, its_stream) = UnixStream::pair()?;
        stream.set_nonblocking(true)?;
        let mut handed = Handed(Vec::new());
        let kvm = handed.over(open_kvm()?);
        let kernel = handed.over(self.kernel.try_clone()?.into());
        let initramfs = handed.over(self.initramfs.try_clone()?);
        let disks = machine.disks.into_iter().map(|disk| handed.over(disk.into())).collect::<Vec<_>>();
        let devices = devices(&disks, self.limits);
        let spec = VmSpec {
            machine: MachineConfig { vcpus: machine.vcpus, memory_mib: machine.memory_mib, devices },
            boot: BootSource { kernel, initramfs: Some(initramfs), command_line: machine.command_line },
            kvm,
            debug_console: false,
            seccomp: SeccompMode::default(),
        };
        let spec = handed.over(sealed("vm-spec", &serde_json::to_vec(&spec)?)?);
        let jail = self.spawn_jail(&cgroup, uids.agent(), spec, its_stream, handed)?;
        Ok((stream, Remains { jail, cgroup, code, uids }))
    }

    fn spawn_jail(
        &self,
        cgroup: &Cgroup,
        uid: u32,
        spec: RawFd,
        stream: UnixStream,
        handed: Handed,
    ) -> io::Result<JailProcess> {
        let keep = handed.descriptors().filter(|descriptor| *descriptor != spec).collect();
        let jail_spec = JailSpec {
            files: None,
            hostname: "microvm".to_owned(),
            cgroups: cgroup.procs_dirs(),
            program: Program::Monitor { uid, spec, keep },
            controls: Controls::default(),
        };
        let jail_spec = sealed("jail-spec", &serde_json::to_vec(&jail_spec)?)?;
        guest::spawn_jail(&self.programs.jail, jail_spec, &self.programs.monitor, stream, handed.0)
    }
}

/// Descriptors for the monitor, in the order of their numbers there.
struct Handed(Vec<OwnedFd>);

impl Handed {
    /// Adds one and says what its number will be.
    fn over(&mut self, descriptor: OwnedFd) -> RawFd {
        self.0.push(descriptor);
        FIRST_DESCRIPTOR + RawFd::try_from(self.0.len() - 1).unwrap_or(RawFd::MAX)
    }

    fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        (FIRST_DESCRIPTOR..).take(self.0.len())
    }
}

/// What a VM's guest finds, in this order. Random numbers are not limited: only its kernel asks for them, and seldom, for it
/// makes its own from them; a function is not the user that could.
fn devices(disks: &[RawFd], limits: MicrovmLimits) -> Vec<DeviceConfig> {
    let disk = |image: &RawFd| DeviceConfig::Block { image: *image, limits: limits.disk };
    let others =
        [DeviceConfig::Vsock { limits: limits.stream }, DeviceConfig::Rng { limits: Limits::default() }];
    disks.iter().map(disk).chain(others).collect()
}

/// At first without a CPU limit, so that boot and init are not slowed down.
fn cgroup_limits(machine: &Machine) -> cgroup::Limits {
    let guest = u64::from(machine.memory_mib) * MIB;
    cgroup::Limits {
        memory_bytes: guest + guest / PAGE_TABLES + u64::from(MONITOR_MIB) * MIB,
        pids: MAX_PIDS,
        cpu_quota: None,
        cpu_shares: machine.cpu_shares,
    }
}

fn open_kvm() -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open("/dev/kvm", flags, Mode::empty())?)
}

pub(super) fn open_read_only(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use vmm::rate_limiter::Rate;

    use super::*;

    #[test]
    fn disks_and_stream_have_their_limits() {
        let limit = |number| {
            let rate = NonZeroU64::new(number).map(|number| Rate { per_second: number, burst: number });
            Limits { operations: rate, bytes: None }
        };
        let limits = MicrovmLimits { disk: limit(1), stream: limit(2) };
        let expected = [
            DeviceConfig::Block { image: 6, limits: limit(1) },
            DeviceConfig::Block { image: 7, limits: limit(1) },
            DeviceConfig::Vsock { limits: limit(2) },
            DeviceConfig::Rng { limits: Limits::default() },
        ];
        assert_eq!(devices(&[6, 7], limits), expected);
    }
}
