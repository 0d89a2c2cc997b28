//! The agent as the init of a VM: from a kernel that has only this program to what a jail would have made.
//!
//! ```text
//!   kernel ─► /init (initramfs) ─► devices ─► vsock to the host ─► lo, name, settings ─► root image becomes / ─► boot
//!                                   │            │                 randomness             /var/task /tmp /proc /dev
//!                    no host yet: kernel's log    └── from here a failure is told as StartFailed
//! ```
//!
//! That it is one is said on the kernel command line (`protocol::guest`), never guessed: in a jail the agent is PID 1 too.
//!
//! The VM is the wall here, so nothing is done about the kernel beneath: no filter of system calls, no namespaces, no
//! cgroups. The function gets a user of its own, as everywhere, because the agent must be out of its reach. Memory is the
//! VM's; what is used of it only the agent can see, and tells ([`Meter`]).
//!
//! How the VM ends: when the host's side of the connection ends, the monitor ends the VM; when the agent's does, the server
//! sees it and ends the monitor. So an agent that is done closes its stream and waits ([`wait_for_the_end`]); it needs no privilege to reboot, keeps none, and no file system
//! is waiting to be written. An agent that fails exits instead, and the kernel, which panics without its init, resets the
//! VM: then the monitor has the console's last lines to show.

mod meter;
mod mounts;
mod network;
mod settings;

use std::{env, fs::File, io, os::fd::OwnedFd};

use protocol::{AgentFrame, VERSION, guest};

use crate::boot::{AgentError, Context, tell};

pub(crate) use meter::Meter;

/// Before what is written to the kernel's log: it is shown whatever the console's level (syslog's KERN_EMERG).
pub(crate) const URGENT: &str = "<0>";

/// What the VM was started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guest {
    Serve { tmp_bytes: u64 },
    Probe,
}

impl Guest {
    /// Whether this program is the init of a VM. An error if it is told so in a way that it does not know.
    pub(crate) fn from_environment() -> Result<Option<Self>, AgentError> {
        let purpose = env::var(guest::VARIABLE).ok();
        Self::parse(purpose.as_deref(), env::var(guest::TMP_BYTES_VARIABLE).ok().as_deref())
    }

    fn parse(purpose: Option<&str>, tmp_bytes: Option<&str>) -> Result<Option<Self>, AgentError> {
        match purpose {
            None => Ok(None),
            Some(guest::PROBE) => Ok(Some(Self::Probe)),
            Some(guest::SERVE) => match tmp_bytes.map(str::parse) {
                Some(Ok(tmp_bytes)) => Ok(Some(Self::Serve { tmp_bytes })),
                _ => Err(AgentError::CommandLine(guest::TMP_BYTES_VARIABLE)),
            },
            Some(_) => Err(AgentError::CommandLine(guest::VARIABLE)),
        }
    }

    /// Makes the environment and connects to the host. `None`: nothing is left to do, and the host knows why.
    pub(crate) fn enter(self) -> Result<Option<OwnedFd>, AgentError> {
        mounts::devices()?;
        speak_in_the_log().step("open the kernel's log")?;
        let stream = network::connect().step("connect to the host")?;
        match self {
            Self::Probe => {
                tell(&stream, &AgentFrame::Hello { version: VERSION })?;
                // The host has seen enough when it closes the stream.
                let _ = rustix::io::read(&stream, &mut [0u8; 1]);
                Ok(None)
            }
            Self::Serve { tmp_bytes } => match make_environment(tmp_bytes) {
                Ok(()) => Ok(Some(stream)),
                Err(error) => {
                    tell(&stream, &AgentFrame::StartFailed { reason: error.to_string() })?;
                    Ok(None)
                }
            },
        }
    }
}

/// Makes standard error the kernel's log: there may be no console.
fn speak_in_the_log() -> io::Result<()> {
    let log = File::options().write(true).open("/dev/kmsg")?;
    Ok(rustix::stdio::dup2_stderr(&log)?)
}

fn make_environment(tmp_bytes: u64) -> Result<(), AgentError> {
    network::loopback_up().step("start the loopback interface")?;
    settings::reseed().step("mix the host's randomness in")?;
    mounts::enter_root(tmp_bytes)?;
    settings::name_and_limits()
}

/// Waits until the monitor, seeing that the stream has ended, ends the VM.
pub(crate) fn wait_for_the_end() -> ! {
    loop {
        rustix::event::pause();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_command_line_makes_a_guest() {
        let parse = |purpose, tmp| Guest::parse(purpose, tmp).map_err(|error| error.to_string());
        assert_eq!(parse(None, Some("5")), Ok(None));
        assert_eq!(parse(Some("probe"), None), Ok(Some(Guest::Probe)));
        assert_eq!(parse(Some("serve"), Some("5")), Ok(Some(Guest::Serve { tmp_bytes: 5 })));
        let wrong = |variable: &str| Err(format!("the kernel command line has no usable {variable}"));
        assert_eq!(parse(Some("serve"), None), wrong("WATERWHEEL_TMP_BYTES"));
        assert_eq!(parse(Some("serve"), Some("5M")), wrong("WATERWHEEL_TMP_BYTES"));
        assert_eq!(parse(Some("1"), Some("5")), wrong("WATERWHEEL_GUEST"));
    }
}
