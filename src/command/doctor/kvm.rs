//! Hardware virtualisation and microVMs, tried: the device's presence proves nothing.

use std::{env, path::Path, time::Duration};

use kvm_ioctls::Kvm;
use sandbox::{NoMicrovm, has_hardware_virtualisation, test_boot};

use super::{Finding, place};

/// The only version there is (Linux, Documentation/virt/kvm/api.rst).
const API_VERSION: i32 = 12;

/// What emulates a machine with hardware virtualisation where there is none.
const EMULATOR: &str = "qemu-system-x86_64";

/// `runtimes`: where guest kernels are.
pub(super) fn examine(runtimes: &Path) -> [Finding; 3] {
    let hardware = has_hardware_virtualisation();
    let tried = try_kvm();
    let tests = judge_tests(tried.is_ok(), hardware, is_installed(EMULATOR));
    [judge_kvm(tried, hardware), judge_boot(try_boot(runtimes)), tests]
}

/// Opens the device, asks its version, makes a VM and a virtual CPU in it.
fn try_kvm() -> Result<(), String> {
    let kvm = Kvm::new().map_err(|error| format!("/dev/kvm does not open: {error}"))?;
    let version = kvm.get_api_version();
    if version != API_VERSION {
        return Err(format!("/dev/kvm speaks API version {version}, not {API_VERSION}"));
    }
    let vm = kvm.create_vm().map_err(|error| format!("/dev/kvm makes no VM: {error}"))?;
    vm.create_vcpu(0).map_err(|error| format!("a VM is made, but no virtual CPU: {error}"))?;
    Ok(())
}

fn judge_kvm(tried: Result<(), String>, hardware: bool) -> Finding {
    const TOPIC: &str = "kvm";
    match (tried, hardware) {
        (Ok(()), true) => Finding::ok(
            TOPIC,
            "a VM with a virtual CPU can be made, in hardware",
            "good for microVMs; the next line says whether one boots",
        ),
        (Ok(()), false) => Finding::warn(
            TOPIC,
            "a VM with a virtual CPU can be made, but the processor has neither vmx nor svm",
            "virtualisation in software (such as PVM) may not carry a whole kernel; the next line says",
        ),
        (Err(reason), _) => Finding::warn(
            TOPIC,
            reason,
            "microVMs cannot run; give the user /dev/kvm, or switch nested virtualisation on",
        ),
    }
}

/// Boots a guest kernel to its init, in a jail, as the server does before it offers microVMs.
fn try_boot(runtimes: &Path) -> Result<Duration, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("no thread for the test boot: {error}"))?;
    let booted = runtime.block_on(test_boot(runtimes, place::GROUP, place::UID_BASE));
    booted.map_err(|error: NoMicrovm| error.to_string())
}

fn judge_boot(booted: Result<Duration, String>) -> Finding {
    const TOPIC: &str = "microvm";
    match booted {
        Ok(took) => Finding::ok(
            TOPIC,
            format!("a guest kernel reached its init and said hello in {took:.1?}"),
            "functions run in microVMs, with a kernel of their own, unless environments.isolation = \"process\"",
        ),
        Err(reason) => Finding::warn(
            TOPIC,
            reason,
            "functions run in process isolation and share this machine's kernel; a server with \
             environments.isolation = \"microvm\" refuses to start",
        ),
    }
}

/// Which way `make test-microvm` goes: as tests/nested/harness/choice.py chooses.
fn judge_tests(kvm: bool, hardware: bool, emulator: bool) -> Finding {
    const TOPIC: &str = "test-microvm";
    let why = match (hardware, kvm) {
        (true, true) => {
            return Finding::ok(
                TOPIC,
                "make test-microvm runs directly on /dev/kvm: the processor virtualises in hardware",
                "times measured there are real",
            );
        }
        (true, false) => "/dev/kvm cannot be used",
        (false, _) => "the processor shows neither vmx nor svm",
    };
    let fact = format!("make test-microvm runs nested, in an emulated machine with AMD-V: {why}");
    if emulator {
        Finding::ok(TOPIC, fact, "microVMs are tested on real KVM semantics; times are good as ratios only")
    } else {
        Finding::warn(TOPIC, fact, format!("{EMULATOR} is not installed; make test-microvm installs it"))
    }
}

fn is_installed(program: &str) -> bool {
    env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::doctor::Mark;

    #[test]
    fn software_virtualisation_is_not_called_good() {
        assert_eq!(judge_kvm(Ok(()), true).mark, Mark::Ok);
        assert_eq!(judge_kvm(Ok(()), false).mark, Mark::Warn);
        let finding = judge_kvm(Err("/dev/kvm does not open: nope".into()), true);
        assert_eq!((finding.mark, finding.fact.as_str()), (Mark::Warn, "/dev/kvm does not open: nope"));
    }

    #[test]
    fn microvms_are_promised_only_after_one_has_booted() {
        let finding = judge_boot(Ok(Duration::from_millis(812)));
        assert_eq!(finding.mark, Mark::Ok);
        assert!(finding.fact.ends_with("in 812.0ms"), "{finding:?}");
        let finding = judge_boot(Err("no".into()));
        assert_eq!((finding.mark, finding.fact.as_str()), (Mark::Warn, "no"));
        assert!(finding.meaning.contains("share this machine's kernel"), "{finding:?}");
    }

    #[test]
    fn without_a_kernel_to_boot_the_test_boot_says_how_to_get_one() {
        let dir = tempfile::tempdir().unwrap();
        let reason = try_boot(dir.path()).unwrap_err();
        let expected =
            format!("no guest kernel is installed in {}: run waterwheel kernel build", dir.path().display());
        assert_eq!(reason, expected);
    }

    #[test]
    fn the_tests_go_direct_only_with_hardware_and_its_device() {
        let fact = |kvm, hardware| judge_tests(kvm, hardware, true).fact;
        assert!(fact(true, true).contains("directly"));
        assert!(fact(false, true).ends_with("/dev/kvm cannot be used"));
        assert!(fact(true, false).ends_with("neither vmx nor svm"));
        assert_eq!(judge_tests(true, false, false).mark, Mark::Warn);
    }
}
