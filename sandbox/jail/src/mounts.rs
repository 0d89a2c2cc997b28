//! What an environment sees of file systems.
//!
//! ```text
//! /            the runtime image     read-only, nosuid, nodev
//! /var/task …  binds                 nosuid, nodev, mostly read-only
//! /tmp         tmpfs, bounded        nosuid, nodev
//! /dev         tmpfs, read-only      null zero full random urandom, fd stdin stdout stderr
//! /dev/shm     tmpfs, bounded        nosuid, nodev, noexec
//! /proc        of the pid namespace  others' processes invisible; kernel files covered or read-only
//! ```
//!
//! Sources are taken as detached mounts while the host's tree is still there; then the root changes; then they are attached.
//! So every target is looked up inside the new root, and a symbolic link of the image cannot lead a mount out of it.

use std::{
    fs::{self, File, Permissions},
    os::{
        fd::OwnedFd,
        unix::fs::{PermissionsExt, symlink},
    },
    path::Path,
};

use rustix::{
    fs::CWD,
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
        OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount,
        fsopen, mount_bind, mount_change, mount_remount, move_mount, open_tree, unmount,
    },
    process::{chdir, fchdir, pivot_root},
};

use crate::{Controls, Files, JailError, enter::Context};

/// Size of `/dev/shm`, bytes. Lambda has none; some libraries fail to load without. It is memory of the environment.
const SHM_BYTES: u64 = 64 * 1024 * 1024;

/// Smallest number of bytes that one file of `/tmp` stands for when its files are bounded: an inode and its name cost
/// about 1 KiB of kernel memory.
const BYTES_PER_INODE: u64 = 4096;

const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

const DEVICE_LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Kernel state that is nobody's business inside: memory, keys, timers, and the trigger that reboots the machine.
const COVERED: [&str; 14] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/config.gz",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/key-users",
    "/proc/keys",
    "/proc/kmsg",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/sysrq-trigger",
    "/proc/timer_list",
    "/proc/vmallocinfo",
];

/// Settings that programs read; writing them is the host's.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/tty"];

/// Makes `files.root` the root of this process's mount namespace, with everything in it; the host's tree is gone afterwards.
pub(crate) fn enter_root(files: &Files, controls: &Controls) -> Result<(), JailError> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .step("make mounts private")?;
    let binds = files.binds.iter().map(|bind| detached(&bind.source)).collect::<Result<Vec<_>, _>>()?;
    let devices =
        DEVICES.iter().map(|name| detached(&Path::new("/dev").join(name))).collect::<Result<Vec<_>, _>>()?;

    change_root(&files.root, restrictions(controls, true))?;
    for (bind, tree) in files.binds.iter().zip(&binds) {
        attach(tree, &bind.target, files)?;
        mount_remount(&bind.target, restrictions(controls, bind.read_only), c"")
            .at("restrict", &bind.target)?;
    }
    let no_privileges = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let tmp = tmpfs("1777", controls.tmp_limit.then_some(files.tmp_bytes), no_privileges)?;
    attach(&tmp, Path::new("/tmp"), files)?;
    attach(&proc(controls)?, Path::new("/proc"), files)?;
    let no_programs = no_privileges | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    attach(&tmpfs("0755", Some(BYTES_PER_INODE * 64), no_programs)?, Path::new("/dev"), files)?;
    fill_dev(&devices, files)?;
    attach(
        &tmpfs("1777", controls.tmp_limit.then_some(SHM_BYTES), no_programs)?,
        Path::new("/dev/shm"),
        files,
    )?;
    if controls.mask_proc {
        mask_proc()?;
    }
    let settled =
        MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    mount_remount("/dev", settled, c"").step("make /dev read-only")
}

fn restrictions(controls: &Controls, read_only: bool) -> MountFlags {
    let mut flags = MountFlags::BIND;
    flags.set(MountFlags::RDONLY, read_only && controls.read_only);
    flags.set(MountFlags::NOSUID, controls.nosuid);
    flags.set(MountFlags::NODEV, controls.nodev);
    flags
}

