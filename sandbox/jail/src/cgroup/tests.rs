use std::process::{Child, Command, Stdio};

use super::*;

const LIMITS: Limits = Limits {
    memory_bytes: 64 << 20,
    pids: 20,
    cpu_quota: Some(CpuQuota { quota_us: 5_000, period_us: 20_000 }),
    cpu_shares: 512,
};

#[test]
fn one_vcpu_for_each_1769_mb() {
    assert_eq!(cpu_quota_for(1769), CpuQuota { quota_us: 20_000, period_us: 20_000 });
    assert_eq!(cpu_quota_for(2 * 1769), CpuQuota { quota_us: 40_000, period_us: 20_000 });
    assert_eq!(cpu_quota_for(128).quota_us, 1_447);
    assert_eq!(cpu_quota_for(1).quota_us, MIN_CPU_QUOTA_US);
}

// --- this machine

/// A group of this test's own.
fn group(test: &str) -> String {
    format!("waterwheel-test-{}-{test}", std::process::id())
}

/// A process that stays until it is told otherwise, in the given cgroup directories.
fn member(directories: &[PathBuf]) -> Child {
    let child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    for directory in directories {
        fs::write(directory.join("cgroup.procs"), child.id().to_string()).unwrap();
    }
    child
}

#[test]
fn limits_are_set_read_back_and_gone_with_the_cgroup() {
    let hierarchy = Hierarchy::detect().unwrap();
    let group = group("limits");
    let cgroup = Cgroup::create(&hierarchy, &group, "one", LIMITS).unwrap();
    let mut child = member(&cgroup.procs_dirs());
    let (memory, cpu) = match hierarchy.version() {
        1 => (
            cgroup.memory.number("memory.limit_in_bytes").unwrap(),
            cgroup.cpu.read("cpu.cfs_quota_us").unwrap() + &cgroup.cpu.read("cpu.shares").unwrap(),
        ),
        _ => (cgroup.memory.number("memory.max").unwrap(), cgroup.cpu.read("cpu.max").unwrap()),
    };
    assert_eq!(memory, LIMITS.memory_bytes);
    assert!(cpu == "5000\n512\n" || cpu == "5000 20000\n", "{cpu:?}");
    assert_eq!(cgroup.pids.number("pids.max").unwrap(), LIMITS.pids);
    assert!(cgroup.memory_current().unwrap() <= LIMITS.memory_bytes);
    assert!(cgroup.memory_peak().unwrap() >= cgroup.memory_current().unwrap() / 2);
    assert_eq!(cgroup.oom_kills().unwrap(), 0);
    cgroup.cpu_usage().unwrap();
    cgroup.set_cpu(None).unwrap();
    cgroup.set_cpu(Some(cpu_quota_for(1769))).unwrap();

    let directories = cgroup.procs_dirs();
    cgroup.remove().unwrap();
    assert!(directories.iter().all(|directory| !directory.exists()), "{directories:?}");
    assert!(!child.wait().unwrap().success(), "the member was killed");
    assert_eq!(hierarchy.sweep(&group).unwrap(), 0);
}

#[test]
fn sweeping_kills_and_removes_what_an_earlier_run_left() {
    let hierarchy = Hierarchy::detect().unwrap();
    let group = group("sweep");
    let mut children = Vec::new();
    let mut left = Vec::new();
    for name in ["one", "two"] {
        let cgroup = Cgroup::create(&hierarchy, &group, name, LIMITS).unwrap();
        left.extend(cgroup.procs_dirs());
        children.push(member(&cgroup.procs_dirs()));
        // As if this process had been killed.
        std::mem::forget(cgroup);
    }
    assert!(left.iter().all(|directory| directory.exists()));
    assert_eq!(hierarchy.sweep(&group).unwrap(), 2);
    assert!(left.iter().all(|directory| !directory.exists()), "{left:?}");
    for mut child in children {
        assert!(!child.wait().unwrap().success());
    }
    assert_eq!(hierarchy.sweep(&group).unwrap(), 0);
}

#[test]
fn dropping_a_cgroup_kills_its_members() {
    let hierarchy = Hierarchy::detect().unwrap();
    let group = group("drop");
    let cgroup = Cgroup::create(&hierarchy, &group, "one", LIMITS).unwrap();
    let directories = cgroup.procs_dirs();
    let mut child = member(&directories);
    drop(cgroup);
    assert!(!child.wait().unwrap().success());
    assert!(directories.iter().all(|directory| !directory.exists()));
    hierarchy.sweep(&group).unwrap();
}

#[test]
fn a_name_that_is_taken_is_refused_and_stays_as_it_is() {
    let hierarchy = Hierarchy::detect().unwrap();
    let group = group("taken");
    let first = Cgroup::create(&hierarchy, &group, "one", LIMITS).unwrap();
    let mut child = member(&first.procs_dirs());
    let error = Cgroup::create(&hierarchy, &group, "one", LIMITS).unwrap_err();
    assert!(error.to_string().contains("create cgroup"), "{error}");
    assert!(child.try_wait().unwrap().is_none(), "the first one's member lives");
    drop(first);
    child.wait().unwrap();
    hierarchy.sweep(&group).unwrap();
}

// --- machines that this one is not, as directories

/// A machine's files below a directory.
fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    root
}

const UNIFIED: &[(&str, &str)] = &[
    (
        "proc/self/mountinfo",
        "30 25 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
    ),
    ("proc/self/cgroup", "0::/user.slice/session.scope\n"),
    ("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory hugetlb pids\n"),
    ("sys/fs/cgroup/cgroup.subtree_control", "memory\n"),
];

