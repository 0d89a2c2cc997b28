//! The local APIC's two wires, as the MP table promises them: external interrupts on LINT0, NMI on LINT1. There is no PIC,
//! so that nothing ever comes on the first; a kernel expects it to be there.

use kvm_bindings::kvm_lapic_state;

// Intel SDM volume 3, table 11-1 "Local APIC register address map" and 11.5.1 "Local vector table". The delivery mode is in
// bits 8 to 10 and so in the second byte of a register.
const LINT0: usize = 0x350;
const LINT1: usize = 0x360;
const MODE_MASK: u8 = 0b111;
const MODE_EXTERNAL: u8 = 0b111;
const MODE_NMI: u8 = 0b100;

/// Sets how LINT0 and LINT1 deliver; all else stays.
pub fn connect_local_interrupts(lapic: &mut kvm_lapic_state) {
    for (register, mode) in [(LINT0, MODE_EXTERNAL), (LINT1, MODE_NMI)] {
        if let Some(byte) = lapic.regs.get_mut(register + 1) {
            *byte = (byte.cast_unsigned() & !MODE_MASK | mode).cast_signed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_delivery_modes_change() {
        let mut lapic = kvm_lapic_state { regs: [-1; 1024] };
        connect_local_interrupts(&mut lapic);
        let changed: Vec<_> = lapic.regs.iter().enumerate().filter(|(_, byte)| **byte != -1).collect();
        assert_eq!(changed, [(0x361, &(0b1111_1100u8.cast_signed()))]);
        let mut lapic = kvm_lapic_state { regs: [0; 1024] };
        connect_local_interrupts(&mut lapic);
        assert_eq!((lapic.regs[0x351], lapic.regs[0x361]), (7, 4));
    }
}
