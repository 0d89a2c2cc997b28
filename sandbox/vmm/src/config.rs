//! What the server tells the monitor process: one JSON document, [`VmSpec`], on descriptor 3.
//!
//! The monitor opens nothing by a path. Everything it may touch comes as an inherited descriptor, which the document names by
//! number: `/dev/kvm`, the kernel, the initramfs and the images of the disks. Descriptor 5 is the stream to the server.
//!
//! ```text
//!  fd 0–2  standard streams; the last line on stderr says how the machine ended
//!  fd 3    VmSpec                     fd 6…  /dev/kvm, kernel, initramfs, disk images: as VmSpec numbers them
//!  fd 5    stream socket to the server
//! ```

use std::os::fd::RawFd;

use serde::{Deserialize, Serialize};

use crate::{
    arch::current::{DEVICE_INTERRUPTS, MAX_VCPUS},
    rate_limiter::Limits,
};

/// Descriptor of the document itself.
pub const SPEC_DESCRIPTOR: RawFd = 3;
/// Descriptor of the stream to the server; vsock carries it to the guest.
pub const STREAM_DESCRIPTOR: RawFd = 5;
/// The first that [`VmSpec`] may name.
pub const FIRST_DESCRIPTOR: RawFd = 6;

/// The least memory a Linux guest boots in, MiB, and the most that a document may ask for.
pub const MEMORY_MIB: std::ops::RangeInclusive<u32> = 32..=65_536;

/// A virtual machine, as the server wants it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmSpec {
    pub machine: MachineConfig,
    pub boot: BootSource,
    /// Descriptor of `/dev/kvm`.
    pub kvm: RawFd,
    /// Everything the kernel says goes to the monitor's stderr. Each character is an exit.
    #[serde(default)]
    pub debug_console: bool,
    #[serde(default)]
    pub seccomp: SeccompMode,
}

/// The hardware.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineConfig {
    /// 1 to [`MAX_VCPUS`].
    pub vcpus: u8,
    pub memory_mib: u32,
    /// In the order in which the guest finds them: the first disk is `/dev/vda`.
    pub devices: Vec<DeviceConfig>,
}

/// A virtio device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum DeviceConfig {
    /// A read-only disk.
    Block {
        /// Descriptor of its image.
        image: RawFd,
        #[serde(default)]
        limits: Limits,
    },
    /// The guest's connection to (2, [`VSOCK_PORT`]) is the stream on descriptor 5.
    Vsock {
        #[serde(default)]
        limits: Limits,
    },
    /// A source of random numbers.
    Rng {
        #[serde(default)]
        limits: Limits,
    },
}

/// Port of the host (CID 2) that the guest's agent connects to.
pub const VSOCK_PORT: u32 = 1024;
/// Context identifier of every guest: it is alone in its monitor.
pub const GUEST_CID: u64 = 3;

/// What the machine boots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootSource {
    /// Descriptor of an uncompressed ELF kernel.
    pub kernel: RawFd,
    /// Descriptor of an uncompressed cpio archive.
    pub initramfs: Option<RawFd>,
    /// For the kernel and its init; the monitor puts what it knows itself in front: devices, console, what a panic does.
    pub command_line: String,
}

/// What happens to a thread that makes a system call it has no business making.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeccompMode {
    /// The process is killed.
    #[default]
    Kill,
    /// The kernel logs it and lets it through: to find out what a new kernel or library needs.
    Log,
    /// No filters. Only tests do that, to show what the filters are good for.
    Off,
}

/// Why a document is no machine.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("not a VmSpec: {0}")]
    Json(String),
    #[error("{0} vCPUs, but 1 to {MAX_VCPUS} are possible")]
    Vcpus(u8),
    #[error("{0} MiB of memory, but {least} to {most} are possible", least = MEMORY_MIB.start(), most = MEMORY_MIB.end())]
    Memory(u32),
    #[error("{0} devices, but there are interrupts for {most}", most = DEVICE_INTERRUPTS.len())]
    Devices(usize),
    #[error("more than one vsock device: there is one stream")]
    Vsocks,
    #[error("descriptor {0} is not at least {FIRST_DESCRIPTOR}, or is named twice")]
    Descriptor(RawFd),
}

