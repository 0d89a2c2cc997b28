//! Capabilities and `no_new_privs`.
//!
//! PID 1 starts as user 0 of the host, so that the agent can give itself and the function users of their own. All that is
//! left of user 0's might is what that takes; the agent then lets go of it too.

use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs,
};

use crate::{Controls, JailError, enter::Context};

/// To change users and groups, and to empty the bounding set before the function starts.
pub(crate) const OF_THE_AGENT: CapabilitySet =
    CapabilitySet::SETUID.union(CapabilitySet::SETGID).union(CapabilitySet::SETPCAP);

/// Highest capability number there can be: the sets have 64 bits (linux/capability.h).
const CAPABILITIES: u32 = 64;

pub(crate) fn drop_all_but_the_agents(controls: &Controls) -> Result<(), JailError> {
    if controls.capabilities {
        bound_to(OF_THE_AGENT)?;
        keep_only(OF_THE_AGENT)?;
    }
    if controls.no_new_privs {
        set_no_new_privs(true).step("set no_new_privs")?;
    }
    Ok(())
}

/// While the process still has what it takes to change users; [`drop_all`] takes that.
pub(crate) fn empty_bounding_set() -> Result<(), JailError> {
    bound_to(CapabilitySet::empty())
}

pub(crate) fn drop_all(controls: &Controls) -> Result<(), JailError> {
    if controls.capabilities {
        keep_only(CapabilitySet::empty())?;
    }
    if controls.no_new_privs {
        set_no_new_privs(true).step("set no_new_privs")?;
    }
    Ok(())
}

fn bound_to(these: CapabilitySet) -> Result<(), JailError> {
    let all = (0..CAPABILITIES).map(|bit| CapabilitySet::from_bits_retain(1 << bit));
    for capability in all.filter(|capability| !these.contains(*capability)) {
        match remove_capability_from_bounding_set(capability) {
            // Beyond the last capability of this kernel.
            Err(rustix::io::Errno::INVAL) => break,
            result => result.step("drop capabilities from the bounding set")?,
        }
    }
    Ok(())
}

fn keep_only(these: CapabilitySet) -> Result<(), JailError> {
    clear_ambient_capability_set().step("clear ambient capabilities")?;
    let sets = CapabilitySets { effective: these, permitted: these, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).step("drop capabilities")
}
