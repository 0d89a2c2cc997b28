//! What KVM and the devices make up, before threads run it.

use std::sync::{Arc, Mutex};

use kvm_bindings::{KVM_CAP_SPLIT_IRQCHIP, kvm_cpuid_entry2, kvm_enable_cap};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, VcpuFd, VmFd};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::{MachineError, host};
use crate::{
    arch::current::{
        DEVICE_BYTES, DEVICE_INTERRUPTS, DEVICES_START, MAX_VCPUS, TSS_ADDRESS, apic,
        cpuid::{self, Capabilities},
        interrupts,
        ioapic::IoApic,
        msr,
        registers::{self, EntryPoint},
        state::{self, Step},
    },
    memory::{self, Memory},
    virtio::{Device, Transport, registers::QUEUE_NOTIFY},
};

/// Of the machine's life, these go to [`super::Machine`].
pub(super) struct Hardware {
    pub(super) devices: Vec<Arc<Mutex<Transport>>>,
    pub(super) vcpus: Vec<VcpuFd>,
    pub(super) vm: Arc<VmFd>,
    pub(super) io_apic: Arc<IoApic>,
}

impl Hardware {
    /// In the order that is cheap; see [`super`].
    pub(super) fn new(kvm: &Kvm, parts: &super::Parts) -> Result<Self, MachineError> {
        let needed = [
            Cap::SplitIrqchip,
            Cap::SignalMsi,
            Cap::TscDeadlineTimer,
            Cap::Ioeventfd,
            Cap::UserMemory,
            Cap::ImmediateExit,
        ];
        if let Some(missing) = needed.into_iter().find(|capability| !kvm.check_extension(*capability)) {
            return Err(MachineError::Capability(missing));
        }
        if !(1..=MAX_VCPUS).contains(&parts.vcpus) {
            return Err(MachineError::Vcpus(parts.vcpus));
        }
        let vm = kvm.create_vm().step("create a VM")?;
        vm.set_tss_address(TSS_ADDRESS).step("set the TSS's address")?;
        // SAFETY: whoever holds the VM holds the memory too: `Machine`, and the thread that its end is left to.
        unsafe { memory::register(&vm, &parts.memory) }?;
        // Local APICs in the kernel, the I/O APIC here, and none of its pins is reserved for a routing table: KVM then tells of no
        // end of interrupt.
        let split = kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, ..kvm_enable_cap::default() };
        vm.enable_cap(&split).step("create local interrupt controllers")?;
        let vcpus = (0..parts.vcpus).map(|number| vm.create_vcpu(number.into()).step("create a vCPU"));
        let vcpus = vcpus.collect::<Result<_, _>>()?;
        let highest = interrupts(parts.devices.len()).max().unwrap_or_default();
        let io_apic = Arc::new(IoApic::new(highest).map_err(host("make an I/O APIC"))?);
        Ok(Self { devices: Vec::new(), vcpus, vm: Arc::new(vm), io_apic })
    }

    /// Gives each device its registers and doorbells.
    pub(super) fn plug(
        &mut self,
        memory: &Memory,
        devices: Vec<Box<dyn Device>>,
    ) -> Result<(), MachineError> {
        if devices.len() > DEVICE_INTERRUPTS.len() {
            return Err(MachineError::Devices(devices.len()));
        }
        let addresses = (DEVICES_START..).step_by(DEVICE_BYTES as usize);
        for (device, start) in devices.into_iter().zip(addresses) {
            let transport = Transport::new(memory.clone(), device).map_err(host("make a device's events"))?;
            let doorbell = IoEventAddress::Mmio(start + QUEUE_NOTIFY);
            for (queue, event) in (0u32..).zip(transport.doorbells()) {
                self.vm.register_ioevent(event, &doorbell, queue).step("register a doorbell")?;
            }
            self.devices.push(Arc::new(Mutex::new(transport)));
        }
        Ok(())
    }

    /// The first begins at `entry`; the others wait until it wakes them.
    pub(super) fn prepare_vcpus(
        &self,
        cpuid: &[kvm_cpuid_entry2],
        entry: EntryPoint,
    ) -> Result<(), MachineError> {
        for (number, vcpu) in (0..).zip(&self.vcpus) {
            state::set_cpuid(vcpu, &cpuid::for_vcpu(cpuid, number))?;
            if cpuid::has_avx(cpuid) {
                vcpu.set_xcrs(&registers::extended_control()).step("write extended control registers")?;
            }
            msr::write(vcpu, &msr::at_boot())?;
            let mut lapic = vcpu.get_lapic().step("read the local APIC")?;
            apic::connect_local_interrupts(&mut lapic);
            vcpu.set_lapic(&lapic).step("write the local APIC")?;
            if number == 0 {
                let mut sregs = vcpu.get_sregs().step("read special registers")?;
                registers::enter_long_mode(&mut sregs);
                vcpu.set_sregs(&sregs).step("write special registers")?;
                vcpu.set_regs(&registers::general(entry)).step("write registers")?;
            }
        }
        Ok(())
    }
}

/// What a guest may see of this host's processor.
pub(super) fn cpuid(kvm: &Kvm, vcpus: u8) -> Result<Vec<kvm_cpuid_entry2>, MachineError> {
    let supported =
        kvm.get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES).step("read what CPUID may say")?;
    let capabilities = Capabilities { tsc_deadline: kvm.check_extension(Cap::TscDeadlineTimer) };
    Ok(cpuid::normalise(supported.as_slice(), capabilities, vcpus))
}

pub(super) fn event() -> Result<EventFd, MachineError> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(host("make an event"))
}
