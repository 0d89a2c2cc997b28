//! The template against a machine that has everything.

use super::*;

const PROBED: &[u32] = &[
    0x0,
    0x1,
    0x2,
    0x4,
    0x5,
    0x6,
    0x7,
    0x9,
    0xA,
    0xB,
    0xD,
    0xF,
    0x10,
    0x12,
    0x14,
    0x15,
    0x16,
    0x19,
    0x1A,
    0x1D,
    0x1E,
    0x1F,
    0x4000_0000,
    0x4000_0001,
    0x4000_0010,
    0x8000_0000,
    0x8000_0001,
    0x8000_0005,
    0x8000_0007,
    0x8000_0008,
    0x8000_000A,
    0x8000_001B,
    0x8000_001C,
    0x8000_001D,
    0x8000_001E,
    0x8000_001F,
    0x8000_0021,
    0x8000_0022,
    0xC000_0000,
];

/// All bits of all leaves.
fn everything() -> Vec<kvm_cpuid_entry2> {
    let entry = |function, index| kvm_cpuid_entry2 {
        function,
        index,
        eax: ALL,
        ebx: ALL,
        ecx: ALL,
        edx: ALL,
        ..kvm_cpuid_entry2::default()
    };
    let indexed = |function| match function {
        0x4 | 0x7 | 0xB | 0xD => 0..20,
        _ => 0..1,
    };
    PROBED.iter().flat_map(|function| indexed(*function).map(move |index| entry(*function, index))).collect()
}

fn guest(vcpus: u8) -> Vec<kvm_cpuid_entry2> {
    normalise(&everything(), Capabilities { tsc_deadline: true }, vcpus)
}

fn find(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
    let mut found = entries.iter().filter(|entry| (entry.function, entry.index) == (function, index));
    let entry = *found.next().unwrap_or_else(|| panic!("leaf {function:#x}.{index}"));
    assert!(found.next().is_none(), "leaf {function:#x}.{index} twice");
    entry
}

#[test]
fn dangerous_features_are_hidden_from_a_guest_on_a_machine_that_has_everything() {
    let guest = guest(2);
    let one = find(&guest, 1, 0);
    for (name, register, bit) in [
        ("DTES64", one.ecx, 2),
        ("MONITOR", one.ecx, 3),
        ("VMX", one.ecx, 5),
        ("SMX", one.ecx, 6),
        ("PDCM", one.ecx, 15),
        ("debug store", one.edx, 21),
        ("HLE", find(&guest, 7, 0).ebx, 4),
        ("RTM", find(&guest, 7, 0).ebx, 11),
        ("RDT monitoring", find(&guest, 7, 0).ebx, 12),
        ("MPX", find(&guest, 7, 0).ebx, 14),
        ("processor trace", find(&guest, 7, 0).ebx, 25),
        ("SGX", find(&guest, 7, 0).ebx, 2),
        ("WAITPKG", find(&guest, 7, 0).ecx, 5),
        ("shadow stacks", find(&guest, 7, 0).ecx, 7),
        ("57-bit addresses", find(&guest, 7, 0).ecx, 16),
        ("AMX", find(&guest, 7, 0).edx, 24),
        ("SVM", find(&guest, 0x8000_0001, 0).ecx, 2),
        ("IBS", find(&guest, 0x8000_0001, 0).ecx, 10),
        ("topology extensions", find(&guest, 0x8000_0001, 0).ecx, 22),
        ("core counters", find(&guest, 0x8000_0001, 0).ecx, 23),
        ("MWAITX", find(&guest, 0x8000_0001, 0).ecx, 29),
        ("asynchronous page faults", find(&guest, 0x4000_0001, 0).eax, 4),
    ] {
        assert_eq!(register >> bit & 1, 0, "{name}");
    }
}

#[test]
fn leaves_that_the_template_does_not_name_are_absent() {
    let guest = guest(2);
    let hidden = [0x5, 0x9, 0xA, 0xF, 0x10, 0x12, 0x14, 0x15, 0x16, 0x19, 0x1A, 0x1D, 0x1E, 0x1F];
    let extended =
        [0x4000_0010, 0x8000_000A, 0x8000_001B, 0x8000_001D, 0x8000_001E, 0x8000_001F, 0x8000_0022];
    for function in hidden.into_iter().chain(extended).chain([0xC000_0000]) {
        assert!(guest.iter().all(|entry| entry.function != function), "{function:#x}");
    }
    assert_eq!(find(&guest, 0, 0).eax, HIGHEST_BASIC);
    assert_eq!(find(&guest, 0x8000_0000, 0).eax, HIGHEST_EXTENDED);
    assert_eq!(find(&guest, 0x4000_0000, 0).eax, HIGHEST_KVM);
}

