//! Builds what runs in and around environments (the agent, the jail that starts it, the monitor of its VM) as small static
//! programs, so that the server can carry them in itself: one binary to install, and no file that an environment could
//! find or replace.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

const PROGRAMS: [&str; 3] = ["agent", "jail", "vmm"];

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let sandbox = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let host = env::var("HOST").expect("cargo sets HOST");
    for input in ["agent", "jail", "protocol", "vmm", "../Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", sandbox.join(input).display());
    }

    // <target>/<profile>/build/sandbox-<hash>/out: one build in <target>/guest serves every profile.
    let target =
        out.ancestors().nth(4).expect("OUT_DIR lies four levels below the target directory").join("guest");
    let built = build(&sandbox, &target, &host);
    for program in PROGRAMS {
        std::fs::copy(built.join(program), out.join(program)).expect("copy a guest program to OUT_DIR");
    }
}

fn build(sandbox: &Path, target: &Path, host: &str) -> PathBuf {
    let mut cargo = Command::new(env::var_os("CARGO").expect("cargo sets CARGO"));
    // The flags and wrappers of the outer build (clippy's among them) are not meant for these programs.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_") && name != "CARGO_HOME"
            || name.starts_with("RUSTC")
            || name == "RUSTFLAGS"
        {
            cargo.env_remove(name.as_ref());
        }
    }
    let flags = format!("CARGO_TARGET_{}_RUSTFLAGS", host.to_uppercase().replace('-', "_"));
    let status = cargo
        .current_dir(sandbox)
        .args(["build", "--quiet", "--locked", "--profile", "guest", "--target", host])
        // Each is a package with a program of the same name.
        .args(PROGRAMS.iter().flat_map(|program| ["--package", program, "--bin", program]))
        .arg("--target-dir")
        .arg(target)
        // Naming the target keeps these flags away from build scripts and procedural macros.
        .env(flags, "-C target-feature=+crt-static -C relocation-model=static")
        .status()
        .expect("run cargo for the guest programs");
    assert!(status.success(), "the guest programs did not build");
    target.join(host).join("guest")
}
