//! What a guest sees of the processor.
//!
//! The template is an allow-list: of what KVM supports on this machine, a bit or a leaf that is not named in [`TEMPLATE`] is
//! hidden. So a new processor or a new kernel shows a guest nothing that nobody has thought about, and guests on machines of
//! one kind see the same. Hidden, and why:
//!
//! | feature | why |
//! |---|---|
//! | performance counters, Intel PT, debug store, last-branch records | side channels; state that a snapshot would have to carry |
//! | VMX, SVM, SMX, SGX, SEV | a function needs no virtual machines of its own; the most complex part of KVM |
//! | TSX (HLE, RTM) | side channels, switched off in most processors |
//! | MONITOR/MWAIT, WAITPKG, C-states, frequencies, thermal sensors | power is the host's; a guest must not hold a CPU idle |
//! | cache allocation and monitoring (RDT) | the host's |
//! | MPX, AMX, shadow stacks | state beyond the 4 KiB that `KVM_GET_XSAVE` carries, or dropped by Linux |
//! | 57-bit addresses | deeper page tables for memory nobody has |
//! | asynchronous page faults (KVM) | the guest's memory is not swapped |
//! | AMD's extended topology | one description of the topology (leaf 0xB) is enough |
//!
//! Set, whatever the machine says: the topology (one thread per core, one package), the hypervisor bit, x2APIC and the
//! TSC-deadline timer where KVM emulates them (KVM reports those as capabilities, not here).

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

/// What of one leaf may be seen: a mask for each register.
#[derive(Debug, Clone, Copy)]
struct Leaf {
    function: u32,
    /// `None`: every subleaf.
    index: Option<u32>,
    eax: u32,
    ebx: u32,
    ecx: u32,
    edx: u32,
}

const ALL: u32 = u32::MAX;

const fn leaf(function: u32, index: Option<u32>, masks: [u32; 4]) -> Leaf {
    let [eax, ebx, ecx, edx] = masks;
    Leaf { function, index, eax, ebx, ecx, edx }
}

/// The bits `numbers` of a register.
const fn bits(numbers: &[u32]) -> u32 {
    let mut mask = 0;
    let mut rest = numbers;
    while let [number, others @ ..] = rest {
        mask |= 1 << *number;
        rest = others;
    }
    mask
}

const HIGHEST_BASIC: u32 = 0xD;
const HIGHEST_EXTENDED: u32 = 0x8000_0021;
const HIGHEST_KVM: u32 = 0x4000_0001;
const TOPOLOGY: u32 = 0xB;

/// SSE3, PCLMULQDQ, SSSE3, FMA, CMPXCHG16B, PCID, SSE4.1, SSE4.2, x2APIC, MOVBE, POPCNT, TSC-deadline, AES, XSAVE, OSXSAVE,
/// AVX, F16C, RDRAND, hypervisor.
const FEATURES_ECX: u32 = bits(&[0, 1, 9, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31]);
/// FPU, VME, DE, PSE, TSC, MSR, PAE, MCE, CX8, APIC, SEP, MTRR, PGE, MCA, CMOV, PAT, PSE36, CLFLUSH, MMX, FXSR, SSE, SSE2, SS,
/// HTT.
const FEATURES_EDX: u32 =
    bits(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 23, 24, 25, 26, 27, 28]);

/// FSGSBASE, TSC_ADJUST, BMI1, AVX2, FDP_EXCPTN, SMEP, BMI2, ERMS, INVPCID, FPU CS/DS, AVX512F/DQ, RDSEED, ADX, SMAP, IFMA,
/// CLFLUSHOPT, CLWB, AVX512CD, SHA, AVX512BW/VL.
const STRUCTURED_EBX: u32 =
    bits(&[0, 1, 3, 5, 6, 7, 8, 9, 10, 13, 16, 17, 18, 19, 20, 21, 23, 24, 28, 29, 30, 31]);
/// VBMI, UMIP, PKU, OSPKE, VBMI2, GFNI, VAES, VPCLMULQDQ, VNNI, BITALG, VPOPCNTDQ, RDPID.
const STRUCTURED_ECX: u32 = bits(&[1, 2, 3, 4, 6, 8, 9, 10, 11, 12, 14, 22]);
/// FSRM, VP2INTERSECT, MD_CLEAR, SERIALIZE, AVX512-FP16, SPEC_CTRL, STIBP, L1D_FLUSH, ARCH_CAPABILITIES, SSBD.
const STRUCTURED_EDX: u32 = bits(&[4, 8, 10, 14, 23, 26, 27, 28, 29, 31]);
/// AVX-VNNI, AVX512-BF16, fast zero-length MOVSB, fast short STOSB, fast short CMPSB/SCASB.
const STRUCTURED_1_EAX: u32 = bits(&[4, 5, 10, 11, 12]);
/// Controls of speculation: PSFD, IPRED, RRSBA, DDPD_U, BHI, MCDT_NO.
const STRUCTURED_2_EDX: u32 = bits(&[0, 1, 2, 3, 4, 5]);

