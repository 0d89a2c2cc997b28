//! The way of an interrupt: the event that a device writes to is a pin of the I/O APIC, whose message KVM delivers.
//!
//! ```text
//!  device, serial port ── event ──► device thread ──► I/O APIC: the pin's entry ──► KVM_SIGNAL_MSI
//!                                        ▲                  │
//!                                        └──── attention ◄──┘ unmasked by a vCPU
//! ```

use std::{
    os::fd::{AsRawFd, RawFd},
    sync::Arc,
};

use kvm_ioctls::VmFd;

use crate::{
    arch::current::{interrupts, ioapic::IoApic},
    bus::Bus,
    lock,
    memory::Memory,
    virtio,
};

/// The device thread's. Events and pins are in the same order; the last event is the I/O APIC's own.
pub(super) struct Interrupts {
    /// They belong to the bus's devices.
    events: Vec<RawFd>,
    pins: Vec<usize>,
    io_apic: Arc<IoApic>,
    vm: Arc<VmFd>,
    /// Held for the events.
    _bus: Arc<Bus>,
    /// Held for the VM, and after it.
    _memory: Memory,
}

impl Interrupts {
    pub(super) fn new(vm: Arc<VmFd>, bus: Arc<Bus>, memory: Memory) -> Self {
        let mut events = vec![lock(&bus.console).interrupt().as_raw_fd()];
        events.extend(bus.devices.iter().map(|device| lock(device).interrupt().as_raw_fd()));
        events.push(bus.io_apic.attention().as_raw_fd());
        let pins = interrupts(bus.devices.len()).map(|number| number as usize).collect();
        Self { events, pins, io_apic: Arc::clone(&bus.io_apic), vm, _bus: bus, _memory: memory }
    }
}

impl virtio::Interrupts for Interrupts {
    fn events(&self) -> Vec<RawFd> {
        self.events.clone()
    }

    fn signalled(&mut self, event: usize) {
        let messages = match self.pins.get(event) {
            Some(pin) => self.io_apic.raise(*pin).into_iter().collect(),
            None => self.io_apic.take_pending(),
        };
        for message in messages {
            // It fails for a destination that is not there: the guest's own doing.
            let _ = self.vm.signal_msi(message);
        }
    }
}
