//! The first file system of a guest: the agent, and what its kernel needs to start it.
//!
//! ```text
//!   /dev/console   the kernel opens it as init's standard streams; without a console driver it stays closed, and then …
//!   /dev/null      … Rust's start-up code opens this in its place, or aborts
//!   /init          the agent
//!   /root          where the agent mounts the root image, to make it the root
//! ```
//!
//! An archive in cpio's "newc" format (Linux, Documentation/driver-api/early-userspace/buffer-format.rst): for each file
//!
//! ```text
//!  0        6       14      22     …       94        102     110            110 + name    up to 4
//!  ┌────────┬───────┬───────┬───────┬───────┬─────────┬───────┬──────────────┬─────┬────────┬─────┐
//!  │ 070701 │ inode │ mode  │ uid … │ rdev  │namesize │ check │ name and NUL │ 0…  │ data   │ 0…  │   fields: 8 hex digits
//!  └────────┴───────┴───────┴───────┴───────┴─────────┴───────┴──────────────┴─────┴────────┴─────┘
//! ```
//!
//! and a last one called `TRAILER!!!`. It is the same for every guest, so it is made once and shared.

use std::{io, os::fd::OwnedFd};

use crate::guest::sealed;

const MAGIC: &[u8; 6] = b"070701";
const END: &str = "TRAILER!!!";
/// Names and contents begin at multiples of this.
const ALIGN: usize = 4;

/// Kinds of file, and permissions (stat(2)).
const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// Major and minor numbers (Linux, Documentation/admin-guide/devices.txt).
const CONSOLE: (u32, u32) = (5, 1);
const NULL: (u32, u32) = (1, 3);
const NO_DEVICE: (u32, u32) = (0, 0);

/// A memory file with the archive, which nobody can change any more.
pub(super) fn make(agent: &[u8]) -> io::Result<OwnedFd> {
    sealed("initramfs", &archive(agent))
}

fn archive(agent: &[u8]) -> Vec<u8> {
    let mut archive = Archive { bytes: Vec::with_capacity(agent.len() + 1024), files: 0 };
    archive.add("dev", DIRECTORY, NO_DEVICE, &[]);
    archive.add("dev/console", CHARACTER_DEVICE, CONSOLE, &[]);
    archive.add("dev/null", CHARACTER_DEVICE, NULL, &[]);
    archive.add("root", DIRECTORY, NO_DEVICE, &[]);
    archive.add("init", PROGRAM, NO_DEVICE, agent);
    archive.add(END, 0, NO_DEVICE, &[]);
    archive.bytes
}

struct Archive {
    bytes: Vec<u8>,
    files: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.files += 1;
        let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let links = if mode == DIRECTORY { 2 } else { 1 };
        // inode, mode, uid, gid, links, time, size, device of the file system (2), device (2), size of the name, check
        let fields = [
            self.files,
            mode,
            0,
            0,
            links,
            0,
            length(content.len()),
            0,
            0,
            device.0,
            device.1,
            length(name.len() + 1),
            0,
        ];
        self.bytes.extend_from_slice(MAGIC);
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_has_this_layout() {
        let golden = concat!(
            "07070100000001000041ed000000000000000000000002000000000000000000000000000000000000000000000000",
            "0000000400000000dev\0\0\0",
            "0707010000000200002180000000000000000000000001000000000000000000000000000000000000000500000001",
            "0000000c00000000dev/console\0\0\0",
            "0707010000000300002180000000000000000000000001000000000000000000000000000000000000000100000003",
            "0000000900000000dev/null\0\0",
            "07070100000004000041ed000000000000000000000002000000000000000000000000000000000000000000000000",
            "0000000500000000root\0\0",
            "07070100000005000081ed000000000000000000000001000000000000000500000000000000000000000000000000",
            "0000000500000000init\0\0AGENT\0\0\0",
            "0707010000000600000000000000000000000000000001000000000000000000000000000000000000000000000000",
            "0000000b00000000TRAILER!!!\0\0\0\0",
        );
        assert_eq!(String::from_utf8(archive(b"AGENT")).unwrap(), golden);
    }
}
