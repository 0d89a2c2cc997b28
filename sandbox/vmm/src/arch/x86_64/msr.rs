//! Model-specific registers: what they hold at the kernel's entry, and how they are saved and restored.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::{Kvm, VcpuFd};
use vmm_sys_util::errno;

const TSC: u32 = 0x10;
const SYSENTER: std::ops::RangeInclusive<u32> = 0x174..=0x176;
const MISC_ENABLE: u32 = 0x1A0;
/// Base and mask of the variable ranges: KVM has eight.
const MTRR_VARIABLE: std::ops::RangeInclusive<u32> = 0x200..=0x20F;
/// Of 64 KiB, 16 KiB and 4 KiB.
const MTRR_FIXED: [u32; 11] = [0x250, 0x258, 0x259, 0x268, 0x269, 0x26A, 0x26B, 0x26C, 0x26D, 0x26E, 0x26F];
const MTRR_DEFAULT_TYPE: u32 = 0x2FF;
const TSC_DEADLINE: u32 = 0x6E0;
/// STAR, LSTAR, CSTAR, SYSCALL_MASK.
const SYSCALL: std::ops::RangeInclusive<u32> = 0xC000_0081..=0xC000_0084;
const KERNEL_GS_BASE: u32 = 0xC000_0102;

const FAST_STRINGS: u64 = 1;
/// MTRRs on, and memory that none covers (all of it) write-back: Intel SDM volume 3, 12.11.2.1.
const MTRR_WRITE_BACK: u64 = 1 << 11 | 6;

#[derive(Debug, thiserror::Error)]
pub enum MsrError {
    #[error("cannot list the machine's MSRs: {0}")]
    List(errno::Error),
    #[error("cannot read MSRs: {0}")]
    Read(errno::Error),
    #[error("cannot write MSR {index:#x} = {value:#x}")]
    Refused { index: u32, value: u64 },
    #[error("cannot write MSRs: {0}")]
    Write(errno::Error),
    #[error("more MSRs than KVM takes: {0}")]
    TooMany(usize),
}

/// Values at the entry.
#[must_use]
pub fn at_boot() -> Vec<kvm_msr_entry> {
    let zeros = SYSENTER.chain(SYSCALL).chain([KERNEL_GS_BASE, TSC]).map(|index| (index, 0));
    let others = [(MISC_ENABLE, FAST_STRINGS), (MTRR_DEFAULT_TYPE, MTRR_WRITE_BACK)];
    zeros.chain(others).map(|(index, data)| kvm_msr_entry { index, reserved: 0, data }).collect()
}

/// Writes all of `values`. One that the virtual CPU refuses is no error if it holds that value anyway.
pub fn write(vcpu: &VcpuFd, values: &[kvm_msr_entry]) -> Result<(), MsrError> {
    let mut rest = values;
    while !rest.is_empty() {
        let written = vcpu.set_msrs(&wrap(rest)?).map_err(MsrError::Write)?;
        rest = rest.get(written..).unwrap_or_default();
        // KVM stops at the first that it refuses.
        if let [refused, others @ ..] = rest {
            let (index, value) = (refused.index, refused.data);
            if read(vcpu, &[index])?.first().is_none_or(|held| held.data != value) {
                return Err(MsrError::Refused { index, value });
            }
            rest = others;
        }
    }
    Ok(())
}

/// All that this kind of machine can save, of the virtual CPU at hand: what KVM lists, and the MTRRs, which it keeps but does not list.
pub fn save(kvm: &Kvm, vcpu: &VcpuFd) -> Result<Vec<kvm_msr_entry>, MsrError> {
    let list = kvm.get_msr_index_list().map_err(MsrError::List)?;
    let mut indices = list.as_slice().to_vec();
    let mtrrs = MTRR_VARIABLE.chain(MTRR_FIXED).chain([MTRR_DEFAULT_TYPE]);
    indices.extend(mtrrs.filter(|index| !list.as_slice().contains(index)));
    let mut values = read(vcpu, &indices)?;
    revive_deadline(&mut values);
    Ok(values)
}

/// Has the virtual CPU's next TSC be taken as it is, whatever it was before.
///
/// KVM takes a TSC within a second of what it expects for an attempt to make virtual CPUs agree, and keeps what it has. The
/// first one of a machine that was saved young would so go back in time. A value far from all others takes the expectation
/// away. The other virtual CPUs of the machine do without, so that they do agree with the first.
pub fn forget_tsc(vcpu: &VcpuFd, values: &[kvm_msr_entry], tsc_khz: u32) -> Result<(), MsrError> {
    const FAR_SECONDS: u64 = 3600;
    let far = u64::from(tsc_khz) * 1000 * FAR_SECONDS;
    let Some(tsc) = values.iter().find(|msr| msr.index == TSC) else { return Ok(()) };
    write(vcpu, &[kvm_msr_entry { data: tsc.data.wrapping_add(far), ..*tsc }])
}

/// A deadline that has just passed reads as 0, "no deadline", while its interrupt may not be delivered yet and would be lost.
/// A deadline of now brings it back; a guest without a deadline gets one timer interrupt too many, which it expects anyway.
fn revive_deadline(values: &mut [kvm_msr_entry]) {
    let now = values.iter().find(|msr| msr.index == TSC).map_or(0, |tsc| tsc.data);
    for deadline in values.iter_mut().filter(|msr| msr.index == TSC_DEADLINE && msr.data == 0) {
        deadline.data = now;
    }
}

/// Those of `indices` that can be read.
fn read(vcpu: &VcpuFd, indices: &[u32]) -> Result<Vec<kvm_msr_entry>, MsrError> {
    let mut values = Vec::with_capacity(indices.len());
    let mut rest: Vec<_> =
        indices.iter().map(|index| kvm_msr_entry { index: *index, ..kvm_msr_entry::default() }).collect();
    while !rest.is_empty() {
        let mut msrs = wrap(&rest)?;
        let count = vcpu.get_msrs(&mut msrs).map_err(MsrError::Read)?;
        values.extend_from_slice(msrs.as_slice().get(..count).unwrap_or_default());
        // KVM stops at the first that the virtual CPU does not have.
        rest.drain(..rest.len().min(count + 1));
    }
    Ok(values)
}

fn wrap(values: &[kvm_msr_entry]) -> Result<Msrs, MsrError> {
    Msrs::from_entries(values).map_err(|_| MsrError::TooMany(values.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_has_its_golden_values() {
        let values: Vec<_> = at_boot().iter().map(|msr| (msr.index, msr.data)).collect();
        let golden = [
            (0x174, 0),
            (0x175, 0),
            (0x176, 0),
            (0xC000_0081, 0),
            (0xC000_0082, 0),
            (0xC000_0083, 0),
            (0xC000_0084, 0),
            (0xC000_0102, 0),
            (0x10, 0),
            (0x1A0, 1),
            (0x2FF, 0x806),
        ];
        assert_eq!(values, golden);
    }

    #[test]
    fn a_deadline_that_has_passed_comes_back() {
        let msr = |index, data| kvm_msr_entry { index, reserved: 0, data };
        let mut values = [msr(TSC, 500), msr(TSC_DEADLINE, 0)];
        revive_deadline(&mut values);
        assert_eq!(values[1].data, 500);
        let mut values = [msr(TSC, 500), msr(TSC_DEADLINE, 900)];
        revive_deadline(&mut values);
        assert_eq!(values[1].data, 900);
    }
}
