//! One virtual machine: memory, interrupt controllers, devices, virtual CPUs.
//!
//! ```text
//!  create ──► new ──── load / write memory ────► start ──► running ⇄ paused ── save ──► MicrovmState
//!                                                             │                            │
//!                                                             ▼                            ▼
//!                                                          Ending                  restore: a new one, paused
//! ```
//!
//! **Order of creation.** VM, memory, interrupt controllers, virtual CPUs: KVM takes several milliseconds longer when memory
//! comes after the controllers, because each new slot then waits for all readers of the old ones. There is no PIC and no PIT.
//!
//! **Doorbells** stay in the kernel: a write to a queue's doorbell register signals an eventfd that the device thread waits for.
//! An **interrupt** is an eventfd that a device writes to, and the device thread takes it on ([`interrupts`]). A virtual CPU comes
//! to user space for a device's other registers and the I/O APIC's only.
//!
//! **The end.** Closing a virtual machine takes the kernel 15 to 25 ms; a thread of its own does it when a [`Machine`] is
//! dropped, after the virtual CPUs have stopped.

mod hardware;
mod interrupts;

use std::{
    io,
    sync::{Arc, Mutex},
};

use kvm_ioctls::{Cap, Kvm, VmFd};

use self::{
    hardware::{Hardware, event},
    interrupts::Interrupts,
};
use crate::{
    arch::current::{
        boot::{self, BootError, Linux},
        msr::MsrError,
        registers::EntryPoint,
        state::{PlatformState, StateError, VcpuState},
    },
    bus::Bus,
    console::{Console, ConsoleState, DebugLog},
    exit::{Ending, Exit},
    lock,
    memory::{Memory, MemoryError},
    seccomp::{Filters, ThreadKind},
    state::{MicrovmState, STATE_VERSION},
    vcpu::{self, Control, Vcpu},
    virtio::{Device, EventLoop, RestoreError},
};

