//! The guest kernel boots in the monitor to an init of the test's, and every way to end is told apart.

mod common;

use common::{EXIT, REBOOT, RESTART, Value, forever, greeter, linux, program, say, syscall};
use vmm::exit::Exit;

#[test]
#[ignore = "needs a KVM that boots a kernel: make test-microvm"]
fn a_kernel_boots_to_an_init_that_says_hello_on_the_serial_console() {
    let machine = linux(&greeter("hello\n"), 1, Vec::new(), true);
    machine.resume();
    let ending = machine.wait();
    assert_eq!(ending.exit, Exit::Reset, "{ending}");
    assert!(ending.console.iter().any(|line| line == "hello"), "{ending}");
}

#[test]
#[ignore = "needs a KVM that boots a kernel: make test-microvm"]
fn all_processors_come_up() {
    let machine = linux(&greeter("hello\n"), 4, Vec::new(), true);
    machine.resume();
    let ending = machine.wait();
    assert_eq!(ending.exit, Exit::Reset, "{ending}");
    let up = "Total of 4 processors activated";
    assert!(ending.console.iter().any(|line| line.contains(up)), "{}", ending.console.join("\n"));
}

#[test]
#[ignore = "needs a KVM that boots a kernel: make test-microvm"]
fn a_kernel_panic_is_told_with_its_message_even_without_a_debugging_console() {
    let init = program(&[], |_| syscall(EXIT, [Value::Number(7)]));
    for debug_console in [true, false] {
        let machine = linux(&init, 1, Vec::new(), debug_console);
        machine.resume();
        let ending = machine.wait();
        let Exit::GuestPanic { message } = &ending.exit else { panic!("{ending}") };
        assert!(message.starts_with("Attempted to kill init! exitcode=0x00000700"), "{message}");
    }
}

#[test]
#[ignore = "needs a KVM that boots a kernel: make test-microvm"]
fn a_quiet_boot_prints_nothing_and_costs_few_exits() {
    use vmm::vcpu::ExitKind;
    let silent = program(&[], |_| syscall(REBOOT, RESTART));
    let machine = linux(&silent, 1, Vec::new(), false);
    machine.resume();
    let ending = machine.wait();
    assert_eq!(ending.exit, Exit::Reset, "{ending}");
    // The restart itself is told at the highest level.
    assert!(ending.console.iter().all(|line| line.contains("reboot: Restarting system")), "{ending}");
    let exits = ExitKind::ALL.map(|kind| (kind, machine.control().exits.of(kind)));
    println!("exits to user space until the end: {exits:?}");
    let of = |kinds: [ExitKind; 2]| kinds.map(|kind| machine.control().exits.of(kind)).iter().sum::<u64>();
    // The last line is said character by character.
    assert!(of([ExitKind::PortRead, ExitKind::PortWrite]) < 120, "{exits:?}");
    // Before it restarts, the kernel clears each pin of the I/O APIC, in about twenty accesses.
    assert!(of([ExitKind::MemoryRead, ExitKind::MemoryWrite]) < 300, "{exits:?}");
    assert_eq!(of([ExitKind::Interrupted, ExitKind::Other]), 0, "{exits:?}");
}

#[test]
#[ignore = "needs a KVM that boots a kernel: make test-microvm"]
fn a_machine_that_prints_without_end_is_stopped_from_outside() {
    let text = b"again and again and again\n";
    let endless = program(text, |data| forever(say(data, text.len())));
    let mut machine = linux(&endless, 2, Vec::new(), true);
    machine.resume();
    let said = std::time::Instant::now();
    while !machine.last_lines().iter().any(|line| line.starts_with("again")) {
        assert!(said.elapsed().as_secs() < 120, "{:?}", machine.last_lines());
        std::thread::yield_now();
    }
    assert_eq!(machine.stop().exit, Exit::Shutdown);
}
