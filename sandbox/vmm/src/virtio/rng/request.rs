//! A request: buffers to fill, and nothing else (virtio 1.2, 5.4.6).

use rustix::rand::{GetRandomFlags, getrandom};

use super::MOST;
use crate::virtio::{Memory, chain::Chain, device::DeviceError};

/// Bytes made at a time: up to 256 the kernel gives all that was asked for, without a signal coming between.
const STEP: u32 = 256;

/// Fills the front of the chain. Bytes written.
pub(super) fn fill(memory: &Memory, chain: &Chain) -> Result<u32, DeviceError> {
    if chain.readable.length() > 0 || chain.writable.length() == 0 {
        return Err(DeviceError::Malformed("a request for randomness with nothing to fill"));
    }
    let wanted = chain.writable.length().min(MOST);
    let mut bytes = [0; STEP as usize];
    let mut done = 0;
    while done < wanted {
        let Some(step) = bytes.get_mut(..(wanted - done).min(STEP) as usize) else { break };
        let made = getrandom(&mut *step, GetRandomFlags::empty()).map_err(std::io::Error::from)?;
        if made != step.len() {
            return Err(DeviceError::Host(std::io::ErrorKind::UnexpectedEof.into()));
        }
        chain.writable.write(memory, done, step)?;
        done += (wanted - done).min(STEP);
    }
    Ok(done)
}
