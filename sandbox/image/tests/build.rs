//! Both runtimes are really built, once, into `target/runtimes`, where every other test finds them.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use image::{InstalledRuntime, Progress, Recipe, RuntimeCatalog};

fn runtimes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/runtimes").components().collect()
}

fn built(name: &str) -> InstalledRuntime {
    let recipe = Recipe::named(name).unwrap();
    let installed = image::build(recipe, &runtimes(), &mut |progress| eprintln!("{progress}")).unwrap();
    let mut seen = Vec::new();
    let again = image::build(recipe, &runtimes(), &mut |progress| seen.push(progress)).unwrap();
    // Other tests may hold the lock at this moment.
    seen.retain(|progress| !matches!(progress, Progress::Waiting { .. }));
    assert_eq!(seen, [Progress::UpToDate { runtime: name.to_owned() }], "a second build has nothing to do");
    assert_eq!(again, installed);
    let catalog = RuntimeCatalog::open(&runtimes());
    assert_eq!(catalog.get(name), Some(installed.clone()));
    assert!(catalog.list().contains(&installed) && installed.current);
    installed
}

/// Runs a program inside the root with exactly the runtime's variables.
fn inside(runtime: &InstalledRuntime, program: &[&str], more: &[(&str, &str)]) -> Output {
    Command::new("/usr/sbin/chroot")
        .arg(&runtime.root)
        .args(program)
        .env_clear()
        .envs(runtime.variables.iter().map(|(name, value)| (name, value)))
        .envs(more.iter().copied())
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn walk(dir: &Path, visit: &mut dyn FnMut(&Path, &fs::Metadata)) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let metadata = match path.symlink_metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => panic!("{error}"),
        };
        visit(&path, &metadata);
        if metadata.is_dir() {
            walk(&path, visit);
        }
    }
}

fn is_a_proper_root(runtime: &InstalledRuntime) {
    for directory in ["var/task", "var/runtime", "opt", "tmp", "proc", "dev", "sys"] {
        assert!(runtime.root.join(directory).is_dir(), "{directory}");
    }
    for file in ["etc/passwd", "etc/resolv.conf", "etc/hosts", "etc/nsswitch.conf", "etc/ld.so.cache"] {
        assert!(runtime.root.join(file).is_file(), "{file}");
    }
    let mut bytes = 0;
    walk(&runtime.root, &mut |path, metadata| {
        let kind = metadata.file_type();
        assert_eq!((metadata.uid(), metadata.gid()), (0, 0), "{}", path.display());
        assert!(!kind.is_block_device() && !kind.is_char_device(), "{} is a device", path.display());
        let mode = metadata.permissions().mode() & 0o7777;
        let tmp = path == runtime.root.join("tmp");
        assert!(kind.is_symlink() || tmp || mode & 0o7022 == 0, "{} has mode {mode:o}", path.display());
        bytes += if kind.is_file() { metadata.len() } else { 0 };
    });
    assert_eq!(bytes, runtime.bytes);
    let host = fs::read_to_string("/etc/hostname").unwrap_or_default();
    assert!(!runtime.root.join("etc/hostname").exists(), "the builder's name {host:?} must not travel");
    for left in ["var/cache/apt", "var/lib/apt", "usr/share/man", "usr/share/locale", "etc/apt"] {
        assert!(!runtime.root.join(left).exists(), "{left}");
    }
}

#[test]
fn python_runs_the_unmodified_client_with_the_functions_packages_first() {
    let runtime = built("python3.11");
    is_a_proper_root(&runtime);
    assert_eq!(runtime.command, ["/var/runtime/bootstrap"]);
    // A stand-in for the client's entry point tells what the bootstrap hands it.
    let probe = "import sys, runpy, types\n\
        seen = types.ModuleType('awslambdaric.__main__')\n\
        seen.main = lambda args: print(args, sys.path[:4], sep='\\n')\n\
        import awslambdaric; awslambdaric.__main__ = seen; sys.modules['awslambdaric.__main__'] = seen\n\
        sys.path.remove('/var/runtime'); sys.path[0] = '/var/runtime'\n\
        exec(compile(open('/var/runtime/bootstrap.py').read(), 'bootstrap.py', 'exec'))";
    let out = inside(&runtime, &["/var/lang/bin/python3.11", "-c", probe], &[("_HANDLER", "app.handler")]);
    assert_eq!(
        text(&out),
        "['awslambdaric', 'app.handler']\n\
         ['/var/task', '/opt/python/lib/python3.11/site-packages', '/opt/python', '/var/runtime']\n"
    );
}

#[test]
fn python_has_the_sdk_and_its_standard_library_compiled() {
    let runtime = built("python3.11");
    let program = "import boto3, awslambdaric, runtime_client, ssl, sqlite3, ctypes, json, locale\n\
        print(json.__cached__, len(ssl.create_default_context().get_ca_certs()) > 50, locale.getlocale()[1])\n\
        print(awslambdaric.__version__, boto3.__version__)";
    let out = text(&inside(&runtime, &["/var/lang/bin/python3.11", "-c", program], &[]));
    assert_eq!(
        out,
        "/usr/lib/python3.11/json/__pycache__/__init__.cpython-311.pyc True UTF-8\n4.2.2 1.44.5\n"
    );
    let mut uncompiled = Vec::new();
    walk(&runtime.root.join("var/runtime"), &mut |path, _| {
        if path.extension().is_some_and(|extension| extension == "py") {
            let cache = format!("{}.cpython-311.pyc", path.file_stem().unwrap().to_str().unwrap());
            if !path.parent().unwrap().join("__pycache__").join(cache).is_file() {
                uncompiled.push(path.to_owned());
            }
        }
    });
    assert_eq!(uncompiled, Vec::<PathBuf>::new());
}

