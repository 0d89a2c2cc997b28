//! Emptying and removing cgroups.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use super::{annotate, hierarchy::Place};

/// Longest wait for killed processes. A process in an uninterruptible call outlives its SIGKILL until the call is done.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two tries to remove a directory whose last process is still being taken apart: the kernel tells nobody when it has.
const REMOVAL_PAUSE: Duration = Duration::from_millis(1);

/// Kills every process in `place`, and waits until none is left.
pub(super) fn everything_in(place: &Place) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    // Version 2, Linux 5.14. Otherwise, and to wait, one by one.
    let _ = place.write("cgroup.kill", "1");
    loop {
        // Opened first and looked up again: a number that passed to a stranger in between is not listed any more.
        let opened: Vec<(Pid, OwnedFd)> = members(place)?.into_iter().filter_map(open).collect();
        let members = members(place)?;
        if members.is_empty() {
            return Ok(());
        }
        let dying = opened.iter().filter(|(pid, _)| members.contains(pid));
        for (_, process) in dying.clone() {
            // Fails only for one that is gone.
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
        for (_, process) in dying {
            wait(process, deadline)
                .map_err(|error| annotate(&error, "kill all processes of", &place.directory))?;
        }
        if Instant::now() >= deadline {
            return Err(annotate(&io::ErrorKind::TimedOut.into(), "kill all processes of", &place.directory));
        }
    }
}

/// Processes in `place`; none if it does not exist, if only since it was opened. Those outside of our pid namespace are listed as 0 and left out.
fn members(place: &Place) -> io::Result<Vec<Pid>> {
    match place.read("cgroup.procs") {
        Err(_) if !place.directory.exists() => Ok(Vec::new()),
        pids => Ok(pids?.lines().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()),
    }
}

fn open(pid: Pid) -> Option<(Pid, OwnedFd)> {
    Some((pid, pidfd_open(pid, PidfdFlags::empty()).ok()?))
}

fn wait(process: &OwnedFd, deadline: Instant) -> io::Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Removes an empty cgroup. One that does not exist is removed.
pub(super) fn remove(directory: &Path) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match fs::remove_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                std::thread::sleep(REMOVAL_PAUSE);
            }
            result => return result.map_err(|error| annotate(&error, "remove cgroup", directory)),
        }
    }
}