#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    #[error("kvm has no {0:?}: the host's kernel is too old")]
    Capability(Cap),
    #[error("{0} vCPUs are not possible")]
    Vcpus(u8),
    #[error("{0} devices are too many")]
    Devices(usize),
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error(transparent)]
    Boot(#[from] BootError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Msr(#[from] MsrError),
    #[error("cannot {step}: {source}")]
    Host { step: &'static str, source: io::Error },
    #[error("a machine is saved while it is paused")]
    Running,
    #[error("a saved machine of version {0}, but this monitor writes {STATE_VERSION}")]
    Version(u32),
    #[error("a saved machine with {saved} {what}, but this one has {here}")]
    Shape { what: &'static str, saved: usize, here: usize },
    #[error("cannot restore the console: there is no such serial port")]
    Console,
    #[error("cannot restore device {number}: {error}")]
    Device { number: usize, error: RestoreError },
}

/// What the parts of a machine are made of.
#[derive(Debug)]
pub struct Parts {
    pub vcpus: u8,
    pub memory: Memory,
    /// In the order in which the guest finds them.
    pub devices: Vec<Box<dyn Device>>,
    /// The console's lines go to stderr.
    pub debug_console: bool,
    /// Each thread puts its own on first of all.
    pub filters: Filters,
}

/// A virtual machine. Dropping it ends it.
#[derive(Debug)]
pub struct Machine {
    control: Arc<Control>,
    bus: Arc<Bus>,
    vcpus: Vec<Vcpu>,
    devices: Option<EventLoop>,
    kvm: Kvm,
    vm: Option<Arc<VmFd>>,
    memory: Memory,
}

impl Machine {
    /// A machine that boots `linux`. It does not run yet.
    pub fn with_linux(kvm: Kvm, parts: Parts, linux: &mut Linux) -> Result<Self, MachineError> {
        let entry = boot::load(&parts.memory, linux, parts.vcpus, parts.devices.len())?;
        Self::with_entry(kvm, parts, entry)
    }

    /// A machine whose memory is loaded: its first virtual CPU begins at `entry` in long mode. It does not run yet.
    pub fn with_entry(kvm: Kvm, mut parts: Parts, entry: EntryPoint) -> Result<Self, MachineError> {
        let cpuid = hardware::cpuid(&kvm, parts.vcpus)?;
        let mut hardware = Hardware::new(&kvm, &parts)?;
        hardware.plug(&parts.memory, std::mem::take(&mut parts.devices))?;
        hardware.prepare_vcpus(&cpuid, entry)?;
        Self::assemble(kvm, hardware, parts, None)
    }

    /// A machine that goes on where `saved` was. `parts.memory` holds what the guest's memory held then. It does not run yet.
    pub fn restore(kvm: Kvm, mut parts: Parts, saved: &MicrovmState) -> Result<Self, MachineError> {
        if saved.version != STATE_VERSION {
            return Err(MachineError::Version(saved.version));
        }
        same("vCPUs", saved.vcpus.len(), parts.vcpus.into())?;
        same("devices", saved.devices.len(), parts.devices.len())?;
        let mut hardware = Hardware::new(&kvm, &parts)?;
        hardware.plug(&parts.memory, std::mem::take(&mut parts.devices))?;
        for (number, (vcpu, state)) in hardware.vcpus.iter().zip(&saved.vcpus).enumerate() {
            state.restore(&hardware.vm, vcpu, number == 0)?;
        }
        saved.platform.restore(&hardware.vm, &hardware.io_apic)?;
        for (number, (device, state)) in hardware.devices.iter().zip(&saved.devices).enumerate() {
            lock(device).restore(state).map_err(|error| MachineError::Device { number, error })?;
        }
        let machine = Self::assemble(kvm, hardware, parts, Some(&saved.console))?;
        machine.repeat_signals()?;
        Ok(machine)
    }

    fn assemble(
        kvm: Kvm,
        hardware: Hardware,
        parts: Parts,
        console: Option<&ConsoleState>,
    ) -> Result<Self, MachineError> {
        vcpu::prepare_process().map_err(host("install the signal handler"))?;
        let control = Arc::new(Control::new().map_err(host("make an event"))?);
        let serial_interrupt = event()?;
        let log = parts.debug_console.then(|| {
            let filters = parts.filters.clone();
            DebugLog::start(io::stderr(), move || filters.apply(ThreadKind::Console))
        });
        let log = log.transpose().map_err(host("start the console's thread"))?;
        let console = match console {
            None => Console::new(serial_interrupt, log),
            Some(state) => Console::restore(state, serial_interrupt, log).ok_or(MachineError::Console)?,
        };
        let (devices, io_apic) = (hardware.devices, hardware.io_apic);
        let bus = Arc::new(Bus { console: Mutex::new(console), devices, io_apic });
        let interrupts = Interrupts::new(Arc::clone(&hardware.vm), Arc::clone(&bus), parts.memory.clone());
        let devices = start_devices(&bus, interrupts, &control, parts.filters.clone())?;
        let mut machine = Self {
            control,
            bus,
            vcpus: Vec::new(),
            devices: Some(devices),
            kvm,
            vm: Some(hardware.vm),
            memory: parts.memory,
        };
        for (number, fd) in (0..).zip(hardware.vcpus) {
            let (bus, control) = (Arc::clone(&machine.bus), Arc::clone(&machine.control));
            let filters = parts.filters.clone();
            let vcpu = Vcpu::spawn(number, fd, bus, control, move || filters.apply(ThreadKind::Vcpu));
            machine.vcpus.push(vcpu.map_err(host("start a vCPU's thread"))?);
        }
        Ok(machine)
    }

    /// Lets it run: for the first time, or on after a pause.
    pub fn resume(&self) {
        if let Some(devices) = &self.devices {
            devices.resume();
        }
        vcpu::resume(&self.control);
    }

    /// Stops virtual CPUs and then devices. Returns when nothing of the guest changes any more.
    pub fn pause(&self) {
        vcpu::pause(&self.vcpus, &self.control);
        for vcpu in &self.vcpus {
            // Tells the guest's watchdog that it was stopped; refused by a guest without the clock that says so.
            let _ = vcpu.fd().kvmclock_ctrl();
        }
        if let Some(devices) = &self.devices {
            devices.pause();
        }
    }

    /// Everything but memory. The machine is paused, or has ended.
    pub fn save(&self) -> Result<MicrovmState, MachineError> {
        let vm = self.vm.as_ref().filter(|_| !self.control.runs()).ok_or(MachineError::Running)?;
        let vcpus = self.vcpus.iter().map(|vcpu| VcpuState::save(&self.kvm, vm, &vcpu.fd()));
        Ok(MicrovmState {
            version: STATE_VERSION,
            vcpus: vcpus.collect::<Result<_, _>>()?,
            platform: PlatformState::save(vm, &self.bus.io_apic)?,
            console: lock(&self.bus.console).save(),
            devices: self.bus.devices.iter().map(|device| lock(device).save()).collect(),
        })
    }

    /// Rings and interrupts that were under way when the machine was saved are not in its state. One too many does no harm:
    /// drivers and devices look at their queues.
    fn repeat_signals(&self) -> Result<(), MachineError> {
        for device in &self.bus.devices {
            let device = lock(device);
            for event in device.doorbells().iter().chain([device.interrupt()]) {
                event.write(1).map_err(host("ring a doorbell"))?;
            }
        }
        Ok(())
    }

    /// The guest's memory, for a payload before the machine runs, or for a snapshot while it is paused.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    #[must_use]
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// The last lines on the guest's console.
    #[must_use]
    pub fn last_lines(&self) -> Vec<String> {
        lock(&self.bus.console).last_lines()
    }

    /// Waits for the end.
    #[must_use]
    pub fn wait(&self) -> Ending {
        self.ending(self.control.wait())
    }

    /// Ends it, if it has not ended.
    pub fn stop(&mut self) -> Ending {
        vcpu::stop(&mut self.vcpus, &self.control);
        if let Some(devices) = self.devices.take() {
            devices.stop();
        }
        lock(&self.bus.console).finish();
        self.ending(self.control.wait())
    }

    fn ending(&self, exit: Exit) -> Ending {
        let failures = self.bus.devices.iter().enumerate().filter_map(|(number, device)| {
            lock(device).failure().map(|failure| format!("device {number}: {failure}"))
        });
        Ending { exit, failures: failures.collect(), console: self.last_lines() }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
        // The virtual CPUs' descriptors keep the VM alive, and the VM must not outlive its memory.
        let rest = (std::mem::take(&mut self.vcpus), self.vm.take(), self.memory.clone());
        // Without a thread the closure, and with it everything, is dropped here: slower, but as well.
        let _ = std::thread::Builder::new().name("reaper".to_owned()).spawn(move || drop(rest));
    }
}

fn start_devices(
    bus: &Bus,
    interrupts: Interrupts,
    control: &Arc<Control>,
    filters: Filters,
) -> Result<EventLoop, MachineError> {
    let (on_failure, on_panic) = (Arc::clone(control), Arc::clone(control));
    let restrict = move || {
        let restricted = filters.apply(ThreadKind::Devices);
        restricted.map_err(|detail| on_failure.end(Exit::DeviceError { detail })).is_ok()
    };
    let panicked = move |detail| on_panic.end(Exit::MonitorPanic { detail });
    EventLoop::start(bus.devices.clone(), Box::new(interrupts), restrict, panicked)
        .map_err(host("start the device thread"))
}

fn host(step: &'static str) -> impl Fn(io::Error) -> MachineError {
    move |source| MachineError::Host { step, source }
}

fn same(what: &'static str, saved: usize, here: usize) -> Result<(), MachineError> {
    if saved == here { Ok(()) } else { Err(MachineError::Shape { what, saved, here }) }
}
