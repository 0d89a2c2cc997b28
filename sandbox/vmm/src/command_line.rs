//! The kernel's command line: what the monitor knows, then what the server wants.
//!
//! - A panic restarts at once, through the keyboard controller: that ends the machine, with the panic's text on the console.
//! - Without a debugging console no serial driver looks for ports, which would cost a hundred exits. The kernel's early console
//!   stays for the machine's life instead, with the log level so low that only a panic speaks.
//! - Each virtio device is named with the place of its registers and its interrupt: there is nothing to look them up in.

use std::fmt::Write;

use crate::arch::current::{DEVICE_BYTES, DEVICE_INTERRUPTS, DEVICES_START};

const ENDS: &str = "panic=-1 reboot=k";
const DEBUG_CONSOLE: &str = "console=ttyS0,115200 8250.nr_uarts=1 loglevel=8";
/// `loglevel` first: the early console prints what is in the log already when it begins.
const PANIC_CONSOLE: &str = "8250.nr_uarts=0 loglevel=1 earlyprintk=serial,0x3f8,115200,keep";

/// For a machine with `devices` virtio devices.
#[must_use]
pub fn complete(server: &str, devices: usize, debug_console: bool) -> String {
    let mut line = format!("{ENDS} {}", if debug_console { DEBUG_CONSOLE } else { PANIC_CONSOLE });
    let addresses = (DEVICES_START..).step_by(DEVICE_BYTES as usize);
    for (address, interrupt) in addresses.zip(DEVICE_INTERRUPTS).take(devices) {
        // Writing to a String does not fail.
        let _ = write!(line, " virtio_mmio.device={}K@{address:#x}:{interrupt}", DEVICE_BYTES >> 10);
    }
    if !server.is_empty() {
        line.push(' ');
        line.push_str(server);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_announced_in_their_order() {
        let line = complete("waterwheel.guest=1", 3, false);
        let devices = "virtio_mmio.device=4K@0xd0000000:1 virtio_mmio.device=4K@0xd0001000:2 \
                       virtio_mmio.device=4K@0xd0002000:3";
        assert_eq!(line, format!("{ENDS} {PANIC_CONSOLE} {devices} waterwheel.guest=1"));
    }

    #[test]
    fn a_debugging_console_is_a_real_one() {
        assert_eq!(complete("", 0, true), format!("{ENDS} {DEBUG_CONSOLE}"));
    }
}
