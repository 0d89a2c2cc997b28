//! Isolation in virtual machines, for tests.

use std::{env, path::PathBuf};

use sandbox::{MicrovmIsolation, MicrovmIsolationConfig, MicrovmLimits, RuntimeCatalog};

use super::{Group, LIMIT};

pub(crate) const UID_BASE: u32 = 1_500_000_000;

/// With disk images, beside a guest kernel.
pub(crate) fn runtimes() -> RuntimeCatalog {
    let directory = env::var_os("WATERWHEEL_RUNTIMES").expect("WATERWHEEL_RUNTIMES names a directory");
    RuntimeCatalog::open(&PathBuf::from(directory))
}

pub(crate) fn open(group: &Group, uid_base: u32, limits: MicrovmLimits) -> MicrovmIsolation {
    let config =
        MicrovmIsolationConfig { cgroup: group.name().to_owned(), uid_base, setup_timeout: LIMIT, limits };
    MicrovmIsolation::open(config, runtimes()).expect("root, cgroups, KVM and a guest kernel")
}
