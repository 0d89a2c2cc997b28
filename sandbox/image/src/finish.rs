//! Turns unpacked packages into a root file system: what their maintainer scripts would have done, what an environment
//! needs beside them, and nothing else.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, lchown, symlink},
    path::Path,
};

use crate::{BuildError, error::IoContext};

/// Where the jail mounts something, or what a function expects to be there.
const DIRECTORIES: &[&str] =
    &["dev", "opt", "proc", "sys", "tmp", "var/lang/bin", "var/runtime", "var/task", "etc/pki/tls/certs"];

/// What no function uses: documentation, translations, package management, other people's configuration.
const REMOVED: &[&str] = &[
    "boot",
    "etc/apt",
    "etc/cron.daily",
    "etc/dpkg",
    "etc/fstab",
    "etc/hostname",
    "etc/logrotate.d",
    "etc/motd",
    "etc/update-motd.d",
    "home",
    "lib32",
    "libx32",
    "media",
    "mnt",
    "srv",
    "usr/games",
    "usr/include",
    "usr/lib32",
    "usr/libx32",
    "usr/share/applications",
    "usr/share/bash-completion",
    "usr/share/bug",
    "usr/share/debconf",
    "usr/share/doc-base",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/menu",
    "usr/share/pixmaps",
    "usr/src",
    "var/backups",
    "var/cache",
    "var/lib/apt",
    "var/lib/dpkg",
    "var/local",
    "var/log",
    "var/mail",
    "var/opt",
    "var/spool",
];

/// `sbx_user1051` with uid 993 and gid 990 is who functions are on AWS. An environment may use other ids; these lines only
/// give the usual ones a name.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\
    agent:x:992:992:environment agent:/:/usr/sbin/nologin\n\
    sbx_user1051:x:993:990::/home/sbx_user1051:/sbin/nologin\n\
    nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
const GROUP: &str = "root:x:0:\ntty:x:5:\nagent:x:992:\nsbx_user1051:x:990:\nnogroup:x:65534:\n";
const NSSWITCH: &str = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\n\
    protocols: files\nservices: files\n";
const HOSTS: &str = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n";
const RESOLV_CONF: &str = "# An environment without a network has no resolver.\n";

const CA_BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";

/// Does all of it to a root whose packages have just been unpacked.
pub(crate) fn finish(root: &Path) -> Result<(), BuildError> {
    for path in REMOVED {
        remove(&root.join(path))?;
    }
    keep_only_copyrights(&root.join("usr/share/doc"))?;
    // Device nodes come from the jail; the tree itself holds none.
    remove(&root.join("dev"))?;
    for directory in DIRECTORIES {
        let path = root.join(directory);
        fs::create_dir_all(&path).context("create", &path)?;
    }
    for (path, text) in [
        ("etc/passwd", PASSWD),
        ("etc/group", GROUP),
        ("etc/nsswitch.conf", NSSWITCH),
        ("etc/hosts", HOSTS),
        ("etc/resolv.conf", RESOLV_CONF),
    ] {
        write(&root.join(path), text, 0o644)?;
    }
    link_what_scripts_would(root)?;
    certificates(root)
}

/// Links that maintainer scripts make.
fn link_what_scripts_would(root: &Path) -> Result<(), BuildError> {
    for (path, target) in [
        ("usr/bin/awk", "gawk"),
        ("usr/bin/awk", "mawk"),
        ("usr/bin/which", "which.debianutils"),
        // AWS's images say LANG=en_US.UTF-8. What a function sees of it is UTF-8, which C.utf8 is too.
        ("usr/lib/locale/en_US.utf8", "C.utf8"),
    ] {
        let path = root.join(path);
        let there = path.parent().is_some_and(|parent| parent.join(target).exists());
        if there && path.symlink_metadata().is_err() {
            symlink(target, &path).context("link", &path)?;
        }
    }
    let localtime = root.join("etc/localtime");
    remove(&localtime)?;
    symlink("/usr/share/zoneinfo/Etc/UTC", &localtime).context("link", &localtime)
}

