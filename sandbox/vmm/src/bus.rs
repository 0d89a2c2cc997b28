//! What a guest reaches through ports and device memory: it answers every access, whatever its address and width.
//!
//! ```text
//!  port 0x3F8–0x3FF   serial port
//!  port 0x64          keyboard controller: reads 0 (nothing to fetch, ready to be written); 0xFE written is a restart
//!  port 0x80          where firmware shows its progress: ignored
//!  0xD000_0000 + n×4K registers of virtio device n
//!  0xFEC0_0000        I/O APIC
//!  anything else      reads as all ones, as on a bus that nothing answers on; writes go nowhere
//! ```

use std::sync::{Arc, Mutex};

use crate::{
    arch::current::{
        DEVICE_BYTES, DEVICES_START,
        ioapic::{self, IoApic},
    },
    console::{self, Console},
    lock,
    virtio::Transport,
};

const KEYBOARD_CONTROLLER: u16 = 0x64;
/// The command that pulses the processor's reset line.
const PULSE_RESET: u8 = 0xFE;

/// Everything that answers.
#[derive(Debug)]
pub struct Bus {
    pub console: Mutex<Console>,
    pub devices: Vec<Arc<Mutex<Transport>>>,
    pub io_apic: Arc<IoApic>,
}

/// What a write to a port means for the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    Nothing,
    Reset,
}

impl Bus {
    /// `data` is one write, or several to the same port one after the other.
    pub fn port_out(&self, port: u16, data: &[u8]) -> Meaning {
        if let Some(register) = serial_register(port) {
            let mut console = lock(&self.console);
            data.iter().for_each(|byte| console.write(register, *byte));
        } else if port == KEYBOARD_CONTROLLER && data.contains(&PULSE_RESET) {
            return Meaning::Reset;
        }
        Meaning::Nothing
    }

    pub fn port_in(&self, port: u16, data: &mut [u8]) {
        if let Some(register) = serial_register(port) {
            let mut console = lock(&self.console);
            data.iter_mut().for_each(|byte| *byte = console.read(register));
        } else {
            data.fill(if port == KEYBOARD_CONTROLLER { 0 } else { u8::MAX });
        }
    }

    pub fn mmio_read(&self, address: u64, data: &mut [u8]) {
        if let Some((device, offset)) = self.device(address) {
            lock(device).read(offset, data);
        } else if let Some(offset) = io_apic_offset(address) {
            self.io_apic.read(offset, data);
        } else {
            data.fill(u8::MAX);
        }
    }

    pub fn mmio_write(&self, address: u64, data: &[u8]) {
        if let Some((device, offset)) = self.device(address) {
            lock(device).write(offset, data);
        } else if let Some(offset) = io_apic_offset(address) {
            self.io_apic.write(offset, data);
        }
    }

    fn device(&self, address: u64) -> Option<(&Mutex<Transport>, u64)> {
        let offset = address.checked_sub(DEVICES_START)?;
        let number = usize::try_from(offset / DEVICE_BYTES).ok()?;
        Some((self.devices.get(number)?, offset % DEVICE_BYTES))
    }
}

fn io_apic_offset(address: u64) -> Option<u64> {
    address.checked_sub(ioapic::ADDRESS).filter(|offset| *offset < ioapic::BYTES)
}

fn serial_register(port: u16) -> Option<u8> {
    let register = port.checked_sub(console::PORT).filter(|register| *register < console::PORTS)?;
    u8::try_from(register).ok()
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::eventfd::EventFd;

    use super::*;

    fn bus() -> Bus {
        let interrupt = EventFd::new(vmm_sys_util::eventfd::EFD_NONBLOCK).unwrap();
        let console = Mutex::new(Console::new(interrupt, None));
        Bus { console, devices: Vec::new(), io_apic: Arc::new(IoApic::new(5).unwrap()) }
    }

    #[test]
    fn a_reset_is_recognised_among_several_writes() {
        assert_eq!(bus().port_out(0x64, &[0xFE]), Meaning::Reset);
        assert_eq!(bus().port_out(0x64, &[0xD1, 0xFE]), Meaning::Reset);
        assert_eq!(bus().port_out(0x64, &[0xFF]), Meaning::Nothing);
        assert_eq!(bus().port_out(0x80, &[0xFE]), Meaning::Nothing);
    }

    #[test]
    fn nothing_answers_with_all_ones() {
        let bus = bus();
        for port in (0..=u16::MAX).filter(|port| serial_register(*port).is_none() && *port != 0x64) {
            let mut data = [0; 4];
            bus.port_in(port, &mut data);
            assert_eq!(data, [0xFF; 4], "{port:#x}");
        }
        for address in [0, DEVICES_START - 1, DEVICES_START, u64::MAX] {
            let mut data = [0; 8];
            bus.mmio_read(address, &mut data);
            assert_eq!(data, [0xFF; 8], "{address:#x}");
            bus.mmio_write(address, &data);
        }
    }

    #[test]
    fn the_keyboard_controller_is_always_ready() {
        let mut data = [0xAA];
        bus().port_in(0x64, &mut data);
        assert_eq!(data, [0]);
    }
}
