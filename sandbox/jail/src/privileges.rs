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
        let others = (0..CAPABILITIES).map(|bit| CapabilitySet::from_bits_retain(1 << bit));
        for capability in others.filter(|capability| !OF_THE_AGENT.contains(*capability)) {
            match remove_capability_from_bounding_set(capability) {
                // Beyond the last capability of this kernel.
                Err(rustix::io::Errno::INVAL) => break,
                result => result.step("drop capabilities from the bounding set")?,
            }
        }
        clear_ambient_capability_set().step("clear ambient capabilities")?;
        let sets = CapabilitySets {
            effective: OF_THE_AGENT,
            permitted: OF_THE_AGENT,
            inheritable: CapabilitySet::empty(),
        };
        set_capabilities(None, sets).step("drop capabilities")?;
    }
    if controls.no_new_privs {
        set_no_new_privs(true).step("set no_new_privs")?;
    }
    Ok(())
}
