//! What a guest sees of file systems: the same as a jail (see `jail::mounts`), from images instead of directories.
//!
//! ```text
//! /            /dev/vda, erofs       read-only, nosuid, nodev
//! /var/task    /dev/vdb, squashfs    read-only, nosuid, nodev
//! /tmp         tmpfs, bounded        nosuid, nodev
//! /dev         tmpfs, read-only      null zero full random urandom, fd stdin stdout stderr: no disk, no console
//! /dev/shm     tmpfs, bounded        nosuid, nodev, noexec
//! /proc        of the guest          others' processes invisible; kernel files covered or read-only
//! ```
//!
//! File systems are made while the kernel's device nodes are there; then the root changes; then they are attached. So every
//! target is looked up inside the new root. The initramfs cannot be unmounted, nor be the old root of `pivot_root`: the new
//! root is moved on top of it, where without privileges nobody gets below.

use std::{
    fs::{self, File, Permissions},
    os::{
        fd::OwnedFd,
        unix::fs::{PermissionsExt, symlink},
    },
    path::Path,
};

use protocol::guest::{CODE_DEVICE, ROOT_DEVICE};
use rustix::{
    fs::{CWD, FileType, Mode, chmod, makedev, mknodat},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, fsconfig_create,
        fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_bind, mount_move, mount_remount,
        move_mount,
    },
    process::{chdir, chroot, fchdir},
};

use super::settings;
use crate::boot::{AgentError, Context};

/// Size of `/dev/shm`, bytes. Lambda has none; some libraries fail to load without.
const SHM_BYTES: u64 = 64 * 1024 * 1024;

/// `/dev` holds a few nodes and links, no data.
const DEV_BYTES: u64 = 256 * 1024;

/// An inode and its name cost about 1 KiB of kernel memory: a file system of this many bytes may have one file.
const BYTES_PER_INODE: u64 = 4096;

/// Where the new root waits to become it: an empty directory of the initramfs.
const NEW_ROOT: &str = "/root";

const NO_PRIVILEGES: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);
const NO_PROGRAMS: MountAttrFlags = NO_PRIVILEGES.union(MountAttrFlags::MOUNT_ATTR_NOEXEC);
const IMAGE: MountAttrFlags = NO_PRIVILEGES.union(MountAttrFlags::MOUNT_ATTR_RDONLY);

/// Memory devices: major number 1 (Linux, Documentation/admin-guide/devices.txt).
const MEMORY_DEVICES: u32 = 1;
const DEVICES: [(&str, u32); 5] =
    [("/dev/null", 3), ("/dev/zero", 5), ("/dev/full", 7), ("/dev/random", 8), ("/dev/urandom", 9)];

const DEVICE_LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Files of the kernel's that a function has no use for; which there are depends on how the kernel was built.
const COVERED: [&str; 9] = [
    "/proc/config.gz",
    "/proc/iomem",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/key-users",
    "/proc/keys",
    "/proc/kmsg",
    "/proc/sysrq-trigger",
    "/proc/timer_list",
];

/// Settings that programs read and need not change.
const READ_ONLY: [&str; 4] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"];

/// The kernel's own device nodes, in the initramfs.
pub(super) fn devices() -> Result<(), AgentError> {
    let none = c"";
    rustix::mount::mount("devtmpfs", "/dev", "devtmpfs", MountFlags::NOSUID | MountFlags::NOEXEC, none)
        .step("mount the kernel's devices")
}

/// Makes the root image the root, with everything in it.
pub(super) fn enter_root(tmp_bytes: u64) -> Result<(), AgentError> {
    let root = file_system("erofs", IMAGE, &[("source", ROOT_DEVICE)]).step("mount the root image")?;
    let code = file_system("squashfs", IMAGE, &[("source", CODE_DEVICE)]).step("mount the code image")?;
    attach(&root, NEW_ROOT).step("mount the root image")?;
    fchdir(&root)
        .and_then(|()| mount_move(".", "/"))
        .and_then(|()| chroot("."))
        .and_then(|()| chdir("/"))
        .step("enter the root image")?;

    attach(&code, "/var/task").step("mount the code image at /var/task")?;
    let tmp = tmpfs("1777", tmp_bytes, NO_PRIVILEGES).step("make /tmp")?;
    attach(&tmp, "/tmp").step("mount /tmp")?;
    // 2 = "invisible", by a name that older kernels know.
    let proc = file_system("proc", NO_PROGRAMS, &[("hidepid", "2")]).step("make /proc")?;
    attach(&proc, "/proc").step("mount /proc")?;
    settings::kernel().step("set the kernel up")?;
    let sysfs = file_system("sysfs", NO_PROGRAMS, &[]).step("look at the kernel's objects")?;
    settings::prevent_thrashing(&sysfs).step("have the kernel end who thrashes")?;
    fill_dev().step("make /dev")?;
    mask_proc().step("cover files of /proc")?;
    mount_remount("/dev", settled() - MountFlags::NODEV, c"").step("make /dev read-only")
}

/// A new file system that is mounted nowhere yet.
fn file_system(
    kind: &str,
    attributes: MountAttrFlags,
    options: &[(&str, &str)],
) -> rustix::io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        fsconfig_set_string(&context, *key, *value)?;
    }
    if attributes.contains(MountAttrFlags::MOUNT_ATTR_RDONLY) {
        // Of the file system itself, and so of its device: not only of this mount.
        fsconfig_set_flag(&context, "ro")?;
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn tmpfs(mode: &str, bytes: u64, attributes: MountAttrFlags) -> rustix::io::Result<OwnedFd> {
    let (size, inodes) = (bytes.to_string(), (bytes / BYTES_PER_INODE).to_string());
    file_system("tmpfs", attributes, &[("mode", mode), ("size", &size), ("nr_inodes", &inodes)])
}

fn attach(tree: &OwnedFd, target: &str) -> rustix::io::Result<()> {
    move_mount(tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

fn fill_dev() -> rustix::io::Result<()> {
    let dev = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    attach(&tmpfs("0755", DEV_BYTES, dev)?, "/dev")?;
    for (path, minor) in DEVICES {
        let everybody = Mode::from_raw_mode(0o666);
        mknodat(CWD, path, FileType::CharacterDevice, everybody, makedev(MEMORY_DEVICES, minor))?;
        // The mode above went through the umask.
        chmod(path, everybody)?;
    }
    for (target, link) in DEVICE_LINKS {
        errno(symlink(target, link))?;
    }
    errno(fs::create_dir("/dev/shm"))?;
    attach(&tmpfs("1777", SHM_BYTES, NO_PROGRAMS)?, "/dev/shm")
}

/// Covers files with a file that nobody may open.
fn mask_proc() -> rustix::io::Result<()> {
    let cover = Path::new("/dev/.cover");
    errno(File::create(cover))?;
    errno(fs::set_permissions(cover, Permissions::from_mode(0o000)))?;
    for path in COVERED.into_iter().filter(|path| Path::new(path).exists()) {
        mount_bind(cover, path)?;
    }
    for path in READ_ONLY.into_iter().filter(|path| Path::new(path).exists()) {
        mount_bind(path, path)?;
        mount_remount(path, settled(), c"")?;
    }
    // The cover stays where it is mounted; its name need not.
    errno(fs::remove_file(cover))
}

fn settled() -> MountFlags {
    MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV
}

fn errno<T>(result: std::io::Result<T>) -> rustix::io::Result<T> {
    result.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}