/// What the kernel puts in a new cgroup of version 2.
fn unified_cgroup(root: &Path, path: &str) -> PathBuf {
    let directory = root.join("sys/fs/cgroup").join(path);
    fs::create_dir_all(&directory).unwrap();
    let files = [
        ("cgroup.controllers", "cpu memory pids\n"),
        ("cgroup.subtree_control", ""),
        ("cgroup.procs", ""),
        ("memory.max", "max\n"),
        ("memory.swap.max", "max\n"),
        ("memory.current", "4096\n"),
        ("memory.peak", "8192\n"),
        ("memory.events", "low 0\nhigh 0\nmax 7\noom 2\noom_kill 3\noom_group_kill 0\n"),
        ("cpu.max", "max 100000\n"),
        ("cpu.weight", "100\n"),
        ("cpu.stat", "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n"),
        ("pids.max", "max\n"),
    ];
    for (name, content) in files {
        fs::write(directory.join(name), content).unwrap();
    }
    directory
}

#[test]
fn version_2_puts_all_limits_in_one_directory() {
    let root = machine(UNIFIED);
    let hierarchy = Hierarchy::detect_at(root.path()).unwrap();
    assert_eq!(hierarchy.version(), 2);
    let directory = unified_cgroup(root.path(), "waterwheel/env");
    let mut cgroup = Cgroup::locate(&hierarchy, "waterwheel", "env");
    cgroup.removed = true; // There are no processes and no kernel to clean up after.
    assert_eq!(cgroup.procs_dirs(), std::slice::from_ref(&directory));
    cgroup.limit(LIMITS).unwrap();
    let written = |file: &str| fs::read_to_string(directory.join(file)).unwrap();
    // An ordinary file keeps the tail of longer content that was there before; the kernel replaces values.
    assert!(written("memory.max").starts_with("67108864"));
    assert!(written("memory.swap.max").starts_with('0'));
    assert!(written("pids.max").starts_with("20"));
    assert!(written("cpu.max").starts_with("5000 20000"));
    assert!(written("cpu.weight").starts_with("20"));
    assert_eq!(cgroup.memory_current().unwrap(), 4096);
    assert_eq!(cgroup.memory_peak().unwrap(), 8192);
    assert_eq!(cgroup.oom_kills().unwrap(), 3);
    assert_eq!(cgroup.cpu_usage().unwrap(), Duration::from_micros(1500));
    fs::remove_file(directory.join("memory.peak")).unwrap();
    let mut cgroup = Cgroup::locate(&hierarchy, "waterwheel", "env");
    cgroup.removed = true;
    assert_eq!(cgroup.memory_peak().unwrap(), 4096, "before Linux 5.19 the present stands for the peak");
}

#[test]
fn version_2_enables_only_controllers_that_are_not() {
    let root = machine(UNIFIED);
    unified_cgroup(root.path(), "waterwheel");
    let control = root.path().join("sys/fs/cgroup/cgroup.subtree_control");
    Hierarchy::detect_at(root.path()).unwrap().prepare("waterwheel").unwrap();
    // The last write of this fake; `memory` was enabled and is not written.
    assert!(fs::read_to_string(&control).unwrap().starts_with("+pids"));
    fs::write(&control, "cpu memory pids\n").unwrap();
    Hierarchy::detect_at(root.path()).unwrap().prepare("waterwheel").unwrap();
    assert_eq!(fs::read_to_string(control).unwrap(), "cpu memory pids\n");
}

#[test]
fn version_1_is_found_by_controller_below_our_own_cgroup() {
    let root = machine(&[
        (
            "proc/self/mountinfo",
            "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
             35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
             39 31 0:36 / /sys/fs/cgroup/pids rw shared:9 master:1 - cgroup cgroup rw,pids\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
        ),
        ("proc/self/cgroup", "8:pids:/\n4:memory:/docker/abc/inner\n1:cpu,cpuacct:/service\n0::/\n"),
        ("sys/fs/cgroup/unified/cgroup.controllers", "\n"),
    ]);
    let hierarchy = Hierarchy::detect_at(root.path()).unwrap();
    assert_eq!(hierarchy.version(), 1);
    let below = |path: &str| root.path().join("sys/fs/cgroup").join(path);
    assert_eq!(hierarchy.memory.directory, below("memory/inner"));
    assert_eq!(hierarchy.cpu.directory, below("cpu,cpuacct/service"));
    assert_eq!(hierarchy.cpuacct, hierarchy.cpu);
    assert_eq!(hierarchy.pids.directory, below("pids"));
}

#[test]
fn a_hybrid_takes_each_controller_from_where_it_is() {
    let root = machine(&[
        (
            "proc/self/mountinfo",
            "1 0 0:1 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
             2 0 0:2 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
        ),
        ("proc/self/cgroup", "4:memory:/\n0::/\n"),
        ("sys/fs/cgroup/unified/cgroup.controllers", "cpu pids\n"),
    ]);
    let hierarchy = Hierarchy::detect_at(root.path()).unwrap();
    assert_eq!((hierarchy.memory.version, hierarchy.cpu.version), (Version::V1, Version::V2));
    let cgroup = Cgroup::locate(&hierarchy, "group", "env");
    assert_eq!(cgroup.procs_dirs().len(), 2);
}

#[test]
fn a_missing_controller_is_named() {
    let root = machine(&[
        ("proc/self/mountinfo", "1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
        ("proc/self/cgroup", "0::/\n"),
        ("sys/fs/cgroup/cgroup.controllers", "cpu memory\n"),
    ]);
    let error = Hierarchy::detect_at(root.path()).unwrap_err();
    assert!(error.to_string().contains("pids"), "{error}");
}
