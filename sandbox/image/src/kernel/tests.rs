//! Builds of a source that is a makefile and no kernel; `waterwheel kernel build` builds the real one in `make test-microvm`.

use std::{process::Command, sync::mpsc};

use tempfile::TempDir;

use super::{
    build::{PARTIAL, Source, build, check_accepted, lock},
    *,
};

const CONFIGURATION: &str = "CONFIG_NET=y\n";
/// Takes the configuration as it is, and links a program that does nothing.
const MAKEFILE: &str = "allnoconfig:\n\tcp $(KCONFIG_ALLCONFIG) .config\n\
    vmlinux:\n\t@echo '  CC      start.o'\n\tprintf '.globl _start\\n_start: ret\\n' | gcc -nostdlib -x assembler - -o $@\n";

/// A directory for kernels, and one with a source package that holds `makefile`.
fn setting(makefile: &str) -> (TempDir, TempDir) {
    let package = tempfile::tempdir().unwrap();
    let tree = package.path().join("linux-source");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("Makefile"), makefile).unwrap();
    let mut tar = Command::new("tar");
    tar.args(["--create", "--xz", "--file", "source.tar.xz", "linux-source"]).current_dir(package.path());
    assert!(tar.status().unwrap().success());
    (tempfile::tempdir().unwrap(), package)
}

fn source(package: &TempDir, version: &str) -> Source {
    let tarball = package.path().join("source.tar.xz");
    Source { version: version.to_owned(), tarball, programs: &["make"], headers: &[] }
}

fn built(package: &TempDir, version: &str, dir: &TempDir) -> (GuestKernel, Vec<KernelProgress>) {
    let mut seen = Vec::new();
    let kernel =
        build(&source(package, version), CONFIGURATION, dir.path(), &mut |progress| seen.push(progress));
    (kernel.unwrap(), seen)
}

#[test]
fn a_kernel_is_built_once_and_found() {
    let (dir, package) = setting(MAKEFILE);
    let (kernel, seen) = built(&package, "6.12.1-1", &dir);
    assert_eq!(kernel.path, dir.path().join(format!("kernel-{}/vmlinux", id(CONFIGURATION, "6.12.1-1"))));
    assert!(fs::read(&kernel.path).unwrap().starts_with(b"\x7fELF"));
    assert!(kernel.bytes > 0 && kernel.built > 1_700_000_000 && !kernel.current);
    let steps = seen.iter().filter(|progress| matches!(progress, KernelProgress::Step { of: 4, .. })).count();
    assert_eq!(steps, 4, "{seen:?}");
    assert!(matches!(seen.last(), Some(KernelProgress::Done { .. })), "{seen:?}");
    assert!(!dir.path().join(PARTIAL).exists());
    assert_eq!(GuestKernel::find(dir.path()), Some(kernel.clone()));
    let (again, seen) = built(&package, "6.12.1-1", &dir);
    assert_eq!(seen, [KernelProgress::UpToDate { id: again.id.clone() }]);
    assert_eq!(again, kernel);
}

#[test]
fn what_an_interrupted_build_left_is_no_kernel_and_in_nobodys_way() {
    let (dir, package) = setting(MAKEFILE);
    fs::create_dir_all(dir.path().join(PARTIAL).join("source/half")).unwrap();
    // A directory without what belongs into it, as a crash of the machine might leave it.
    let torn = dir.path().join(format!("kernel-{}", id(CONFIGURATION, "1")));
    fs::create_dir(&torn).unwrap();
    fs::write(torn.join(IMAGE), "half").unwrap();
    assert_eq!(GuestKernel::find(dir.path()), None);
    let (kernel, _) = built(&package, "1", &dir);
    assert_eq!(GuestKernel::list(dir.path()), [kernel]);
}

#[test]
fn a_failed_build_leaves_nothing_and_says_what_the_compiler_said() {
    let (dir, package) = setting(&MAKEFILE.replace("gcc", "echo 'undefined reference' >&2; false"));
    let error = build(&source(&package, "1"), CONFIGURATION, dir.path(), &mut |_| {}).unwrap_err();
    let BuildError::ToolFailed { tool: "make", output, .. } = &error else { panic!("{error}") };
    assert!(output.contains("CC      start.o\n") && output.contains("undefined reference"), "{output}");
    assert!(!dir.path().join(PARTIAL).exists());
    assert_eq!(GuestKernel::list(dir.path()), []);
}