/// One bundle of all authorities, where Debian's and AWS's programs look for it.
fn certificates(root: &Path) -> Result<(), BuildError> {
    let authorities = root.join("usr/share/ca-certificates/mozilla");
    let mut files: Vec<_> = fs::read_dir(&authorities)
        .context("read", &authorities)?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "crt"))
        .collect();
    files.sort();
    let mut bundle = String::new();
    for file in files {
        bundle.push_str(fs::read_to_string(&file).context("read", &file)?.trim_end());
        bundle.push('\n');
    }
    let path = root.join(CA_BUNDLE);
    if bundle.is_empty() {
        return Err(BuildError::Incomplete { path });
    }
    write(&path, &bundle, 0o644)?;
    let link = root.join("etc/pki/tls/certs/ca-bundle.crt");
    remove(&link)?;
    symlink(Path::new("/").join(CA_BUNDLE), &link).context("link", &link)
}

/// Whoever copies the root passes the programs' licences on.
fn keep_only_copyrights(doc: &Path) -> Result<(), BuildError> {
    let Ok(packages) = fs::read_dir(doc) else {
        return Ok(());
    };
    for package in packages.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        for file in fs::read_dir(package.path()).context("read", package.path())?.flatten() {
            if file.file_name() != "copyright" {
                remove(&file.path())?;
            }
        }
    }
    Ok(())
}

/// Writes a file of the root; never through a link that a package put there.
pub(crate) fn write(path: &Path, text: &str, mode: u32) -> Result<(), BuildError> {
    remove(path)?;
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).context("create", parent)?;
    }
    fs::write(path, text).context("write", path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).context("set the mode of", path)
}

/// Removes a file, a link or a whole directory; what is not there is removed already.
pub(crate) fn remove(path: &Path) -> Result<(), BuildError> {
    let result = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    result.context("remove", path)
}

/// Gives everything to root, takes set-user-id bits and others' right to write away, and adds up the sizes of files.
pub(crate) fn seal(root: &Path) -> Result<u64, BuildError> {
    let bytes = seal_tree(root)?;
    fs::set_permissions(root, fs::Permissions::from_mode(0o755)).context("set the mode of", root)?;
    let tmp = root.join("tmp");
    fs::set_permissions(&tmp, fs::Permissions::from_mode(0o1777)).context("set the mode of", &tmp)?;
    Ok(bytes)
}

fn seal_tree(directory: &Path) -> Result<u64, BuildError> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory).context("read", directory)? {
        let path = entry.context("read", directory)?.path();
        let metadata = path.symlink_metadata().context("read", &path)?;
        lchown(&path, Some(0), Some(0)).context("change the owner of", &path)?;
        if metadata.is_symlink() {
            continue;
        }
        let mode = metadata.permissions().mode() & 0o755;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).context("set the mode of", &path)?;
        if metadata.is_dir() {
            bytes += seal_tree(&path)?;
        } else {
            bytes += metadata.len();
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealing_leaves_no_special_bits_and_nothing_others_may_write() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("usr/bin")).unwrap();
        fs::create_dir(dir.path().join("tmp")).unwrap();
        let su = dir.path().join("usr/bin/su");
        write(&su, "12345", 0o6777).unwrap();
        symlink("/etc/shadow", dir.path().join("usr/link")).unwrap();
        assert_eq!(seal(dir.path()).unwrap(), 5);
        let mode = |path: &Path| path.symlink_metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&su), 0o755);
        assert_eq!(mode(&dir.path().join("tmp")), 0o1777);
    }

    #[test]
    fn a_file_is_written_in_place_of_a_link_and_not_through_it() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::write(&outside, "untouched").unwrap();
        let link = dir.path().join("etc/passwd");
        fs::create_dir(dir.path().join("etc")).unwrap();
        symlink(&outside, &link).unwrap();
        write(&link, "new", 0o644).unwrap();
        assert_eq!(fs::read_to_string(&outside).unwrap(), "untouched");
        assert_eq!(fs::read_to_string(&link).unwrap(), "new");
    }
}
