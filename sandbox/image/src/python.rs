//! The Python part of a runtime: the unmodified runtime client and SDK from their wheels, and compiled modules.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use crate::{
    BuildError, Package, Recipe,
    error::IoContext,
    finish,
    tools::{CHROOT, PIP, inside},
};

/// Where AWS keeps its interpreter; scripts and wrappers name it.
const LANG_BIN: &str = "var/lang/bin";
const RUNTIME: &str = "var/runtime";

/// Installs the recipe's requirements into `/var/runtime`; nothing for a runtime without Python.
pub(crate) fn install(recipe: &Recipe, root: &Path) -> Result<Vec<Package>, BuildError> {
    let (Some(python), Some(requirements)) = (&recipe.python, recipe.requirements()) else {
        return Ok(Vec::new());
    };
    let interpreter = root.join(python.interpreter.trim_start_matches('/'));
    if !interpreter.is_file() {
        return Err(BuildError::Incomplete { path: interpreter });
    }
    for name in ["python", "python3", &format!("python{}", python.version)] {
        let link = root.join(LANG_BIN).join(name);
        finish::remove(&link)?;
        symlink(&python.interpreter, &link).context("link", &link)?;
    }
    let list = root.join("requirements.txt");
    finish::write(&list, requirements, 0o644)?;
    let target = root.join(RUNTIME);
    pip_install(&python.version, &list, &target)?;
    finish::remove(&list)?;
    // Command-line tools of libraries: no function runs them, and their shebang names the builder's interpreter.
    finish::remove(&target.join("bin"))?;
    installed(&target)
}

/// Wheels only: nothing of a package runs on the builder, and what is installed is what its author published.
fn pip_install(version: &str, list: &Path, target: &Path) -> Result<(), BuildError> {
    let architecture = std::env::consts::ARCH;
    if !["x86_64", "aarch64"].contains(&architecture) {
        return Err(BuildError::Architecture { architecture });
    }
    let platforms = [format!("manylinux2014_{architecture}"), format!("manylinux_2_28_{architecture}")];
    let (list, target) = (list.to_string_lossy(), target.to_string_lossy());
    pip(&[
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--root-user-action=ignore",
        "--no-compile",
        "--no-deps",
        "--require-hashes",
        "--only-binary=:all:",
        "--implementation=cp",
        "--python-version",
        version,
        "--platform",
        &platforms[0],
        "--platform",
        &platforms[1],
        "--target",
        &target,
        "--requirement",
        &list,
    ])
    .map(drop)
}

/// Runs the builder's pip.
pub(crate) fn pip(arguments: &[&str]) -> Result<Vec<u8>, BuildError> {
    match PIP.run(Command::new("python3").args(["-m", "pip"]).args(arguments)) {
        Err(BuildError::ToolFailed { output, .. }) if output.contains("No module named pip") => {
            Err(PIP.missing())
        }
        result => result,
    }
}

/// What is installed below `target`, by the `NAME-VERSION.dist-info` of each package.
fn installed(target: &Path) -> Result<Vec<Package>, BuildError> {
    let mut packages = Vec::new();
    for entry in fs::read_dir(target).context("read", target)?.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if let Some((name, version)) = name.strip_suffix(".dist-info").and_then(|name| name.split_once('-')) {
            packages.push(Package {
                origin: "python".to_owned(),
                name: name.to_owned(),
                version: version.to_owned(),
            });
        }
    }
    Ok(packages)
}

/// Compiles the standard library and the runtime's packages with the runtime's own interpreter. On a read-only root no
/// later start could keep what it compiled. The result is bound to nothing but its name, so that neither a copy's
/// modification times nor a look at the source matter.
pub(crate) fn compile(recipe: &Recipe, root: &Path) -> Result<(), BuildError> {
    let Some(python) = &recipe.python else {
        return Ok(());
    };
    let library = format!("/usr/lib/python{}", python.version);
    let mut command = inside(root, &python.interpreter);
    command.args(["-I", "-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash"]);
    command.args([library.as_str(), "/var/runtime"]);
    CHROOT.run(&mut command)?;
    let compiled = root.join(RUNTIME).join("__pycache__");
    if compiled.is_dir() { Ok(()) } else { Err(BuildError::Incomplete { path: compiled }) }
}