/// x87, SSE, AVX, AVX-512 (three parts), protection keys: components that fit in 4 KiB.
const XSAVE_COMPONENTS: u32 = bits(&[0, 1, 2, 5, 6, 7, 9]);
/// XSAVEOPT, XSAVEC, XGETBV of component 1, XSAVES.
const XSAVE_INSTRUCTIONS: u32 = bits(&[0, 1, 2, 3]);

/// Clock (both numbers and "stable"), no I/O delay, steal time, EOI, unhalt, TLB flush, IPI, polling control, yield.
const KVM_FEATURES: u32 = bits(&[0, 1, 3, 5, 6, 7, 9, 11, 12, 13, 24]);

/// LAHF, CMP_LEGACY, CR8_LEGACY, ABM, SSE4A, misaligned SSE, PREFETCHW, FMA4 and XOP are left out.
const EXTENDED_ECX: u32 = bits(&[0, 1, 4, 5, 6, 7, 8]);
/// Those of leaf 1 that AMD repeats, SYSCALL, NX, MMXEXT, FXSR optimised, 1 GiB pages, RDTSCP, long mode.
const EXTENDED_EDX: u32 =
    bits(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 20, 22, 23, 24, 25, 26, 27, 29]);
/// CLZERO, XSAVEERPTR, WBNOINVD, and AMD's controls of speculation.
const EXTENDED_8_EBX: u32 = bits(&[0, 2, 9, 12, 14, 15, 16, 17, 18, 19, 24, 25, 26, 28, 29, 30]);
/// Facts about speculation and faults that Linux reads on AMD: no nested data breakpoints, LFENCE serialises, null selectors
/// clear the base, automatic IBRS, selective branch barriers, SRSO_NO.
const EXTENDED_21_EAX: u32 = bits(&[0, 2, 5, 6, 8, 27, 28, 29, 30]);
/// `TSA_SQ_NO`, `TSA_L1_NO`: not vulnerable to transient scheduler attacks.
const EXTENDED_21_ECX: u32 = bits(&[1, 2]);

const INVARIANT_TSC: u32 = bits(&[8]);
/// The APIC timer runs in every C-state, as KVM's does: without it Linux wants a PIT, and there is none.
const ARAT: u32 = bits(&[2]);

/// Everything a guest may see; registers that later code sets are open here.
const TEMPLATE: &[Leaf] = &[
    leaf(0x0, None, [ALL; 4]), // vendor
    leaf(0x1, None, [ALL, ALL, FEATURES_ECX, FEATURES_EDX]),
    leaf(0x2, None, [ALL; 4]), // caches and TLBs (Intel)
    leaf(0x4, None, [ALL; 4]), // caches (Intel)
    leaf(0x6, None, [ARAT, 0, 0, 0]),
    leaf(0x7, Some(0), [ALL, STRUCTURED_EBX, STRUCTURED_ECX, STRUCTURED_EDX]),
    leaf(0x7, Some(1), [STRUCTURED_1_EAX, 0, 0, 0]),
    leaf(0x7, Some(2), [0, 0, 0, STRUCTURED_2_EDX]),
    leaf(0xD, Some(0), [XSAVE_COMPONENTS, ALL, ALL, 0]),
    leaf(0xD, Some(1), [XSAVE_INSTRUCTIONS, ALL, 0, 0]),
    leaf(0xD, Some(2), [ALL; 4]),
    leaf(0xD, Some(5), [ALL; 4]),
    leaf(0xD, Some(6), [ALL; 4]),
    leaf(0xD, Some(7), [ALL; 4]),
    leaf(0xD, Some(9), [ALL; 4]),
    leaf(0x4000_0000, None, [ALL; 4]), // "KVMKVMKVM"
    leaf(0x4000_0001, None, [KVM_FEATURES, 0, 0, 0]),
    leaf(0x8000_0000, None, [ALL; 4]), // vendor
    leaf(0x8000_0001, None, [ALL, 0, EXTENDED_ECX, EXTENDED_EDX]),
    leaf(0x8000_0002, None, [ALL; 4]), // name
    leaf(0x8000_0003, None, [ALL; 4]),
    leaf(0x8000_0004, None, [ALL; 4]),
    leaf(0x8000_0005, None, [ALL; 4]), // caches and TLBs (AMD)
    leaf(0x8000_0006, None, [ALL; 4]),
    leaf(0x8000_0007, None, [0, 0, 0, INVARIANT_TSC]),
    leaf(0x8000_0008, None, [0xFFFF, EXTENDED_8_EBX, 0, 0]), // address sizes
    leaf(0x8000_0021, None, [EXTENDED_21_EAX, 0, EXTENDED_21_ECX, 0]),
];

const HYPERVISOR: u32 = 1 << 31;
const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;
const MULTITHREADING: u32 = 1 << 28;

/// What the machine adds to the list of features.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// `KVM_CAP_TSC_DEADLINE_TIMER`.
    pub tsc_deadline: bool,
}

