//! The jail of a virtual machine's monitor: less than an agent has, because a monitor needs nothing but its descriptors.
//!
//! ```text
//! /            tmpfs, empty, read-only, nosuid, nodev, noexec; nothing else is mounted
//! user         its own, from outside: the monitor never was user 0
//! capabilities none, in no set
//! network      a namespace with nothing in it, not even `lo` is up
//! descriptors  0–2, its document (3), the stream (5), and those that the driver names: all others close at execve
//! ```
//!
//! There is no filter of system calls here: the monitor puts one on each of its threads, and they differ.

use std::{
    fs::File,
    os::fd::{IntoRawFd, OwnedFd, RawFd},
};

use rustix::{
    fs::{CWD, Gid, Uid},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags,
        fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, unmount,
    },
    process::{Resource, Rlimit, chdir, fchdir, pivot_root, setrlimit},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use crate::{
    Controls, JailError,
    enter::{Context, SPEC, close_at_execve, last_errno},
    privileges,
};

/// An empty directory; the kernel counts in pages and inodes.
const ROOT_OPTIONS: [(&str, &str); 3] = [("mode", "0555"), ("size", "4096"), ("nr_inodes", "2")];

/// Makes an empty directory the root of this process's mount namespace; the host's tree is gone afterwards.
pub(crate) fn enter_empty_root(controls: &Controls) -> Result<(), JailError> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .step("make mounts private")?;
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).step("open tmpfs")?;
    for (key, value) in ROOT_OPTIONS {
        fsconfig_set_string(&context, key, value).step("bound the empty root")?;
    }
    fsconfig_create(&context).step("create the empty root")?;
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, controls.read_only);
    let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).step("mount the empty root")?;
    move_mount(&root, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).step("mount the empty root")?;
    fchdir(&root).step("enter the empty root")?;
    // As in `mounts`: the old root ends up on top of the new one, and is then let go.
    pivot_root(".", ".").step("make the empty root the root")?;
    unmount(".", UnmountFlags::DETACH).step("let go of the host's root")?;
    chdir("/").step("enter the empty root")
}

/// A monitor writes no file, and locks no memory.
pub(crate) fn limit_resources() -> Result<(), JailError> {
    for resource in [Resource::Fsize, Resource::Memlock] {
        let none = Rlimit { current: Some(0), maximum: Some(0) };
        setrlimit(resource, none).step("limit resources")?;
    }
    Ok(())
}

/// Leaves open across `execve` what the monitor is to have, and gives its document its place.
pub(crate) fn hand_over(
    documents: File,
    stream: OwnedFd,
    spec: RawFd,
    keep: &[RawFd],
) -> Result<(), JailError> {
    close_at_execve().step("close descriptors at execve")?;
    drop(documents);
    // It stays open under its number until the monitor takes it.
    let stream = stream.into_raw_fd();
    // SAFETY: the jail's own document, which had this number, has just been closed.
    if unsafe { libc::dup2(spec, SPEC) } < 0 {
        return Err(JailError::Step { step: "hand over the monitor's document", errno: last_errno() });
    }
    for descriptor in keep.iter().copied().chain([stream]) {
        // SAFETY: clearing close-on-exec takes the descriptor away from nobody; one that is not open answers EBADF.
        if unsafe { libc::fcntl(descriptor, libc::F_SETFD, 0) } < 0 {
            return Err(JailError::Step { step: "hand over descriptors", errno: last_errno() });
        }
    }
    Ok(())
}

/// Becomes `uid` for good, without any capability.
pub(crate) fn become_user(uid: u32, controls: &Controls) -> Result<(), JailError> {
    if controls.capabilities {
        privileges::empty_bounding_set()?;
    }
    if controls.own_user {
        let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
        set_thread_groups(&[]).step("leave all groups")?;
        set_thread_res_gid(group, group, group).step("change group")?;
        // Takes every capability away with user 0.
        set_thread_res_uid(user, user, user).step("change user")?;
    }
    privileges::drop_all(controls)
}
