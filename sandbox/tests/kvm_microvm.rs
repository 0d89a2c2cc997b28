//! Environments in virtual machines: the Python runtime, driven as the invoker drives it. Needs root, a KVM that boots kernels,
//! and runtimes with their disk images and a guest kernel in the directory that `WATERWHEEL_RUNTIMES` names.
//! `make test-microvm` runs these, and fails if one does not run; `cargo test` alone does not.

mod common;

use std::{
    num::NonZeroU64,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use common::{
    Group, LIMIT, answer, event, gone, initialised, invoke, kill, last_event,
    microvm::{self, UID_BASE, runtimes},
    printed, spec,
};
use sandbox::{Isolation, MicrovmIsolation, MicrovmLimits, Rate, RateLimits, StartError, test_boot};

/// Largest event, and answer, of an invocation that waits for its answer (AWS, "Lambda quotas").
const LARGE: usize = 6 << 20;

fn isolation(test: &str) -> (Group, MicrovmIsolation) {
    let group = Group::new(test);
    let isolation = microvm::open(&group, UID_BASE, MicrovmLimits::default());
    (group, isolation)
}

#[tokio::test]
#[ignore = "needs a KVM that boots kernels: make test-microvm"]
async fn a_test_boot_reaches_the_agent_and_leaves_nothing() {
    let group = Group::new("boot");
    let took = test_boot(runtimes().dir(), group.name(), UID_BASE).await.expect("it boots");
    println!("a test boot took {took:?}");
    assert_eq!(group.cgroups(), Vec::<PathBuf>::new());
}

#[tokio::test]
#[ignore = "needs a KVM that boots kernels: make test-microvm"]
async fn a_python_function_has_a_kernel_of_its_own_prints_keeps_its_state_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let code = "import os\ncount = 0\ndef handler(event, context):\n    global count\n    count += 1\n    \
                print('got', event)\n    os.close(os.open('/tmp/x', os.O_CREAT | os.O_WRONLY))\n    \
                return [event, count, os.environ['COLOUR'], 'waterwheel' in os.uname().release, os.getuid()]\n";
    let (group, isolation) = isolation("state");
    let mut environment = initialised(&isolation, directory.path(), code).await;
    environment.end_init_boost().unwrap();
    assert!(!group.cgroups().is_empty(), "a live environment has cgroups");

    let first = invoke(&mut environment, "\"a\"").await;
    assert_eq!(answer(&first), r#"["a", 1, "blue", true, 993]"#);
    assert_eq!(printed(&first), "got a\n");
    assert_eq!(answer(&invoke(&mut environment, "{}").await), r#"[{}, 2, "blue", true, 993]"#);
    let peak = environment.memory_peak();
    assert!((5 << 20..100 << 20).contains(&peak), "{peak} bytes: not the function's memory");
    assert!(!environment.out_of_memory());

    environment.stop().await;
    drop(isolation);
    assert_eq!(group.cgroups(), Vec::<PathBuf>::new());
}

#[tokio::test]
#[ignore = "needs a KVM that boots kernels: make test-microvm"]
async fn the_largest_event_comes_back_whole() {
    let directory = tempfile::tempdir().unwrap();
    let (_group, isolation) = isolation("large");
    let code = "def handler(event, context): return event\n";
    let mut environment = initialised(&isolation, directory.path(), code).await;
    let payload = format!("\"{}\"", "0123456789abcdef".repeat((LARGE - 16) / 16));
    let begun = Instant::now();
    let frames = invoke(&mut environment, &payload).await;
    println!("6 MiB there and back took {:?}", begun.elapsed());
    assert!(answer(&frames) == payload, "an answer of {} bytes", answer(&frames).len());
    environment.stop().await;
}

#[tokio::test]
#[ignore = "needs a KVM that boots kernels: make test-microvm"]
async fn the_init_phase_begins_when_the_kernel_has_booted() {
    let directory = tempfile::tempdir().unwrap();
    let (_group, isolation) = isolation("init");
    let spec = spec(&isolation, directory.path(), "python3.11", "def handler(event, context): pass\n");
    let asked = Instant::now();
    let environment = isolation.start(spec).await.unwrap();
    let (boot, start) = (environment.started() - asked, asked.elapsed());
    assert!(boot > start / 2, "of {start:?}, only {boot:?} were before the init phase");
    environment.stop().await;
}

/// How long 1 MiB there and back takes.
async fn echo_time(limits: MicrovmLimits, uid_base: u32) -> Duration {
    let directory = tempfile::tempdir().unwrap();
    let group = Group::new(&format!("rate-{uid_base}"));
    let isolation = microvm::open(&group, uid_base, limits);
    let code = "def handler(event, context): return event\n";
    let mut environment = initialised(&isolation, directory.path(), code).await;
    let payload = format!("\"{}\"", "x".repeat(1 << 20));
    let begun = Instant::now();
    let frames = invoke(&mut environment, &payload).await;
    let took = begun.elapsed();
    assert!(answer(&frames) == payload, "an answer of {} bytes", answer(&frames).len());
    environment.stop().await;
    took
}

#[tokio::test]
#[ignore = "needs a KVM that boots kernels: make test-microvm"]
async fn a_stream_with_a_limit_is_as_slow_as_that() {
    let free = echo_time(MicrovmLimits::default(), UID_BASE).await;
    // However fast the machine is: 1 MiB is to take eight times as long as it took both ways, and then the same back.
    let per_second = NonZeroU64::new(((1 << 20) as f64 / (8.0 * free.as_secs_f64())) as u64).unwrap();
    let rate = Rate { per_second, burst: NonZeroU64::new(64 * 1024).unwrap() };
    let stream = RateLimits { operations: None, bytes: Some(rate) };
    let limited = echo_time(MicrovmLimits { stream, ..MicrovmLimits::default() }, UID_BASE + 1000).await;
    println!("1 MiB there and back took {free:?}, and {limited:?} at {per_second} bytes a second");
    assert!(limited > free * 12, "{limited:?} with a limit, {free:?} without");
}

#[tokio::test]
#[ignore = "needs a KVM that boots kernels: make test-microvm"]
async fn dropping_an_environment_ends_its_vm() {
    let directory = tempfile::tempdir().unwrap();
    let (group, isolation) = isolation("drop");
    let spec = spec(&isolation, directory.path(), "python3.11", "def handler(event, context): pass\n");
    let code = Arc::downgrade(&spec.code);
    drop(isolation.start(spec).await.unwrap());
    gone(&code).await;
    assert_eq!(group.cgroups(), Vec::<PathBuf>::new());
}

#[tokio::test]
#[ignore = "needs a KVM that boots kernels: make test-microvm"]
async fn what_the_guests_kernel_killed_for_memory_is_told_apart_from_other_ends() {
    let directory = tempfile::tempdir().unwrap();
    let (_group, isolation) = isolation("memory");
    let code = "def handler(event, context):\n    return len(bytearray(1 << 30))\n";
    let mut environment = initialised(&isolation, directory.path(), code).await;
    let end = last_event(&mut environment).await;
    assert_eq!(end, Some(-9), "the agent lives to tell");
    assert!(environment.out_of_memory());
    environment.stop().await;
}

#[tokio::test]
#[ignore = "needs a KVM that boots kernels: make test-microvm"]
async fn a_killed_monitor_is_an_environment_that_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let (group, isolation) = isolation("killed");
    let code = "import time\ndef handler(event, context): time.sleep(3600)\n";
    let mut environment = initialised(&isolation, directory.path(), code).await;
    environment.send(&event("{}")).await.unwrap();
    kill(&group.processes());
    let end = tokio::time::timeout(LIMIT, environment.recv()).await.expect("an end in time");
    assert!(end.is_err(), "{end:?}");
    drop(environment);
}

#[tokio::test]
#[ignore = "needs a KVM that boots kernels: make test-microvm"]
async fn a_runtime_that_cannot_start_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let (_group, isolation) = isolation("broken");
    // Of provided.al2023, which starts the function's own /var/task/bootstrap: this code has none.
    let error = isolation.start(spec(&isolation, directory.path(), "provided.al2023", "")).await.unwrap_err();
    assert!(matches!(&error, StartError::Runtime(reason) if reason.contains("bootstrap")), "{error}");
}
