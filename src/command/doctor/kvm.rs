//! Hardware virtualisation, tried: the device's presence proves nothing.

use std::fs;

use kvm_ioctls::Kvm;

use super::Finding;

const TOPIC: &str = "kvm";
/// The only version there is (Linux, Documentation/virt/kvm/api.rst).
const API_VERSION: i32 = 12;

const NOT_BUILT: &str = "microVM isolation is not built into this version, so no kernel boot was tried";

pub(super) fn examine() -> Finding {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    judge(try_kvm(), has_virtualisation(&cpu))
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

fn judge(tried: Result<(), String>, hardware: bool) -> Finding {
    match (tried, hardware) {
        (Ok(()), true) => Finding::ok(
            TOPIC,
            "a VM with a virtual CPU can be made, in hardware",
            format!("good for microVMs later; {NOT_BUILT}"),
        ),
        (Ok(()), false) => Finding::warn(
            TOPIC,
            "a VM with a virtual CPU can be made, but the processor has neither vmx nor svm",
            format!("virtualisation in software (such as PVM) may not carry a whole kernel; {NOT_BUILT}"),
        ),
        (Err(reason), _) => Finding::warn(
            TOPIC,
            reason,
            "functions run in process isolation and share this machine's kernel; give the user /dev/kvm, or \
             switch nested virtualisation on, before microVMs are wanted",
        ),
    }
}

fn has_virtualisation(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter_map(|line| line.strip_prefix("flags")?.split_once(':'))
        .any(|(_, flags)| flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::doctor::Mark;

    #[test]
    fn only_whole_flags_count_as_hardware() {
        assert!(has_virtualisation("processor\t: 0\nflags\t\t: fpu svm sse\n"));
        assert!(has_virtualisation("flags : vmx"));
        assert!(!has_virtualisation("flags\t: svm_lock fpu\nvmx flags\t: vnmi vmx"));
        assert!(!has_virtualisation(""));
    }

    #[test]
    fn software_virtualisation_is_not_called_good() {
        assert_eq!(judge(Ok(()), true).mark, Mark::Ok);
        assert_eq!(judge(Ok(()), false).mark, Mark::Warn);
        let finding = judge(Err("/dev/kvm does not open: nope".into()), true);
        assert_eq!((finding.mark, finding.fact.as_str()), (Mark::Warn, "/dev/kvm does not open: nope"));
    }
}
