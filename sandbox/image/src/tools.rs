//! The programs a build runs.

use std::{
    io,
    path::Path,
    process::{Command, Stdio},
};

use crate::BuildError;

/// Most bytes of a failed tool's output that its error carries.
const OUTPUT_TAIL: usize = 2000;

/// A program and how to get it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    pub(crate) install: &'static str,
}

pub(crate) const MMDEBSTRAP: Tool = Tool { name: "mmdebstrap", install: "apt-get install mmdebstrap" };
pub(crate) const PIP: Tool = Tool { name: "pip", install: "apt-get install python3-pip" };
pub(crate) const LDCONFIG: Tool = Tool { name: "ldconfig", install: "apt-get install libc-bin" };
pub(crate) const CHROOT: Tool = Tool { name: "chroot", install: "apt-get install coreutils" };
pub(crate) const MKFS_EROFS: Tool = Tool { name: "mkfs.erofs", install: "apt-get install erofs-utils" };

impl Tool {
    /// Runs `command`, which starts this tool, and returns what it printed on its standard output.
    pub(crate) fn run(self, command: &mut Command) -> Result<Vec<u8>, BuildError> {
        let output = command.stdin(Stdio::null()).output().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => self.missing(),
            _ => BuildError::ToolFailed {
                tool: self.name,
                status: "not started".to_owned(),
                output: error.to_string(),
            },
        })?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let mut text = output.stdout;
        text.extend_from_slice(&output.stderr);
        keep_tail(&mut text);
        let text = String::from_utf8_lossy(&text).trim().to_owned();
        Err(BuildError::ToolFailed { tool: self.name, status: output.status.to_string(), output: text })
    }

    pub(crate) fn missing(self) -> BuildError {
        BuildError::ToolMissing { tool: self.name, install: self.install }
    }
}

/// Drops all but the end of a tool's output.
pub(crate) fn keep_tail(output: &mut Vec<u8>) {
    output.drain(..output.len().saturating_sub(OUTPUT_TAIL));
}

/// A command that runs `program` inside `root` with nothing of the builder's own environment.
pub(crate) fn inside(root: &Path, program: &str) -> Command {
    let mut command = Command::new("chroot");
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8");
    command.arg(root).arg(program);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_says_how_to_install_it() {
        let tool = Tool { name: "no-such-tool", install: "apt-get install no-such-tool" };
        let error = tool.run(&mut Command::new("no-such-tool")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no-such-tool is not installed; install it with: apt-get install no-such-tool"
        );
    }

    #[test]
    fn a_failed_tool_brings_its_status_and_the_end_of_its_output() {
        let tool = Tool { name: "sh", install: "" };
        let error = tool.run(Command::new("sh").args(["-c", "seq 2000; echo why >&2; exit 3"])).unwrap_err();
        let BuildError::ToolFailed { status, output, .. } = error else { panic!("{error}") };
        assert_eq!(status, "exit status: 3");
        assert!(output.ends_with("2000\nwhy") && output.len() <= OUTPUT_TAIL, "{output}");
    }
}