/// A mount of `source` that is nowhere yet; what is mounted below it stays behind.
fn detached(source: &Path) -> Result<OwnedFd, JailError> {
    open_tree(CWD, source, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
        .at("bind", source)
}

fn attach(tree: &OwnedFd, target: &Path, files: &Files) -> Result<(), JailError> {
    match move_mount(tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH) {
        Err(Errno::NOENT | Errno::NOTDIR) => {
            Err(JailError::MountPoint { root: files.root.clone(), target: target.to_owned() })
        }
        other => other.at("mount", target),
    }
}

fn change_root(root: &Path, restrictions: MountFlags) -> Result<(), JailError> {
    let tree = detached(root)?;
    move_mount(&tree, "", CWD, root, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).at("mount", root)?;
    fchdir(&tree).at("enter", root)?;
    mount_remount(".", restrictions, c"").at("restrict", root)?;
    // The old root ends up on top of the new one (pivot_root(2), "pivot_root(".", ".")"), and is then let go.
    pivot_root(".", ".").at("make the root of", root)?;
    unmount(".", UnmountFlags::DETACH).step("let go of the host's root")?;
    chdir("/").step("enter the new root")
}

fn tmpfs(mode: &str, bytes: Option<u64>, attributes: MountAttrFlags) -> Result<OwnedFd, JailError> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).step("open tmpfs")?;
    fsconfig_set_string(&context, "mode", mode).step("set the mode of a tmpfs")?;
    let (bytes, inodes) = bytes.map_or((0, 0), |bytes| (bytes, bytes / BYTES_PER_INODE)); // 0: no bound
    fsconfig_set_string(&context, "size", bytes.to_string()).step("set the size of a tmpfs")?;
    fsconfig_set_string(&context, "nr_inodes", inodes.to_string()).step("set the inodes of a tmpfs")?;
    // Linux 6.4; before it only the cgroup keeps the function's files out of swap.
    let _ = fsconfig_set_flag(&context, "noswap");
    fsconfig_create(&context).step("create a tmpfs")?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).step("mount a tmpfs")
}

fn proc(controls: &Controls) -> Result<OwnedFd, JailError> {
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC).step("open proc")?;
    let hidden = if controls.hide_processes { "2" } else { "0" }; // 2 = "invisible", by a name older kernels know
    fsconfig_set_string(&context, "hidepid", hidden).step("set hidepid")?;
    fsconfig_create(&context).step("create proc")?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).step("mount proc")
}

fn fill_dev(devices: &[OwnedFd], files: &Files) -> Result<(), JailError> {
    for (name, device) in DEVICES.iter().zip(devices) {
        let target = Path::new("/dev").join(name);
        errno(File::create(&target)).at("create", &target)?;
        attach(device, &target, files)?;
    }
    for (target, link) in DEVICE_LINKS {
        errno(symlink(target, link)).at("create", Path::new(link))?;
    }
    errno(fs::create_dir("/dev/shm")).step("create /dev/shm")
}

/// Covers files with a file, and directories with a directory, that nobody may open.
fn mask_proc() -> Result<(), JailError> {
    let (file, directory) = (Path::new("/dev/.covered-file"), Path::new("/dev/.covered-directory"));
    errno(File::create(file)).at("create", file)?;
    errno(fs::create_dir(directory)).at("create", directory)?;
    for cover in [file, directory] {
        errno(fs::set_permissions(cover, Permissions::from_mode(0o000))).at("close", cover)?;
    }
    for path in COVERED.map(Path::new) {
        // Which of them exist depends on how the kernel was built.
        let Ok(metadata) = fs::metadata(path) else {
            continue;
        };
        let cover = if metadata.is_dir() { directory } else { file };
        mount_bind(cover, path).at("cover", path)?;
    }
    let flags =
        MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    for path in READ_ONLY.map(Path::new).into_iter().filter(|path| path.exists()) {
        mount_bind(path, path).at("bind", path)?;
        mount_remount(path, flags, c"").at("make read-only", path)?;
    }
    // The covers stay where they are mounted; their names need not.
    errno(fs::remove_file(file)).at("remove", file)?;
    errno(fs::remove_dir(directory)).at("remove", directory)
}

fn errno<T>(result: std::io::Result<T>) -> rustix::io::Result<T> {
    result.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}