#[test]
fn the_python_client_asks_the_runtime_api_for_work() {
    let runtime = built("python3.11");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let api = listener.local_addr().unwrap().to_string();
    let mut child = Command::new("/usr/sbin/chroot")
        .arg(&runtime.root)
        .args(&runtime.command)
        .env_clear()
        .envs(runtime.variables.iter().map(|(name, value)| (name, value)))
        .envs([("_HANDLER", "json.dumps"), ("AWS_LAMBDA_RUNTIME_API", &api)])
        .spawn()
        .unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    let mut request = [0; 4096];
    let length = std::io::Read::read(&mut stream, &mut request).unwrap();
    let request = String::from_utf8_lossy(&request[..length]).to_ascii_lowercase();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(request.starts_with("get /2018-06-01/runtime/invocation/next http/1.1\r\n"), "{request}");
    assert!(request.contains("user-agent: aws-lambda-python/3.11"), "{request}");
}

#[test]
fn the_wrapper_script_of_a_function_gets_the_real_command() {
    let runtime = built("python3.11");
    let wrapped =
        inside(&runtime, &["/var/runtime/bootstrap"], &[("AWS_LAMBDA_EXEC_WRAPPER", "/usr/bin/echo")]);
    assert_eq!(text(&wrapped), "/var/lang/bin/python3.11 /var/runtime/bootstrap.py\n");
    let missing = inside(&runtime, &["/var/runtime/bootstrap"], &[("AWS_LAMBDA_EXEC_WRAPPER", "/opt/none")]);
    assert_eq!(missing.status.code(), Some(127));
}

#[test]
fn the_image_for_microvms_holds_the_same_files_as_the_root() {
    let runtime = built("provided.al2023");
    let image = runtime.image.unwrap();
    assert_eq!(image, Path::new(&format!("{}.erofs", runtime.root.display())));
    let scratch = tempfile::tempdir().unwrap();
    let extracted = scratch.path().join("root");
    let fsck =
        Command::new("fsck.erofs").arg(format!("--extract={}", extracted.display())).arg(&image).output();
    text(&fsck.unwrap());
    let mut diff = Command::new("diff");
    diff.args(["--recursive", "--no-dereference"]).args([&runtime.root, &extracted]);
    assert_eq!(text(&diff.output().unwrap()), "");
    walk(&extracted, &mut |path, metadata| {
        let original = runtime.root.join(path.strip_prefix(&extracted).unwrap()).symlink_metadata().unwrap();
        let facts = |metadata: &fs::Metadata| (metadata.mode(), metadata.uid(), metadata.gid());
        assert_eq!(facts(metadata), facts(&original), "{}", path.display());
    });
}

#[test]
fn the_same_root_makes_the_same_image() {
    let runtime = built("provided.al2023");
    let scratch = tempfile::tempdir().unwrap();
    // The catalogue of a machine that has the root, from another place and at another time, but no image yet.
    let home = scratch.path().join(&runtime.name);
    let copied = Command::new("cp").arg("--archive").arg(runtimes().join(&runtime.name)).arg(&home).status();
    assert!(copied.unwrap().success());
    let copy = home.join(runtime.image.as_ref().unwrap().file_name().unwrap());
    fs::remove_file(&copy).unwrap();
    let mut seen = Vec::new();
    let recipe = Recipe::named(&runtime.name).unwrap();
    let made = image::build(recipe, scratch.path(), &mut |progress| seen.push(progress)).unwrap();
    assert!(
        matches!(seen[..], [Progress::Step { number: 1, of: 1, .. }, Progress::UpToDate { .. }]),
        "{seen:?}"
    );
    assert_eq!(made.image, Some(copy.clone()));
    assert!(fs::read(copy).unwrap() == fs::read(runtime.image.unwrap()).unwrap(), "the images differ");
}

#[test]
fn provided_has_what_bootstrap_scripts_use() {
    let runtime = built("provided.al2023");
    is_a_proper_root(&runtime);
    assert_eq!(runtime.command, ["/var/task/bootstrap"]);
    // Nothing here may write: the root is the one that environments mount.
    let script = "set -euo pipefail; echo one two | awk '{print $2}' | sed s/t/T/ | grep -c Two; id -un 993; \
                  curl --version | sed -n '1s/ .*/ /p'; tail -c 26 \"$(readlink -f /etc/pki/tls/certs/ca-bundle.crt)\"";
    let out = text(&inside(&runtime, &["/bin/bash", "-c", script], &[]));
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines, ["1", "sbx_user1051", "curl ", "-----END CERTIFICATE-----"]);
}