impl VmSpec {
    /// Reads and checks a document.
    pub fn parse(json: &[u8]) -> Result<Self, ConfigError> {
        let spec: Self =
            serde_json::from_slice(json).map_err(|error| ConfigError::Json(error.to_string()))?;
        spec.check()?;
        Ok(spec)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let MachineConfig { vcpus, memory_mib, devices } = &self.machine;
        if !(1..=MAX_VCPUS).contains(vcpus) {
            return Err(ConfigError::Vcpus(*vcpus));
        }
        if !MEMORY_MIB.contains(memory_mib) {
            return Err(ConfigError::Memory(*memory_mib));
        }
        if devices.len() > DEVICE_INTERRUPTS.len() {
            return Err(ConfigError::Devices(devices.len()));
        }
        if devices.iter().filter(|device| matches!(device, DeviceConfig::Vsock { .. })).count() > 1 {
            return Err(ConfigError::Vsocks);
        }
        let mut seen = Vec::new();
        for descriptor in self.descriptors() {
            if descriptor < FIRST_DESCRIPTOR || seen.contains(&descriptor) {
                return Err(ConfigError::Descriptor(descriptor));
            }
            seen.push(descriptor);
        }
        Ok(())
    }

    /// All descriptors that the document names.
    pub fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        let images = self.machine.devices.iter().filter_map(|device| match device {
            DeviceConfig::Block { image, .. } => Some(*image),
            DeviceConfig::Vsock { .. } | DeviceConfig::Rng { .. } => None,
        });
        [self.kvm, self.boot.kernel].into_iter().chain(self.boot.initramfs).chain(images)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> VmSpec {
        let block = |image| DeviceConfig::Block { image, limits: Limits::default() };
        let devices = vec![block(9), block(10), DeviceConfig::Vsock { limits: Limits::default() }];
        VmSpec {
            machine: MachineConfig { vcpus: 1, memory_mib: 128, devices },
            boot: BootSource { kernel: 7, initramfs: Some(8), command_line: "quiet".to_owned() },
            kvm: 6,
            debug_console: false,
            seccomp: SeccompMode::Kill,
        }
    }

    fn checked(change: impl FnOnce(&mut VmSpec)) -> Result<VmSpec, ConfigError> {
        let mut spec = spec();
        change(&mut spec);
        VmSpec::parse(&serde_json::to_vec(&spec).unwrap())
    }

    #[test]
    fn a_document_survives_the_way() {
        assert_eq!(checked(|_| {}), Ok(spec()));
    }

    #[test]
    fn what_is_not_said_is_the_safe_choice() {
        let json = r#"{"machine": {"vcpus": 1, "memory_mib": 64, "devices": [{"kind": "rng"}]},
            "boot": {"kernel": 7, "initramfs": null, "command_line": ""}, "kvm": 6}"#;
        let spec = VmSpec::parse(json.as_bytes()).unwrap();
        assert_eq!((spec.seccomp, spec.debug_console), (SeccompMode::Kill, false));
    }

    #[test]
    fn a_misspelt_key_is_refused() {
        for json in [
            r#"{"machine": {"vcpus": 1, "memory_mib": 64, "devices": []},
                "boot": {"kernel": 7, "initramfs": null, "command_line": ""}, "kvm": 6, "secomp": "off"}"#,
            r#"{"machine": {"vcpus": 1, "memory_mib": 64, "devices": [{"kind": "rng", "limit": {}}]},
                "boot": {"kernel": 7, "initramfs": null, "command_line": ""}, "kvm": 6}"#,
        ] {
            assert!(matches!(VmSpec::parse(json.as_bytes()), Err(ConfigError::Json(_))));
        }
    }

    #[test]
    fn impossible_machines_are_refused() {
        assert_eq!(checked(|spec| spec.machine.vcpus = 0), Err(ConfigError::Vcpus(0)));
        assert_eq!(checked(|spec| spec.machine.vcpus = 33), Err(ConfigError::Vcpus(33)));
        assert_eq!(checked(|spec| spec.machine.memory_mib = 31), Err(ConfigError::Memory(31)));
        assert_eq!(checked(|spec| spec.machine.memory_mib = u32::MAX), Err(ConfigError::Memory(u32::MAX)));
        let rng = DeviceConfig::Rng { limits: Limits::default() };
        assert_eq!(checked(|spec| spec.machine.devices = vec![rng; 8]), Err(ConfigError::Devices(8)));
        let vsock = DeviceConfig::Vsock { limits: Limits::default() };
        assert_eq!(checked(|spec| spec.machine.devices.push(vsock)), Err(ConfigError::Vsocks));
    }

    #[test]
    fn descriptors_are_named_once_and_are_not_the_process_own() {
        assert_eq!(checked(|spec| spec.kvm = 3), Err(ConfigError::Descriptor(3)));
        assert_eq!(checked(|spec| spec.kvm = -1), Err(ConfigError::Descriptor(-1)));
        assert_eq!(checked(|spec| spec.kvm = 10), Err(ConfigError::Descriptor(10)));
        assert_eq!(checked(|spec| spec.boot.initramfs = Some(5)), Err(ConfigError::Descriptor(5)));
    }
}
