//! How a virtual machine ends.

use std::{any::Any, fmt};

/// How much of the console the line on stderr has room for.
const LINES_TOLD: usize = 12;

/// Why the virtual CPUs do not run any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// The monitor was asked to stop: by a signal, or because the server is gone.
    Shutdown,
    /// The guest asked for a restart through the keyboard controller. There are no restarts: the machine is over.
    Reset,
    /// The guest's kernel said that it cannot go on.
    GuestPanic {
        /// What it said.
        message: String,
    },
    /// An exception while handling an exception while handling an exception; also how a guest without a kernel ends.
    TripleFault,
    /// KVM cannot go on, or did something that it never should.
    InternalError { detail: String },
    /// A device failed on the host's side.
    DeviceError { detail: String },
    /// A thread of the monitor has panicked: a fault of the monitor's, which the guest may have provoked.
    MonitorPanic { detail: String },
}

impl Exit {
    /// Exit code of the monitor process. Stable: the server tells ends apart by it.
    ///
    /// 64 (`EX_USAGE`) and 70 (`EX_SOFTWARE`) stand for a machine that never ran: a document that describes none, and a step
    /// of the construction that failed.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Shutdown => 0,
            Self::Reset => 10,
            Self::GuestPanic { .. } => 11,
            Self::TripleFault => 12,
            Self::InternalError { .. } => 13,
            Self::DeviceError { .. } => 14,
            Self::MonitorPanic { .. } => 15,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shutdown => write!(formatter, "shut down"),
            Self::Reset => write!(formatter, "the guest restarted"),
            Self::GuestPanic { message } => write!(formatter, "the guest's kernel panicked: {message}"),
            Self::TripleFault => write!(formatter, "triple fault"),
            Self::InternalError { detail } => write!(formatter, "kvm cannot go on: {detail}"),
            Self::DeviceError { detail } => write!(formatter, "a device failed: {detail}"),
            Self::MonitorPanic { detail } => write!(formatter, "the monitor panicked: {detail}"),
        }
    }
}

/// What a thread has panicked with.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a word".to_owned())
}

/// The end, and what may have led to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    pub exit: Exit,
    /// Devices that have given up on their driver, or on their host.
    pub failures: Vec<String>,
    /// The last lines on the guest's console.
    pub console: Vec<String>,
}

impl fmt::Display for Ending {
    /// One line, whatever the guest has printed.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.exit)?;
        for failure in &self.failures {
            write!(formatter, "; {failure}")?;
        }
        let last = self.console.get(self.console.len().saturating_sub(LINES_TOLD)..).unwrap_or_default();
        if !last.is_empty() {
            write!(formatter, "; last on its console: {}", last.join(" | "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_a_code_of_its_own() {
        let text = || String::from("x");
        let ends = [
            Exit::Shutdown,
            Exit::Reset,
            Exit::GuestPanic { message: text() },
            Exit::TripleFault,
            Exit::InternalError { detail: text() },
            Exit::DeviceError { detail: text() },
            Exit::MonitorPanic { detail: text() },
        ];
        assert_eq!(ends.map(|end| end.code()), [0, 10, 11, 12, 13, 14, 15]);
    }

    #[test]
    fn an_ending_is_one_line() {
        let console = vec!["Run /init as init process".to_owned(), "Oops".to_owned()];
        let ending = Ending { exit: Exit::TripleFault, failures: vec!["device 0: no".to_owned()], console };
        let line = "triple fault; device 0: no; last on its console: Run /init as init process | Oops";
        assert_eq!(ending.to_string(), line);
    }
}
