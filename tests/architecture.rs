//! The rules of ARCHITECTURE.md and CONTRIBUTING.md that a program can check.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, TargetKind};

/// Who may depend on whom. A crate that is not named here is a question for ARCHITECTURE.md first.
const ARROWS: [(&str, &[&str]); 15] = [
    ("types", &[]),
    ("connectors", &["types"]),
    ("control", &["types"]),
    ("queue", &["types"]),
    ("protocol", &[]),
    ("agent", &["protocol"]),
    ("jail", &[]),
    ("vmm", &["protocol"]),
    ("image", &[]),
    ("sandbox", &["protocol", "agent", "jail", "vmm", "image", "types"]),
    ("invoker", &["types", "sandbox", "control"]),
    ("poller-fleet", &["types", "queue", "connectors", "invoker", "control"]),
    ("ingest", &["types", "control", "invoker", "poller-fleet"]),
    ("loadtest", &["queue", "types"]),
    (
        "waterwheel",
        &[
            "types",
            "connectors",
            "control",
            "image",
            "ingest",
            "invoker",
            "jail",
            "poller-fleet",
            "queue",
            "sandbox",
        ],
    ),
];

/// Where unsafe code may be: system calls that no safe crate offers, KVM and guest memory.
const UNSAFE_ALLOWED: [&str; 2] = ["jail", "vmm"];

const MAX_LINES: usize = 500;

fn metadata() -> Metadata {
    MetadataCommand::new().no_deps().exec().expect("cargo metadata")
}

/// Names of our own packages that `package` needs to be built; what only its tests use may look further.
fn needs<'a>(package: &'a Package, ours: &BTreeSet<&str>) -> impl Iterator<Item = &'a str> {
    let names =
        package.dependencies.iter().filter(|dependency| dependency.kind != DependencyKind::Development);
    names.map(|dependency| dependency.name.as_str()).filter(|name| ours.contains(name))
}

/// Every file below `dir` that git would keep, as far as names tell.
fn files_below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("readable directory").map(|entry| entry.expect("readable entry")) {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let kind = entry.file_type().expect("file type");
        if kind.is_dir() && name != "target" && !name.starts_with('.') {
            files_below(&entry.path(), found);
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
}

#[test]
fn crates_depend_on_each_other_only_along_the_arrows() {
    let metadata = metadata();
    let allowed: BTreeMap<_, _> = ARROWS.into_iter().collect();
    let ours: BTreeSet<&str> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    for package in &metadata.packages {
        let name = package.name.as_str();
        let arrows = allowed.get(name).unwrap_or_else(|| panic!("{name} has no arrows"));
        for needed in needs(package, &ours) {
            assert!(arrows.contains(&needed), "{name} must not depend on {needed}");
        }
    }
    let unknown: Vec<_> = allowed.keys().filter(|name| !ours.contains(*name)).collect();
    assert!(unknown.is_empty(), "arrows of crates that do not exist: {unknown:?}");
}

#[test]
fn every_crate_root_forbids_unsafe_code_except_where_it_may_be() {
    let kinds = [TargetKind::Lib, TargetKind::Bin, TargetKind::ProcMacro];
    let metadata = metadata();
    let packages =
        metadata.packages.iter().filter(|package| !UNSAFE_ALLOWED.contains(&package.name.as_str()));
    let targets = packages.flat_map(|package| &package.targets);
    let roots = targets.filter(|target| target.kind.iter().any(|kind| kinds.contains(kind)));
    let open: Vec<_> = roots
        .map(|target| &target.src_path)
        .filter(|path| {
            let source = fs::read_to_string(path).expect("readable crate root");
            !source.lines().any(|line| line.trim() == "#![forbid(unsafe_code)]")
        })
        .collect();
    assert!(open.is_empty(), "without #![forbid(unsafe_code)]: {open:?}");
}

#[test]
fn every_crate_inherits_the_lints_and_the_package_facts() {
    for package in &metadata().packages {
        let manifest: toml::Table =
            fs::read_to_string(&package.manifest_path).expect("readable manifest").parse().expect("TOML");
        let inherits = |section: &str, key: &str| {
            let value = if key.is_empty() { manifest.get(section) } else { manifest[section].get(key) };
            value.and_then(|value| value.get("workspace")).and_then(toml::Value::as_bool) == Some(true)
        };
        assert!(inherits("lints", ""), "{} does not inherit the workspace's lints", package.manifest_path);
        for key in ["version", "edition", "rust-version", "license", "publish"] {
            assert!(
                inherits("package", key),
                "{}: package.{key} is not the workspace's",
                package.manifest_path
            );
        }
    }
}

#[test]
fn shared_dependencies_have_one_version_for_all() {
    let mut own = Vec::new();
    for package in &metadata().packages {
        let manifest: toml::Table =
            fs::read_to_string(&package.manifest_path).expect("readable manifest").parse().expect("TOML");
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (name, value) in manifest.get(section).and_then(toml::Value::as_table).into_iter().flatten() {
                if value.get("workspace").and_then(toml::Value::as_bool) != Some(true) {
                    own.push(format!("{}: {name}", package.manifest_path));
                }
            }
        }
    }
    assert!(own.is_empty(), "not from [workspace.dependencies]: {own:?}");
}

#[test]
fn no_source_file_is_too_long_to_read() {
    let mut files = Vec::new();
    files_below(metadata().workspace_root.as_std_path(), &mut files);
    let sources = files.iter().filter(|path| {
        path.extension()
            .and_then(|extension| extension.to_str())
            .is_some_and(|e| matches!(e, "rs" | "py" | "sh"))
    });
    let lengths: Vec<_> = sources
        .map(|path| (fs::read_to_string(path).expect("readable source").lines().count(), path.display()))
        .collect();
    assert!(lengths.len() > 10, "the search found only {} sources", lengths.len());
    let long: Vec<_> = lengths.iter().filter(|(lines, _)| *lines > MAX_LINES).collect();
    assert!(long.is_empty(), "more than {MAX_LINES} lines: {long:?}");
}
