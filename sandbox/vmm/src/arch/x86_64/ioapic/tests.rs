use super::*;

fn set(io_apic: &IoApic, register: u8, value: u32) {
    io_apic.write(IOREGSEL, &u32::from(register).to_le_bytes());
    io_apic.write(IOWIN, &value.to_le_bytes());
}

fn get(io_apic: &IoApic, register: u8) -> u32 {
    let mut word = [0; 4];
    io_apic.write(IOREGSEL, &u32::from(register).to_le_bytes());
    io_apic.read(IOWIN, &mut word);
    u32::from_le_bytes(word)
}

#[test]
fn registers_keep_what_is_writable() {
    let io_apic = IoApic::new(5).unwrap();
    assert_eq!(get(&io_apic, VERSION), 0x0005_0011);
    assert_eq!((get(&io_apic, 0x10), get(&io_apic, 0x1B)), (0x1_0000, 0));
    for register in 0..=u8::MAX {
        set(&io_apic, register, u32::MAX);
    }
    assert_eq!((get(&io_apic, ID), get(&io_apic, ARBITRATION)), (ID_BITS, ID_BITS));
    assert_eq!(get(&io_apic, VERSION), 0x0005_0011);
    assert_eq!((get(&io_apic, 0x1A), get(&io_apic, 0x1B)), (WRITABLE_LOW, WRITABLE_HIGH));
    assert_eq!((get(&io_apic, 0x1C), get(&io_apic, 0xFF)), (0, 0), "there is no such pin");
}

#[test]
fn every_offset_and_width_is_answered() {
    let io_apic = IoApic::new(5).unwrap();
    for offset in [0, 1, 4, 0x10, 0x14, 0x40, u64::MAX] {
        for width in 0..=8 {
            let mut data = [0xFF; 8];
            io_apic.write(offset, &data[..width]);
            io_apic.read(offset, &mut data[..width]);
        }
    }
}

#[test]
fn an_edge_becomes_the_message_of_its_entry() {
    let io_apic = IoApic::new(5).unwrap();
    set(&io_apic, 0x1B, 0x0300_0000);
    set(&io_apic, 0x1A, 0x0931);
    let message = io_apic.raise(5).unwrap();
    assert_eq!((message.address_lo, message.address_hi, message.data), (0xFEE0_3004, 0, 0x131));
    assert!(io_apic.raise(6).is_none() && io_apic.raise(MOST_PINS).is_none());
    io_apic.attention().read().expect_err("nothing was pending");
    for mode in 2..8 {
        set(&io_apic, 0x1A, 0x31 | mode << 8);
        assert!(io_apic.raise(5).is_none(), "mode {mode}");
    }
}

#[test]
fn a_masked_pin_remembers_one_edge_over_saving_too() {
    let io_apic = IoApic::new(5).unwrap();
    assert!(io_apic.raise(5).is_none() && io_apic.raise(5).is_none());
    set(&io_apic, 0x1A, 0x1_0031);
    assert!(io_apic.take_pending().is_empty());
    io_apic.attention().read().expect_err("it is masked");
    let saved = serde_json::to_vec(&io_apic.save()).unwrap();
    let restored = IoApic::new(5).unwrap();
    restored.restore(&serde_json::from_slice(&saved).unwrap());
    assert_eq!(restored.save(), io_apic.save());
    set(&io_apic, 0x1A, 0x31);
    io_apic.attention().read().expect("it was unmasked");
    assert_eq!(io_apic.take_pending().iter().map(|message| message.data).collect::<Vec<_>>(), [0x31]);
    assert!(io_apic.take_pending().is_empty());
}

#[test]
fn the_largest_machine_has_a_pin_for_each_interrupt_and_a_larger_one_is_refused() {
    use crate::arch::x86_64::{DEVICE_INTERRUPTS, interrupts};
    let highest = interrupts(DEVICE_INTERRUPTS.len()).max().unwrap();
    assert_eq!(highest as usize + 1, MOST_PINS);
    assert_eq!(get(&IoApic::new(highest).unwrap(), VERSION), 0x0009_0011);
    assert!(IoApic::new(highest + 1).is_err() && IoApic::new(u32::MAX - 1).is_err());
}
