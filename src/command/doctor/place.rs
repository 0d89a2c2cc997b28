//! Where things are tried: in a cgroup and as a user that no server on this machine has.
//!
//! Both are the same every time, so what a doctor that was killed left behind is found and removed by the next. Two at once
//! would take each other's trials for leftovers; so one waits for the other, by a lock on the directory that holds the cgroup.
//! The lock goes with the process, however that ends.

use std::{fs::File, io, path::Path};

use jail::cgroup::Hierarchy;
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

/// Servers add a tag to their group's name, so none is called so.
pub(super) const GROUP: &str = "waterwheel-doctor";
/// First of the user ids; servers have theirs from below [`crate::config::UID_BASES`]' end.
pub(super) const UID_BASE: u32 = 2_100_000_000;

/// The cgroup and the users are this process's, until dropped.
#[derive(Debug)]
pub(super) struct Place(#[expect(dead_code, reason = "held for its lock")] Option<File>);

impl Place {
    /// Waits while another doctor is at work. Where there are no cgroups nothing is tried in one, and nobody need wait.
    pub(super) fn enter() -> io::Result<Self> {
        let Ok(hierarchy) = Hierarchy::detect() else {
            return Ok(Self(None));
        };
        let group = hierarchy.directories(GROUP).into_iter().next();
        group.as_deref().and_then(Path::parent).map(lock).transpose().map(Self)
    }
}

fn lock(directory: &Path) -> io::Result<File> {
    let directory = File::open(directory)?;
    match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => {
            eprintln!("waterwheel: another doctor is at work; waiting for it");
            flock(&directory, FlockOperation::LockExclusive)?;
        }
        locked => locked?,
    }
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::UID_BASES;

    #[test]
    fn no_server_has_the_doctors_user() {
        // Room for 50 million environments above the last base that a server may have.
        assert!(UID_BASE - UID_BASES.end() >= 100_000_000);
        assert!(UID_BASE < i32::MAX as u32);
    }

    #[test]
    fn a_second_doctor_waits_for_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let first = lock(directory.path()).unwrap();
        let other = File::open(directory.path()).unwrap();
        assert_eq!(flock(&other, FlockOperation::NonBlockingLockExclusive), Err(Errno::WOULDBLOCK));
        drop(first);
        flock(&other, FlockOperation::NonBlockingLockExclusive).unwrap();
    }
}
