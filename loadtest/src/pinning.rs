//! Which cores a measurement runs on. Waking a thread on another core costs several times what waking it on the same one
//! does, so a figure without placement is a figure of the scheduler's mood.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The cores the calling thread may run on, in order.
pub fn allowed_cores() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect())
}

/// Confines the calling thread to `cores`. Threads and processes it starts from now on inherit that.
pub fn pin(cores: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for &core in cores {
        set.set(core);
    }
    Ok(sched_setaffinity(None, &set)?)
}

/// Runs `work` with the calling thread confined to `cores`, and lets it go back to where it was allowed before.
pub fn pinned<T>(cores: &[usize], work: impl FnOnce() -> T) -> io::Result<T> {
    let before = sched_getaffinity(None)?;
    pin(cores)?;
    let result = work();
    sched_setaffinity(None, &before)?;
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_and_its_children_have_only_that_core_and_then_all_again() {
        let before = allowed_cores().unwrap();
        let core = *before.last().unwrap();
        let (own, child) = pinned(&[core], || {
            let child = std::process::Command::new("nproc").output().unwrap().stdout;
            (allowed_cores().unwrap(), String::from_utf8(child).unwrap())
        })
        .unwrap();
        assert_eq!((own, child.trim()), (vec![core], "1"));
        assert_eq!(allowed_cores().unwrap(), before);
    }

    #[test]
    fn a_core_that_does_not_exist_is_an_error() {
        assert!(pin(&[CpuSet::MAX_CPU - 1]).is_err());
    }
}
