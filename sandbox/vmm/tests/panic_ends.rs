//! A panic of any thread of the monitor's process ends it with a line and an exit code, however panics are built.

use std::{
    panic::catch_unwind,
    process::{Command, Stdio},
    thread,
};

/// The test program starts itself again with this in its environment.
const INSIDE: &str = "WATERWHEEL_PANIC_INSIDE";

#[test]
fn a_panic_ends_the_process_with_a_line_and_a_code_before_anything_unwinds() {
    if std::env::var_os(INSIDE).is_some() {
        vmm::process::end_on_panic();
        let thread = thread::Builder::new().name("vcpu0".to_owned());
        let thread = thread.spawn(|| drop(catch_unwind(|| panic!("two\nlines"))));
        let _ = thread.expect("a thread").join();
        std::process::exit(99);
    }
    let this = std::env::current_exe().expect("this program");
    let mut command = Command::new(this);
    command.env(INSIDE, "1").args(["--nocapture", "--test-threads=1"]).stdout(Stdio::null());
    let output = command.output().expect("an end");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(15), "{said}");
    let line = said.lines().last().unwrap_or_default();
    assert!(line.starts_with("vmm: the monitor panicked: panicked at "), "{said}");
    assert!(line.ends_with(": two lines"), "{said}");
}
