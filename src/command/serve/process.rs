//! Limits of the server's own process.

use rustix::{
    io,
    process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit},
};

/// Raises the number of descriptors to what the machine allows: each environment and each connection needs some. Forbids
/// core dumps, and other processes of this user to look inside: keys and payloads would be in what they see.
pub(super) fn prepare() -> io::Result<()> {
    let descriptors = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: descriptors.maximum, ..descriptors })?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

/// Memory that functions may be promised, MB: as configured, or three quarters of the machine's.
pub(super) fn memory_for_functions_mb(configured: u32) -> u32 {
    if configured > 0 {
        return configured;
    }
    let system = rustix::system::sysinfo();
    let bytes = system.totalram * u64::from(system.mem_unit);
    u32::try_from((bytes / 4 * 3) >> 20).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_what_is_configured_or_three_quarters_of_the_machines() {
        assert_eq!(memory_for_functions_mb(512), 512);
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
        let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap();
        let total_kib: u64 = total.trim().trim_end_matches(" kB").parse().unwrap();
        assert_eq!(u64::from(memory_for_functions_mb(0)), total_kib * 3 / 4 / 1024);
    }
}
