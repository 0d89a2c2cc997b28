use seccompiler::sock_filter;

use super::*;

/// Highest number tried: well above the last call of any kernel.
const LAST: i64 = 1023;

/// What the kernel would do: runs the program over one call (linux/bpf_common.h, linux/seccomp.h).
fn decide(program: &[sock_filter], call: i64, arguments: [u64; 6]) -> u32 {
    const AUDIT_ARCH: u32 = if cfg!(target_arch = "x86_64") { 0xC000_003E } else { 0xC000_00B7 };
    // struct seccomp_data { int nr; u32 arch; u64 instruction_pointer; u64 args[6]; }
    let mut data = Vec::new();
    data.extend(u32::try_from(call).unwrap().to_ne_bytes());
    data.extend(AUDIT_ARCH.to_ne_bytes());
    data.extend(0u64.to_ne_bytes());
    data.extend(arguments.iter().flat_map(|argument| argument.to_ne_bytes()));
    let (mut accumulator, mut at) = (0u32, 0usize);
    loop {
        let sock_filter { code, jt, jf, k } = program[at].clone();
        at += 1;
        let jump = |holds: bool| usize::from(if holds { jt } else { jf });
        match code {
            0x20 => accumulator = u32::from_ne_bytes(data[k as usize..][..4].try_into().unwrap()),
            0x05 => at += k as usize,
            0x15 => at += jump(accumulator == k),
            0x25 => at += jump(accumulator > k),
            0x35 => at += jump(accumulator >= k),
            0x54 => accumulator &= k,
            0x06 => return k,
            other => panic!("instruction {other:#x} is not known"),
        }
    }
}

fn allows(program: &[sock_filter], call: i64, arguments: [u64; 6]) -> bool {
    let decision = decide(program, call, arguments);
    let refusal = u32::from(SeccompAction::Errno(libc::ENOSYS.unsigned_abs()));
    assert!(decision == u32::from(SeccompAction::Allow) || decision == refusal, "{call}: {decision:#x}");
    decision != refusal
}

#[test]
fn every_listed_call_passes_and_no_other() {
    let program = filter().unwrap();
    let listed: Vec<i64> = GROUPS.iter().copied().flatten().copied().collect();
    let checked: Vec<i64> = CHECKED.iter().map(|checked| checked.call).collect();
    for call in 0..=LAST {
        for arguments in [[0; 6], [u64::MAX; 6]] {
            if !checked.contains(&call) {
                assert_eq!(allows(&program, call, arguments), listed.contains(&call), "call {call}");
            }
        }
    }
}

#[test]
fn no_call_is_both_listed_and_checked() {
    let mut all: Vec<i64> = GROUPS.iter().copied().flatten().copied().collect();
    all.extend(CHECKED.iter().map(|checked| checked.call));
    let total = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), total);
}

/// Each rule of each checked call: arguments that meet it pass; with one condition broken, and no other rule met, they do not.
#[test]
fn every_rule_allows_and_denies() {
    let program = filter().unwrap();
    for Checked { call, rules } in CHECKED {
        for rule in *rules {
            let mut arguments = [0u64; 6];
            for condition in *rule {
                let other = |taken: u32| u64::from(taken) + 1;
                let argument = &mut arguments[usize::from(condition.argument)];
                match condition.test {
                    Test::Is(value) | Test::Bits(_, value) => *argument = value.into(),
                    Test::IsNot(value) => *argument = (*argument).max(other(value)),
                }
            }
            assert!(allows(&program, *call, arguments), "call {call} with {arguments:?}");
            // The kernel ignores the upper half; the filter must too, or it could be walked around.
            let upper = arguments.map(|argument| argument | 0xFFFF_FFFF_0000_0000);
            assert!(allows(&program, *call, upper), "call {call} with {upper:x?}");
            for condition in *rule {
                let mut broken = arguments;
                broken[usize::from(condition.argument)] = match condition.test {
                    Test::Is(_) => 0x7FFF,
                    Test::IsNot(value) => value.into(),
                    Test::Bits(mask, value) => u64::from(mask ^ value),
                };
                let met = rules.iter().any(|rule| holds(rule, broken));
                assert_eq!(allows(&program, *call, broken), met, "call {call} with {broken:?}");
                assert!(!met, "call {call}: {broken:?} should meet no rule");
            }
        }
    }
}

fn holds(rule: &[Condition], arguments: [u64; 6]) -> bool {
    rule.iter().all(|condition| {
        let argument = arguments[usize::from(condition.argument)] as u32;
        match condition.test {
            Test::Is(value) => argument == value,
            Test::IsNot(value) => argument != value,
            Test::Bits(mask, value) => argument & mask == value & mask,
        }
    })
}

#[test]
fn each_namespace_flag_alone_is_refused() {
    let program = filter().unwrap();
    for bit in 0..u32::BITS {
        let flag = 1u32 << bit;
        let allowed = allows(&program, libc::SYS_clone, [u64::from(flag) | 17, 0, 0, 0, 0, 0]);
        assert_eq!(allowed, flag & NAMESPACES == 0, "flag {flag:#x}");
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn calls_of_the_x32_interface_are_refused() {
    let program = filter().unwrap();
    assert!(!allows(&program, 0x4000_0000 | libc::SYS_read, [0; 6]));
}
