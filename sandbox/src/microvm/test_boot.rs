//! Whether this machine boots microVMs, found out by booting one.
//!
//! The device alone proves nothing: some machines offer `/dev/kvm` by software that emulates what a guest's kernel does, and
//! not all of it. So a whole guest kernel is booted, to an agent that says hello over vsock, in the same jail and with
//! the same filters as every environment. It has no disk and little memory, and is gone when this returns.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use protocol::{AgentFrame, guest};
use types::MemorySize;

use super::{AGENT_VARIABLES, Machine, MicrovmLimits, Monitors, begin, find_kernel};
use crate::StartError;

/// Enough for a kernel and the agent.
const MEMORY: MemorySize = MemorySize(64);

/// A machine that virtualises in hardware may be slow, but gets there (nested in an emulator it takes about 5 s).
const PATIENCE: Duration = Duration::from_secs(30);
/// One that does not would take minutes, if it got anywhere: a kernel needs a thousand million instructions.
const PATIENCE_WITH_SOFTWARE: Duration = Duration::from_secs(3);

/// Why there are no microVMs here.
#[derive(Debug, thiserror::Error)]
pub enum NoMicrovm {
    #[error("no guest kernel is installed in {directory}: run waterwheel kernel build", directory = directory.display())]
    NoKernel { directory: PathBuf },
    #[error("runtime {runtime} has no disk image: install erofs-utils and run waterwheel runtimes build")]
    NoImage { runtime: String },
    #[error("/dev/kvm cannot be opened: {0}")]
    NoKvm(io::Error),
    #[error("monitors cannot be prepared: {0}")]
    Prepare(io::Error),
    #[error("no monitor could be started: {0}")]
    Start(StartError),
    /// The monitor, or the guest's kernel through it, said why.
    #[error("/dev/kvm exists, but a kernel did not reach its init: {reason}{hint}", hint = hint(*.hardware))]
    NotBooted { reason: String, hardware: bool },
    #[error("/dev/kvm exists, but a kernel did not reach its init within {within:?}{hint}", hint = hint(*.hardware))]
    TooSlow { within: Duration, hardware: bool },
}

fn hint(hardware: bool) -> &'static str {
    if hardware { "" } else { " (the processor shows neither vmx nor svm: KVM is emulated in software here)" }
}

/// Boots the kernel in `directory` to the agent's hello and says how long it took. `group` and `uid_base` as in
/// [`super::MicrovmIsolationConfig`]; nothing else may use them meanwhile. Call within a tokio runtime.
pub async fn test_boot(directory: &Path, group: &str, uid_base: u32) -> Result<Duration, NoMicrovm> {
    let monitors = Monitors::open(&find_kernel(directory)?, group, uid_base, MicrovmLimits::default())?;
    boot_and_sweep(Arc::new(monitors)).await
}

/// Boots a kernel, and removes the group that it was in.
pub(super) async fn boot_and_sweep(monitors: Arc<Monitors>) -> Result<Duration, NoMicrovm> {
    let booted = boot(monitors.clone()).await;
    let swept = tokio::task::spawn_blocking(move || monitors.sweep()).await;
    swept.map_err(io::Error::other).and_then(|swept| swept).map_err(NoMicrovm::Prepare)?;
    booted
}

async fn boot(monitors: Arc<Monitors>) -> Result<Duration, NoMicrovm> {
    let hardware = has_hardware_virtualisation();
    let patience = if hardware { PATIENCE } else { PATIENCE_WITH_SOFTWARE };
    let machine = Machine {
        memory_mib: MEMORY.0,
        vcpus: 1,
        cpu_shares: u64::from(MEMORY.0),
        disks: Vec::new(),
        command_line: format!("{}={} {AGENT_VARIABLES}", guest::VARIABLE, guest::PROBE),
    };
    let begun = Instant::now();
    let mut environment = begin(monitors, machine, None, MEMORY).await.map_err(NoMicrovm::Start)?;
    let answer = tokio::time::timeout(patience, environment.recv()).await;
    let took = begun.elapsed();
    match answer {
        Ok(Ok(AgentFrame::Hello { version: protocol::VERSION })) => {
            environment.stop().await;
            Ok(took)
        }
        Ok(Ok(_)) => {
            environment.stop().await;
            Err(NoMicrovm::NotBooted { reason: "its agent is not this program's".to_owned(), hardware })
        }
        Ok(Err(_)) => Err(NoMicrovm::NotBooted { reason: environment.last_words().await, hardware }),
        Err(_) => {
            environment.end().await;
            Err(NoMicrovm::TooSlow { within: patience, hardware })
        }
    }
}

/// Whether the processor shows a way to virtualise in hardware.
#[must_use]
pub fn has_hardware_virtualisation() -> bool {
    shows_virtualisation(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
}

fn shows_virtualisation(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter_map(|line| line.strip_prefix("flags")?.split_once(':'))
        .any(|(_, flags)| flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_flags_count_as_hardware() {
        assert!(shows_virtualisation("processor\t: 0\nflags\t\t: fpu svm sse\n"));
        assert!(shows_virtualisation("flags : vmx"));
        assert!(!shows_virtualisation("flags\t: svm_lock fpu\nvmx flags\t: vnmi vmx"));
        assert!(!shows_virtualisation(""));
    }

    #[test]
    fn a_reason_says_what_to_do_or_why_not() {
        let absent = NoMicrovm::NoKernel { directory: "/r".into() };
        assert_eq!(absent.to_string(), "no guest kernel is installed in /r: run waterwheel kernel build");
        let slow = NoMicrovm::TooSlow { within: Duration::from_secs(3), hardware: false };
        assert_eq!(
            slow.to_string(),
            "/dev/kvm exists, but a kernel did not reach its init within 3s \
             (the processor shows neither vmx nor svm: KVM is emulated in software here)"
        );
    }
}
