//! A real environment: the Python runtime in its jail, driven as the invoker drives it. Needs root and the runtimes that
//! `waterwheel runtimes build` puts into `target/runtimes` (`make test` does both).

mod common;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use common::{Group, LIMIT, answer, gone, initialised, invoke, kill, last_event, printed, spec, until};
use sandbox::{Isolation, ProcessIsolation, ProcessIsolationConfig, RuntimeCatalog, StartError};

fn isolation(test: &str) -> (Group, ProcessIsolation) {
    let group = Group::new(test);
    let config = ProcessIsolationConfig {
        cgroup: group.name().to_owned(),
        uid_base: 1_500_000_000,
        prepared_jails: 1,
        setup_timeout: LIMIT,
    };
    let runtimes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/runtimes");
    let isolation = ProcessIsolation::open(config, RuntimeCatalog::open(&runtimes));
    (group, isolation.expect("root and cgroups"))
}

/// The processes of a jail that waits for its function: supervisor and PID 1. An environment with a runtime has more.
async fn prepared_jail(group: &Group) -> BTreeSet<i32> {
    until("a jail is prepared", || group.jails().into_iter().find(|jail| jail.len() == 2)).await
}

#[tokio::test]
async fn a_python_function_runs_prints_keeps_its_state_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let code = "import os\ncount = 0\ndef handler(event, context):\n    global count\n    count += 1\n    \
                print('got', event)\n    return [event, count, os.environ['COLOUR'], os.getpid() != 1]\n";
    let (group, isolation) = isolation("state");
    let mut environment = initialised(&isolation, directory.path(), code).await;
    environment.end_init_boost().unwrap();
    assert!(!group.cgroups().is_empty(), "a live environment has cgroups");

    let first = invoke(&mut environment, "\"a\"").await;
    assert_eq!(answer(&first), r#"["a", 1, "blue", true]"#);
    assert_eq!(printed(&first), "got a\n");
    let second = invoke(&mut environment, "{}").await;
    assert_eq!(answer(&second), r#"[{}, 2, "blue", true]"#);
    assert!(environment.memory_peak() > 1024 * 1024);
    assert!(!environment.out_of_memory());

    environment.stop().await;
    drop(isolation);
    assert_eq!(group.cgroups(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn dropping_an_environment_ends_it() {
    let directory = tempfile::tempdir().unwrap();
    let (group, isolation) = isolation("drop");
    let spec = spec(&isolation, directory.path(), "python3.11", "def handler(event, context): pass\n");
    let code = Arc::downgrade(&spec.code);
    let environment = isolation.start(spec).await.unwrap();
    drop(environment);
    gone(&code).await;
    drop(isolation);
    assert_eq!(group.cgroups(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn what_the_kernel_killed_for_memory_is_told_apart_from_other_ends() {
    let directory = tempfile::tempdir().unwrap();
    let (_group, isolation) = isolation("memory");
    let code = "def handler(event, context):\n    return len(bytearray(1 << 30))\n";
    let mut environment = initialised(&isolation, directory.path(), code).await;
    let end = last_event(&mut environment).await;
    assert!(environment.out_of_memory(), "ended with {end:?}");
    environment.stop().await;
}

#[tokio::test]
async fn a_prepared_jail_that_was_killed_is_replaced_unnoticed() {
    let directory = tempfile::tempdir().unwrap();
    let (group, isolation) = isolation("killed");
    let code = "def handler(event, context): return 'alive'\n";
    // The first start leaves a prepared jail behind as soon as its init phase is over.
    let first = initialised(&isolation, directory.path(), code).await;
    first.end_init_boost().unwrap();
    let prepared = prepared_jail(&group).await;
    kill(&prepared);
    let mut second = initialised(&isolation, &directory.path().join("second"), code).await;
    assert_eq!(answer(&invoke(&mut second, "{}").await), "\"alive\"");
}

#[tokio::test]
async fn a_start_that_nobody_waits_for_any_more_leaves_no_process() {
    let directory = tempfile::tempdir().unwrap();
    let (group, isolation) = isolation("given-up");
    let prepared = prepared_jail(&group).await;
    let spec = spec(&isolation, directory.path(), "python3.11", "def handler(event, context): pass\n");
    let mut start = tokio_test::task::spawn(isolation.start(spec));
    assert!(start.poll().is_pending());
    drop(start);
    // A zombie is listed too.
    let listed = |pid: &i32| Path::new("/proc").join(pid.to_string()).exists();
    until("the jail's processes are gone", || (!prepared.iter().any(listed)).then_some(())).await;
    drop(isolation);
    assert_eq!(group.cgroups(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_runtime_that_is_not_installed_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let (_group, isolation) = isolation("missing");
    let error = isolation.start(spec(&isolation, directory.path(), "cobol85", "")).await.unwrap_err();
    assert!(matches!(error, StartError::RuntimeNotInstalled { runtime } if runtime == "cobol85"));
}