#[test]
fn timers_and_the_hypervisor_are_shown() {
    let one = find(&guest(1), 1, 0);
    assert_eq!(one.ecx & (HYPERVISOR | X2APIC | TSC_DEADLINE), HYPERVISOR | X2APIC | TSC_DEADLINE);
    assert_eq!(find(&guest(1), 0x8000_0007, 0).edx, INVARIANT_TSC);
    let mut old = everything();
    for entry in &mut old {
        entry.ecx &= !TSC_DEADLINE;
    }
    let without = normalise(&old, Capabilities { tsc_deadline: false }, 1);
    assert_eq!(find(&without, 1, 0).ecx & TSC_DEADLINE, 0);
    for entry in old.iter_mut().filter(|entry| entry.function == 6) {
        entry.eax = 0;
    }
    let stops = normalise(&old, Capabilities { tsc_deadline: true }, 1);
    assert_eq!(find(&stops, 6, 0).eax, ARAT, "KVM's local timer never stops");
}

#[test]
fn an_invariant_tsc_is_not_invented() {
    let bare: Vec<_> = everything().into_iter().map(|entry| kvm_cpuid_entry2 { edx: 0, ..entry }).collect();
    assert_eq!(find(&normalise(&bare, Capabilities { tsc_deadline: true }, 1), 0x8000_0007, 0).edx, 0);
}

#[test]
fn every_processor_is_a_core_of_one_package() {
    for (vcpus, bits) in [(1u8, 0), (2, 1), (3, 2), (4, 2), (32, 5)] {
        let guest = for_vcpu(&guest(vcpus), vcpus - 1);
        assert_eq!(find(&guest, 1, 0).ebx >> 16, u32::from(vcpus) | u32::from(vcpus - 1) << 8);
        assert_eq!(find(&guest, 1, 0).edx & MULTITHREADING != 0, vcpus > 1);
        let (threads, cores, end) = (find(&guest, 0xB, 0), find(&guest, 0xB, 1), find(&guest, 0xB, 2));
        assert_eq!((threads.eax, threads.ebx, threads.ecx), (0, 1, 0x100));
        assert_eq!((cores.eax, cores.ebx, cores.ecx), (bits, vcpus.into(), 0x201));
        assert_eq!((end.ebx, end.ecx), (0, 2));
        assert!([threads, cores, end].iter().all(|level| level.edx == u32::from(vcpus - 1)));
        assert_eq!(find(&guest, 0x8000_0008, 0).ecx, u32::from(vcpus - 1));
    }
}

#[test]
fn caches_of_level_3_are_shared_and_others_are_not() {
    let cache = |level: u32| kvm_cpuid_entry2 {
        function: 4,
        eax: 0xFFFF_C000 | level << 5 | 1,
        ..kvm_cpuid_entry2::default()
    };
    for (level, sharing) in [(1, 0), (2, 0), (3, 3)] {
        let entry = find(&normalise(&[cache(level)], Capabilities { tsc_deadline: true }, 4), 4, 0);
        assert_eq!((entry.eax >> 14 & 0xFFF, entry.eax >> 26), (sharing, 3), "level {level}");
    }
}

#[test]
fn the_saved_state_of_the_components_left_fits_in_one_page() {
    // Offsets and sizes of real processors (Intel SDM volume 1, 13.5).
    let component = |index, size, offset| kvm_cpuid_entry2 {
        function: 0xD,
        index,
        eax: size,
        ebx: offset,
        ..kvm_cpuid_entry2::default()
    };
    let machine = [
        component(0, 0x602E7, 10_752),
        component(2, 256, 576),
        component(5, 64, 1088),
        component(6, 512, 1152),
        component(7, 1024, 1664),
        component(9, 8, 2688),
        component(17, 64, 2752),
        component(18, 8192, 2816),
    ];
    let machine = machine.map(|entry| kvm_cpuid_entry2 { ecx: 10_752, ..entry });
    let guest = normalise(&machine, Capabilities { tsc_deadline: true }, 1);
    let area = find(&guest, 0xD, 0);
    assert_eq!((area.eax, area.ebx, area.ecx), (0x2E7, 2696, 2696));
    assert!(guest.iter().all(|entry| entry.function != 0xD || entry.index < 17));
}
