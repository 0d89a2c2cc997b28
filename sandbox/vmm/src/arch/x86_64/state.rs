//! The state of virtual CPUs, interrupt controllers and clock, as plain data.
//!
//! The order matters, because KVM changes one part when another is read or written:
//!
//! | saving | because |
//! |---|---|
//! | `mp_state` first | reading it delivers pending INIT and SIPI, which changes registers and local APIC |
//! | MSRs after the local APIC | the TSC deadline is cleared when its interrupt is delivered |
//!
//! | restoring | because |
//! |---|---|
//! | CPUID first | it decides which registers and MSRs exist |
//! | `sregs` before the local APIC | they hold its base address and mode |
//! | XCR0 before the XSAVE area | it decides what the area may hold |
//! | MSRs after the local APIC | a TSC deadline is only taken by an APIC in that mode |
//! | events last | they refer to the rest |
//!
//! Structures of KVM's are stored as the bytes that the kernel defines; their layout is ABI and grows only at its end.

use kvm_bindings::{
    CpuId, KVM_CLOCK_TSC_STABLE, kvm_clock_data, kvm_cpuid_entry2, kvm_debugregs, kvm_lapic_state,
    kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use serde::{Deserialize, Serialize};
use vmm_sys_util::errno;

use crate::arch::x86_64::{
    ioapic::{IoApic, IoApicState},
    msr::{self, MsrError},
};

/// Of `kvm_xsave` without the flexible part behind it. The CPUID template shows nothing that needs more.
const XSAVE_BYTES: i32 = 4096;

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("cannot {step}: {errno}")]
    Step { step: &'static str, errno: errno::Error },
    #[error(transparent)]
    Msr(#[from] MsrError),
    #[error("the machine keeps {0} bytes of extended state, more than a saved one has room for")]
    XsaveTooLarge(i32),
    #[error("{0} CPUID entries, more than KVM takes")]
    CpuidTooLong(usize),
}

/// Names the step that failed.
pub(crate) trait Step<T> {
    fn step(self, step: &'static str) -> Result<T, StateError>;
}

impl<T> Step<T> for Result<T, errno::Error> {
    fn step(self, step: &'static str) -> Result<T, StateError> {
        self.map_err(|errno| StateError::Step { step, errno })
    }
}

/// One virtual CPU.
#[derive(Serialize, Deserialize)]
pub struct VcpuState {
    cpuid: Vec<kvm_cpuid_entry2>,
    tsc_khz: u32,
    mp_state: kvm_mp_state,
    regs: kvm_regs,
    sregs: kvm_sregs,
    xcrs: kvm_xcrs,
    xsave: kvm_xsave,
    debug_regs: kvm_debugregs,
    lapic: kvm_lapic_state,
    msrs: Vec<kvm_msr_entry>,
    events: kvm_vcpu_events,
}

impl std::fmt::Debug for VcpuState {
    /// Registers may hold a customer's data: only where it stands.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("VcpuState").field("rip", &self.regs.rip).finish_non_exhaustive()
    }
}

fn check_xsave(vm: &VmFd) -> Result<(), StateError> {
    match vm.check_extension_int(Cap::Xsave2) {
        bytes if bytes > XSAVE_BYTES => Err(StateError::XsaveTooLarge(bytes)),
        _ => Ok(()),
    }
}

/// Gives the virtual CPU its features.
pub fn set_cpuid(vcpu: &VcpuFd, entries: &[kvm_cpuid_entry2]) -> Result<(), StateError> {
    let cpuid = CpuId::from_entries(entries).map_err(|_| StateError::CpuidTooLong(entries.len()))?;
    vcpu.set_cpuid2(&cpuid).step("set CPUID")
}

impl VcpuState {
    /// Of a virtual CPU that does not run.
    pub fn save(kvm: &Kvm, vm: &VmFd, vcpu: &VcpuFd) -> Result<Self, StateError> {
        check_xsave(vm)?;
        let mp_state = vcpu.get_mp_state().step("read mp_state")?;
        let regs = vcpu.get_regs().step("read registers")?;
        let sregs = vcpu.get_sregs().step("read special registers")?;
        let xsave = vcpu.get_xsave().step("read the XSAVE area")?;
        let xcrs = vcpu.get_xcrs().step("read extended control registers")?;
        let debug_regs = vcpu.get_debug_regs().step("read debug registers")?;
        let lapic = vcpu.get_lapic().step("read the local APIC")?;
        let msrs = msr::save(kvm, vcpu)?;
        let events = vcpu.get_vcpu_events().step("read pending events")?;
        let cpuid = vcpu.get_cpuid2(kvm_bindings::KVM_MAX_CPUID_ENTRIES).step("read CPUID")?;
        let tsc_khz = vcpu.get_tsc_khz().step("read the TSC's frequency")?;
        Ok(Self {
            cpuid: cpuid.as_slice().to_vec(),
            tsc_khz,
            mp_state,
            regs,
            sregs,
            xcrs,
            xsave,
            debug_regs,
            lapic,
            msrs,
            events,
        })
    }

    /// To a virtual CPU that has not run. `is_first`: no other of the machine was restored before.
    pub fn restore(&self, vm: &VmFd, vcpu: &VcpuFd, is_first: bool) -> Result<(), StateError> {
        check_xsave(vm)?;
        set_cpuid(vcpu, &self.cpuid)?;
        // Another frequency needs a machine that can scale it; the same one needs nothing.
        if vcpu.get_tsc_khz().step("read the TSC's frequency")? != self.tsc_khz {
            vcpu.set_tsc_khz(self.tsc_khz).step("set the TSC's frequency")?;
        }
        vcpu.set_mp_state(self.mp_state).step("write mp_state")?;
        vcpu.set_regs(&self.regs).step("write registers")?;
        vcpu.set_sregs(&self.sregs).step("write special registers")?;
        vcpu.set_xcrs(&self.xcrs).step("write extended control registers")?;
        // SAFETY: KVM reads no more than the 4,096 bytes there are: `check_xsave` has asked it.
        unsafe { vcpu.set_xsave(&self.xsave) }.step("write the XSAVE area")?;
        vcpu.set_debug_regs(&self.debug_regs).step("write debug registers")?;
        vcpu.set_lapic(&self.lapic).step("write the local APIC")?;
        if is_first {
            msr::forget_tsc(vcpu, &self.msrs, self.tsc_khz)?;
        }
        msr::write(vcpu, &self.msrs)?;
        vcpu.set_vcpu_events(&self.events).step("write pending events")
    }
}

/// I/O APIC and clock. There is no PIC and no PIT; local APICs are their processors'.
#[derive(Serialize, Deserialize)]
pub struct PlatformState {
    io_apic: IoApicState,
    clock: kvm_clock_data,
}

impl std::fmt::Debug for PlatformState {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("PlatformState").field("clock", &self.clock.clock).finish_non_exhaustive()
    }
}

impl PlatformState {
    /// Of a machine whose virtual CPUs do not run.
    pub fn save(vm: &VmFd, io_apic: &IoApic) -> Result<Self, StateError> {
        Ok(Self { io_apic: io_apic.save(), clock: vm.get_clock().step("read the clock")? })
    }

    /// To a machine that has not run. The guest's clock goes on from where it was.
    pub fn restore(&self, vm: &VmFd, io_apic: &IoApic) -> Result<(), StateError> {
        io_apic.restore(&self.io_apic);
        // Of the flags, KVM takes only one that would add the time since.
        let clock = kvm_clock_data { flags: 0, ..self.clock };
        debug_assert_eq!(clock.flags & KVM_CLOCK_TSC_STABLE, 0);
        vm.set_clock(&clock).step("set the clock")
    }
}
