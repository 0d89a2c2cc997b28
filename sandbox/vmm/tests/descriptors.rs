//! The monitor's process without one of the descriptors that it should have been given. It comes to no KVM.

mod common;

use std::{
    io::Read,
    num::NonZeroU64,
    os::{
        fd::{OwnedFd, RawFd},
        unix::net::UnixStream,
    },
};

use common::{file, spawn};
use vmm::{
    config::{BootSource, DeviceConfig, MachineConfig, STREAM_DESCRIPTOR, SeccompMode, VmSpec},
    rate_limiter::{Limits, Rate},
};

const FILES: [RawFd; 4] = [6, 7, 8, 9];

/// Devices that make descriptors of their own, before and behind the one with the stream.
fn spec() -> VmSpec {
    let one = NonZeroU64::MIN;
    let limits = Limits { operations: Some(Rate { per_second: one, burst: one }), bytes: None };
    let [kvm, kernel, initramfs, image] = FILES;
    let devices = vec![
        DeviceConfig::Rng { limits },
        DeviceConfig::Block { image, limits },
        DeviceConfig::Vsock { limits },
        DeviceConfig::Rng { limits },
    ];
    VmSpec {
        machine: MachineConfig { vcpus: 1, memory_mib: 64, devices },
        boot: BootSource { kernel, initramfs: Some(initramfs), command_line: String::new() },
        kvm,
        debug_console: false,
        seccomp: SeccompMode::Kill,
    }
}

#[test]
fn a_missing_descriptor_is_named_and_never_taken_for_another() {
    for missing in [STREAM_DESCRIPTOR].into_iter().chain(FILES) {
        let (_ours, theirs) = UnixStream::pair().expect("a socket pair");
        let mut given: Vec<(OwnedFd, RawFd)> = vec![
            (file(&serde_json::to_vec(&spec()).expect("JSON")).into(), 3),
            (theirs.into(), STREAM_DESCRIPTOR),
        ];
        given.extend(FILES.map(|number| (file(b"").into(), number)));
        given.retain(|(_, number)| *number != missing);
        let mut monitor = spawn(given);
        let mut said = String::new();
        monitor.stderr.take().expect("a pipe").read_to_string(&mut said).expect("stderr");
        assert_eq!(monitor.wait().expect("an end").code(), Some(64), "{said}");
        assert!(said.starts_with(&format!("vmm: descriptor {missing} is not open: ")), "{said}");
    }
}