/// The features that every virtual CPU of a machine has; [`for_vcpu`] makes them one's own.
#[must_use]
pub fn normalise(
    supported: &[kvm_cpuid_entry2],
    capabilities: Capabilities,
    vcpus: u8,
) -> Vec<kvm_cpuid_entry2> {
    let mut entries: Vec<_> = supported.iter().filter_map(visible).collect();
    for entry in &mut entries {
        match entry.function {
            0x0 => entry.eax = entry.eax.min(HIGHEST_BASIC),
            0x1 => {
                entry.ecx |= HYPERVISOR | X2APIC;
                if capabilities.tsc_deadline {
                    entry.ecx |= TSC_DEADLINE;
                }
                entry.ebx = entry.ebx & 0xFFFF | u32::from(vcpus) << 16;
                entry.edx = entry.edx & !MULTITHREADING | if vcpus > 1 { MULTITHREADING } else { 0 };
            }
            0x4 => share_cache(entry, vcpus),
            0x6 => entry.eax |= ARAT,
            0x7 if entry.index == 0 => entry.eax = entry.eax.min(2),
            0x4000_0000 => entry.eax = HIGHEST_KVM,
            0x8000_0000 => entry.eax = entry.eax.min(HIGHEST_EXTENDED),
            0x8000_0008 => entry.ecx = u32::from(vcpus.saturating_sub(1)),
            _ => {}
        }
    }
    bound_xsave_area(&mut entries);
    entries.extend(topology(vcpus));
    entries
}

/// `normalised` with the number of one local APIC.
#[must_use]
pub fn for_vcpu(normalised: &[kvm_cpuid_entry2], apic_id: u8) -> Vec<kvm_cpuid_entry2> {
    let mut entries = normalised.to_vec();
    for entry in &mut entries {
        match entry.function {
            0x1 => entry.ebx = entry.ebx & 0x00FF_FFFF | u32::from(apic_id) << 24,
            TOPOLOGY => entry.edx = apic_id.into(),
            _ => {}
        }
    }
    entries
}

/// Whether there are AVX registers and XSAVE to save them.
#[must_use]
pub fn has_avx(normalised: &[kvm_cpuid_entry2]) -> bool {
    const XSAVE_AND_AVX: u32 = 1 << 26 | 1 << 28;
    normalised.iter().any(|entry| entry.function == 0x1 && entry.ecx & XSAVE_AND_AVX == XSAVE_AND_AVX)
}

fn visible(entry: &kvm_cpuid_entry2) -> Option<kvm_cpuid_entry2> {
    let leaf = TEMPLATE.iter().find(|leaf| {
        leaf.function == entry.function && leaf.index.is_none_or(|index| index == entry.index)
    })?;
    Some(kvm_cpuid_entry2 {
        eax: entry.eax & leaf.eax,
        ebx: entry.ebx & leaf.ebx,
        ecx: entry.ecx & leaf.ecx,
        edx: entry.edx & leaf.edx,
        ..*entry
    })
}

/// Levels 1 and 2 are one core's; level 3 is the package's (Intel SDM, CPUID leaf 4).
fn share_cache(entry: &mut kvm_cpuid_entry2, vcpus: u8) {
    let level = entry.eax >> 5 & 0b111;
    let others = u32::from(vcpus.saturating_sub(1));
    let sharing = if level >= 3 { others } else { 0 };
    entry.eax = entry.eax & 0x3FFF | sharing << 14 | others.min(0x3F) << 26;
}

/// The area is as large as the last component of those that are left needs.
fn bound_xsave_area(entries: &mut [kvm_cpuid_entry2]) {
    const LEGACY_AREA_AND_HEADER: u32 = 512 + 64;
    let components = entries.iter().filter(|entry| entry.function == 0xD && entry.index >= 2);
    let ends = components.map(|entry| entry.eax.saturating_add(entry.ebx));
    let bytes = ends.max().unwrap_or(0).max(LEGACY_AREA_AND_HEADER);
    if let Some(area) = entries.iter_mut().find(|entry| entry.function == 0xD && entry.index == 0) {
        area.ecx = area.ecx.min(bytes);
        area.ebx = area.ebx.min(bytes);
    }
}

/// Leaf 0xB: one thread in each core, all cores in one package.
fn topology(vcpus: u8) -> [kvm_cpuid_entry2; 3] {
    const THREADS: u32 = 1 << 8;
    const CORES: u32 = 2 << 8;
    let level = |index, bits, processors, kind| kvm_cpuid_entry2 {
        function: TOPOLOGY,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: bits,
        ebx: processors,
        ecx: index | kind,
        ..kvm_cpuid_entry2::default()
    };
    let apic_id_bits = u32::from(vcpus).next_power_of_two().trailing_zeros();
    [level(0, 0, 1, THREADS), level(1, apic_id_bits, vcpus.into(), CORES), level(2, 0, 0, 0)]
}

#[cfg(test)]
mod tests;