#[test]
fn the_kernel_before_the_newest_stays_and_no_older_one() {
    let (dir, package) = setting(MAKEFILE);
    let kernels = ["1", "2", "3"].map(|version| {
        let (kernel, _) = built(&package, version, &dir);
        // As if a day lay between the builds.
        let home = kernel.path.parent().unwrap();
        let day = version.parse().unwrap();
        let metadata = Metadata { built: day, ..Metadata::read(home).unwrap() };
        metadata.write(home).unwrap();
        kernel.path
    });
    assert_eq!(kernels.map(|path| path.exists()), [false, true, true]);
}

#[test]
fn a_kernel_of_this_programs_configuration_is_preferred_to_a_newer_one() {
    let dir = tempfile::tempdir().unwrap();
    let install = |id: &str, configuration: &str, built| {
        let home = dir.path().join(format!("{PREFIX}{id}"));
        fs::create_dir(&home).unwrap();
        fs::write(home.join(IMAGE), "ELF").unwrap();
        Metadata { configuration: sha256(configuration), source: "1".to_owned(), built }
            .write(&home)
            .unwrap();
    };
    install("foreign-new", "CONFIG_OTHER=y", 9);
    assert_eq!(
        GuestKernel::find(dir.path()).map(|kernel| (kernel.id, kernel.current)),
        Some(("foreign-new".into(), false))
    );
    install("ours", configuration().unwrap(), 5);
    install("ours-old", configuration().unwrap(), 4);
    assert_eq!(
        GuestKernel::find(dir.path()).map(|kernel| (kernel.id, kernel.current)),
        Some(("ours".into(), true))
    );
    let ids: Vec<_> = GuestKernel::list(dir.path()).into_iter().map(|kernel| kernel.id).collect();
    assert_eq!(ids, ["foreign-new", "ours", "ours-old"]);
}

#[test]
fn a_second_build_waits_for_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let held = lock(dir.path(), &mut |_| {}).unwrap();
    let (tell, told) = mpsc::channel();
    let waiter = std::thread::spawn({
        let dir = dir.path().to_owned();
        move || lock(&dir, &mut |progress| tell.send(progress).unwrap()).map(drop)
    });
    assert_eq!(told.recv().unwrap(), KernelProgress::Waiting);
    drop(held);
    waiter.join().unwrap().unwrap();
}

#[test]
fn options_that_linux_does_not_take_are_named() {
    let accepted = "#\nCONFIG_NET=y\nCONFIG_NR_CPUS=8\n# CONFIG_MODULES is not set\n";
    check_accepted("# why\nCONFIG_NET=y\nCONFIG_NR_CPUS=8\n# CONFIG_MODULES is not set\n", accepted).unwrap();
    check_accepted("# CONFIG_GONE is not set\n", accepted).unwrap();
    let refused = |configuration| check_accepted(configuration, accepted).unwrap_err().to_string();
    assert_eq!(
        refused("CONFIG_NET=y\nCONFIG_GONE=y\nCONFIG_NR_CPUS=9\n"),
        "Linux does not accept of the kernel's configuration: CONFIG_GONE=y, CONFIG_NR_CPUS=9"
    );
    assert!(refused("# CONFIG_NET is not set\n").ends_with(": # CONFIG_NET is not set"));
}

#[test]
fn the_committed_configuration_names_each_option_once() {
    let mut options: Vec<_> = configuration()
        .unwrap()
        .lines()
        .filter_map(|line| line.trim_start_matches("# ").strip_prefix("CONFIG_"))
        .map(|line| line.split(['=', ' ']).next().unwrap())
        .collect();
    let count = options.len();
    options.sort_unstable();
    options.dedup();
    assert_eq!(options.len(), count);
    assert!(count > 50, "{count} options");
}
